"""DINOv2 as a method: its loss put together by hand, what learns, and whole runs."""

import shutil
from dataclasses import replace

import pytest
import torch
from two_processes import in_two_processes

from dino_tutorial import configure, load_run, train
from dino_tutorial.errors import UserError
from dino_tutorial.losses import sinkhorn_knopp
from dino_tutorial.methods import DINO, DINOv2
from dino_tutorial.methods.dino import DINOSettings
from dino_tutorial.methods.dinov2 import DINOv2Settings
from dino_tutorial.models import DINOHead, VisionTransformer, build_encoder
from dino_tutorial.options import flatten
from dino_tutorial.runs import build_method
from dino_tutorial.training.checkpoint import load_checkpoint
from dino_tutorial.training.optim import split_by_module
from dino_tutorial.views import DrawnMasks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]  # whole trainings

SMALL = DINOv2Settings(
    out_dim=24,
    head_hidden_dim=32,
    head_bottleneck_dim=16,
    patch_out_dim=20,
    patch_bottleneck_dim=12,
)
VALUES = {"teacher_temp": 0.05, "momentum": 0.9}


def make(seed=0, **changes):
    torch.manual_seed(seed)
    backbone = VisionTransformer(16, 4, 24, 2, 3, num_register_tokens=1)
    method = DINOv2(backbone, replace(SMALL, **changes))
    with torch.no_grad():  # a student that has moved away from its teacher, and spread out
        for parameter in method.student.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


def some_views(batch=5, n_local=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, batch, 3, 16, 16, generator=g),
        torch.randn(n_local, batch, 3, 8, 8, generator=g),
    ]


def some_masks(method, batch=5, seed=2):
    return method.draw_masks(batch, torch.Generator().manual_seed(seed)).to("cpu")


def cross_entropy(targets, logits, temp):
    return -(targets * (logits / temp).log_softmax(-1)).sum(-1)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_the_loss_put_together_by_hand(centering):
    weights = {"dino_weight": 0.7, "ibot_weight": 1.3, "koleo_weight": 0.2}
    method = make(centering=centering, **weights)
    method.loss.center.normal_()
    method.patch_loss.center.normal_()
    views, hidden = some_views(), some_masks(method)
    result = method(views, VALUES, True, hidden)

    student, teacher, masks = method.student, method.teacher.network, hidden.masks
    crops = views[0].flatten(0, 1)
    seen = student.backbone.forward_features(crops, masks)
    whole = teacher.backbone.forward_features(crops)  # nothing is hidden from the teacher
    local = student.backbone.forward_features(views[1].flatten(0, 1)).cls
    logits = student.head(torch.cat([seen.cls, local])).view(4, 5, -1)

    def probabilities(logits, center):
        if centering == "sinkhorn":
            return sinkhorn_knopp(logits, 0.05)
        return ((logits - center) / 0.05).softmax(-1)

    targets = probabilities(teacher.head(whole.cls), method.loss.center).view(2, 5, -1)
    pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
    dino = sum(cross_entropy(targets[t], logits[v], 0.1).mean() for t, v in pairs) / len(pairs)
    patch_targets = torch.zeros(10, 16, 20)
    patch_targets[masks] = probabilities(
        teacher.patch_head(whole.patches[masks]), method.patch_loss.center
    )
    patch_logits = student.patch_head(seen.patches)
    ibot = sum(
        cross_entropy(patch_targets[i, masks[i]], patch_logits[i, masks[i]], 0.1).mean()
        for i in range(10)
        if masks[i].any()
    )
    unit = seen.cls / seen.cls.norm(dim=-1, keepdim=True)
    distances = torch.cdist(unit[:5], unit[:5]), torch.cdist(unit[5:], unit[5:])
    koleo = -sum((d + 9 * torch.eye(5)).min(dim=1).values.log().mean() for d in distances)

    torch.testing.assert_close(result["dino_loss"], dino)
    torch.testing.assert_close(result["ibot_loss"], ibot / 10)
    torch.testing.assert_close(result["koleo_loss"], koleo, rtol=1e-3, atol=1e-4)
    expected = 0.7 * dino + 1.3 * ibot / 10 + 0.2 * koleo
    torch.testing.assert_close(result["loss"], expected, rtol=1e-3, atol=1e-4)
    assert 0 < result["patch_entropy"] < torch.tensor(20.0).log()
    assert method(views, VALUES, False, hidden).keys() == {"loss"}


