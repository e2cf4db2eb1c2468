"""What the optimizer is given, and what is done to gradients before it sees them."""

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.options import among, number, takes, tensor
from dino_tutorial.parallel import is_cut_up, own_part, sum_over_processes

CLIP_RULES = ("parameter", "module", "global")
LR_SCALINGS = {"linear": 1.0, "sqrt": 0.5}  # the power of batch / 256 in the learning rate
OPTIMIZERS = ("adamw", "lars", "sgd")
_TENSOR = tensor("...")


@takes(
    weight_decay=number(0, 1e6),
    layer_decay=number(0, 1, above=True),
    patch_embed_lr_mult=number(0, 1e6),
)
def param_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    patch_embed_lr_mult: float = 1.0,
) -> list[dict[str, Any]]:
    """Split trainable parameters by weight decay and learning-rate multiplier.

    Biases and 1-D parameters (norms, LayerScale) are not decayed; position embeddings and the
    CLS token are, as in the reference code. With ``layer_decay`` < 1, a transformer block l of L
    learns at ``layer_decay^(L + 1 − l)``, embeddings at block 0's rate, heads at 1.

    Args:
        model: any module; ``blocks.<l>.`` in a parameter's name marks its block.
        weight_decay: of the decayed groups.
        layer_decay: 1.0 gives every layer the same rate.
        patch_embed_lr_mult: an extra factor for ``patch_embed`` (DINOv2: 0.2).

    Returns:
        Optimizer groups, each with ``params``, ``weight_decay``, ``decays`` (whether a
        weight-decay schedule applies) and ``lr_mult``.

    Source: facebookresearch/dino ``utils.get_params_groups``; dinov2 ``param_groups.py``.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [block for name, _ in named if (block := _block(name)) is not None]
    depth = 1 + max(blocks, default=-1)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in named:
        decays = parameter.ndim > 1 and not name.endswith(".bias")
        lr_mult = _lr_mult(name, depth, layer_decay, patch_embed_lr_mult)
        empty = {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "decays": decays,
            "lr_mult": lr_mult,
        }
        groups.setdefault((decays, lr_mult), empty)["params"].append(parameter)
    return list(groups.values())


def peak_learning_rate(lr: float, batch_size: int, scaling: str) -> float:
    """The learning rate after warm-up, from that for 256 images.

    Args:
        lr: for a batch of 256 images.
        batch_size: images a step, over all processes.
        scaling: a key of ``LR_SCALINGS``.
    """
    return lr * (batch_size / 256) ** LR_SCALINGS[scaling]


def build_optimizer(
    name: str, groups: list[dict[str, Any]], lr: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """AdamW (fused), LARS (BYOL's, from timm) or SGD with momentum over ``groups``."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "lars":
        from timm.optim import Lars  # timm takes more than a second, and few runs need it

        return Lars(groups, lr=lr, momentum=momentum)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    raise UserError(f"unknown optimizer '{name}': choose one of {', '.join(OPTIMIZERS)}")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Give each group this step's learning rate and, where it decays, weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
        if group["decays"]:
            group["weight_decay"] = weight_decay


@takes(max_norm=number(0, math.inf), rule=among(("parameter", "global")))
@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, rule: str) -> Float[Tensor, ""]:
    """Scale gradients down to ``max_norm`` and return their global norm before that.

    ``"parameter"`` bounds each parameter's own norm (DINO's code); ``"global"`` bounds the norm
    of all together (the usual rule); :func:`clip_modules` is between the two. ``max_norm`` of 0 or
    infinity only measures. Nothing waits for the device.

    Returns:
        Scalar tensor on the parameters' device.

    Source: facebookresearch/dino ``utils.clip_gradients``.
    """
    parameters = list(parameters)
    for place, parameter in enumerate(parameters):
        _TENSOR(f"parameters[{place}]", parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    norms = _norms(gradients)
    gradients = [own_part(gradient) for gradient in gradients]
    total = norms.norm()
    if max_norm > 0:
        reference = norms if rule == "parameter" else total.expand_as(norms)
        scales = (max_norm / (reference + 1e-6)).clamp(max=1.0)
        _scale(gradients, scales)
    return total


def clip_modules(modules: list[list[Tensor]], max_norm: float) -> Float[Tensor, ""]:
    """Bound the gradient norm of each sub-module by itself; return the norm of all before that.

    Args:
        modules: parameters of each sub-module, see :func:`split_by_module`.
        max_norm: for each of them; 0 only measures.

    Source: facebookresearch/dinov2 ``train.py`` (backbone and heads apart).
    """
    return torch.stack([clip_gradients(m, max_norm, "global") for m in modules]).norm()


def split_by_module(method: nn.Module) -> list[list[Tensor]]:
    """Trainable parameters of a method's sub-modules: the student's backbone, each of its heads,
    and what is beside the student (BYOL's predictor)."""
    modules: dict[str, list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            path = name.split(".")
            owner = ".".join(path[:2]) if path[0] == "student" else path[0]
            modules.setdefault(owner, []).append(parameter)
    return list(modules.values())


def _norms(gradients: list[Tensor]) -> Tensor:
    """The L2 norm of each gradient, (len(gradients),); of all its parts, where it is cut up."""
    if is_cut_up(gradients[0]):
        squares = _norms([own_part(gradient) for gradient in gradients]).square()
        return sum_over_processes(squares).sqrt()
    if gradients[0].device.type == "cpu":  # a norm runs on one thread, a dot product on all
        flat = [gradient.flatten() for gradient in gradients]
        return torch.stack([torch.dot(g, g) for g in flat]).sqrt()
    return torch.stack(torch._foreach_norm(gradients))


def _scale(gradients: list[Tensor], scales: Tensor) -> None:
    if scales.device.type == "cpu":  # values are at hand: touch only what has to shrink
        for gradient, scale in zip(gradients, scales.tolist(), strict=True):
            if scale < 1.0:
                gradient.mul_(scale)
    else:
        torch._foreach_mul_(gradients, list(scales.unbind()))


def _block(name: str) -> int | None:
    found = re.search(r"\bblocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def _lr_mult(name: str, depth: int, layer_decay: float, patch_embed_lr_mult: float) -> float:
    block = _block(name)
    embedding = re.search(r"\b(patch_embed|pos_embed|cls_token|register_tokens|mask_token)\b", name)
    outside = depth + 1 if embedding else 0
    power = outside if block is None else depth - block
    return layer_decay**power * (patch_embed_lr_mult if "patch_embed" in name else 1.0)
