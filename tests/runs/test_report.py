"""The run report is one accessible file that holds what the run gave, and nothing more."""

import errno
import math
import os
import re

import pytest
import torch
from html_page import Page

from dino_tutorial.errors import UserError
from dino_tutorial.plots import ReportData, write_report
from dino_tutorial.plots.report import render_report, verdict, warnings

LN_K = math.log(256)


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, (*shape,), generator=generator, dtype=torch.uint8)


def full_data(size: int = 32, n: int = 2, heads: int = 3, neighbours: int = 2) -> ReportData:
    labels = torch.tensor([0, 1, 0, 1, 0])[:n]
    metrics = [
        {
            "step": step,
            "loss": 5.5 - step / 100,
            "lr": 1e-3,
            "momentum": 0.996,
            "ln_k": LN_K,
            "teacher_entropy": 5.5 - step / 50,
            "batch_entropy": 5.4,
            "feature_spread": 0.05,
        }
        for step in range(0, 110, 10)
    ]
    metrics[0]["knn_top1"], metrics[-1]["knn_top1"] = 0.402, 0.712
    return ReportData(
        config={"method": "dino", "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]}},
        summary={
            "method": "dino",
            "title": "DINO",
            "data": "scenes",
            "preset": "laptop",
            "seed": 3,
            "device": "cpu",
            "train_seconds": 171.4,
            "images_per_second": 312.0,
            "final_loss": 4.5,
            "ln_k": LN_K,
            "teacher_entropy": 3.5,
            "knn_top1": 0.712,
            "knn_random_init": 0.402,
            "knn_raw_pixels": 0.492,
            "knn_color_histogram": 0.37,
        },
        metrics=metrics,
        timings=[{"step": s, "images_per_second": 300.0, "memory_mib": 900} for s in (10, 20)],
        environment={"torch": "2.15"},
        classes=("disc", "square"),
        source_images=pictures(2, 3, size, size),
        crops=[pictures(2, 3, size, size), pictures(2, 3, size // 2, size // 2)],
        crop_boxes=torch.tensor([[[0, 0, 20, 20], [3, 3, 9, 9]]]).repeat(2, 1, 1),
        attention_images=pictures(n, 3, size, size),
        attention=torch.rand(n, heads, 4, 4),
        pca_images=pictures(n, 3, size, size),
        patch_pca=torch.rand(n, 4, 4, 3),
        query_images=pictures(n, 3, size, size),
        query_labels=labels,
        neighbour_images=pictures(n, neighbours, 3, size, size),
        neighbour_labels=torch.zeros(n, neighbours, dtype=torch.long),
    )


@pytest.fixture(scope="module")
def full_text() -> str:
    return render_report(full_data())


def test_every_section_is_there_with_a_described_figure(full_text):
    page = Page(full_text)
    assert page.open == []
    assert page.heads("h2") == [
        "What it learned",
        "What the networks see",
        "How it was trained",
        "Details",
    ]
    figures = page.named("svg")
    assert all(svg["role"] == "img" for svg in figures)
    descriptions = [svg["aria-label"] for svg in figures]
    beginnings = [
        "k-NN accuracy rises from 40.2 % to 71.2 % in 100 steps",
        "Loss falls from 5.50 to 4.50 in 100 steps; ln K is 5.55.",
        "Entropy of the batch mean stays at 5.40",
        "Feature spread stays at 0.05",
        "2 images with numbered boxes",
        "Attention of the CLS token in 3 heads over 2 images",
        "2 images, and under each its 4 by 4 patches",
        "2 query images with 2 nearest neighbours each; 2 of 4",
        "Learning rate stays at 0.001",
        "Images per second: median 300",
    ]
    assert len(descriptions) == len(beginnings)
    for description, beginning in zip(descriptions, beginnings, strict=True):
        assert description.startswith(beginning)


def test_nothing_is_fetched_from_elsewhere(full_text):
    page = Page(full_text)
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            if name in attrs:
                assert attrs[name].startswith(("#", "data:")), (tag, attrs[name][:60])
    targets = re.findall(r"url\(([^)]*)\)", full_text)
    assert targets and all(target.startswith("#") for target in targets)
    assert "@import" not in full_text and "//" not in re.sub(r"base64,[^\"]*|// .*", "", full_text)
    assert not page.named("link") and not page.named("iframe")


def test_ids_are_unique_and_references_resolve(full_text):
    ids = re.findall(r'\sid="([^"]+)"', full_text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#|labelledby=")([^")]+)', full_text))
    assert used <= set(ids)


def test_page_is_accessible(full_text):
    page = Page(full_text)
    assert page.named("html")[0]["lang"] == "en"
    assert "width=device-width" in str(page.named("meta"))
    assert len(page.named("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 2 for before, after in zip(levels, levels[1:], strict=False))
    assert page.named("th") and all(th.get("scope") in ("row", "col") for th in page.named("th"))
    assert page.named("button")[0]["type"] == "button"
    assert not [attrs for _, attrs in page.tags if "onclick" in attrs]
    assert page.named("details") and page.named("summary")


def test_both_themes_define_every_colour(full_text):
    used = set(re.findall(r"var\(--([\w-]+)\)", full_text))
    light, explicit_dark, preferred_dark = re.findall(
        r"--page: #\w+;(.*?)color-scheme", full_text, flags=re.DOTALL
    )
    fonts = {"sans", "mono", "page"}
    for theme in (light, explicit_dark, preferred_dark):
        assert used - fonts <= set(re.findall(r"--([\w-]+):", theme))
    assert explicit_dark.split() == preferred_dark.split()
    assert "prefers-color-scheme: dark" in full_text


def test_numbers_of_the_summary_are_shown(full_text):
    words = " ".join("".join(Page(full_text).text).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "k-NN 71.2 %: 31.0 points above the untrained encoder, 22.0 above raw pixels." in words
    assert "dino-tutorial train dino --data scenes --preset laptop --set seed=3" in words
    for text in (
        "DINO on scenes",
        "preset laptop",
        "37.0 %",
        "+34.2",
        "2 min 51 s",
        "900 MiB",
        "optimizer.betas",
        "0.9, 0.999",
        "4.50 (ln K 5.55)",
    ):
        assert text in words


def test_command_that_was_given_is_shown():
    data = ReportData({}, {"method": "dino"}, [], command="make run SEED='1'")
    assert "make run SEED=&#39;1&#39;" in render_report(data)


def test_what_is_missing_leaves_no_heading():
    summary = {"method": "byol", "data": "cifar10", "final_loss": 0.7}
    rows = [{"step": 0, "loss": 3.9}, {"step": 5, "loss": 0.7}]
    text = render_report(ReportData({}, summary, rows))
    page = Page(text)
    assert page.heads("h2") == ["What it learned"]
    assert page.heads("h3") == ["The run", "Loss"]
    assert "ln K" not in text and len(page.named("svg")) == 1
    assert not page.named("table") and not page.named("details") and not page.named("pre")


def test_empty_run_still_makes_a_page():
    page = Page(render_report(ReportData({}, {}, [])))
    assert page.heads("h2") == [] and page.heads("h3") == []
    assert page.named("svg") == []


@pytest.mark.parametrize("missing", ["crop_boxes", "attention", "patch_pca", "neighbour_images"])
def test_half_given_pictures_are_left_out(missing):
    data = full_data()
    data.metrics, data.timings = [], []
    setattr(data, missing, None)
    page = Page(render_report(data))
    assert page.heads("h2") == ["What the networks see", "Details"]
    assert len(page.named("svg")) == 3


def test_hostile_strings_stay_text():
    evil = '"><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>&amp;{{7*7}}'
    data = full_data()
    data.config = {evil: evil, "nested": {evil: [evil]}}
    data.environment = {evil: evil}
    data.command = evil
    data.classes = (evil, evil)
    data.phases = [(evil, 0, 50)]
    data.summary = {**data.summary, "data": evil, "device": evil, "method": evil, "preset": evil}
    page = Page(render_report(data))
    assert len(page.named("script")) == 2
    assert page.named("img") == []
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert evil in "".join(page.text)
    assert any(evil in svg["aria-label"] for svg in page.named("svg"))


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (
            {"knn_top1": 0.712, "knn_random_init": 0.402, "knn_raw_pixels": 0.49},
            "k-NN 71.2 %: 31.0 points above the untrained encoder, 22.2 above raw pixels.",
        ),
        (
            {"knn_top1": 0.40, "knn_random_init": 0.41, "knn_raw_pixels": 0.49},
            "k-NN 40.0 %: 1.0 point below the untrained encoder, 9.0 below raw pixels.",
        ),
        ({"knn_top1": 0.40, "knn_raw_pixels": 0.2}, "k-NN 40.0 %: 20.0 points above raw pixels."),
        ({"knn_top1": 0.40, "knn_random_init": None}, "k-NN 40.0 %."),
        (
            {"final_loss": 3.1, "knn_top1": math.nan},
            "Training ended at loss 3.10; k-NN accuracy was not measured.",
        ),
        ({}, "Training ended; k-NN accuracy was not measured."),
    ],
)
def test_verdict_says_it_in_one_sentence(summary, sentence):
    assert verdict(summary) == sentence


@pytest.mark.parametrize(
    ("summary", "last", "word"),
    [
        ({}, {"loss": LN_K, "teacher_entropy": LN_K}, "The teacher's output is uniform"),
        ({}, {"loss": LN_K, "teacher_entropy": 2.0}, "not begun"),
        ({}, {"loss": 3 * LN_K, "dino_loss": LN_K}, "not begun"),
        ({}, {"loss": 0.1, "batch_entropy": 0.05}, "Every image gets the same prototype"),
        ({}, {"loss": math.nan}, "diverged"),
        ({}, {"feature_spread": 0.001}, "The features are the same"),
        ({"knn_top1": 0.3, "knn_random_init": 0.4}, {}, "nothing useful"),
    ],
)
def test_failed_runs_are_pointed_out(summary, last, word):
    rows = [{"step": s, "ln_k": LN_K, "loss": 3.0, "feature_spread": 0.1} for s in range(10)]
    found = warnings(summary, rows[:7] + [row | last for row in rows[7:]])
    assert len(found) == 1 and word in found[0] and found[0].endswith(".")
    assert warnings(summary | {"knn_random_init": 0.1}, rows) == []
    assert warnings(full_data().summary, full_data().metrics) == []


def test_a_sum_of_several_losses_is_not_compared_with_ln_k():
    """DINOv2 adds iBOT's and KoLeo's: the sum stays above ln K while DINO's part comes down."""
    row = {"ln_k": LN_K, "loss": 1.3 * LN_K, "dino_loss": 0.85 * LN_K}
    assert warnings({}, [{"step": step} | row for step in range(10)]) == []


def test_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    data = ReportData({}, {"method": "dino"}, [])
    assert write_report(str(path), data) == path
    before = path.read_text(encoding="utf-8")
    assert before == render_report(data)

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(path, ReportData({}, {"method": "byol"}, []))
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "absent" / "report.html", ReportData({}, {}, []))


def test_large_pictures_and_long_runs_stay_below_three_megabytes():
    data = full_data(size=224, n=5, heads=6, neighbours=5)  # noise: nothing compresses worse
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(20_000, generator=generator).tolist()
    data.metrics = [{"step": s, "loss": v, "teacher_entropy": v} for s, v in enumerate(noise)]
    assert len(render_report(data).encode()) < 3_000_000


def test_same_run_gives_the_same_report():
    data = full_data()
    assert render_report(data) == render_report(data)