def test_without_its_own_losses_it_is_dino():
    options = {"ibot_weight": 0.0, "koleo_weight": 0.0}
    method = make(**options)
    torch.manual_seed(0)
    shared = {k: v for k, v in flatten(method.settings).items() if k in flatten(DINOSettings())}
    dino = DINO(VisionTransformer(16, 4, 24, 2, 3, num_register_tokens=1), DINOSettings(**shared))
    dino.load_state_dict(method.state_dict())
    views = some_views()
    for _ in range(2):  # the second sees a center that has moved
        ours, theirs = method(views, VALUES, True), dino(views, VALUES, True)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value)
        for each in (method, dino):
            each.after_step(VALUES)
    assert method.draw_masks(5, torch.Generator()) is None
    assert not method.student.backbone.mask_token.requires_grad


def test_all_that_learns_gets_a_gradient_and_the_teacher_none():
    method = make()
    method(some_views(), VALUES, False, some_masks(method))["loss"].backward()
    missing = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == [] and method.student.backbone.mask_token.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert len(split_by_module(method)) == 3  # backbone, head, patch head: clipped apart


def test_a_batch_without_any_hidden_patch_still_reaches_all_parameters():
    """A process may get such a share; distributed training waits for each gradient all the same."""
    method = make(centering="sinkhorn")
    drawn = DrawnMasks(torch.zeros_like(method.draw_masks(5, torch.Generator()).masks))
    result = method(some_views(), VALUES, True, drawn.to("cpu"))
    result["loss"].backward()
    assert result["loss"].isfinite() and result["ibot_loss"] == 0
    assert all(p.grad is not None for p in method.student.parameters())


def test_only_hidden_patches_go_through_the_patch_head():
    method, seen = make(), []
    for network in (method.student, method.teacher.network):
        network.patch_head.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    hidden = some_masks(method)
    method(some_views(), VALUES, False, hidden)
    assert [len(x) for x in seen] == [hidden.masks.sum()] * 2


def test_equal_sizes_of_global_and_local_views_make_one_group():
    method, views = make(), some_views()
    hidden = some_masks(method)
    large = torch.randn(2, 5, 3, 16, 16)
    one = method([torch.cat([views[0], large])], VALUES, False, hidden)
    two = method([views[0], large], VALUES, False, hidden)
    torch.testing.assert_close(one["loss"], two["loss"])


def test_both_last_layers_are_frozen_at_first():
    method = make(freeze_last_layer_epochs=1.0)
    method(some_views(), VALUES, False, some_masks(method))["loss"].backward()
    method.before_step(epoch=0.99)
    without = {n for n, p in method.student.named_parameters() if p.grad is None}
    assert without == {
        f"{head}.last_layer.{name}"
        for head in ("head", "patch_head")
        for name in ("weight", "scale")
    }


def test_centers_move_once_a_step_by_the_mean_of_all_micro_batches():
    method = make()
    views, expected = some_views(batch=6), []
    drawn = method.draw_masks(6, torch.Generator().manual_seed(0))
    for part in (slice(0, 2), slice(2, 6)):
        hidden = drawn[part].to("cpu")
        method([group[:, part] for group in views], VALUES, False, hidden)
        crops = views[0][:, part].flatten(0, 1)
        whole = method.teacher.network.backbone.forward_features(crops)
        expected.append(method.teacher.network.patch_head(whole.patches[hidden.masks]))
    assert len(expected[0]) != len(expected[1])
    method.after_step(VALUES)
    mean = torch.cat(expected).mean(dim=0)
    torch.testing.assert_close(method.patch_loss.center[0], 0.1 * mean)
    center = method.patch_loss.center.clone()
    method.patch_loss.update()  # nothing noted since, nothing moved
    assert torch.equal(method.patch_loss.center, center)


def test_autocast_stays_near_full_precision():
    method = make()
    views, hidden = some_views(), some_masks(method)
    plain = method(views, VALUES, True, hidden)
    with torch.autocast("cpu", torch.bfloat16):
        low = method(views, VALUES, True, hidden)
    low["loss"].backward()
    for name in ("dino_loss", "ibot_loss"):
        assert low[name].dtype == torch.float32
        assert low[name].item() == pytest.approx(plain[name].item(), rel=0.1)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_it_learns_a_fixed_batch(centering):
    method = make(centering=centering)
    views, hidden = some_views(batch=8), some_masks(method, batch=8)
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        parts = method(views, VALUES, True, hidden)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        method.after_step({"momentum": 0.999})
        losses.append({name: value.item() for name, value in parts.items()})
    for name in ("loss", "dino_loss", "ibot_loss"):
        assert losses[-1][name] < losses[0][name] - 0.2, name


