"""The collapse clinic: take a safeguard out of BYOL or DINO, train for seconds, read the signs.

>>> from dino_tutorial import clinic
>>> method = clinic.prepare("dino", without="centering")
>>> rows = clinic.observe(method, images)
>>> rows[-1]["batch_entropy"], rows[-1]["ln_k"]
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import feature_spread
from dino_tutorial.losses import dino_loss
from dino_tutorial.methods.base import Method, spread_of
from dino_tutorial.methods.byol import BYOL, BYOLSettings
from dino_tutorial.methods.dino import DINO, DINOSettings, measures
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.models import SmallResNet, vit_tiny
from dino_tutorial.options import replace_options, takes, tensor, whole
from dino_tutorial.options.arguments import shown
from dino_tutorial.runs.config import configure
from dino_tutorial.training.optim import clip_gradients, param_groups
from dino_tutorial.views import Augment

__all__ = ["SAFEGUARDS", "observe", "prepare"]

#: What each method of the clinic can be asked to do without.
SAFEGUARDS = {
    "dino": ("centering", "sharpening", "average", "copy"),
    "byol": ("predictor", "stop-gradient", "average"),
}
# Heads so narrow, and averages so short, that a collapse takes tens of steps.
_SETTINGS = {
    "dino": {
        "out_dim": 64,
        "head_hidden_dim": 128,
        "head_bottleneck_dim": 64,
        "momentum": 0.98,
        "momentum_final": 0.98,
    },
    "byol": {"hidden_dim": 128, "out_dim": 64, "momentum": 0.97, "momentum_final": 0.97},
}
# The safeguards that a setting turns off.
_TURNED_OFF = {
    "centering": {"center_momentum": 1.0},
    "sharpening": {"teacher_temp": 0.1, "teacher_temp_start": 0.1},
    "average": {"momentum": 0.0, "momentum_final": 0.0},
}
_RATES = {"dino": 1e-3, "byol": 5e-3}
_WARMUP = 20  # steps


@takes(seed=whole(0, 2**63 - 1))
def prepare(
    name: str,
    without: str | Collection[str] = (),
    encoder: nn.Module | None = None,
    seed: int = 0,
    **options: Any,
) -> Method:
    """A small method that lacks one or several of its safeguards.

    - ``"centering"`` (DINO): the center stays where it starts, at zero.
    - ``"sharpening"`` (DINO): the teacher has the student's temperature.
    - ``"average"``: after every step the teacher is an exact copy of the student (momentum 0).
    - ``"copy"`` (DINO), ``"stop-gradient"`` (BYOL): teacher and student are one network, and
      the gradient flows into the targets.
    - ``"predictor"`` (BYOL): projections are compared with projections.

    Args:
        name: "dino" or "byol".
        without: one of ``SAFEGUARDS[name]``, or several; nothing by default.
        encoder: trained from its present weights; by default a new one for images of 16 pixels.
        seed: of the new weights, which are the same whatever is taken out.
        options: further settings of the method, such as ``center_momentum=0.999``.

    Raises:
        UserError: there is no such method, or it has no such safeguard.
    """
    if name not in SAFEGUARDS:
        raise UserError(f"the clinic has no '{name}': choose one of {', '.join(SAFEGUARDS)}")
    if not isinstance(without, Collection):
        raise UserError(
            f"without names a safeguard or several, such as 'centering', not {shown(without)}"
        )
    removed = {without} if isinstance(without, str) else set(without)
    if unknown := sorted(removed - set(SAFEGUARDS[name])):
        known = ", ".join(SAFEGUARDS[name])
        raise UserError(f"{name} has no safeguard '{unknown[0]}': choose from {known}")
    settings = dict(_SETTINGS[name])
    for part in removed & _TURNED_OFF.keys():
        settings |= _TURNED_OFF[part]
    torch.manual_seed(seed)
    build = {"dino": _dino, "byol": _byol}[name]
    return build(removed, encoder, settings | options)


def _dino(removed: set[str], encoder: nn.Module | None, settings: dict[str, Any]) -> DINO:
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}
    options = replace_options(DINOSettings(), settings)
    if "copy" in removed:
        return _OneNetworkDINO(encoder or vit_tiny(**size), options)
    return DINO(encoder or vit_tiny(**size), options)


def _byol(removed: set[str], encoder: nn.Module | None, settings: dict[str, Any]) -> BYOL:
    kind = _OneNetworkBYOL if "stop-gradient" in removed else BYOL
    method = kind(encoder or SmallResNet((16, 32)), replace_options(BYOLSettings(), settings))
    if "predictor" in removed:
        method.predictor = nn.Identity()
    return method


class _SameNetwork(Teacher):
    """A second name for the student: no copy, no average, and gradients flow through it."""

    def __init__(self, student: nn.Module):
        nn.Module.__init__(self)
        self.network = student

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def update(self, student: nn.Module, momentum: float) -> None:
        pass


class _OneNetworkDINO(DINO):
    """DINO whose teacher is the student, gradient and all; the center still moves."""

    def __init__(self, backbone: nn.Module, options: DINOSettings):
        super().__init__(backbone, options)
        self.teacher = _SameNetwork(self.student)

    def forward(self, views, values, measure):
        features, teacher_logits = self.teacher([views[0][:2]])
        _, student_logits = self.student(views)
        targets = ((teacher_logits - self.loss.center) / values["teacher_temp"]).softmax(dim=-1)
        loss = dino_loss(student_logits, targets, self.loss.student_temp)
        self.loss.note(teacher_logits)
        return {"loss": loss} | (measures(targets.detach(), features) if measure else {})


class _OneNetworkBYOL(BYOL):
    """BYOL whose targets are the student's own projections, gradient and all."""

    def forward(self, views, values, measure):
        (pair,) = views
        features, projections = zip(*(self.student([view[None]]) for view in pair), strict=True)
        predictions = [self.predictor(projection[0]) for projection in projections]
        cosines = [cosine_similarity(predictions[i], projections[1 - i][0], dim=-1) for i in (0, 1)]
        loss = sum((2 - 2 * cosine).mean() for cosine in cosines)
        return {"loss": loss, "feature_spread": spread_of(features[0])}


