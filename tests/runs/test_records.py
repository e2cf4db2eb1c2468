"""What is recorded can be made again: its command gives its settings, its weights have a card."""

import json
import shlex
from pathlib import Path

import pytest

from dino_tutorial import configure, load_run
from dino_tutorial.options import flatten, parse_assignments
from dino_tutorial.runs import Config
from dino_tutorial.runs.checks import check_batch, check_lengths

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDS = sorted(path.parent for path in DATA.glob("*/*/config.yaml"))
CHECKPOINTS = sorted((DATA / "checkpoints").iterdir())
LARGEST = 12 * 2**20  # bytes


def config_of(command: str) -> Config:
    """What a ``dino-tutorial train`` command asks for, in full."""
    program, verb, method, *words = shlex.split(command)
    assert (program, verb) == ("dino-tutorial", "train")
    pairs = list(zip(words[::2], words[1::2], strict=True))
    options, changes = dict(pairs), [value for flag, value in pairs if flag == "--set"]
    own = parse_assignments(changes) | {"seed": int(options["--seed"])}
    return configure(method, options["--data"], options["--preset"], own)


def test_there_are_records():
    assert len(RECORDS) > 20 and len(CHECKPOINTS) >= 2


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_records_command_makes_its_settings(folder):
    stored = flatten(load_run(folder).config)
    asked = flatten(config_of((folder / "command.txt").read_text()))
    own = {"name", "device", "folder"}  # of one run, not of its result
    own.add("data.fit")  # younger than most records; the same for square images, which all have
    assert {k: v for k, v in asked.items() if k not in own} == {
        k: v for k, v in stored.items() if k not in own
    }


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_records_command_is_not_refused(folder):
    config = config_of((folder / "command.txt").read_text())
    assert config.named > {"seed"} or "--set" not in (folder / "command.txt").read_text()
    assert check_lengths(config) is None
    check_batch(config)


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_record_says_on_what_it_was_made(folder):
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] and environment["device"]
    assert environment["commit"] and not environment["commit"].endswith("+")


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_checkpoint_is_small_has_a_card_and_loads(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST
    card = (folder / "card.md").read_text()
    run = load_run(folder)
    score = run.summary["knn_top1"]
    if score is None:  # of images without classes; the card quotes the record of the videos
        videos = json.loads((DATA / "results" / "davis16-val" / "summary.json").read_text())
        score = videos["scores"][folder.name]["J&F"]
    assert f"{score:.1%}" in card
    assert sum(p.numel() for p in run.encoder().parameters()) == run.summary["parameters"]


def test_the_readme_and_the_card_quote_the_records():
    summaries = {
        seed: load_run(DATA / "results" / f"dino-patterns-laptop-s{seed}").summary
        for seed in range(3)
    }
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    card = (DATA / "cards" / "patterns.md").read_text(encoding="utf-8")
    for key in ("knn_top1", "knn_raw_pixels", "knn_random_init", "knn_color_histogram"):
        quoted = f"| {100 * summaries[0][key]:.1f} % |"
        assert quoted in readme and quoted in card, key
    seeds = [f"{100 * summary['knn_top1']:.1f}" for summary in summaries.values()]
    assert f"{seeds[0]}, {seeds[1]} and {seeds[2]} %" in card
    # What these scenes are for: form and pattern are learned, and colours tell nothing.
    for summary in summaries.values():
        assert summary["knn_top1"] > summary["knn_raw_pixels"] + 0.15
        assert summary["knn_top1"] > summary["knn_color_histogram"] + 0.25
        assert summary["knn_top1"] > summary["knn_random_init"] + 0.35
