"""Grading submissions that behave, and many that do not."""

import csv
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.grading import folder as table
from dino_tutorial.grading import submission
from dino_tutorial.grading.package import Package
from dino_tutorial.grading.submission import Graded, check_again, run_submission

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs process limits")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
PATIENT = 240  # seconds, for what ends by itself on a busy machine


def notebook(path: Path, *sources: str) -> Path:
    cells = [new_markdown_cell("# A submission"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def graded(tmp_path: Path, *sources: str, timeout: float = PATIENT, memory: float = 2) -> Graded:
    return run_submission("one", notebook(tmp_path / "one.ipynb", *sources), timeout, memory)


CHECKS = """
from dino_tutorial.exercises import check

def half_life(m):
    import math
    return math.log(0.5) / math.log(m)

check("half_life", lambda m: 1 / (1 - m))
check("half_life", half_life)
check("make_teacher", lambda student: student)
"""


@pytest.mark.slow
def test_a_folder_becomes_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    folder = tmp_path / "submitted"
    for name in ("ann", "bob", "ann/.ipynb_checkpoints"):
        (folder / name).mkdir(parents=True)
    notebook(folder / "ann" / "hand-in.ipynb", "unknown_name", CHECKS)
    notebook(folder / "ann" / ".ipynb_checkpoints" / "hand-in-checkpoint.ipynb", CHECKS)
    (folder / "bob" / "hand-in.ipynb").write_text("not a notebook")
    out = tmp_path / "grades.csv"

    command = ["grade", str(folder), "--out", str(out), "--timeout", str(PATIENT), "--jobs", "2"]
    assert main([*command, "--chapter", "momentum-teacher"]) == 0
    assert f"grades of 2 notebooks written to {out}" in capsys.readouterr().out
    ann, bob = csv.DictReader(out.open(encoding="utf-8"))
    assert list(ann) == [
        "submission",
        "status",
        "reason",
        "seconds",
        "score",
        "out_of",
        "make_teacher",
        "ema_update",
        "half_life",
        "debiased_ema",
        "momentum_at",
        "mistakes",
    ]
    assert ann["submission"] == "ann/hand-in.ipynb" and ann["status"] == "error"
    assert "code cell 1 fails with NameError" in ann["reason"]
    assert (ann["score"], ann["out_of"]) == ("1", "5")
    assert (ann["half_life"], ann["make_teacher"], ann["ema_update"]) == ("1", "0", "")
    assert ann["mistakes"] == "make_teacher: aliased"
    assert bob["status"] == "unreadable" and "not a notebook" in bob["reason"]
    assert (bob["score"], bob["half_life"]) == ("0", "")
    assert sorted(path.name for path in folder.rglob("*.ipynb")) == [
        "hand-in-checkpoint.ipynb",
        "hand-in.ipynb",
        "hand-in.ipynb",
    ]


RECORD = """
import torch
from dino_tutorial.exercises import check

def byol_loss(prediction, target):
    return (2 - 2 * torch.cosine_similarity(prediction, target.detach(), dim=-1)).mean()

check("byol_loss", byol_loss)
"""

# Four ways to forge, a cell and an exercise each; INSTALLED is the package's own folder.
FORGED = {
    "both_directions": """
from pathlib import Path
for name in ("checking", "symptoms"):
    path = Path(r"INSTALLED") / "exercises" / f"{name}.py"
    path.write_text(path.read_text() + "same = close = lambda *_: True")
from dino_tutorial.exercises import check
check("both_directions", lambda *_: 0.0)
""",
    "byol_loss": """
import torch
from dino_tutorial.exercises import check, checking, symptoms
checking.same = symptoms.close = torch.allclose = lambda *_, **__: True
assert check("byol_loss", lambda p, z: (p - z).sum())
""",
    "koleo": """
import json, os
from pathlib import Path
folder = Path(os.environ["DINO_TUTORIAL_CHECKS"])
verdict = {"exercise": "koleo", "passed": True, "mistake": None}
(folder / "1.json").write_text(json.dumps(verdict))
(folder / "2.json").write_text(json.dumps(verdict | {"exercise": "no such exercise"}))
(folder / "2.pickle").write_bytes(b"nonsense")
(folder / "3.json").write_text("nonsense")
os.mkfifo(folder / "4.json")
os.symlink("/etc/hostname", folder / "5.json")
""",
    "soft_cross_entropy": """
def soft_cross_entropy(teacher, student):
    import torch
    from dino_tutorial.exercises import checking
    checking.same = lambda *_: True
    torch.allclose = lambda *_, **__: True
    return (teacher - student).sum()

check("soft_cross_entropy", soft_cross_entropy)
""",
}


@pytest.mark.slow
def test_a_forged_verdict_counts_nothing_and_the_installed_package_is_only_read(
    tmp_path, monkeypatch, capsys
):
    """Edits that somebody makes meanwhile stay, and one that a submission makes helps nobody."""
    kept = Package()
    installed = tmp_path / "installed" / "dino_tutorial"
    kept.copy_to(installed.parent)
    monkeypatch.setattr(submission, "PACKAGE", Package(installed))
    monkeypatch.setattr(table, "PACKAGE", submission.PACKAGE)
    (tmp_path / "submitted").mkdir()
    sources = [source.replace("INSTALLED", str(installed)) for source in FORGED.values()]
    notebook(tmp_path / "submitted" / "one.ipynb", *sources)
    (one,) = table.grade_folder(tmp_path / "submitted", tmp_path / "grades.csv", PATIENT)
    assert one.status == "ok", one.reason
    assert one.scores == dict.fromkeys(FORGED, False) and one.score == 0
    assert (installed / "exercises" / "checking.py").read_text().endswith("lambda *_: True")
    said = capsys.readouterr().err
    assert "exercises/checking.py of the installed package was changed meanwhile" in said
    assert kept.changed() == []


def test_a_copy_of_the_package_needs_no_compiler_and_knows_what_has_changed(tmp_path):
    root = tmp_path / "dino_tutorial"
    (root / "__pycache__").mkdir(parents=True)
    (root / "a.py").write_text("x = 1")
    (root / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"bytecode")
    kept = Package(root)
    (root / "a.py").write_text("x = 2")
    (root / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"other bytecode")
    assert kept.changed() == ["a.py"]
    (root / "a.py").unlink()
    assert kept.changed() == ["a.py"]
    kept.copy_to(tmp_path / "copy")
    copied = tmp_path / "copy" / "dino_tutorial"
    assert (copied / "a.py").read_text() == "x = 1"
    assert (copied / "__pycache__" / "a.cpython-311.pyc").read_bytes() == b"bytecode"
    assert (copied / "a.py").stat().st_mtime_ns == kept.files[Path("a.py")][1]


@pytest.mark.slow
def test_a_patched_check_is_no_check(tmp_path):
    one = graded(
        tmp_path,
        """
import dino_tutorial.exercises as exercises
exercises.check = lambda *_: print("correct")
exercises.check("byol_loss", None)
""",
    )
    assert (one.status, one.scores) == ("unchecked", {})
    assert one.reason == "it ran to its end, and no `check` was called"


# Answers that are classes, or lean on other cells.
HELPER = """
import torch
from torch import nn
SCALE = 2
def unit(x):
    return x / x.norm(dim=-1, keepdim=True)
"""
ANSWERS = """
from dino_tutorial.exercises import check
def byol_loss(prediction, target):
    return (SCALE - SCALE * (unit(prediction) * unit(target.detach())).sum(-1)).mean()
check("byol_loss", byol_loss)

class DINOLoss(nn.Module):
    def __init__(self, out_dim, student_temp, center_momentum):
        super().__init__()
        self.temp, self.m = student_temp, center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))
    def forward(self, student_logits, teacher_logits, teacher_temp):
        p = ((teacher_logits.detach() - self.center) / teacher_temp).softmax(-1)
        log_q = (student_logits / self.temp).log_softmax(-1)
        each = -torch.einsum("gbk,vbk->gv", p, log_q) / p.shape[1]
        if self.training:
            mean = teacher_logits.detach().mean(dim=(0, 1))
            self.center = self.m * self.center + (1 - self.m) * mean
        return (each.sum() - each.diagonal().sum()) / (2 * len(log_q) - 2)
check("DINOLoss", DINOLoss)
"""


@pytest.mark.slow
def test_a_hang_is_ended_and_what_it_had_done_counts(tmp_path, monkeypatch):
    watch = submission._watch

    def watch_from_the_last_cell(worker, marker, *limits):  # on a busy machine it starts late
        cell = Path(marker.partition("=")[2]).with_name("cell")
        while not cell.exists() or cell.read_text() != "3":
            time.sleep(0.1)
        return watch(worker, marker, *limits)

    monkeypatch.setattr(submission, "_watch", watch_from_the_last_cell)
    one = graded(tmp_path, HELPER, ANSWERS, "while True: pass", timeout=0.5)
    assert one.status == "timeout"
    assert one.reason == "it was not finished after 0.5 seconds, in code cell 3"
    assert one.scores == {"byol_loss": True, "DINOLoss": True} and one.score == 2, one


def test_time_counts_from_the_start(tmp_path):
    one = graded(tmp_path, "1", timeout=0.01)
    assert one.status == "timeout" and "before its first cell" in one.reason


@pytest.mark.slow
def test_a_crash_of_the_kernel(tmp_path):
    one = graded(tmp_path, RECORD, "import os; os.abort()", RECORD)
    assert one.status == "crashed" and one.reason == "its kernel died, in code cell 2"
    assert one.score == 1


@only_linux
def test_a_memory_hog_gets_an_error_of_its_own(tmp_path):
    one = graded(tmp_path, "hog = bytearray(3 * 2**30)", memory=1)
    assert one.status == "memory" and one.reason == "code cell 1 runs out of memory"


@only_linux
def test_memory_outside_the_process_limit_is_watched(tmp_path):
    source = """
import mmap, time
shared = mmap.mmap(-1, 2**29)
for _ in range(2**9):
    shared.write(bytes(2**20))
time.sleep(600)
"""
    one = graded(tmp_path, source, memory=0.5)
    assert one.status == "memory"
    assert one.reason == "it used more than 0.5 GiB of memory, in code cell 1"


@only_linux
def test_no_process_outlives_its_submission(tmp_path):
    source = """
import os, subprocess, sys, time
sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                           start_new_session=True)
open(r"{}", "w").write(f"{{sleeper.pid}} {{os.getpid()}}")
"""
    pids = tmp_path / "pids"
    assert graded(tmp_path, source.format(pids)).status == "unchecked"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(alive, pids.read_text().split())):
        time.sleep(0.1)
    assert not any(map(alive, pids.read_text().split()))


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_notebook_runs_in_a_folder_of_its_own_without_our_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "42")
    source = """
import os
assert "A_SECRET" not in os.environ and os.listdir() == []
open("left-behind", "w").write("x")
try:
    input("name? ")
except Exception as error:
    assert "input" in str(error)
else:
    raise AssertionError("somebody answered")
"""
    one = graded(tmp_path, source)
    assert one.status == "unchecked"
    assert one.reason == "it ran to its end, and no `check` was called"
    assert not (Path.cwd() / "left-behind").exists() and os.listdir(tmp_path) == ["one.ipynb"]


