"""Numbers of facebookresearch/dinov2 on explicit inputs, and ours.

``dinov2_reference.json`` holds what the reference code gave. Where DINOV2_CLONE names a clone of
that repository, its numbers are computed again and compared with the file; this also writes it:

    DINOV2_CLONE=FOLDER python tests/parity/test_dinov2_reference.py
"""

import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dino_tutorial.losses import (
    DINOLoss,
    KoLeoLoss,
    dino_loss,
    ibot_loss,
    iBOTPatchLoss,
    sinkhorn_knopp,
)
from dino_tutorial.models import VisionTransformer
from dino_tutorial.training import cosine_schedule, linear_warmup, param_groups
from dino_tutorial.views import block_masks

FILE = Path(__file__).with_name("dinov2_reference.json")
CLONE = os.environ.get("DINOV2_CLONE")
TEACHER_TEMP = 0.07
SCHEDULE = {
    "base_value": 2e-3,
    "final_value": 1e-6,
    "total_iters": 20,
    "warmup_iters": 5,
    "freeze_iters": 2,
}


def numbers(*shape, phase=0.0):
    """The same on every machine: a sine of the index, with an irrational step."""
    count = torch.Size(shape).numel()
    return torch.sin(2.39996 * torch.arange(count) + phase).view(shape)


STUDENT, TEACHER = numbers(4, 3, 16), numbers(2, 3, 16, phase=1.0)  # 2 + 2 crops of 3 images
MASKS = numbers(6, 9, phase=2.0) > 0.3
MASKS[2] = False
PATCH_STUDENT = numbers(int(MASKS.sum()), 16, phase=3.0)
PATCH_TEACHER = numbers(int(MASKS.sum()), 16, phase=4.0)
FEATURES = numbers(7, 5, phase=5.0) * torch.linspace(0.5, 3, 7)[:, None]


def vit():
    return VisionTransformer(16, 8, 16, 3, 2, layer_scale_init=1e-5, num_register_tokens=2)


def neighbours(masks):
    """How often the patch to the right or below a hidden patch is hidden: blocks, not dust."""
    right = masks[:, :, :-1] & masks[:, :, 1:]
    below = masks[:, :-1] & masks[:, 1:]
    return ((right.sum() + below.sum()) / (2 * masks.sum())).item()


def ours():
    """Case to numbers (lists), by this package."""
    dino, ibot = DINOLoss(16), iBOTPatchLoss(16)
    weights = (1 / MASKS.sum(dim=1, keepdim=True)).expand(MASKS.shape)[MASKS]
    patches = (PATCH_STUDENT, PATCH_TEACHER, TEACHER_TEMP, weights, len(MASKS))
    balanced = sinkhorn_knopp(TEACHER.flatten(0, 1), TEACHER_TEMP)
    patch_balanced = sinkhorn_knopp(PATCH_TEACHER, TEACHER_TEMP)
    features = FEATURES.clone().requires_grad_()
    koleo = KoLeoLoss()(features)
    koleo.backward()
    model = vit()
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: [group["lr_mult"], float(group["decays"])]
        for group in param_groups(model, 0.1, layer_decay=0.9, patch_embed_lr_mult=0.2)
        for p in group["params"]
    }
    return {
        # The second value sees the center that the first has moved.
        "dino": [dino(STUDENT, TEACHER, TEACHER_TEMP).item() for _ in range(2)],
        "dino_sinkhorn": [dino_loss(STUDENT, balanced.view(2, 3, 16), 0.1).item()],
        "ibot": [ibot(*patches).item() for _ in range(2)],
        "ibot_sinkhorn": [
            ibot_loss(PATCH_STUDENT, patch_balanced, weights, len(MASKS), 0.1).item()
        ],
        "sinkhorn": patch_balanced[0].tolist(),
        "koleo": [koleo.item()],
        "koleo_gradient": features.grad.flatten().tolist(),
        "schedule": cosine_schedule(2e-3, 1e-6, 20, 5, freeze_steps=2).tolist(),
        "teacher_temperature": linear_warmup(0.04, 0.07, 12, 8).tolist(),
        "parameter_groups": [rates[name] for name in sorted(rates)],
    }


