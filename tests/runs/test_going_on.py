"""What a command that was stopped says next leads on, and what cannot go on is left as it was."""

import json
import os
import re
import shlex
import signal

import pytest
from faults import run
from PIL import Image

from dino_tutorial import load_run
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.runs import lifecycle, record
from dino_tutorial.training.loop import Trainer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
CONTINUE = re.compile(r"Continue with:\n  dino-tutorial (.*)")


def words(folder, *more):
    fixed = ["--device", "cpu", "--folder", str(folder), "--name", "base"]
    return ["train", "dino", *fixed, *more]


SHORT = ("--preset", "smoke", "--set", "train.steps=6", "--set", "data.limit=64")
SHORT += ("--set", "optim.warmup_epochs=0.5", "--set", "train.log_every=1")


def stopped_at(place, number=signal.SIGINT):
    """A function in the place of another that is stopped there by a signal."""

    def stop(*_):
        os.kill(os.getpid(), number)

    def begin(folder, *more):
        setattr(*place, stop)
        return main(words(folder, *more))

    return begin


def continued(said):
    (command,) = CONTINUE.findall(said)
    return shlex.split(command)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_the_report_is_told_how_to_get_it(tmp_path, monkeypatch, number, code):
    begin = stopped_at((lifecycle, "report_on"), number)
    ended = run(lambda: begin(tmp_path, *SHORT))
    assert ended.code == code, ended.said
    assert not (tmp_path / "base" / "report.html").exists()
    monkeypatch.setattr(lifecycle, "report_on", lambda run, *_: run.report.touch())
    assert main(continued(ended.said)) == 0
    assert (tmp_path / "base" / "report.html").exists()


def test_what_a_resumed_run_says_leads_on(tmp_path, monkeypatch, without_report):
    """Although neither data nor preset was named when it was resumed, and neither is a default."""
    images = tmp_path / "images"
    monkeypatch.setattr(Trainer, "_agree", lambda self, *_: self.step in (2, 4))
    for kind in "ab":
        (images / "train" / kind).mkdir(parents=True)
        for number in range(32):
            Image.new("RGB", (32, 32), (number * 8, 0, 0)).save(
                images / f"train/{kind}/{number}.png"
            )
    fresh = run(lambda: main(words(tmp_path / "runs", *SHORT, "--data", str(images))))
    assert fresh.code == 130, fresh.said
    resumed = run(lambda: main(words(tmp_path / "runs", "--resume")))
    assert resumed.code == 130, resumed.said
    monkeypatch.undo()
    assert run(lambda: main(continued(resumed.said))).code == 0


def test_a_record_is_not_resumed_and_stays_as_it_is(tmp_path, capsys, without_report):
    assert main(words(tmp_path, *SHORT)) == 0
    kept = record(load_run(tmp_path / "base"), tmp_path / "records", "base")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    capsys.readouterr()
    assert main(words(tmp_path / "records", "--resume")) == 2
    assert "is finished and has no checkpoint, as a record" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in kept.iterdir() if path.name[0] != "."}
    assert after == before
    with pytest.raises(UserError, match="a record, whose weights were not kept"):
        load_run(kept).encoder()


def test_what_cannot_begin_says_why_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    """A folder that a tracker has made hides neither."""

    def broken(self, *_):
        (self.folder / "tensorboard").mkdir()
        (self.folder / "tensorboard" / "events").touch()
        raise UserError("the loss became nan")

    monkeypatch.setattr(Trainer, "_step", broken)
    assert main(words(tmp_path / "runs", *SHORT)) == 2
    assert "the loss became nan" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "flag, value, setting",
    [("--name", "one", "name=two"), ("--seed", "1", "seed=2"), ("--device", "cpu", "device=mps")],
)
def test_one_setting_named_twice_is_refused(capsys, flag, value, setting):
    assert main(["train", "dino", flag, value, "--set", setting]) == 2
    assert f"{flag} {value} and --set {setting} differ" in capsys.readouterr().err


def test_a_folder_may_be_set_either_way(tmp_path, without_report):
    command = ["train", "dino", "--device", "cpu", *SHORT, "--set", f"folder={tmp_path}"]
    assert main([*command, "--name", "one", "--set", "name=one"]) == 0
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["steps"] == 6
