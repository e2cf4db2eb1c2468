"""What functions of the library are handed: every wrong thing is one sentence, wherever it goes.

A row of ``CALLS`` is a call that works. Each of its arguments in turn is replaced by what cannot be
meant; the kinds of those are told by what the argument is. New functions are a line each.
"""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dino_tutorial import configure, plots, runs, views
from dino_tutorial import curation as cu
from dino_tutorial import evaluation as ev
from dino_tutorial import losses as lo
from dino_tutorial import models as mo
from dino_tutorial.clinic import observe, prepare
from dino_tutorial.datasets import open_dataset, scenes
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.few_labels import logistic_regression
from dino_tutorial.losses.fused import fused_dino_loss
from dino_tutorial.methods import BYOL, DINO, register
from dino_tutorial.options import array, number, numbers, pair, takes, tensor, whole
from dino_tutorial.training import Teacher, clip_gradients, cosine_schedule, param_groups

pytestmark = pytest.mark.usefixtures("unchecked")
G = torch.Generator().manual_seed(0)
NAN, INF = math.nan, math.inf


def normal(*shape):
    return torch.randn(*shape, generator=G)


def shares(*shape):
    return normal(*shape).softmax(dim=-1)


def masks(*shape):
    return normal(*shape) > 0


def pixels(*shape):
    return (torch.rand(*shape, generator=G) * 255).to(torch.uint8)


def classes(n):
    return torch.arange(n) % 3


