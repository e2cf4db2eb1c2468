"""Each method of the first part on pictures so few that it can learn them by heart."""

import json
import math
import signal

import pytest
import torch
from tiny_training import CLASSES, trainer
from torch import nn
from torch.nn.functional import normalize

from dino_tutorial import configure
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import SPREAD_BELOW
from dino_tutorial.losses import DINOLoss, sinkhorn_knopp
from dino_tutorial.methods import METHODS, MoCo
from dino_tutorial.methods.queue import Queue
from dino_tutorial.models import ConvNet, Encoder, SmallResNet
from dino_tutorial.runs import build_method
from dino_tutorial.training.checkpoint import load_checkpoint
from dino_tutorial.training.loop import Interrupted
from dino_tutorial.views import Augment, shuffled_tiles

NEW = ("rotation", "jigsaw", "simclr", "moco", "swav", "supervised")
BEGIN = {"moco": 8}  # rows before its queue is full of keys are easier than they should be


def smoke_method(name, **changes):
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return build_method(configure(name, preset="smoke", changes=dotted), n_classes=CLASSES)


@pytest.mark.parametrize("method", NEW)
def test_the_loss_falls(method, tmp_path):
    colours_stay = {"views__jitter_p": 0.0, "views__gray_p": 0.0}
    run = trainer(method, tmp_path, train__epochs=40, train__eval_every=1000, **colours_stay)
    run.fit()
    losses = [row["loss"] for row in run.rows]
    first = BEGIN.get(method, 0)
    start, end = (sum(part) / len(part) for part in (losses[first : first + 8], losses[-8:]))
    assert end < 0.85 * start and end < 0.85 * run.rows[0]["ln_k"]
    assert all(0 <= row["feature_spread"] <= 1 + 1e-5 for row in run.rows)
    assert run.rows[-1]["feature_spread"] > 10 * SPREAD_BELOW and run.warnings == []


@pytest.mark.parametrize(
    "method, ln_k",
    [
        ("rotation", math.log(4)),
        ("jigsaw", math.log(4)),  # permutations
        ("simclr", math.log(2 * 32 - 1)),  # views of the batch but the query
        ("moco", math.log(128 + 1)),  # the queue and the key
        ("swav", math.log(16)),  # prototypes
        ("supervised", math.log(CLASSES)),
    ],
)
def test_ln_k_is_the_loss_of_a_guess(method, ln_k, tmp_path):
    run = trainer(method, tmp_path, train__epochs=0.5)
    run.fit()
    assert run.rows[0]["ln_k"] == pytest.approx(ln_k, abs=1e-5)


@pytest.mark.parametrize("method", NEW)
def test_interrupted_and_resumed_equals_uninterrupted(method, tmp_path):
    def stop():
        signal.raise_signal(signal.SIGINT)
        return {}

    whole = trainer(method, tmp_path / "whole", train__epochs=6, evaluate=dict)
    whole.fit()
    cut = trainer(method, tmp_path / "cut", train__epochs=6, evaluate=stop, train__eval_every=9)
    with pytest.raises(Interrupted):
        cut.fit()  # steps 0 and 9 evaluate
    cut.restore(load_checkpoint(tmp_path / "cut"))
    with pytest.raises(Interrupted):
        cut.fit()
    again = trainer(method, tmp_path / "cut", train__epochs=6, evaluate=dict)
    again.restore(load_checkpoint(tmp_path / "cut"))
    assert again.step == 10
    again.fit()
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert rows[0] == rows[1] and len(rows[0].splitlines()) == 12
    ours, theirs = whole.method.state_dict(), again.method.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("method", NEW)
def test_without_a_teacher_the_students_backbone_is_kept(method):
    built = smoke_method(method)
    assert built.encoder is built.student.backbone
    assert (built.teacher is not None) == (method == "moco")