@takes(
    images=tensor("n 3 S S", "uint8"),
    steps=whole(),
    batch_size=whole(2),
    seed=whole(0, 2**63 - 1),
    every=whole(),
)
def observe(
    method: Method,
    images: Tensor,
    steps: int = 150,
    batch_size: int = 32,
    seed: int = 0,
    every: int = 5,
) -> list[dict[str, float]]:
    """Train a method of :func:`prepare` on two views of small images, and take notes.

    Args:
        method: trained in place.
        images: (n, 3, S, S) uint8; the views have S pixels too.
        steps: optimizer steps, the first 20 with a rising learning rate.
        batch_size: images in a step.
        seed: of batches and views.
        every: steps between two rows; the last step has one too.

    Returns:
        Rows with ``step``, ``loss``, ``feature_spread`` (of the encoder's features) and
        ``output_spread`` (of what the head makes of them). For DINO also ``ln_k``,
        ``teacher_entropy``, ``batch_entropy`` and ``information``, the second less the first: the
        nats that an output tells about its image. :func:`dino_tutorial.evaluation.find_collapse`
        reads such rows.
    """
    name = "byol" if isinstance(method, BYOL) else "dino"
    size = images.shape[-1]
    views = {"global_size": size, "local_crops": 0}
    augment = Augment(method.view_specs(replace_options(configure(name).views, views)))
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(param_groups(method, weight_decay=0.04), lr=_RATES[name])
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / _WARMUP, total_iters=_WARMUP)
    schedules = {key: table.tolist() for key, table in method.schedules(steps, steps).items()}
    generator = torch.Generator().manual_seed(seed)
    rows = []
    method.train()
    for step in range(steps):
        batch = images[torch.randint(len(images), (batch_size,), generator=generator)]
        drawn = augment.sample(batch_size, size, size, generator)
        values = {key: table[step] for key, table in schedules.items()}
        noted = step % every == 0 or step + 1 == steps
        with _outputs_of(method.student.head) as outputs:
            metrics = method(augment.apply(batch, drawn), values, measure=noted)
        metrics["loss"].backward()
        clip_gradients(parameters, 3.0, "parameter")
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
        method.after_step(values)
        if noted:
            row = {key: value.item() for key, value in metrics.items()} | method.constants
            row["output_spread"] = feature_spread(outputs[-1]).item()
            if "teacher_entropy" in row:
                row["information"] = row["batch_entropy"] - row["teacher_entropy"]
            rows.append({"step": step} | row)
    return rows


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module returns meanwhile, call by call."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda *called: outputs.append(called[-1].detach()))
    try:
        yield outputs
    finally:
        hook.remove()
