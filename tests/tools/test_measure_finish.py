"""Masks from attention on larger scenes are those of all scenes at once, in their order."""

import runpy
from pathlib import Path

import torch

from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.evaluation import attention_jaccard, normalize
from dino_tutorial.models import vit_tiny

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "measure_finish.py"


def test_attention_is_scored_in_parts_as_at_once():
    torch.manual_seed(0)
    encoder = vit_tiny(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2).eval()
    scenes = SceneDataset("val", 48, 5, look="pattern")
    pixels, truth = normalize(scenes.images()), scenes.masks()
    attention_scores = runpy.run_path(str(SCRIPT))["attention_scores"]
    attention_scores.__globals__["CHUNK"] = 2  # does not divide five
    found = attention_scores(encoder, pixels, truth)
    whole = attention_jaccard(encoder.get_attention(pixels), (6, 6), truth)
    torch.testing.assert_close(found["mean_head"], whole["mean_head"])
    assert found["mean_head"].shape == (5,) and found["mean_head"].std() > 0