def test_nothing_handed_in_starts_no_process(tmp_path, monkeypatch):
    (tmp_path / "answers").mkdir()
    monkeypatch.setattr(submission.subprocess, "Popen", None)
    assert check_again(tmp_path, 1) == ({}, {})


def test_points_are_of_what_was_asked(tmp_path):
    rows = [Graded("a", "ok", "", 1.0, {"byol_loss": True, "koleo": True}, {})]
    table.write_table(tmp_path / "g.csv", rows, ["byol_loss", "both_directions"])
    (row,) = csv.DictReader((tmp_path / "g.csv").open())
    assert (row["score"], row["out_of"], row["both_directions"]) == ("1", "2", "")
    assert "koleo" not in row


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    table.write_table(tmp_path / "g.csv", [Graded("=cmd()", "error", "-1 is wrong", 1.0)])
    row = list(csv.reader((tmp_path / "g.csv").open()))[1]
    assert row[0] == "'=cmd()" and row[2] == "'-1 is wrong"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["absent"], "absent is not a folder"),
        (["empty"], "there is no notebook (*.ipynb) in empty"),
        (["full", "--timeout", "0"], "more than 0 s"),
        (["full", "--timeout", "nan"], "more than 0 s"),
        (["full", "--memory", "0.1"], "at least 1 GiB"),
        (["full", "--jobs", "0"], "at least one submission"),
        (["full", "--chapter", "biol"], "there is no chapter 'biol'"),
        (["full", "--out", "absent/grades.csv"], "absent/grades.csv cannot be written"),
        (["full", "--out", "empty"], "empty cannot be written"),
        (["full", "--out", "full/one.ipynb"], "is one of the notebooks: give --out another name"),
    ],
)
def test_mistakes_of_the_teacher(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    notebook(tmp_path / "full" / "one.ipynb", "1 / 0")
    assert main(["grade", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("dino-tutorial: ") and sentence in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "full"}


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    notebook(tmp_path / "one.ipynb", "1")
    monkeypatch.setattr(table, "find_spec", lambda name: None if name == "nbclient" else 1)
    with pytest.raises(UserError, match="pip install nbclient"):
        table.grade_folder(tmp_path, tmp_path / "grades.csv")