def reference():
    """The same cases by the clone, put together as its ``ssl_meta_arch.py`` and ``train.py`` do."""
    sys.path.insert(0, CLONE)
    from dinov2.loss import ibot_patch_loss
    from dinov2.loss.dino_clstoken_loss import DINOLoss
    from dinov2.loss.koleo_loss import KoLeoLoss
    from dinov2.utils.param_groups import get_params_groups_with_decay
    from dinov2.utils.utils import CosineScheduler

    # One process: its patch loss asks for a process group even so.
    ibot_patch_loss.dist = SimpleNamespace(
        is_initialized=lambda: False, all_reduce=lambda tensor: None
    )
    dino, ibot = DINOLoss(16), ibot_patch_loss.iBOTPatchLoss(16)
    swapped = TEACHER.flip(0).flatten(0, 1)  # the other view is the target

    def dino_loss(targets):
        terms = 2 + 2 * 2
        local = dino(list(STUDENT[2:]), list(targets.view(2, 3, 16)))
        return (local / terms + dino([STUDENT[:2].flatten(0, 1)], [targets]) * 2 / terms).item()

    def dino_centered():
        targets = dino.softmax_center_teacher(swapped, TEACHER_TEMP)
        dino.update_center(swapped)
        return dino_loss(targets)

    def ibot_loss(targets):
        loss = ibot.forward_masked(
            PATCH_STUDENT, targets, MASKS, n_masked_patches=len(PATCH_STUDENT)
        )
        return (loss * 2 * 0.5).item()

    def ibot_centered():
        targets = ibot.softmax_center_teacher(PATCH_TEACHER[None], TEACHER_TEMP)[0]
        ibot.update_center(PATCH_TEACHER[None])
        return ibot_loss(targets)

    count = torch.tensor([len(PATCH_TEACHER)])
    patch_balanced = ibot.sinkhorn_knopp_teacher(PATCH_TEACHER, TEACHER_TEMP, count)
    features = FEATURES.clone().requires_grad_()
    koleo = KoLeoLoss()(features)
    koleo.backward()
    rates = {
        group["name"]: [group["lr_multiplier"], group["wd_multiplier"]]
        for group in get_params_groups_with_decay(vit(), 0.9, 0.2)
    }
    warm = CosineScheduler(0.07, 0.07, 8, warmup_iters=8, start_warmup_value=0.04)
    return {
        "dino": [dino_centered() for _ in range(2)],
        "dino_sinkhorn": [dino_loss(dino.sinkhorn_knopp_teacher(swapped, TEACHER_TEMP))],
        "ibot": [ibot_centered() for _ in range(2)],
        "ibot_sinkhorn": [ibot_loss(patch_balanced)],
        "sinkhorn": patch_balanced[0].tolist(),
        "koleo": [koleo.item()],
        "koleo_gradient": features.grad.flatten().tolist(),
        "schedule": [float(CosineScheduler(**SCHEDULE)[i]) for i in range(20)],
        "teacher_temperature": [float(warm[i]) for i in range(12)],
        "parameter_groups": [rates[name] for name in sorted(rates)],
    }


def reference_neighbours():
    sys.path.insert(0, CLONE)
    from dinov2.data.masking import MaskingGenerator

    random.seed(0)
    generator, n = MaskingGenerator(16, max_num_patches=128), 2000
    low_high = torch.linspace(0.1, 0.5, n + 1)
    counts = [int(256 * random.uniform(low_high[i], low_high[i + 1])) for i in range(n)]
    return neighbours(torch.stack([torch.from_numpy(generator(count)) for count in counts]))


def stored(name):
    return json.loads(FILE.read_text(encoding="utf-8"))[name]


CASES = (
    "dino",
    "dino_sinkhorn",
    "ibot",
    "ibot_sinkhorn",
    "sinkhorn",
    "koleo",
    "koleo_gradient",
    "schedule",
    "teacher_temperature",
    "parameter_groups",
)


@pytest.fixture(scope="module")
def here():
    return ours()


@pytest.mark.parametrize("case", CASES)
def test_the_references_numbers(here, case):
    expected = torch.tensor(stored(case), dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(here[case], dtype=torch.float64), expected, rtol=2e-5, atol=1e-6
    )


def test_masks_are_as_blocky_as_the_references():
    masks = block_masks(2000, (16, 16), torch.Generator().manual_seed(0), share=1.0)
    assert neighbours(masks.view(-1, 16, 16)) == pytest.approx(stored("neighbours"), abs=0.02)


@pytest.mark.skipif(not CLONE, reason="DINOV2_CLONE names no clone of facebookresearch/dinov2")
def test_the_file_holds_what_the_clone_computes():
    for case, expected in reference().items():
        torch.testing.assert_close(torch.tensor(stored(case)), torch.tensor(expected))
    assert stored("neighbours") == pytest.approx(reference_neighbours())


if __name__ == "__main__":
    results = reference() | {"neighbours": reference_neighbours()}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in results.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
