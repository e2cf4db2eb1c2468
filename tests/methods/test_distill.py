"""Distillation: its loss put together by hand, what moves and what does not, and whole runs."""

import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from two_processes import in_two_processes

from dino_tutorial import configure, load_run, train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.losses import sinkhorn_knopp
from dino_tutorial.methods import BYOL, DINO, DINOv2, Distill
from dino_tutorial.methods.dino import DINOSettings
from dino_tutorial.methods.dinov2 import DINOv2Settings
from dino_tutorial.methods.distill import DistillSettings
from dino_tutorial.models import VisionTransformer
from dino_tutorial.runs import record
from dino_tutorial.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]  # whole trainings

HEADS = {"out_dim": 24, "head_hidden_dim": 32, "head_bottleneck_dim": 16}
PATCH_HEADS = {"patch_out_dim": 20, "patch_bottleneck_dim": 12}
VALUES = {"teacher_temp": 0.05, "momentum": 0.9}


def backbone(width, patch_size=4):
    return VisionTransformer(16, patch_size, width, 2, 3, num_register_tokens=1)


def make_teacher(**changes):
    torch.manual_seed(0)
    method = DINOv2(backbone(24), DINOv2Settings(**HEADS, **PATCH_HEADS, **changes))
    with torch.no_grad():
        for tensor in (*method.teacher.parameters(), method.loss.center, method.patch_loss.center):
            tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return method


def make(teacher=None, width=12, **changes):
    teacher = teacher or make_teacher()
    torch.manual_seed(1)
    return Distill(backbone(width), DistillSettings(**changes), teacher)


def some_views(batch=5):
    g = torch.Generator().manual_seed(2)
    return [
        torch.randn(2, batch, 3, 16, 16, generator=g),
        torch.randn(2, batch, 3, 8, 8, generator=g),
    ]


def all_patches(method, batch=5):
    return method.draw_masks(batch, torch.Generator()).to("cpu")


def cross_entropy(targets, logits, temp):
    return -(targets * (logits / temp).log_softmax(-1)).sum(-1)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_the_loss_put_together_by_hand(centering):
    """Teacher and student see all patches; each patch of each global crop is compared."""
    large = make_teacher(centering=centering)
    method = make(large, dino_weight=0.7, ibot_weight=1.3, koleo_weight=0.0)
    views = some_views()
    result = method(views, VALUES, True, all_patches(method))

    whole = large.teacher.network.backbone.forward_features(views[0].flatten(0, 1))
    seen = method.student.backbone.forward_features(views[0].flatten(0, 1))
    local = method.student.backbone(views[1].flatten(0, 1))
    logits = method.student.head(torch.cat([seen.cls, local])).view(4, 5, -1)

    def probabilities(logits, center):
        if centering == "sinkhorn":
            return sinkhorn_knopp(logits.flatten(0, -2), 0.05).view(logits.shape)
        return ((logits - center) / 0.05).softmax(-1)

    heads = large.teacher.network
    targets = probabilities(heads.head(whole.cls), large.loss.center).view(2, 5, -1)
    pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
    dino = sum(cross_entropy(targets[t], logits[v], 0.1).mean() for t, v in pairs) / len(pairs)
    patch_targets = probabilities(heads.patch_head(whole.patches), large.patch_loss.center)
    ibot = cross_entropy(patch_targets, method.student.patch_head(seen.patches), 0.1).mean()
    torch.testing.assert_close(result["dino_loss"], dino)
    torch.testing.assert_close(result["ibot_loss"], ibot)
    torch.testing.assert_close(result["loss"], 0.7 * dino + 1.3 * ibot)


def test_a_student_that_is_the_teacher_has_the_targets_entropy_as_loss():
    large = make_teacher()
    for loss in (large.loss, large.patch_loss):
        loss.center.zero_()
    method = make(large, width=24, student_temp=0.05)
    method.student.load_state_dict(large.teacher.network.state_dict())
    result = method(some_views(), VALUES, True, all_patches(method))
    torch.testing.assert_close(result["ibot_loss"], result["patch_entropy"])


def test_the_teacher_stays_and_the_students_average_is_kept():
    method = make()
    frozen = deepcopy(method.frozen.state_dict())
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=1e-2)
    method.train()
    for _ in range(2):
        before = deepcopy(method.encoder.state_dict())
        method(some_views(), VALUES, False, all_patches(method))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(VALUES)
        student = method.student.backbone.state_dict()
        for name, value in method.encoder.state_dict().items():
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student[name])
    assert method.encoder.embed_dim == 12 and not method.frozen.network.training
    for name, value in method.frozen.state_dict().items():
        assert torch.equal(value, frozen[name])