def test_a_teachers_backbone_is_kept_where_there_is_one():
    for method in ("byol", "dino"):
        built = smoke_method(method)
        assert built.encoder is built.teacher.network.backbone


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_every_trainable_parameter_gets_a_gradient(method, encoder):
    """Distributed training refuses parameters that take no part in the loss."""
    built, labels = smoke_method(method), {}
    if encoder == "resnet":
        torch.manual_seed(0)
        extra = {"n_classes": CLASSES} if built.needs_labels else {}
        options = configure(method, preset="smoke").objective
        built = METHODS[method](ConvNet("resnet18", small_images=True), options, **extra)
    if built.needs_labels:
        labels = {"labels": torch.arange(4)}
    config = configure(method, preset="smoke")
    views = Augment(built.view_specs(config.views))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    params = views.sample(4, 32, 32, torch.Generator().manual_seed(0))
    loss = built(views.apply(images, params), {"queue": 1.0}, True, **labels)["loss"]
    loss.backward()
    assert loss.isfinite()
    for name, parameter in built.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_what_trains_dino_is_its_loss():
    method, values = smoke_method("dino"), {"teacher_temp": 0.05, "momentum": 0.9}
    g = torch.Generator().manual_seed(0)
    views = [torch.randn(2, 3, 3, 32, 32, generator=g), torch.randn(2, 3, 3, 16, 16, generator=g)]
    loss = DINOLoss(method.loss.center.shape[1], method.loss.student_temp)
    with torch.no_grad():
        teacher_logits, student_logits = method.teacher(views[:1])[1], method.student(views)[1]
        for _ in range(2):  # the second time with a center that has moved
            expected = loss(student_logits, teacher_logits, 0.05)
            assert method(views, values, False)["loss"] == expected
            method.loss.update()
            assert torch.equal(method.loss.center, loss.center)


def test_only_supervised_training_sees_labels(tmp_path):
    """With the labels taken away every other method makes the same first step."""
    for method in METHODS.keys() - {"distill"}:  # it would need a teacher first
        run = trainer(method, tmp_path / method, train__epochs=0.5)
        run.dataset.labels.fill_(-1)
        run.fit()
        assert METHODS[method].needs_labels == (method == "supervised")
        if method == "supervised":  # without a label there is nothing to learn, and no accuracy
            assert run.rows[-1]["loss"] == 0 and math.isnan(run.rows[-1]["accuracy"])


def test_labels_belong_to_their_images(tmp_path):
    """What the method is called with: the picture's square has the colour of the label."""
    run = trainer(
        "supervised",
        tmp_path,
        train__epochs=1,
        views__global_scale=[1.0, 1.0],
        views__jitter_p=0.0,
        views__gray_p=0.0,
    )
    seen, original = [], run.method.forward

    def spy(views, values, measure, labels):
        seen.append((run.augment.denormalize(views[0][0]), labels))
        return original(views, values, measure, labels)

    run.method.forward = spy
    run.fit()
    assert len(seen) == 2
    for images, labels in seen:
        channel = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1.0]])
        spread = images - images.mean(dim=1, keepdim=True)  # the background is gray
        colour = torch.einsum("bchw,kc->bk", spread, normalize(channel, dim=1))
        assert torch.equal(colour.argmax(dim=1), labels)


def test_supervised_training_without_classes_is_refused():
    with pytest.raises(UserError, match="needs labels of two classes or more"):
        METHODS["supervised"](SmallResNet(), n_classes=1)


@pytest.mark.parametrize("method", ["rotation", "jigsaw", "simclr", "moco", "supervised"])
def test_local_crops_are_refused_where_they_have_no_use(method):
    config = configure(method, preset="smoke", changes={"views.local_crops": 2})
    with pytest.raises(UserError, match=f"{method} has no use for local crops"):
        METHODS[method].view_specs(config.views)


def test_a_tile_that_does_not_fit_the_patches_is_refused():
    with pytest.raises(UserError, match="tile_size = 12 is not a multiple of the patch size 8"):
        smoke_method("jigsaw", objective__tile_size=12)


def test_jigsaw_answers_name_the_order_of_the_tiles():
    """The solver's answer, taken apart: tiles put back by the permutation are the picture."""
    method = smoke_method("jigsaw", objective__permutations=24)
    seen = {}
    method.student.register_forward_pre_hook(lambda _, inputs: seen.update(tiles=inputs[0][0]))
    images = torch.arange(4.0).view(2, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)
    images = (images + torch.linspace(0, 1, 16)).expand(5, 3, 16, 16)
    torch.manual_seed(3)
    method([images[None]], {}, False)
    torch.manual_seed(3)
    answers = torch.randint(24, (5,))
    order = method.permutations[answers]
    assert seen["tiles"].shape == (4, 5, 3, 8, 8)
    place = torch.rand(5, 4, 2)
    straight = shuffled_tiles(
        images,
        torch.arange(4).expand(5, 4),
        place.gather(1, order.argsort(1)[..., None].expand(-1, -1, 2)),
        8,
    )
    for image in range(5):
        for position in range(4):
            cell = order[image, position]
            torch.testing.assert_close(seen["tiles"][position, image], straight[cell, image])


