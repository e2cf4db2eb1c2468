"""Runs that are started at once, killed, stopped or short of room lose nothing and mix nothing."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import faults
import pytest
import torch
from faults import Child, killed, run, smoke, tree, wait_for
from PIL import Image

from dino_tutorial import load_run, train
from dino_tutorial.cli import main
from dino_tutorial.datasets import decode
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.errors import UserError
from dino_tutorial.files.locks import locked
from dino_tutorial.parallel import process_group
from dino_tutorial.runs.folder import find_folder, run_folder
from dino_tutorial.training.batches import BatchOrder, batches
from dino_tutorial.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    load_checkpoint,
    save_checkpoint,
)
from dino_tutorial.training.loop import Trainer

pytestmark = [
    pytest.mark.slow,  # whole trainings, other processes
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
NAME = "dino-scenes-smoke"


@pytest.fixture(autouse=True)
def quick(without_report):
    """The run that is compared with has a report; who is killed and resumed needs none."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(smoke(tmp_path_factory.mktemp("reference")))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run that was killed after its third step."""
    root = tmp_path_factory.mktemp("begun")
    assert run(lambda: _killed_after(root, 3)).code == -signal.SIGKILL
    return root


def _killed_after(root: Path, step: int, **changes) -> None:
    save = Trainer._save

    def save_and_die(self, *logs):
        save(self, *logs)
        if self.step == step:
            killed()

    Trainer._save = save_and_die
    train(smoke(root, **changes))


def resumed_equals(root: Path, finished) -> None:
    again = train(smoke(root), resume=True)
    for name in ("metrics.jsonl", "backbone.safetensors"):
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    ours, theirs = (load_checkpoint(one.folder) for one in (again, finished))
    assert ours["step"] == theirs["step"]
    for name, value in theirs["method"].items():
        assert torch.equal(value, ours["method"][name]), name
    assert not list(again.folder.glob("*.tmp")) + list(again.folder.glob(".*"))


def test_three_runs_started_at_once_have_a_folder_each(tmp_path):
    def start(seed):
        return Child(lambda: train(smoke(tmp_path, seed=seed)) and 0)

    children = [start(seed) for seed in range(3)]
    for child in children:
        code, said = child.end()
        assert code == 0, said
    runs = [load_run(path) for path in sorted(tmp_path.iterdir())]
    assert [one.folder.name for one in runs] == [NAME, f"{NAME}-2", f"{NAME}-3"]
    assert {one.config.seed for one in runs} == {0, 1, 2}
    assert len({one.metrics[0]["loss"] for one in runs}) == 3
    for one in runs:
        assert [row["step"] for row in one.metrics] == [0, 1, 2, 3]
        assert one.summary["seed"] == one.config.seed


def test_three_named_alike_at_once_are_one_and_two_sentences(tmp_path):
    words = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--name", "base",
             "--folder", str(tmp_path), "--set", "train.epochs=0.5"]  # fmt: skip
    ended = [child.end() for child in [Child(lambda: main(words)) for _ in range(3)]]
    assert sorted(one.code for one in ended) == [0, 2, 2]
    for one in ended:
        assert "Traceback" not in one.said
        assert one.code == 0 or "another --name" in one.said
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert [row["step"] for row in load_run(tmp_path / "base").metrics] == [0, 1, 2, 3]


def test_one_process_finds_the_folder_for_all(tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "config.yaml").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def join(rank, **changes):
        def enter():
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with process_group("cpu") as processes:
                with run_folder(smoke(tmp_path), False, processes) as folder:
                    print(f"folder {folder.name}")
                with (
                    pytest.raises(UserError, match="continue it with --resume"),
                    run_folder(smoke(tmp_path, name=NAME), False, processes),
                ):
                    pass
            return 0

        return Child(enter)

    ended = [child.end() for child in [join(0), join(1)]]
    assert [one.code for one in ended] == [0, 0], ended
    assert all(f"folder {NAME}-2" in one.said for one in ended)
    assert {path.name for path in tmp_path.iterdir()} == {NAME, f"{NAME}-2"}


