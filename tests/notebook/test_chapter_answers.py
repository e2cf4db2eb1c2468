"""What the chapters build by hand passes the checkers, or fails with the mistake they speak of."""

import ast
import math
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dino_tutorial.evaluation import entropy
from dino_tutorial.exercises import check
from dino_tutorial.exercises.checking import EXERCISES, judge

BOOK = Path(__file__).resolve().parents[2] / "book"
MODULES = {"F": F, "math": math, "nn": nn, "np": np, "torch": torch, "entropy": entropy}


def functions_of(chapter: str) -> dict:
    """The functions that a chapter's cells define, without anything that the cells compute."""
    notebook = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    names = dict(MODULES)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef):
                    with suppress(NameError):  # a default that a cell computes
                        exec(compile(ast.Module([node], []), chapter, "exec"), names)
    return names


@pytest.mark.parametrize(
    "chapter, function, exercise, mistake",
    [
        ("why-labels-run-out", "labelled", "labelled", None),
        ("why-labels-run-out", "rotation_batch", "rotation_batch", None),
        ("why-labels-run-out", "shuffle_tiles", "shuffle_tiles", None),
        ("images-as-tokens", "to_patches", "to_patches", None),
        ("images-as-tokens", "attention", "attention", None),
        ("images-as-tokens", "resized", "resize_positions", None),
        ("contrast-and-cluster", "line_up", "info_nce", "not-finite"),
        ("contrast-and-cluster", "stable_line_up", "info_nce", None),
        ("contrast-and-cluster", "all_against_all", "nt_xent", None),
        ("contrast-and-cluster", "swapped", "swapped", None),
        ("contrast-and-cluster", "sinkhorn", "sinkhorn", None),
        ("byol", "distance", "byol_loss", "no-stop-gradient"),
        ("byol", "both_directions", "both_directions", None),
        ("byol", "follow", "ema_update", "buffers-forgotten"),
        ("self-distillation", "soft_cross_entropy", "soft_cross_entropy", None),
        ("self-distillation", "dino_loss", "dino_loss", None),
        ("self-distillation", "all_pairs", "dino_loss", None),
        ("self-distillation", "next_center", "center_update", None),
        ("multi-crop", "draw_boxes", "draw_boxes", None),
        ("centering-sharpening", "teacher_answer", "teacher_probabilities", None),
        ("centering-sharpening", "moved_center", "center_update", None),
        ("centering-sharpening", "sinkhorn", "sinkhorn", None),
        ("momentum-teacher", "update_by_hand", "ema_update", None),
        ("momentum-teacher", "half_life", "half_life", None),
        ("momentum-teacher", "debiased_ema", "debiased_ema", None),
        ("momentum-teacher", "momentum_by_hand", "momentum_at", None),
        ("measuring-features", "knn_by_hand", "knn_classify", None),
        ("measuring-features", "map_by_hand", "retrieval_map", None),
        ("what-emerges", "attention_mask", "attention_mask", None),
        ("what-emerges", "region_similarity", "region_similarity", None),
        ("what-emerges", "lost_mask", "lost_mask", None),
        ("what-emerges", "carry_labels", "carry_labels", None),
        ("frozen-features", "pca_foreground", "pca_foreground", None),
        ("frozen-features", "mean_iou", "mean_iou", None),
        ("matching-and-retrieval", "mutual_partners", "mutual_partners", None),
        ("matching-and-retrieval", "places_after", "places_after", None),
        ("curating-data", "components", "components", None),
        ("curating-data", "deal", "even_shares", None),
        ("curating-data", "pair_scores", "pair_scores", None),
        ("dinov2-objective", "patch_loss", "patch_loss", None),
        ("dinov2-objective", "koleo", "koleo", None),
        ("dinov2-objective", "balanced", "sinkhorn", None),
        ("dinov2-objective", "layer_rates", "layer_rates", None),
        ("dinov2-objective", "careless_patch_loss", "patch_loss", "patches-together"),
        ("scaling", "block_flops", "block_flops", None),
        ("scaling", "floor_and_factor", "floor_and_factor", None),
        ("scaling", "power_law", "power_law", None),
        ("distillation", "patch_distillation", "patch_distillation", None),
        ("distillation", "average_weights", "average_weights", None),
        ("high-resolution-finish", "block_products", "block_products", None),
        ("high-resolution-finish", "recovered", "recovered", None),
        ("released-models", "from_timm_by_hand", "from_timm_names", None),
        ("released-models", "to_timm_names", "to_timm_names", None),
        ("released-models", "high_norm", "high_norm", None),
        ("gram-anchoring", "gram_loss", "gram_loss", None),
        ("gram-anchoring", "contrast", "contrast", None),
    ],
)
def test_the_chapters_own_code(chapter, function, exercise, mistake):
    verdict = check(exercise, functions_of(chapter)[function])
    assert verdict.mistake == mistake, verdict


@pytest.mark.parametrize("draw", [110, 125, 168, 381])
def test_the_rounding_of_a_large_gradient_is_no_mistake(draw):
    """At τ = 0.01 the rounding of a cosine moves a small part of a large gradient."""
    answer = functions_of("contrast-and-cluster")["stable_line_up"]
    verdict = judge(EXERCISES["info_nce"], answer, draw)
    assert verdict.passed, verdict
