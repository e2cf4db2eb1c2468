"""A short finish at a higher resolution: what a run takes over from another, what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dino_tutorial import configure, train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.runs import build_method, record, start_from, trained_method
from dino_tutorial.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]  # whole trainings

HIGH = {"views.global_size": 32, "views.local_size": 16, "optim.lr": 1e-3}


def smoke(folder, method="dinov2", **changes):
    quick = {"train.epochs": 1, "train.checkpoint_every": 2, "data.limit": 128}
    return configure(
        method, preset="smoke", changes={"folder": str(folder), "device": "cpu"} | quick | changes
    )


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return train(smoke(tmp_path_factory.mktemp("low")))


def finish(folder, low, **changes):
    return smoke(folder, **HIGH | {"train.init": str(low.folder)} | changes)


def test_a_method_starts_where_the_run_ended(low, tmp_path):
    """At the new size every network answers as the old one does when it interpolates."""
    config = finish(tmp_path, low)
    method, before = build_method(config), trained_method(low.folder)
    start_from(method, low.folder)
    assert before.student.backbone.grid_size == (4, 4)
    assert method.student.backbone.grid_size == (8, 8)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for ours, theirs in (
        (method.student, before.student),
        (method.teacher.network, before.teacher.network),
    ):
        torch.testing.assert_close(ours.backbone(x), theirs.backbone(x))
        found, expected = (n.backbone.forward_features(x).patches for n in (ours, theirs))
        torch.testing.assert_close(found, expected)
        assert not torch.equal(ours.backbone.pos_embed[:, 1:17], theirs.backbone.pos_embed[:, 1:])
    after, state = method.state_dict(), load_checkpoint(low.folder)["method"]
    assert after.keys() == state.keys()
    for name, value in state.items():
        assert name.endswith("pos_embed") or torch.equal(after[name], value), name
    assert method.loss.center.abs().sum() > 0


def test_a_finish_trains_on_and_resumes_bit_for_bit(low, tmp_path):
    config = finish(tmp_path / "whole", low)
    whole = train(config)
    assert whole.encoder().grid_size == (8, 8)
    fresh = train(
        replace(config, folder=str(tmp_path / "fresh"), train=replace(config.train, init=None))
    )
    assert whole.metrics[0]["loss"] != fresh.metrics[0]["loss"]
    folder = tmp_path / "again" / whole.folder.name
    shutil.copytree(whole.folder, folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").replace(folder / "checkpoint.pt")
    assert load_checkpoint(folder)["step"] == 2
    again = train(replace(config, folder=str(tmp_path / "again")), resume=True)
    assert (again.folder / "metrics.jsonl").read_bytes() == (
        whole.folder / "metrics.jsonl"
    ).read_bytes()
    kept = record(whole, tmp_path / "kept")
    command = (kept / "command.txt").read_text()
    assert f'train.init="runs/{low.folder.name}"' in command
    assert str(low.folder.parent) not in (kept / "config.yaml").read_text()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (["train", "dino"], "is a run of DINOv2, not of DINO"),
        (["train", "dinov2", "--set", "model.embed_dim=64"], "does not fit these settings"),
        (["train", "dinov2", "--set", "train.init=no/such/run"], "is not a run's folder"),
    ],
)
def test_runs_that_cannot_be_gone_on_from(low, tmp_path, capsys, changes, sentence):
    words = [
        *changes[:2],
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--folder",
        str(tmp_path),
        "--set",
        f"train.init={low.folder}",
        *changes[2:],
    ]
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_record_with_weights_offers_its_backbone(low, tmp_path):
    kept = record(low, tmp_path / "kept", weights=True)
    config = finish(tmp_path / "on", low, **{"train.init": str(kept)})
    with pytest.raises(UserError, match="holds no heads") as refused:
        start_from(build_method(config), kept)
    backbone = str(refused.value).rsplit(" ", 1)[-1]
    assert Path(backbone) == kept / "backbone.safetensors"
    start_from(build_method(config), backbone)


def test_an_unfinished_run_is_not_gone_on_from(low, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(low.folder, half)
    (half / "summary.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        start_from(build_method(smoke(tmp_path)), half)