def test_a_run_resumed_twice_at_once_goes_on_once(begun, finished, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(begun, root)
    children = [Child(lambda: train(smoke(root), resume=True) and 0) for _ in range(2)]
    ended = [child.end() for child in children]
    refused = [one for one in ended if one.code]
    assert len(refused) <= 1  # none, if one had ended before the other looked
    assert all("UserError: process" in one.said for one in refused)
    resumed_equals(root, finished)


def test_who_is_kept_out_is_told_by_whom(begun, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(begun, root)
    ready, done = tmp_path / "ready", tmp_path / "done"

    def hold():
        with locked(root / NAME, "wait"):
            ready.touch()
            wait_for(done.exists)

    holder = Child(hold)
    wait_for(ready.exists)
    before = tree(root)
    with pytest.raises(UserError, match=f"process {holder.pid} writes into .*{NAME}: stop it"):
        train(smoke(root), resume=True)
    assert tree(root) == before
    done.touch()
    assert holder.end().code == 0


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    def hold():
        with locked(tmp_path, "wait"):
            killed()

    assert run(hold).code == -signal.SIGKILL
    refused = pytest.raises(UserError, match=f"process {os.getpid()}")
    with locked(tmp_path, "wait"), refused, locked(tmp_path, "wait"):
        pass
    assert list(tmp_path.iterdir()) == []


POINTS = [
    ("write", "before"),
    ("write", "after"),
    ("fsync", "before"),
    ("link", "before"),
    ("link", "after"),
    (PREVIOUS, "before"),
    (PREVIOUS, "after"),
    (CURRENT, "before"),
    (CURRENT, "after"),
]


@pytest.mark.parametrize(("what", "when"), POINTS)
def test_killed_while_a_checkpoint_is_written(what, when, finished, tmp_path):
    ended = run(lambda: _killed_in_save(tmp_path, what, when))
    assert ended.code == -signal.SIGKILL, ended.said
    assert load_checkpoint(tmp_path / NAME)["step"] in (2, 3)
    resumed_equals(tmp_path, finished)


def _killed_in_save(root: Path, what: str, when: str) -> None:
    """Train, and die at one point of writing the third checkpoint."""
    import dino_tutorial.training.checkpoint as checkpoint

    wrapped = {"write": (torch, "save"), "fsync": (os, "fsync"), "link": (os, "link")}
    place, name = wrapped.get(what, (os, "replace"))
    saved, function = 0, getattr(place, name)

    def dying(*arguments, **named):
        ours = saved == 3 and (what in wrapped or str(arguments[-1]).endswith(what))
        if ours and when == "before":
            if what == "write":  # a part of it is there
                arguments[1].write(b"PK\3\4 and so on")
                arguments[1].flush()
            killed()
        result = function(*arguments, **named)
        if ours:
            killed()
        return result

    save = checkpoint.save_checkpoint

    def counted(*arguments):
        nonlocal saved
        saved += 1
        save(*arguments)

    sys.modules["dino_tutorial.training.loop"].save_checkpoint = counted
    setattr(place, name, dying)
    train(smoke(root))


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment(seed, finished, tmp_path):
    child = Child(lambda: train(smoke(tmp_path)) and 0)
    log = tmp_path / NAME / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0)
    time.sleep(random.Random(seed).random() * 0.5)
    os.kill(child.pid, signal.SIGKILL)
    assert child.end().code in (-signal.SIGKILL, 0)
    resumed_equals(tmp_path, finished)


def test_without_links_the_previous_checkpoint_is_resumed_from(begun, finished, tmp_path):
    """What ``kill -9`` between two renames left behind in earlier versions."""
    root = tmp_path / "runs"
    shutil.copytree(begun, root)
    (root / NAME / CURRENT).rename(root / NAME / PREVIOUS)
    resumed_equals(root, finished)


@pytest.mark.parametrize("change", ["half", "gone", "nul", "garbage"])
def test_a_log_cut_short_costs_its_rows_and_nothing_else(change, begun, finished, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(begun, root)
    log = root / NAME / "metrics.jsonl"
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    if change == "gone":
        log.unlink()
    else:
        rest = {"half": b'{"step": 1, "lo', "nul": bytes(len(whole)), "garbage": b"[1]\n\xff\n"}
        log.write_bytes(whole[:first] + rest[change])
    again = train(smoke(root), resume=True)
    kept = [] if change == "gone" else [0]
    assert [row["step"] for row in again.metrics] == [*kept, 3]
    assert again.metrics[-1] == finished.metrics[-1]
    backbones = [(one.folder / "backbone.safetensors").read_bytes() for one in (again, finished)]
    assert backbones[0] == backbones[1]


def test_a_log_lost_after_the_last_step(finished, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(finished.folder, root / NAME)
    (root / NAME / "metrics.jsonl").unlink()
    (root / NAME / "summary.json").unlink()
    again = train(smoke(root), resume=True)
    assert again.summary["final_loss"] is None
    assert again.summary["knn_top1"] == finished.summary["knn_top1"]


def test_a_damaged_checkpoint_never_loads_with_other_contents(tmp_path):
    state = {"step": 1, "x": torch.arange(2000.0)}
    save_checkpoint(tmp_path, state)
    whole = (tmp_path / CURRENT).read_bytes()
    draw = random.Random(0)
    noticed = 0
    for _ in range(400):
        content = bytearray(whole)
        content[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / CURRENT).write_bytes(content)
        try:
            loaded = load_checkpoint(tmp_path)
        except UserError as error:
            assert CURRENT in str(error)
            noticed += 1
        else:
            assert loaded["step"] == 1 and torch.equal(loaded["x"], state["x"])
    assert noticed > 200


def test_a_damaged_backbone_never_loads(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "run")
    path = tmp_path / "run" / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum is wrong"):
        load_run(tmp_path / "run").encoder()


def test_files_follow_the_umask(finished):
    before = os.umask(0)
    os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in finished.folder.iterdir()}
    assert set(modes.values()) == {0o666 & ~before}, modes


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(64):
        pixels = torch.full((40, 40, 3), number * 3, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return folder


def test_sigterm_to_the_process_group_while_workers_decode(photographs, tmp_path):
    root = tmp_path / "runs"
    words = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--data", str(photographs),
             "--folder", str(root), "--name", "base", "--set", "train.workers=2",
             "--set", "train.epochs=2000", "--set", "train.log_every=1"]  # fmt: skip

    def decode_on_demand():
        decode.MEMORY_LIMIT = 0
        return main(words)

    child = Child(decode_on_demand, leads=True)
    log = root / "base" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 3)
    os.killpg(child.pid, signal.SIGTERM)
    code, said = child.end()
    assert code == 130, said
    assert "Traceback" not in said and "--resume" in said
    step = load_checkpoint(root / "base")["step"]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows[-1]["step"] == step - 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_worker_killed_from_outside_is_a_sentence_whose_remedy_helps(photographs, tmp_path):
    """And SIGHUP to the whole group, when a terminal goes, saves as SIGTERM does."""
    root = tmp_path / "runs"
    words = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--data", str(photographs),
             "--folder", str(root), "--name", "base", "--set", "train.epochs=2000",
             "--set", "train.log_every=1", "--set", "train.checkpoint_every=1"]  # fmt: skip

    def decode_on_demand(*more):
        decode.MEMORY_LIMIT = 0
        return main([*words, *more])

    log = root / "base" / "metrics.jsonl"
    child = Child(lambda: decode_on_demand("--set", "train.workers=2"), leads=True)
    wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= 2)
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    code, said = child.end()
    assert code == 2 and "Traceback" not in said, said
    assert "was ended from outside" in said
    assert "set train.workers below 2, then continue with --resume" in said
    kept = load_checkpoint(root / "base")["step"]
    child = Child(lambda: decode_on_demand("--set", "train.workers=1", "--resume"), leads=True)
    wait_for(lambda: load_checkpoint(root / "base", warn=str)["step"] > kept)
    os.killpg(child.pid, signal.SIGHUP)
    code, said = child.end()
    assert code == 130 and "everything is saved" in said, said
    rows = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert rows == list(range(load_checkpoint(root / "base")["step"]))


