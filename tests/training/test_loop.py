"""The loop as a whole: runs complete, resume bit for bit, split over processes, and explain."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faults import Child, wait_for
from two_processes import in_two_processes

from dino_tutorial import configure, load_run, train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.runs.folder import find_folder
from dino_tutorial.training.batches import BatchOrder
from dino_tutorial.training.checkpoint import load_checkpoint, save_checkpoint
from dino_tutorial.training.health import TrainingDiverged, check_finite, diagnose

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_report")]  # whole trainings

SUMMARY_KEYS = {
    "method",
    "data",
    "preset",
    "device",
    "train_seconds",
    "images_per_second",
    "final_loss",
    "ln_k",
    "teacher_entropy",
    "knn_top1",
    "knn_random_init",
    "knn_raw_pixels",
}


def smoke(folder, method="dino", **changes):
    return configure(
        method, preset="smoke", changes={"folder": str(folder), "device": "cpu"} | changes
    )


def weights(run):
    return load_checkpoint(run.folder)["method"]


def command(folder, *more):
    return [
        sys.executable,
        "-m",
        "dino_tutorial",
        "train",
        "dino",
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--folder",
        str(folder),
        *more,
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The only run here that has its report: it is made before the tests' fixtures."""
    return train(smoke(tmp_path_factory.mktemp("runs")))


def test_a_run_leaves_everything_behind(finished):
    assert {path.name for path in finished.folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "timings.jsonl",
        "summary.json",
        "environment.json",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "backbone.safetensors",
        "report.html",
    }
    assert finished.summary.keys() >= SUMMARY_KEYS
    assert [row["step"] for row in finished.metrics] == list(range(16))
    for row in finished.metrics:
        assert {"loss", "ln_k", "teacher_entropy", "feature_spread", "lr"} <= row.keys()
        assert 0 <= row["teacher_entropy"] <= row["batch_entropy"] <= row["ln_k"] + 1e-4
    assert finished.metrics[8]["knn_top1"] >= 0 and "knn_top1" not in finished.metrics[7]


def test_the_backbone_is_the_teachers(finished):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoder = finished.encoder()
    prefix = "teacher.network.backbone."
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights(finished)[prefix + name])
    assert encoder(x).shape == (2, encoder.embed_dim)


@pytest.mark.parametrize("method", ["dino", "byol"])
def test_same_seed_same_run_other_seed_other_run(method, tmp_path):
    short = {"train.epochs": 0.5}
    first, again = (train(smoke(tmp_path, method, **short)) for _ in range(2))
    other = train(smoke(tmp_path, method, seed=1, **short))
    text = [(run.folder / "metrics.jsonl").read_text() for run in (first, again, other)]
    assert text[0] == text[1] != text[2]
    assert {run.folder.name for run in (first, again, other)} == {
        f"{method}-scenes-smoke",
        f"{method}-scenes-smoke-2",
        f"{method}-scenes-smoke-3",
    }