SPEC = views.ViewSpec(size=8, scale=(0.3, 1.0))
ROWS = [{"step": n, "loss": 3.0 - n / 10, "teacher_entropy": 1.0} for n in range(9)]
VIT = mo.VisionTransformer(16, 8, 12, 1, 2)
NET = nn.Linear(2, 2)
UNIT = np.eye(6, dtype=np.float32)
ROBUST = ev.Robustness(("a",), (1, 2), 0.9, torch.tensor([[0.8, 0.7]]))
SWEEP = {"learning_rates": (0.1,), "weight_decays": (0.0,), "steps": 2, "batch_size": 4}
TRAIN = {"train_x": normal(12, 4), "train_y": classes(12), "test_x": normal(6, 4)}
DENSE = {"train_x": normal(6, 4, 5), "test_x": normal(3, 4, 5), "grid": (2, 2)}
GALLERY = {"gallery": normal(9, 4), "gallery_labels": classes(9)}
CALLS: dict[str, tuple[Callable, dict]] = {
    "knn_classify": (ev.knn_classify, TRAIN | {"k": 3, "temperature": 0.07, "n_classes": 3}),
    "knn_accuracies": (ev.knn_accuracies, TRAIN | {"test_y": classes(6), "ks": (1, 2)}),
    "accuracy": (ev.accuracy, {"votes": shares(6, 3), "labels": classes(6), "topk": 1}),
    "linear_probe": (ev.linear_probe, TRAIN | {"test_y": classes(6), "seed": 0} | SWEEP),
    "label_efficiency": (
        ev.label_efficiency,
        TRAIN | {"test_y": classes(6), "per_class": (1, 2), "n_subsets": 1, "k": 1, "seed": 0},
    ),
    "nested_subsets": (ev.nested_subsets, {"labels": classes(12), "per_class": (1, 2)}),
    "logistic_regression": (
        logistic_regression, {"x": normal(1, 6, 3), "y": classes(6)[None], "n_classes": 3}),
    "retrieval_map": (
        ev.retrieval_map, {"queries": normal(6, 4), "query_labels": classes(6)} | GALLERY),
    "recall_at": (ev.recall_at, {"queries": normal(6, 4), "query_labels": classes(6), "ks": (1,)}),
    "copy_detection": (
        ev.copy_detection,
        {"queries": normal(6, 4), "query_sources": classes(6), "precision": 0.9}),
    "linear_depth": (
        ev.linear_depth,
        DENSE | {"train_y": normal(6, 4, 4).exp(), "test_y": normal(3, 4, 4).exp()}
        | {"ridges": (0.1,), "validation_fraction": 0.2, "seed": 0}),
    "depth_scores": (ev.depth_scores, {"predicted": normal(2, 4, 4), "truth": shares(2, 4, 4)}),
    "align_depth": (ev.align_depth, {"predicted": normal(2, 4, 4), "truth": shares(2, 4, 4)}),
    "linear_segmentation": (
        ev.linear_segmentation,
        DENSE | {"train_y": classes(96).view(6, 4, 4), "test_y": classes(48).view(3, 4, 4)}
        | SWEEP | {"validation_fraction": 0.2}),
    "class_maps": (ev.class_maps, {"masks": masks(3, 4, 4), "labels": classes(3)}),
    "confusion_matrix": (
        ev.confusion_matrix, {"predicted": classes(9), "truth": classes(9), "n_classes": 3}),
    "iou": (ev.intersection_over_union, {"confusion": torch.ones(3, 3, dtype=torch.int64)}),
    "lost_masks": (ev.lost_masks, {"patches": normal(2, 4, 5), "grid": (2, 2), "k": 2}),
    "token_cut": (ev.token_cut_masks, {"patches": normal(2, 4, 5), "grid": (2, 2)}),
    "color_masks": (ev.color_masks, {"images": pixels(2, 3, 8, 8), "steps": 2}),
    "discovery_scores": (
        ev.discovery_scores, {"masks": masks(2, 4, 4), "truth": masks(2, 8, 8)}),
    "corloc": (ev.corloc, {"boxes": shares(2, 4), "truth": shares(2, 4), "threshold": 0.5}),
    "box_iou": (ev.box_iou, {"first": shares(2, 4), "second": shares(2, 4)}),
    "mask_boxes": (ev.mask_boxes, {"masks": masks(2, 4, 4)}),
    "center_box": (ev.center_box, {"size": (4, 4), "area": 0.25}),
    "jaccard": (ev.jaccard, {"masks": masks(2, 4, 4), "truth": masks(2, 4, 4)}),
    "attention_masks": (
        ev.attention_masks, {"attention": shares(2, 3, 4), "grid": (2, 2), "size": (8, 8)}),
    "attention_jaccard": (
        ev.attention_jaccard,
        {"attention": shares(2, 3, 4), "grid": (2, 2), "truth": masks(2, 8, 8)}),
    "mutual_matches": (ev.mutual_matches, {"first": normal(2, 4, 5), "second": normal(2, 3, 5)}),
    "patch_pca": (ev.patch_pca, {"patches": normal(2, 4, 5), "n_components": 2}),
    "propagate_labels": (
        ev.propagate_labels,
        {"features": normal(3, 4, 5), "first_labels": shares(4, 2), "grid": (2, 2), "topk": 2}),
    "label_masks": (
        ev.label_masks, {"labels": shares(3, 4, 2), "grid": (2, 2), "size": (8, 8)}),
    "region_and_boundary": (
        ev.region_and_boundary, {"predicted": masks(3, 8, 8), "true": masks(3, 8, 8)}),
    "fit_scaling_law": (
        ev.fit_scaling_law, {"sizes": [1.0, 2.0, 4.0], "errors": [1.0, 0.7, 0.5]}),
    "mean_corruption_error": (
        ev.mean_corruption_error, {"result": ROBUST, "reference": ROBUST}),
    "extract_features": (
        ev.extract_features,
        {"encoder": VIT, "dataset": open_dataset("scenes", image_size=16, limit=4),
         "batch_size": 2, "device": "cpu", "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}),
    "patch_pixels": (ev.patch_pixels, {"images": pixels(2, 3, 8, 8), "patch_size": 4}),
    "find_collapse": (ev.find_collapse, {"rows": ROWS}),
    "byol_loss": (lo.byol_loss, {"prediction": normal(4, 6), "target": normal(4, 6)}),
    "dino_loss": (
        lo.dino_loss,
        {"student_logits": normal(4, 3, 6), "targets": shares(2, 3, 6), "student_temp": 0.1}),
    "fused_dino_loss": (
        fused_dino_loss,
        {"student_logits": normal(4, 3, 6), "targets": shares(2, 3, 6), "student_temp": 0.1}),
    "DINOLoss": (
        lo.DINOLoss(6),
        {"student_logits": normal(4, 3, 6), "teacher_logits": normal(2, 3, 6),
         "teacher_temp": 0.04}),
    "ibot_loss": (
        lo.ibot_loss,
        {"student_logits": normal(5, 6), "targets": shares(5, 6), "weights": torch.ones(5),
         "n_images": 2, "student_temp": 0.1}),
    "info_nce": (
        lo.info_nce, {"query": normal(4, 6), "key": normal(4, 6), "temperature": 0.1}),
    "nt_xent": (lo.nt_xent, {"projections": normal(2, 4, 6), "temperature": 0.1}),
    "sinkhorn_knopp": (lo.sinkhorn_knopp, {"logits": normal(4, 6), "temp": 0.1, "n_iters": 3}),
    "swapped_prediction": (
        lo.swapped_prediction_loss,
        {"logits": normal(4, 3, 6), "assignments": shares(2, 3, 6), "temp": 0.1}),
    "distillation_loss": (
        lo.distillation_loss,
        {"student_logits": normal(4, 6), "teacher_logits": normal(4, 6), "temperature": 2.0}),
    "GramLoss": (
        lo.GramLoss(), {"student_patches": normal(2, 4, 5), "anchor_patches": normal(2, 4, 3)}),
    "KoLeoLoss": (lo.KoLeoLoss(), {"features": normal(4, 6)}),
    "dino_views": (views.dino_views, {"global_size": 8, "n_local": 1, "global_scale": (0.3, 1.0)}),
    "Augment": (views.Augment, {"specs": [SPEC], "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}),
    "block_masks": (
        views.block_masks,
        {"n_images": 4, "grid": (4, 4), "generator": G, "ratio": (0.1, 0.5), "share": 0.5}),
    "rotations": (views.rotations, {"images": normal(2, 3, 8, 8), "n": 4}),
    "shuffled_tiles": (
        views.shuffled_tiles,
        {"images": normal(2, 3, 8, 8), "order": torch.arange(8).view(2, 4) % 4,
         "place": shares(2, 4, 2), "size": 4}),
    "corrupt": (
        scenes.corrupt,
        {"images": pixels(2, 3, 16, 16), "kind": "blur", "severity": 1, "seed": 0}),
    "vit": (VIT, {"x": normal(2, 3, 16, 16)}),
    "vit masks": (VIT.forward_features, {"x": normal(2, 3, 16, 16), "masks": masks(2, 4)}),
    "small resnet": (mo.SmallResNet((4, 8)), {"x": normal(2, 3, 16, 16)}),
    "DINOHead": (mo.DINOHead(4, 8, 8, 4), {"x": normal(3, 4)}),
    "BYOLHead": (mo.BYOLHead(4, 8, 4), {"x": normal(3, 4)}),
    "copy_descriptors": (cu.copy_descriptors, {"images": pixels(2, 3, 32, 32)}),
    "duplicate_scores": (
        cu.duplicate_scores,
        {"found": np.arange(6), "true": np.arange(6), "kept": np.ones(6, bool)}),
    "class_balance": (cu.class_balance, {"labels": np.arange(9) % 3, "n_classes": 3}),
    "attention_map": (
        plots.attention_map, {"image": shares(3, 8, 8), "attention": shares(2, 2)}),
    "image_grid": (plots.image_grid, {"images": shares(2, 3, 8, 8), "columns": 2}),
    "loss_curve": (plots.loss_curve, {"rows": ROWS}),
    "Teacher": (Teacher, {"student": NET}),
    "param_groups": (param_groups, {"model": NET, "weight_decay": 0.1, "layer_decay": 0.9}),
    "clip_gradients": (
        clip_gradients, {"parameters": [normal(2)], "max_norm": 1.0, "rule": "global"}),
    "cosine_schedule": (cosine_schedule, {"base": 1.0, "final": 0.0, "total_steps": 9}),
    "observe": (observe, {"method": prepare("byol"), "images": pixels(8, 3, 16, 16), "steps": 1}),
    "DINO": (DINO, {"backbone": VIT}),
    "BYOL": (BYOL, {"backbone": VIT}),
    "register": (register, {"name": "own", "method": DINO}),
    "configure": (configure, {"method": "dino", "preset": "smoke"}),
    "build_method": (runs.build_method, {"config": configure("dino", preset="smoke")}),
}  # fmt: skip

# What may be several things by its documentation, or is looked at by torch's own sentence.
ALLOWED = {
    ("propagate_labels", "first_labels", "cut"),  # a mask in pixels as well as labels of patches
    ("attention_masks", "size", "nothing"),  # None is the size of the grid
    ("vit masks", "masks", "nothing"),
    ("class_maps", "masks", "meta"),  # maps without values, too
    ("find_collapse", "rows", "none"),  # a log that has just begun
    ("loss_curve", "rows", "none"),
    ("clip_gradients", "parameters", "none"),
    ("DINOHead", "x", "empty"),  # no patch was masked
    ("BYOLHead", "x", "empty"),
    ("mask_boxes", "masks", "empty"),
    ("corrupt", "images", "empty"),
    ("copy_descriptors", "images", "empty"),
    ("KoLeoLoss", "features", "empty"),
    ("info_nce", "negatives", "empty"),  # MoCo's queue before its first batch
    ("clip_gradients", "max_norm", "inf"),
    ("shuffled_tiles", "order", "cut"),
}
MAY_BE_EMPTY = {"ibot_loss", "sinkhorn_knopp", "fit_scaling_law"}
NAN_IS_TOLD_LATER = {lo, views, plots, mo}  # a loss, a view and a figure of NaN show it


def wrong(value):
    """By name, what can be meant in no place that takes ``value``."""
    if isinstance(value, Tensor):
        yield from {"nothing": None, "text": "x", "flat": value.flatten()[0]}.items()
        yield "complex", value.to(torch.complex64)
        yield "empty", value[:0]
    elif isinstance(value, np.ndarray):
        yield from {"nothing": None, "text": "x", "flat": value[0], "empty": value[:0]}.items()
    elif isinstance(value, bool | int):
        yield from {"text": "3", "fraction": 2.5, "yes": True, "nan": NAN, "minus": -7}.items()
        yield "list", [value]
    elif isinstance(value, float):
        yield from {"text": "1", "yes": True, "nan": NAN, "inf": INF, "list": [value]}.items()
    elif isinstance(value, str):
        yield from {"number": 3, "unknown": "no such", "bytes": b"x", "list": ["a"]}.items()
    elif isinstance(value, tuple | list):
        yield from {"nothing": None, "number": 3, "text": "ab", "nothings": [None, None]}.items()
        yield from {"none": type(value)(), "texts": ["a", "b"]}.items()
    else:
        yield from {"nothing": None, "number": 3, "text": "x", "an object": object()}.items()
        yield "its class", type(value)


def is_nan_refused(function):
    rooms = {room.__name__ for room in NAN_IS_TOLD_LATER}
    return not any(function.__module__.startswith(room) for room in rooms)


def one_sentence(error):
    """The sentence of an error, after what every one has to be."""
    text = str(error)
    assert "\n" not in text and len(text) < 700 and " at 0x" not in text, text
    assert re.search(r"[:;,(]", text), f"no remedy: {text}"


@pytest.mark.parametrize("call", CALLS)
def test_wrong_arguments_are_told(call):
    function, arguments = CALLS[call]
    taken = []
    for name, value in arguments.items():
        kinds = dict(wrong(value))
        if isinstance(value, Tensor) and value.is_floating_point() and is_nan_refused(function):
            kinds["nan"] = torch.full_like(value, NAN)
        for kind, changed in kinds.items():
            if (call, name, kind) in ALLOWED or (
                kind in ("empty", "none") and call in MAY_BE_EMPTY
            ):
                continue
            try:
                function(**arguments | {name: changed})
            except UserError as error:
                one_sentence(error)
            else:
                taken.append(f"{name}={kind}")
    assert not taken


def tensors_of(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("call", [call for call in CALLS if len(tensors_of(CALLS[call][1])) > 1])
def test_tensors_that_do_not_go_together_are_told(call):
    """One of two is cut by a row, or lies elsewhere."""
    function, arguments = CALLS[call]
    tensors = tensors_of(arguments)
    for name, value in tensors.items():
        for kind, changed in {"cut": value[..., :-1], "meta": value.to("meta")}.items():
            if (call, name, kind) in ALLOWED:
                continue
            try:
                function(**arguments | {name: changed})
            except UserError as error:
                one_sentence(error)
            else:
                free = kind == "cut" and (call, name) in FREE
                assert free, f"{name}={kind} is taken"


FREE = {  # whose last dimension may differ from that of the others
    ("linear_depth", "test_y"), ("linear_depth", "train_y"), ("GramLoss", "anchor_patches"),
    ("linear_segmentation", "train_y"), ("linear_segmentation", "test_y"),
    ("discovery_scores", "masks"), ("discovery_scores", "truth"), ("GramLoss", "student_patches"),
    ("attention_jaccard", "truth"), ("attention_map", "image"), ("attention_map", "attention"),
    ("accuracy", "votes"), ("logistic_regression", "x"), ("recall_at", "queries"),
    ("copy_detection", "queries"), ("class_maps", "masks"), ("propagate_labels", "features"),
}  # fmt: skip


@takes(finite=True, x=array("N D"), k=whole(1, 9), t=number(0, 1, above=True), grid=pair())
def example(x, y: Tensor | None = None, k=1, t=0.5, grid=(2, 2)):
    return x


@takes(a=tensor("V>1 D", "float"), b=tensor("M>=0 D"), c=numbers(whole(), 2))
def another(a, b, c=(1, 2)):
    return a


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: example([[1.0, NAN]]), "x holds NaN or infinity: leave these rows out"),
        (lambda: example([["a"]]), "x wants a tensor (N, D), not [['a']]: torch.as_tensor makes"),
        (lambda: example([[1.0]], k=True), "k wants a whole number of 1 to 9, not True"),
        (lambda: example([[1.0]], k=10), "k must be 1 to 9, not 10"),
        (lambda: example([[1.0]], t=0), "t is 0: use a number, more than 0 and at most 1"),
        (lambda: example([[1.0]], grid=(0, 1)), "grid[0] must be 1 to"),
        (lambda: example([[1.0]], grid=3), "grid wants 2 numbers, such as a tuple, not 3"),
        (lambda: example([[1.0]], y=3), "y wants a tensor, not 3"),
        (lambda: another(normal(1, 4), normal(0, 4)), "a is too small: a tensor (V, D) wants at"),
        (lambda: another(normal(2, 4), normal(0, 5)), "D is 5, but 4 in a, so give both the same"),
        (lambda: another(normal(2, 4), normal(3, 4).to("meta")), "a lies on cpu and b on meta"),
        (lambda: another(normal(2, 4).long(), normal(3, 4)), "a is of torch.int64: convert it"),
        (lambda: another(normal(2, 4), normal(3, 4), (1, "2")), "c[1] wants a whole number"),
    ],
)
def test_each_kind_has_its_sentence(call, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        call()


def test_what_is_right_is_taken():
    assert example([[1, 2], [3, 4]], None, np.int64(3)) == [[1, 2], [3, 4]]
    assert len(another(normal(2, 4), normal(0, 4), [1, 2])) == 2


def test_an_argument_too_many_is_a_type_error_that_names_the_function():
    with pytest.raises(TypeError, match=r"example\(\): got an unexpected keyword argument 'z'"):
        example([[1.0]], z=1)
