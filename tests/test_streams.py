"""Commands whose streams are closed, full, or take fewer letters than a name has."""

import os
import signal
import sys

import pytest
from faults import run

from dino_tutorial.cli import main
from dino_tutorial.training.loop import Trainer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PRINTING = (["methods"], ["settings", "dino"], ["settings", "dino", "--explain"], ["--help"])


def printed_to(number, words):
    """A command whose standard output is a file descriptor."""

    def begin():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts
        sys.stdout = os.fdopen(os.dup(number), "w")
        try:
            return main(words)
        except SystemExit as end:  # argparse, after its help
            return int(end.code or 0)

    return run(begin)


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_nobody_reads_on(words):
    reading, writing = os.pipe()
    os.close(reading)
    ended = printed_to(writing, words)
    os.close(writing)
    assert ended.code == 141 and ended.said == ""


def test_a_connection_that_breaks_elsewhere_is_told(tmp_path, monkeypatch):
    """Although the error is the one that a closed output gives."""

    def broken(self, *_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(Trainer, "_step", broken)
    ended = run(lambda: main(["train", "dino", "--preset", "smoke", "--folder", str(tmp_path)]))
    assert ended.code == 2
    assert "a connection to another process or machine broke (Broken pipe)" in ended.said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_full_disk_under_the_output_is_one_sentence(words):
    full = os.open("/dev/full", os.O_WRONLY)
    ended = printed_to(full, words)
    os.close(full)
    assert ended.code == 2
    (line,) = ended.said.splitlines()
    assert line.startswith("dino-tutorial: the output cannot be used (No space left on device)")
    assert "make room" in line


def test_closed_streams_are_given_to_no_file(tmp_path):
    def begin():
        for number in range(3):
            os.close(number)
        return main(["assignment", "byol", "--out", str(tmp_path / "o")])

    assert run(begin).code == 0
    content = (tmp_path / "o" / "byol.ipynb").read_text(encoding="utf-8")
    assert content.startswith("{") and content.endswith("}\n")  # and no line of output in it


def test_letters_that_a_terminal_lacks_are_spelled(tmp_path):
    def begin():
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="ascii")
        return main(["assignment", "byol", "--out", str(tmp_path / "über\udce9")])

    code, said = run(begin)
    assert code == 0 and "\\xfcber\\udce9" in said
