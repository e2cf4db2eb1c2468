"""A training in steps: frames of one size whose words follow their data; the record of the book."""

import html
import json
from pathlib import Path

import numpy as np
import pytest

from dino_tutorial import plots
from dino_tutorial.plots.interactive import InteractiveFigure

RECORD = Path(__file__).resolve().parents[2] / "data" / "results" / "dino-patterns-in-steps"
SHARES = np.array([[[0.5, 0.25, 0.0, 0.25], [0.25, 0.25, 0.25, 0.25]], np.eye(2).repeat(2, 1) / 2])


@pytest.fixture
def stages() -> plots.Stages:
    rng = np.random.default_rng(0)
    return plots.Stages(
        steps=[0, 40],
        images=rng.integers(0, 256, (2, 16, 16, 3)).astype("uint8"),
        attention={"first": np.stack([np.zeros((2, 4, 4)), np.full((2, 4, 4), 9.0)])},
        components=rng.integers(0, 256, (2, 2, 4, 4, 3)).astype("uint8"),
        prototypes=SHARES,
        kinds=["bee", "fish"],
        accuracy=[0.1, 0.75],
        covered={"first": [0.3, 0.6]},
    )


def test_words_follow_the_data(stages):
    assert stages.own(0) == pytest.approx((0.5 + 0.25 + 0.25 + 0.25) / 2)
    assert stages.own(1) == 1
    words = plots.stage_figure(stages, 40).alt_text
    assert "Step 40." in words and "J 60.0 %" in words and "100.0 %" in words and "75.0 %" in words


def test_frames_have_one_size_and_show_their_own_step(stages):
    early, late = (plots.stage_figure(stages, step) for step in (0, 40))
    assert early.get_size_inches().tolist() == late.get_size_inches().tolist()

    def images(figure):
        return [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]

    scenes, attention = images(early)[:2], (images(early)[2], images(late)[2])
    assert np.array_equal(scenes[0] * 255, stages.images[0])
    assert attention[0].sum() < attention[1].sum()  # dark without attention, bright with much
    with pytest.raises(ValueError):
        plots.stage_figure(stages, 41)


def test_the_strip_has_a_column_for_each_step_and_says_all_of_them(stages):
    strip = plots.stage_strip(stages, [0, 40])
    assert len(strip.axes) == 2 * 4  # scene, attention, components, prototypes
    assert stages.words(0) in strip.alt_text and stages.words(1) in strip.alt_text


def test_the_record_of_the_book_is_whole_and_light_enough_for_a_page():
    summary = json.loads((RECORD / "summary.json").read_text("utf-8"))
    arrays = np.load(RECORD / "frames.npz")
    steps = len(summary["steps"])
    assert summary["steps"][-1] == summary["rows"][-1]["step"] and len(summary["scores"]) == steps
    assert arrays["attention"].shape == (steps, 2, 5, 12, 12)
    assert arrays["components"].shape == (steps, 5, 12, 12, 3)
    assert arrays["prototypes"].shape == (steps, 10, 50)
    shares = arrays["prototypes"].astype(float).sum(-1)
    assert shares.max() <= 1.01 and shares.min() >= 0
    assert (RECORD / "frames.npz").stat().st_size < 300_000


def test_an_interactive_figure_takes_them(stages):
    figure = InteractiveFigure(
        "Stages", lambda step: plots.stage_figure(stages, step), {"step": [0, 40]}
    )
    assert html.escape(stages.words(0)) in figure._repr_html_()