def test_masks_come_from_the_generator_alone():
    method = make()
    first, again, other = (some_masks(method, seed=s).masks for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (10, 16) and first.any(dim=1).sum() == 5


def test_what_cannot_be_masked_is_named():
    with pytest.raises(UserError, match="vision transformer.*ibot_weight=0"):
        DINOv2(build_encoder("resnet18"), SMALL)
    with pytest.raises(ValueError, match="draw_masks"):
        make()(some_views(), VALUES, False)


def test_paper_preset_is_the_large_model_of_the_reference():
    config = configure("dinov2", preset="paper")
    with torch.device("meta"):
        method = build_method(config)
    backbone = method.student.backbone
    assert (backbone.embed_dim, len(backbone.blocks), backbone.grid_size) == (1024, 24, (16, 16))
    assert [block.drop_path.rate for block in backbone.blocks] == [0.4] * 24
    assert method.student.head.last_layer.weight.shape == (131072, 384)
    assert method.student.patch_head.last_layer.weight.shape == (131072, 256)
    assert all(isinstance(head, DINOHead) for head in method.heads)
    # 2e-4 for a batch of 1024, with a square root
    assert config.optim.lr * (1024 / 256) ** 0.5 == pytest.approx(2e-4)


@pytest.mark.parametrize("preset", ["smoke", "laptop", "gpu"])
def test_small_presets_hide_whole_numbers_of_patches_in_half_of_the_crops(preset):
    config = configure("dinov2", preset=preset)
    with torch.device("meta"):
        method = build_method(config)
    hidden = method.draw_masks(32, torch.Generator().manual_seed(0)).to("cpu")
    counts = hidden.masks.sum(dim=1)
    assert (counts > 0).sum() == 32
    n_patches = (config.views.global_size // config.model.patch_size) ** 2
    assert hidden.masks.shape == (64, n_patches)
    assert 0.2 * n_patches < counts[counts > 0].float().mean() < 0.35 * n_patches


def smoke(folder, **changes):
    return configure(
        "dinov2", preset="smoke", changes={"folder": str(folder), "device": "cpu"} | changes
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings = {"objective.centering": "sinkhorn", "model.num_register_tokens": 2}
    return train(smoke(tmp_path_factory.mktemp("runs"), **settings))


def test_a_run_logs_the_parts_of_its_loss(finished):
    for row in finished.metrics:
        total = row["dino_loss"] + row["ibot_loss"] + 0.1 * row["koleo_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    first, last = (
        sum(r["ibot_loss"] for r in rows) for rows in (finished.metrics[:4], finished.metrics[-4:])
    )
    assert last < first
    assert finished.encoder().num_register_tokens == 2
    assert finished.summary["knn_top1"] > 0


def test_resumed_from_the_middle_it_ends_bit_for_bit_the_same(finished, tmp_path):
    folder = tmp_path / finished.folder.name
    shutil.copytree(finished.folder, folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").replace(folder / "checkpoint.pt")
    assert load_checkpoint(folder)["step"] == 12
    config = replace(finished.config, folder=str(tmp_path))
    resumed = train(config, resume=True)
    for name in ("metrics.jsonl", "backbone.safetensors"):
        assert (resumed.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    ours, theirs = (load_checkpoint(run.folder)["method"] for run in (finished, resumed))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_accumulation_equals_one_batch(tmp_path):
    """Without KoLeo, which compares images within a micro-batch, as Sinkhorn-Knopp does too."""
    short = {"train.epochs": 0.25, "objective.koleo_weight": 0.0}
    whole = train(smoke(tmp_path, **short))
    parts = train(smoke(tmp_path, **short, **{"train.accumulate": 4}))
    for a, b in zip(whole.metrics, parts.metrics, strict=True):
        for name in ("loss", "dino_loss", "ibot_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
    ours, theirs = (load_checkpoint(run.folder)["method"] for run in (whole, parts))
    torch.testing.assert_close(
        ours["patch_loss.center"], theirs["patch_loss.center"], rtol=1e-3, atol=1e-5
    )


def test_two_processes_equal_one_with_sinkhorn_knopp(tmp_path):
    """Each with a part of the model. Without KoLeo, which compares the images of a process."""
    changes = {
        "train.epochs": 0.375,
        "objective.centering": "sinkhorn",
        "objective.koleo_weight": 0.0,
    }
    one = train(smoke(tmp_path / "one", **changes))
    words = ["train", "dinov2", "--preset", "smoke", "--device", "cpu"]
    for key, value in changes.items():
        words += ["--set", f"{key}={value}"]
    in_two_processes(*words, "--set", "train.sharding=fsdp", "--folder", str(tmp_path / "two"))
    two = load_run(tmp_path / "two" / "dinov2-scenes-smoke")
    for a, b in zip(one.metrics, two.metrics, strict=True):
        for name in ("loss", "dino_loss", "ibot_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
    ours, theirs = (load_checkpoint(run.folder)["method"] for run in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=5e-3, atol=5e-4)
    assert two.summary["knn_top1"] == pytest.approx(one.summary["knn_top1"], abs=0.05)
    again = train(smoke(tmp_path / "two", **changes), resume=True)  # in one process
    assert again.folder == two.folder and again.metrics == two.metrics