@pytest.mark.parametrize(
    "broken", [ConnectionResetError(104, "Connection reset by peer"), EOFError()]
)
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_told_as_one(broken):
    """Its pipe breaks before torch hears of its end: no fault of a disk or a network."""

    class Dying(ImageDataset):
        def __len__(self):
            return 4

        def placed(self, indices=None):
            raise broken

    order, cpu = BatchOrder(4, 2, 3, seed=0), torch.device("cpu")
    with pytest.raises(UserError, match="was ended from outside"):
        next(iter(batches(Dying(), order, cpu, workers=0)))


def test_who_asks_twice_to_stop_waits_for_no_step(tmp_path):
    """The first signal lets a step end; another one, later, does not wait for it."""
    reached, words = tmp_path / "reached", ["train", "dino", "--preset", "smoke", "--device", "cpu"]
    words += ["--folder", str(tmp_path), "--name", "base", "--set", "train.checkpoint_every=1"]
    step = Trainer._step

    def slow(self, *arguments):
        if self.step == 2:
            reached.touch()
            time.sleep(600)
        return step(self, *arguments)

    def begin():
        Trainer._step = slow
        return main(words)

    child = Child(begin)
    wait_for(reached.exists)
    os.kill(child.pid, signal.SIGINT)
    for _ in range(5):  # a busy machine may have handed over two of them as one
        time.sleep(0.7)  # longer than what counts as one signal
        os.kill(child.pid, signal.SIGINT)
        with contextlib.suppress(AssertionError):
            wait_for(child.has_ended, seconds=20)
            break
    code, said = child.end()
    assert code == 130 and "Traceback" not in said, said
    assert load_checkpoint(tmp_path / "base")["step"] == 2


