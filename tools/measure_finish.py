"""What a run's encoder is worth on larger scenes: the numbers of the chapter on high resolution.

    python tools/measure_finish.py RUN [RUN ...] --size 64               # test scenes, kept in RUN
    python tools/measure_finish.py RUN [RUN ...] --size 64 --split val   # to choose, only printed

k-NN and the dense measures are those of `dino-tutorial eval RUN --size 64 --dense --limit 1000`.
Beside them, ``attention_jaccard``: the attention of the class token in the last block, averaged
over its heads, as the fewest patches that hold 60 % of it; the mean Jaccard index of these masks
with the true ones. ``attention_jaccard_random_init`` is the same of the encoder before training,
``attention_jaccard_center_box`` of a box in the middle.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from dino_tutorial import load_run
from dino_tutorial.datasets import LOOKS
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.evaluation import attention_jaccard, evaluate_dense, normalize
from dino_tutorial.models import VisionTransformer
from dino_tutorial.runs.folder import Run, new_encoder
from dino_tutorial.runs.scores import measure_knn

SCENES, K, TEMPERATURE = 1000, 20, 0.07  # scenes to fit, and as many to ask; of k-NN
CHUNK = 250  # scenes whose attention is held at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--size", type=int, required=True, help="side of the scenes")
    parser.add_argument("--split", default="test", choices=("test", "val"))
    options = parser.parse_args()
    for folder in options.runs:
        run = load_run(folder)
        look = LOOKS[run.config.source]
        fitted, asked = (
            SceneDataset(split, options.size, SCENES, look=look)
            for split in ("train", options.split)
        )
        found = measure(run, fitted, asked)
        if options.split == "test":
            run.save_evaluation({"data": asked.name, "image_size": options.size} | found)
        shown = ("knn_top1", "miou", "depth_rmse", "attention_jaccard")
        print(folder, *(f"{key} {found[key]:.3f}" for key in shown), flush=True)


def measure(run: Run, fitted: SceneDataset, asked: SceneDataset) -> dict[str, Any]:
    encoder, untrained = run.encoder(), new_encoder(run.config).eval()
    device = torch.device("cpu")
    found = measure_knn(encoder, untrained, fitted, asked, K, TEMPERATURE, device)
    found |= evaluate_dense(encoder, fitted, asked)
    pixels, truth = normalize(asked.images()), asked.masks()
    for name, model in (("", encoder), ("_random_init", untrained)):
        masks = attention_scores(model, pixels, truth)
        found[f"attention_jaccard{name}"] = masks["mean_head"].mean().item()
    return found | {"attention_jaccard_center_box": masks["center_box"].mean().item()}


@torch.inference_mode()
def attention_scores(
    encoder: VisionTransformer, pixels: Tensor, truth: Tensor
) -> dict[str, Tensor]:
    grid = pixels.shape[-2] // encoder.patch_size, pixels.shape[-1] // encoder.patch_size
    scores = [
        attention_jaccard(encoder.get_attention(x), grid, masks)
        for x, masks in zip(pixels.split(CHUNK), truth.split(CHUNK), strict=True)
    ]
    return {key: torch.cat([one[key] for one in scores]) for key in ("mean_head", "center_box")}


if __name__ == "__main__":
    main()
