"""A run that an earlier version began can be finished by this one.

`interrupted_run/` was trained at commit e887fff for 4 of 8 steps, and its rows go on to the end of
the uninterrupted run: ``dino-tutorial train dinov2 --preset smoke`` with small networks. It holds
settings that are gone since.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from dino_tutorial import train
from dino_tutorial.runs import read_config
from dino_tutorial.runs.config import FIXED

pytestmark = pytest.mark.slow  # whole trainings, other processes

INTERRUPTED = Path(__file__).parent / "interrupted_run"


def test_it_holds_settings_that_are_gone():
    flat = yaml.safe_load((INTERRUPTED / "config.yaml").read_text())
    assert "model.mlp_ratio" in flat and set(flat) & set(FIXED)


def test_it_goes_on_as_if_nothing_had_happened(tmp_path):
    expected = [json.loads(line) for line in (INTERRUPTED / "metrics.jsonl").open()]
    shutil.copytree(INTERRUPTED, tmp_path / "dinov2")
    config = read_config(INTERRUPTED / "config.yaml").changed({"folder": str(tmp_path)})
    run = train(config, resume=True)
    assert [row["step"] for row in run.metrics] == list(range(8))
    for row, stored in zip(run.metrics, expected, strict=True):
        assert row.keys() == stored.keys()
        for name, value in row.items():  # of another machine: equal up to rounding
            assert value == pytest.approx(stored[name], rel=1e-3, abs=0.01), name