def test_resume_goes_on_with_nothing_but_what_was_started(begun, tmp_path, capsys):
    shutil.copytree(begun, tmp_path / "runs")
    before = tree(tmp_path)
    for words, sentence in (
        (["byol"], "is a run of dino, not of byol"),
        (["dino", "--data", "patterns"], "was started on scenes, not on patterns"),
        (["dino", "--preset", "laptop"], "was started with the preset smoke, not laptop"),
    ):
        options = ["--name", NAME, "--folder", str(tmp_path / "runs"), "--resume"]
        assert main(["train", *words, *options]) == 2
        assert sentence in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_run_of_another_architecture_does_not_begin_one(finished, tmp_path, capsys):
    words = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--folder", str(tmp_path)]
    words += ["--set", f"train.init={finished.folder}", "--set", "model.arch=resnet10"]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "student.backbone.stem.0.weight" in said and "are missing" in said
    assert "use those it was trained with" in said
    assert tree(tmp_path) == {}


def test_a_configuration_that_is_not_whole_is_refused(begun, tmp_path):
    folder = tmp_path / "runs" / NAME
    shutil.copytree(begun / NAME, folder)
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    for end in (5, len(lines) // 2, len(lines) - 1):
        (folder / "config.yaml").write_text("".join(lines[:end]))
        with pytest.raises(UserError, match="is not whole, it lacks|names no method"):
            load_run(folder).config  # noqa: B018


def test_what_fails_at_its_first_step_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("it cannot begin")

    monkeypatch.setattr(Trainer, "_step", fail)
    for _ in range(2):  # the second time nothing is in the way
        with pytest.raises(UserError, match="it cannot begin"):
            train(smoke(tmp_path / "new" / "runs", name="base"))
        assert list(tmp_path.iterdir()) == []


def test_a_record_is_of_one_run(finished, tmp_path):
    from dino_tutorial.runs import record

    target = record(finished, tmp_path, "kept", weights=True)
    before = tree(target)
    other = train(smoke(tmp_path / "runs", seed=1))
    with pytest.raises(UserError, match="no record of these settings: take another --name"):
        record(other, tmp_path, "kept", weights=True)
    assert tree(target) == before
    record(finished, tmp_path, "kept")  # again, and with the weights that it had
    assert tree(target) == before
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="take another --name"):
        record(finished, tmp_path, "kept")
    assert (target / "notes.txt").read_text() == "mine"