def test_all_that_learns_gets_a_gradient_and_nothing_else():
    """Nothing is masked, so the mask token may not wait for a gradient."""
    method = make()
    method(some_views(), VALUES, False, all_patches(method))["loss"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert name.startswith("student.") or not parameter.requires_grad
    assert not method.student.backbone.mask_token.requires_grad


def test_the_trained_network_guides_the_student_and_the_average_guides_dinov2():
    large = make_teacher()
    method = make(large)
    assert method.guide is method.frozen and method.guide.network is large.teacher.network
    assert method.networks == [method.student, large.teacher.network]
    assert large.guide is large.teacher and large.student.backbone.mask_token.requires_grad
    kept = {name.split(".")[0] for name in method.state_dict()}
    assert kept == {"student", "teacher", "loss", "patch_loss", "teacher_fingerprint"}


def test_heads_and_temperature_come_from_the_teacher():
    method = make(make_teacher(teacher_temp=0.06, student_temp=0.2, centering="sinkhorn"))
    assert method.constants["ln_k"] == pytest.approx(torch.tensor(24.0).log().item())
    assert method.student.patch_head.last_layer.weight.shape == (20, 12)
    assert (method.settings.student_temp, method.settings.centering) == (0.2, "sinkhorn")
    assert set(method.schedules(50, 10)["teacher_temp"].tolist()) == {0.06}
    assert make(teacher_temp=0.02).settings.teacher_temp == 0.02
    another = make(make(width=12), width=6)  # a student may teach in its turn
    assert another.frozen.network.backbone.embed_dim == 12 and another.settings.out_dim == 24


def test_a_fixed_batch_is_learned():
    method, views = make(koleo_weight=0.0), some_views(8)
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        parts = method(views, VALUES, True, all_patches(method, 8))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        losses.append(parts)
    for part, entropy in (("dino_loss", "teacher_entropy"), ("ibot_loss", "patch_entropy")):
        first, last = (row[part] - row[entropy] for row in (losses[0], losses[-1]))
        assert last < 0.7 * first  # the divergence from the teacher, which is 0 at best


def test_a_teacher_without_a_patch_head_teaches_images_alone():
    torch.manual_seed(0)
    large = DINO(backbone(24, 8), DINOSettings(**HEADS))
    with pytest.raises(UserError, match="no head for patches.*objective.ibot_weight=0"):
        make(large)
    method = make(large, ibot_weight=0.0, koleo_weight=0.0)  # and its patches may differ
    assert method.draw_masks(5, torch.Generator()) is None
    views = some_views()
    assert method(views, VALUES, True)["loss"] > 0
    patches_left_out = make(make_teacher(), ibot_weight=0.0)
    assert patches_left_out(views, VALUES, True).keys() >= {"dino_loss", "koleo_loss"}


def test_teachers_that_do_not_fit_are_one_sentence():
    torch.manual_seed(0)
    with pytest.raises(UserError, match="trained by BYOL, whose head has no prototypes"):
        make(BYOL(backbone(24)))
    large = make_teacher()
    with pytest.raises(UserError, match="patches of 4 pixels and the student of 8"):
        Distill(backbone(12, 8), DistillSettings(), large)


def smoke(folder, method="distill", **changes):
    return configure(
        method, preset="smoke", changes={"folder": str(folder), "device": "cpu"} | changes
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    changes = {"optim.lr": 8e-3, "train.epochs": 1}
    return train(smoke(tmp_path_factory.mktemp("teachers"), "dinov2", **changes))


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train(smoke(folder, **{"objective.teacher": str(teacher.folder), "train.epochs": 1}))


def test_a_run_ends_with_a_small_encoder_that_has_learned_from_the_teacher(finished, teacher):
    assert finished.encoder().embed_dim == 16 and teacher.encoder().embed_dim == 32
    first, last = (
        sum(row["ibot_loss"] - row["patch_entropy"] for row in rows)
        for rows in (finished.metrics[:4], finished.metrics[-4:])
    )
    assert last < first
    assert finished.summary["knn_top1"] > 0
    assert len({row["teacher_temp"] for row in finished.metrics}) == 1


def test_a_checkpoint_holds_no_frozen_weights(finished):
    state = load_checkpoint(finished.folder)["method"]
    assert not any(name.startswith("frozen.") for name in state)
    kept = finished.encoder().state_dict()
    for name, value in kept.items():
        assert torch.equal(value, state[f"teacher.network.backbone.{name}"])


def test_resumed_from_the_middle_it_ends_bit_for_bit_the_same(finished, tmp_path):
    folder = tmp_path / finished.folder.name
    shutil.copytree(finished.folder, folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").replace(folder / "checkpoint.pt")
    assert load_checkpoint(folder)["step"] == 4
    resumed = train(replace(finished.config, folder=str(tmp_path)), resume=True)
    for name in ("metrics.jsonl", "backbone.safetensors"):
        assert (resumed.folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_resuming_under_another_teacher_is_refused(finished, teacher, tmp_path):
    folder, other = tmp_path / finished.folder.name, tmp_path / "teacher"
    shutil.copytree(finished.folder, folder)
    shutil.copytree(teacher.folder, other)
    state = load_checkpoint(other)
    state["method"]["teacher.network.head.mlp.0.bias"] += 1e-3
    save_checkpoint(other, state)
    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace(str(teacher.folder), str(other))
    )
    (folder / "summary.json").unlink()
    changed = smoke(tmp_path, **{"objective.teacher": str(other), "train.epochs": 1})
    with pytest.raises(UserError, match="distilled from another teacher"):
        train(changed, resume=True)


def test_one_teacher_run_teaches_students_of_several_sizes(teacher, tmp_path, capsys):
    words = [
        "distill",
        str(teacher.folder),
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--folder",
        str(tmp_path),
        "--set",
        "train.epochs=0.25",
    ]
    assert main([*words, "--name", "tiny", "--set", "model.embed_dim=8"]) == 0
    assert main([*words, "--name", "small", "--set", "model.depth=3"]) == 0
    tiny, small = (load_run(tmp_path / name) for name in ("tiny", "small"))
    assert tiny.encoder().embed_dim == 8 and len(small.encoder().blocks) == 3
    assert tiny.config.source == teacher.config.source
    marks = [load_checkpoint(run.folder)["method"]["teacher_fingerprint"] for run in (tiny, small)]
    assert torch.equal(*marks)
    capsys.readouterr()


def test_a_record_does_not_say_where_the_teacher_lay(finished, teacher, tmp_path):
    kept = record(finished, tmp_path)
    text = (kept / "config.yaml").read_text() + (kept / "command.txt").read_text()
    assert str(teacher.folder.parent) not in text
    assert f"runs/{teacher.folder.name}" in text


def test_teachers_that_are_not_there_are_one_sentence(teacher, tmp_path):
    half, weightless = tmp_path / "half", tmp_path / "weightless"
    shutil.copytree(teacher.folder, half)
    shutil.copytree(teacher.folder, weightless)
    (half / "summary.json").unlink()
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (weightless / name).unlink()
    for folder, sentence in (
        (None, "distillation needs a teacher"),
        ("dinov2_vits14", "an encoder without the heads"),
        (str(teacher.folder / "backbone.safetensors"), "an encoder without the heads"),
        (str(tmp_path / "nowhere"), "is not a run's folder"),
        (str(half), "is not finished"),
        (str(weightless), "has no checkpoint.pt, which holds the heads"),
    ):
        with pytest.raises(UserError, match=sentence):
            train(smoke(tmp_path / "runs", **{"objective.teacher": folder}))
    assert not (tmp_path / "runs").exists()


def test_two_processes_equal_one(teacher, tmp_path):
    """Without KoLeo, which compares the images of a process, as in the reference code."""
    changes = {
        "train.epochs": 0.25,
        "objective.koleo_weight": 0.0,
        "objective.teacher": str(teacher.folder),
    }
    one = train(smoke(tmp_path / "one", **changes))
    words = ["train", "distill", "--preset", "smoke", "--device", "cpu"]
    for key, value in changes.items():
        words += ["--set", f"{key}={value}"]
    in_two_processes(*words, "--folder", str(tmp_path / "two"))
    two = load_run(tmp_path / "two" / "distill-scenes-smoke")
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    ours, theirs = (load_checkpoint(run.folder)["method"] for run in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=5e-3, atol=5e-4)