def test_the_queue_is_first_in_first_out():
    queue = Queue(5, 1)
    start = queue.entries.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    queue.add(torch.tensor([[1.0], [2.0]], requires_grad=True))
    assert torch.equal(queue.entries, start)  # only after the step
    queue.advance()
    assert torch.equal(queue.entries[:, 0], torch.tensor([1.0, 2.0, *start[:3, 0]]))
    for number in (3.0, 5.0):  # two micro-batches of one step
        queue.add(torch.tensor([[number], [number + 1]]))
    queue.advance()
    assert queue.entries[:, 0].tolist() == [3, 4, 5, 6, 1]
    queue.add(torch.arange(10.0, 17)[:, None])
    queue.advance()
    assert queue.entries[:, 0].tolist() == [10, 11, 12, 13, 14]
    assert not queue.entries.requires_grad and "entries" in queue.state_dict()


def test_moco_contrasts_with_earlier_batches_only(tmp_path):
    run = trainer("moco", tmp_path, train__epochs=1)  # 2 steps of 32, a queue of 128
    before = run.method.queue.entries.clone()
    pair = torch.randn(1, 2, 32, 3, 16, 16)
    run.method([pair[0]], {}, False)
    assert torch.equal(run.method.queue.entries, before)
    run.method.queue.advance()
    keys = normalize(run.method.teacher([pair[0][1:]])[1][0], dim=-1)
    torch.testing.assert_close(run.method.queue.entries[:32], keys)
    assert torch.equal(run.method.queue.entries[32:], before[:96])


def test_mocos_keys_do_not_depend_on_their_company():
    """Statistics of the batch would give away which key belongs to a query."""

    class Normed(nn.Sequential, Encoder):
        embed_dim = 6

        def forward(self, groups):
            return super().forward(torch.cat(groups).flatten(1)[:, :6])

    options = MoCo.Settings(hidden_dim=8, out_dim=4, queue=16)
    method = MoCo(Normed(nn.BatchNorm1d(6)), options).train()
    images = torch.randn(1, 10, 3, 2, 2)
    _, all_keys = method.teacher([images])
    _, few_keys = method.teacher([images[:, :3]])
    torch.testing.assert_close(all_keys[:, :3], few_keys)
    assert method.student.backbone[0].training


def test_swavs_prototypes_wait_and_then_move(tmp_path):
    run = trainer("swav", tmp_path, train__epochs=4, objective__freeze_prototypes_epochs=2)
    weights, step = [], run.method.after_step

    def note(values):
        weights.append(run.method.prototypes.weight.detach().clone())
        step(values)

    run.method.after_step = note
    run.fit()  # 2 steps an epoch
    assert all(torch.equal(weights[0], weight) for weight in weights[:4])
    assert not torch.equal(weights[3], weights[4])


def test_swavs_assignments_are_those_of_batch_and_queue_together():
    method = smoke_method("swav")
    logits = method.prototypes(normalize(torch.randn(2, 6, 32), dim=-1)).detach()
    alone = method.assign(logits, with_queue=False)
    torch.testing.assert_close(alone[1], sinkhorn_knopp(logits[1], 0.05))
    together = method.assign(logits, with_queue=True)
    earlier = method.prototypes(method.queue.entries[:, 1]).detach()
    expected = sinkhorn_knopp(torch.cat([logits[1], earlier]), 0.05)[:6]
    torch.testing.assert_close(together[1], expected)
    assert not torch.allclose(alone, together, atol=1e-3)
    assert method.schedules(30, 10)["queue"].tolist() == [0.0] * 10 + [1.0] * 20


def test_rows_hold_numbers_that_json_reads(tmp_path):
    for method in NEW:
        run = trainer(method, tmp_path / method, train__epochs=0.5)
        run.fit()
        row = json.loads((tmp_path / method / "metrics.jsonl").read_text().splitlines()[0])
        assert {"loss", "ln_k", "feature_spread", "grad_norm", "lr"} <= row.keys()
        assert "teacher_entropy" not in row
        classifies = method in ("rotation", "jigsaw", "supervised")
        assert ("accuracy" in row) == classifies and 0 <= row.get("accuracy", 0) <= 1
