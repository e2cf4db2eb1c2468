"""bf16, fp16 and float32: which is chosen, what stays in float32, and what overflow costs."""

import pytest
import torch
from simulated_device import simulated_cuda
from test_steps import LENGTHS, begun
from tiny_training import pictures, trainer
from torch import nn

from dino_tutorial.evaluation import extract_features
from dino_tutorial.losses import byol_loss, info_nce
from dino_tutorial.losses.contrastive import nt_xent
from dino_tutorial.runs.environment import choose_precision
from dino_tutorial.training.checkpoint import load_checkpoint
from dino_tutorial.training.optim import clip_gradients

CUDA = torch.device("cuda", 0)
HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_what_the_hardware_has(native, chosen):
    with simulated_cuda(native_bf16=native):
        assert choose_precision("auto", CUDA) == chosen
        assert choose_precision("fp32", CUDA) == "fp32"
    assert choose_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["dinov2", "simclr", "byol"])
def test_half_precision_learns_the_same(name, precision, tmp_path):
    full, half = (begun(name, tmp_path / p, train__precision=p) for p in ("fp32", precision))
    if precision == "fp16":  # small enough for the large gradients of the first steps
        half.scaler.load_state_dict(half.scaler.state_dict() | {"scale": 16.0})
    for run in (full, half):
        run.fit()
    for a, b in zip(full.rows, half.rows, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=0.1)  # the scale is out again
        assert b["loss"] != a["loss"]  # it was computed in something else


@pytest.mark.parametrize(("name", "waits"), [("dino", 0), ("byol-lars", 1)])
def test_a_scaled_loss_waits_only_where_the_optimizer_cannot_skip_by_itself(name, waits, tmp_path):
    plain = begun(name, tmp_path / "plain")
    plain.fit()
    steps = []
    with simulated_cuda() as ledger:
        scaled = begun(name, tmp_path / "scaled", "cuda:0", train__precision="fp16")
        tick = scaled.clock.tick
        scaled.clock.tick = lambda: (tick(), steps.append(ledger.take()))
        scaled.fit()
    assert [len(step.waits) for step in steps[1:]] == [waits, waits + 1]
    for a, b in zip(plain.rows, scaled.rows, strict=True):  # there is no autocast on that device
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)


def losses_of(x, y, queue):
    return [byol_loss(x, y), info_nce(x, y, queue), info_nce(x, y), nt_xent(torch.stack([x, y]))]


@pytest.mark.parametrize("half", HALF)
def test_similarities_are_compared_in_float32(half):
    g = torch.Generator().manual_seed(0)
    x, y, queue = (torch.randn(n, 64, generator=g).to(half) for n in (16, 16, 128))
    exact = losses_of(x.double(), y.double(), queue.double())
    with torch.autocast("cpu", half):
        found = losses_of(x, y, queue.float())
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def fp16(folder, **changes):
    lengths = LENGTHS | {"train__epochs": 4 / 8, "train__checkpoint_every": 2}
    return trainer("dino", folder, **lengths | changes, train__precision="fp16")


def test_a_step_that_overflows_is_left_out(tmp_path):
    run = fp16(tmp_path, train__epochs=1 / 8)
    before = {name: p.clone() for name, p in run.method.named_parameters()}
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**60})
    run.fit()
    assert run.rows[0]["grad_norm"] is None  # there is none
    for name, parameter in run.method.student.named_parameters():
        assert torch.equal(parameter, before[f"student.{name}"]), name
    assert run.scaler.get_scale() == 2.0**59


def test_the_scale_is_resumed_bit_for_bit(tmp_path):
    whole = fp16(tmp_path)
    whole.scaler.load_state_dict(whole.scaler.state_dict() | {"scale": 2.0**60})
    whole.fit()
    assert whole.scaler.get_scale() == 2.0**56
    state = torch.load(tmp_path / "checkpoint.previous.pt")
    assert state["step"] == 2 and state["scaler"]["scale"] == 2.0**58
    again = fp16(tmp_path / "again")
    again.restore(state | {"log_sizes": [0, 0]})
    again.fit()
    assert [row["loss"] for row in again.rows] == [row["loss"] for row in whole.rows[-2:]]
    assert again.scaler.state_dict() == whole.scaler.state_dict()


def test_a_checkpoint_from_before_there_was_a_scale_goes_on(tmp_path):
    run = trainer("dino", tmp_path, **LENGTHS | {"train__checkpoint_every": 2})
    run.fit()
    state = load_checkpoint(tmp_path)
    assert state["scaler"] == {}  # none in float32
    del state["scaler"]
    state["step"], state["log_sizes"] = 2, [0, 0]
    again = fp16(tmp_path / "again")
    again.restore(state)
    assert again.scaler.get_scale() == 2.0**16
    again.fit()


class Asked(nn.Module):
    """An encoder that notes what autocast would make of its products."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.found = []

    def forward(self, x):
        on = torch.is_autocast_enabled("cuda")
        self.found.append(torch.get_autocast_dtype("cuda") if on else None)
        return x.flatten(1)[:, :2] * self.weight


@pytest.mark.parametrize(
    ("native", "weights", "found"),
    [
        (True, torch.float32, torch.bfloat16),
        (False, torch.float32, torch.float16),
        (True, torch.float64, None),
    ],
)
def test_features_are_extracted_in_half_precision_on_cuda(native, weights, found):
    with simulated_cuda(native_bf16=native):
        encoder = Asked(weights).to(CUDA)
        features, _ = extract_features(encoder, pictures(8))
    assert encoder.found == [found] and features.dtype == torch.float32
    on_cpu = Asked()
    extract_features(on_cpu, pictures(8))
    assert on_cpu.found == [None]


def test_a_norm_of_nothing_lies_where_the_parameters_do():
    with simulated_cuda():
        weight = torch.zeros(3, device=CUDA, requires_grad=True)
        assert clip_gradients([weight], 1.0, "global").device == CUDA
    assert clip_gradients([], 1.0, "global").item() == 0


def test_float32_is_tf32_on_cuda_while_it_trains(tmp_path):
    seen = []

    def look():
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark))
        return {}

    with simulated_cuda():
        run = begun("dino", tmp_path, "cuda:0", train__epochs=1 / 8)
        run.evaluate = look
        run.fit()
    look()
    assert seen == [("high", True), ("highest", False)]