WRITERS = {
    "train": ["train", "dino", "--preset", "smoke", "--device", "cpu", "--folder", "OUT/runs"],
    "resume": ["train", "dino", "--folder", "OUT", "--name", NAME, "--resume"],
    "eval": ["eval", "RUN", "--limit", "64", "--k", "5", "--device", "cpu", "--save"],
    "record": ["record", "RUN", "--into", "OUT", "--name", "kept", "--weights"],
    "report": ["report", "RUN"],
    "show": ["show", "RUN", "attention", "--n", "1", "--out", "OUT/a.png"],
    "show page": ["show", "RUN", "crops", "--n", "1", "--out", "OUT/a.html"],
    "safetensors": ["export", "RUN", "--out", "OUT/a.safetensors"],
    "timm": ["export", "RUN", "--to", "timm", "--out", "OUT/b"],
    "hf": ["export", "RUN", "--to", "hf", "--out", "OUT/b"],
    "embed": ["embed", "RUN", "--data", "OUT/photos", "--device", "cpu", "--out", "OUT/a.npz"],
    "onnx": ["export", "RUN", "--to", "onnx", "--out", "OUT/a.onnx"],
    "curate": ["curate", "--pool", "scenes", "--limit", "200", "--device", "cpu", "--out",
               "OUT/curated"],
    "assignment": ["assignment", "all", "--out", "OUT/exercises/byol"],
    "classify": ["classify", "RUN", "--data", "OUT/classes", "--predict", "OUT/photos", "--device",
                 "cpu", "--out", "OUT/a.csv"],
    "grade": ["grade", "OUT/submitted", "--out", "OUT/grades.csv"],
}  # fmt: skip


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(command, begun, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(begun / NAME, out / NAME)
    shutil.copytree(finished.folder, out / "run")
    (out / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(out / "photos" / "a.png")
    for number in range(4):
        (out / "classes" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(out / "classes" / "ab"[number % 2] / f"{number}.png")
    (out / "submitted").mkdir()
    (out / "submitted" / "one.ipynb").write_text("{}")
    words = [
        word.replace("OUT", str(out)).replace("RUN", str(out / "run")) for word in WRITERS[command]
    ]
    before, folders = tree(out), _folders(out)

    def starve():
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        return main(words)

    code, said = run(starve)
    assert code == 2 and "Traceback" not in said, said
    sentences = [line for line in said.splitlines() if line.startswith("dino-tutorial: ")]
    assert len(sentences) == 1 and "cannot be written (File too large)" in sentences[0]
    assert "ulimit" in sentences[0]
    after = tree(out)
    if command == "resume":  # rows after the last checkpoint may be gone
        for files in (before, after):
            for name in ("metrics.jsonl", "timings.jsonl", ".lock"):  # the killed run's lock
                files.pop(f"{NAME}/{name}", None)
    assert after == before
    if command != "curate":  # whose folder keeps what is described
        assert _folders(out) == folders


def _folders(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_dir()}


def test_find_folder_counts_on_past_a_gap(tmp_path):
    for name in (NAME, f"{NAME}-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    assert find_folder(smoke(tmp_path), resume=False).name == f"{NAME}-4"
    assert find_folder(smoke(tmp_path), resume=True).name == f"{NAME}-3"


def test_faults_are_what_they_say():
    assert run(lambda: 3).code == 3 and "word" in run(lambda: print("word")).said
    assert run(faults.killed).code == -signal.SIGKILL


def test_a_full_device_is_told_with_what_helps(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "_step", full)
    with pytest.raises(UserError, match="memory of cpu is full: cut .*train.accumulate"):
        train(smoke(tmp_path))
    assert tree(tmp_path) == {}


def test_an_error_that_is_no_disks_is_not_taken_for_one(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save_checkpoint(tmp_path, {})
    assert tree(tmp_path) == {}
