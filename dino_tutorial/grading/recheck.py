"""The process in which handed-in answers are run again, with an untouched package.

    python -m dino_tutorial.grading.recheck FOLDER DRAW

``FOLDER/answers`` holds what `check` was called with: pickled functions and the exercises' names.
Each answer runs on the probes of draw 0 and of ``DRAW``; what it does there is written to
``FOLDER/observed``, for another process to compare, which never runs a submission's code.
"""

import json
import sys
import warnings
from pathlib import Path

import cloudpickle
import torch

from dino_tutorial.exercises.checking import judge, observe
from dino_tutorial.exercises.exercise import Answer, Mistaken
from dino_tutorial.exercises.pinned import OutOfTime, time_limit
from dino_tutorial.exercises.registry import EXERCISES
from dino_tutorial.grading.worker import limit

SECONDS = 30.0  # for one answer


def main() -> None:
    folder, draw, memory = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    limit(memory)
    (folder / "observed").mkdir()
    for path in sorted((folder / "answers").glob("*.json")):
        name = str(json.loads(path.read_text(encoding="utf-8"))["exercise"])
        if name in EXERCISES:
            _run(name, path.with_suffix(".pickle"), folder / "observed" / path.stem, draw)


def _run(name: str, pickled: Path, out: Path, draw: int) -> None:
    """Write what one answer does: its observations, or nothing, and the name of its mistake."""
    exercise, kept = EXERCISES[name], {}
    mistake = "not-handed-in"
    try:
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function = cloudpickle.loads(pickled.read_bytes())
            mistake = judge(exercise, function, draw).mistake or ""
            kept = {number: observe(Answer(exercise, function), number) for number in (0, draw)}
    except (Exception, SystemExit, Mistaken, OutOfTime) as error:
        kept, mistake = {}, mistake if mistake != "not-handed-in" else type(error).__name__
    if kept:
        torch.save(kept, out.with_suffix(".pt"))
    out.with_suffix(".json").write_text(json.dumps({"exercise": name, "mistake": mistake}))


if __name__ == "__main__":
    main()