def test_killed_in_the_middle_resumes_bit_for_bit(finished, tmp_path):
    folder = tmp_path / "dino-scenes-smoke"
    process = Child(lambda: train(smoke(tmp_path)) and 0)
    metrics = folder / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    assert not (folder / "summary.json").exists(), "the run ended before it could be killed"
    resumed = train(smoke(tmp_path), resume=True)
    for name in ("metrics.jsonl", "backbone.safetensors"):
        assert (resumed.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    for name, value in weights(finished).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_interrupt_saves_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--set", "train.epochs=200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "dino-scenes-smoke" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in errors and "Traceback" not in errors
    step = load_checkpoint(tmp_path / "dino-scenes-smoke")["step"]
    rows = metrics.read_text().splitlines()
    assert json.loads(rows[-1])["step"] == step - 1


def test_a_finished_run_resumes_to_itself(finished):
    before = (finished.folder / "metrics.jsonl").read_bytes()
    again = train(smoke(finished.folder.parent), resume=True)
    assert again.folder == finished.folder
    assert (again.folder / "metrics.jsonl").read_bytes() == before


def test_resume_with_other_settings_is_refused(finished):
    with pytest.raises(UserError, match="was started with optim.lr"):
        train(smoke(finished.folder.parent, **{"optim.lr": 0.1}), resume=True)


def test_resume_with_nothing_there(tmp_path):
    with pytest.raises(UserError, match="nothing to resume in"):
        train(smoke(tmp_path), resume=True)


def test_a_named_run_is_never_overwritten(finished, tmp_path):
    config = smoke(finished.folder.parent, name=finished.folder.name)
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        find_folder(config, resume=False)


def test_truncated_checkpoint_is_reported_and_the_previous_one_used(tmp_path):
    save_checkpoint(tmp_path, {"step": 1, "x": torch.ones(1000)})
    save_checkpoint(tmp_path, {"step": 2, "x": torch.ones(1000)})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    said = []
    assert load_checkpoint(tmp_path, said.append)["step"] == 1
    assert "checkpoint.pt is damaged" in said[0] and "checkpoint.previous.pt, step 1" in said[0]
    (tmp_path / "checkpoint.previous.pt").write_bytes(b"")
    with pytest.raises(UserError, match="start the run again without --resume"):
        load_checkpoint(tmp_path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    torch.save({"step": 1, "bomb": Bomb(tmp_path / "ran")}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="holds code, which is never run"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unwritable_folder_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        train(smoke(blocked))


def test_accumulation_equals_one_batch(tmp_path):
    short = {"train.epochs": 0.5}
    whole = train(smoke(tmp_path, **short))
    parts = train(smoke(tmp_path, **short, **{"train.accumulate": 4}))
    for a, b in zip(whole.metrics, parts.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    ours, theirs = weights(whole), weights(parts)
    torch.testing.assert_close(ours["loss.center"], theirs["loss.center"], rtol=1e-3, atol=1e-5)


def test_two_processes_equal_one(tmp_path):
    short = ["--set", "train.epochs=0.5"]
    for folder, run in (("one", main), ("two", lambda words: in_two_processes(*words))):
        _, _, _, *words = command(tmp_path / folder, *short)  # without python -m dino_tutorial
        run(words)
    one = load_run(tmp_path / "one" / "dino-scenes-smoke")
    two = load_run(tmp_path / "two" / "dino-scenes-smoke")
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
    theirs = weights(two)
    for name, value in weights(one).items():
        torch.testing.assert_close(value, theirs[name], rtol=5e-3, atol=5e-4)


def test_every_image_once_an_epoch_and_ranks_share_the_batch():
    whole = list(BatchOrder(50, 8, total_steps=18, seed=3))
    first_epoch = [i for batch in whole[:6] for i in batch]
    assert len(set(first_epoch)) == 48 and set(first_epoch) <= set(range(50))
    assert whole[:6] != whole[6:12]
    assert list(BatchOrder(50, 8, 18, 3, start_step=7)) == whole[7:]
    halves = [list(BatchOrder(50, 8, 18, 3, rank=rank, world=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_batches_that_cannot_be_filled_or_shared_are_refused():
    with pytest.raises(ValueError, match="batches of 64 out of 50 images"):
        BatchOrder(50, 64, 1, 0)
    with pytest.raises(ValueError, match="3 processes cannot share batches of 8"):
        BatchOrder(50, 8, 1, 0, world=3)


HEALTHY = {
    "loss": 3.0,
    "ln_k": 6.2,
    "teacher_entropy": 2.0,
    "batch_entropy": 5,
    "feature_spread": 0.8,
}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({}, None),
        ({"teacher_entropy": 6.2}, "uniform.*temperature"),
        ({"teacher_entropy": 0.0, "batch_entropy": 0.01}, "same prototype.*center"),
        ({"feature_spread": 0.001}, "same for all images.*predictor"),
    ],
)
def test_each_collapse_has_its_own_sentence(change, sentence):
    rows = [HEALTHY] * 6 + [HEALTHY | change] * 3
    found = diagnose(rows)
    assert (found is None) if sentence is None else re.search(sentence, found)
    assert diagnose([HEALTHY | change] * 7) is None  # too early to tell


def test_a_loss_that_is_no_number_stops_the_run():
    with pytest.raises(TrainingDiverged, match="became nan at step 7.*lower optim.lr"):
        check_finite({"loss": float("nan"), "step": 7})
