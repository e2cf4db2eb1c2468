"""`dino-tutorial curate` as a user meets it: what it writes, and one sentence for every mistake."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image
from two_processes import in_two_processes

from dino_tutorial import configure, train
from dino_tutorial.cli import main
from dino_tutorial.curation.command import open_excluded, open_pool
from dino_tutorial.datasets import ArrayDataset, open_dataset, write_shards
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.scenes import CLASSES, SceneDataset
from dino_tutorial.datasets.scenes.sets import uncurated_pool
from dino_tutorial.plots.curation import curation_warnings, share_curves, write_curation_report

pytestmark = pytest.mark.slow  # whole trainings, other processes

RECORDS = Path(__file__).resolve().parents[2] / "data" / "results"
COPIES = {"a/03.png": "a/00.png", "b/07.jpg": "a/05.png"}  # file: what it is a copy of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photographs, as a crawl leaves one: copies, a blank page, a broken file."""
    root = tmp_path_factory.mktemp("crawl")
    scenes = SceneDataset("val", 64, 40).images().permute(0, 2, 3, 1).numpy()
    for index, pixels in enumerate(scenes):
        place = root / ("a" if index < 20 else "b") / f"{index:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place)
    for copy, original in COPIES.items():
        image = Image.open(root / original).resize((90, 90))
        image.save(root / copy, **({"quality": 80} if copy.endswith("jpg") else {}))
    Image.new("RGB", (64, 64), "white").save(root / "b" / "page.png")
    (root / "b" / "zz.png").write_bytes(b"not a picture")
    return root


def test_a_folder_of_photographs(folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["curate", "--pool", str(folder), "--out", str(out)]
    # Among so few images the whitening knows little, so strangers come near: a higher threshold.
    assert main([*words, "--shards", "--set", "similarity=0.85"]) == 0
    assert "zz.png" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["blank"], summary["copies"]) == (43, 2, 2)
    assert summary["kept"] == 39 and summary["selected"] == 20
    chosen = (out / "selected.txt").read_text().splitlines()
    assert len(chosen) == 20 and all((folder / name).exists() for name in chosen)
    assert not set(chosen) & {"b/page.png", "b/zz.png"}
    for copy, original in COPIES.items():
        assert not {copy, original} <= set(chosen)
    shards = open_dataset(str(out / "curated"))
    assert len(shards) + len(open_dataset(str(out / "curated"), "test")) == 20
    # Again, from what is described: the images are not read, and another set is not mixed in.
    described = list((out / "descriptions").rglob("*.npy"))
    times = {path: path.stat().st_mtime_ns for path in described if "whitened" not in path.parts}
    assert main([*words, "--set", "size=7"]) == 0
    assert len((out / "selected.txt").read_text().splitlines()) == 7
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert main([*words, "--limit", "9"]) == 2
    assert "describes other images" in capsys.readouterr().err


def test_what_cannot_be_read_is_left_out_and_named(folder, tmp_path, capsys):
    """Of the pool, the seeds and the evaluation; as black images they would be found again."""
    for name, keep in {"seeds": range(4), "kept out": range(10, 12)}.items():
        (tmp_path / name).mkdir()
        for number in keep:
            shutil.copy(folder / "a" / f"{number:02d}.png", tmp_path / name)
        for number in range(5):
            (tmp_path / name / f"broken {number}.jpg").write_bytes(b"not a picture")
    out = tmp_path / "out"
    words = ["curate", "--pool", str(folder), "--out", str(out), "--set", "retrieval=nearest"]
    chosen = []
    for seeds in ("seeds", "good"):
        assert (
            main([*words, "--seeds", str(tmp_path / seeds), "--evaluation", f"{tmp_path}/kept out"])
            == 0
        )
        error = capsys.readouterr().err
        chosen.append((out / "selected.txt").read_text())
        if seeds == "seeds":
            assert "seeds: 5 of 9 images cannot be read and are left out: broken 0.jpg" in error
            assert "kept out: 5 of 7 images cannot be read and are left out" in error
            assert "1 of 43 images cannot be read and are left out: b/zz.png" in error
            named = (out / "left_out.txt").read_text()
            assert all(f"broken {number}.jpg (not an image)" in named for number in range(5))
            for path in (tmp_path / "seeds").glob("broken*"):
                path.unlink()
            (tmp_path / "seeds").rename(tmp_path / "good")
    assert chosen[0] == chosen[1]  # as if the broken ones had never been there
    assert json.loads((out / "summary.json").read_text())["unreadable"] == 1


@pytest.mark.parametrize("option", ["--seeds", "--evaluation"])
def test_images_of_which_none_can_be_read(option, folder, tmp_path, capsys):
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "a.png").write_bytes(b"not a picture")
    words = ["curate", "--pool", str(folder), "--out", str(tmp_path / "out")]
    assert main([*words, option, str(tmp_path / "no")]) == 2
    assert "no: none of the 1 image files can be read" in capsys.readouterr().err
    assert not (tmp_path / "out" / "selected.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_description_is_made_again(damage, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["curate", "--pool", str(folder), "--out", str(out)]
    assert main(words) == 0
    right = (out / "selected.txt").read_text()
    path = out / "descriptions" / "features" / "00000.npy"
    whole = path.read_bytes()
    changed = {"cut": whole[:-700], "empty": b"", "flipped": bytearray(whole)}[damage]
    if damage == "flipped":
        changed[len(whole) // 2] ^= 64
    path.write_bytes(changed)
    capsys.readouterr()
    assert main(words) == 0
    assert (
        f"{path} is damaged (its checksum is wrong), so it is made again" in capsys.readouterr().err
    )
    assert path.read_bytes() == whole and (out / "selected.txt").read_text() == right


def test_a_stray_tar_file_makes_no_shards_of_images(folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "mix")
    (tmp_path / "mix" / "backup.tar").write_bytes(bytes(1024))
    for images in (open_pool(f"{tmp_path}/mix", 32, None)[0], open_excluded(f"{tmp_path}/mix", 32)):
        assert isinstance(images, ImageFiles) and len(images) == 20


def test_its_own_shards_are_a_pool(tmp_path):
    scenes = SceneDataset("val", 32, 40)
    write_shards(scenes, tmp_path / "curated" / "train")  # as --shards does
    words = ["curate", "--pool", str(tmp_path / "curated"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == len(open_dataset(tmp_path / "curated")) > 30


def test_a_folder_called_like_a_data_set_needs_a_path(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "a", "scenes")
    assert isinstance(open_excluded("scenes", 32), SceneDataset)  # as train takes it
    assert isinstance(open_excluded("./scenes", 32), ImageFiles)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (("config.yaml", "summary.json", "report.html"), "holds a training run"),
        (("descriptions/identity.json", "config.yaml"), "holds a training run"),
        (("summary.json", "report.html"), "holds files that curate has not written"),
        (("selected.txt", "a.png"), "holds files that curate has not written"),
    ],
)
def test_what_is_not_its_own_is_left_as_it_is(names, sentence, folder, tmp_path, capsys):
    out = tmp_path / "out"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    assert main(["curate", "--pool", str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"{out} {sentence}: take another --out" in error and error.count("\n") == 1
    files = [path for path in out.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(out / name for name in names)
    assert all(path.read_text() == "mine" for path in files)


def test_a_curation_goes_on_with_what_is_left_of_it(folder, tmp_path):
    """An empty folder, from a full disk; no descriptions, for the refusal says to delete them."""
    words = ["curate", "--pool", str(folder), "--out", str(tmp_path / "out")]
    (tmp_path / "out" / "descriptions").mkdir(parents=True)
    assert main(words) == 0
    chosen = (tmp_path / "out" / "selected.txt").read_text()
    shutil.rmtree(tmp_path / "out" / "descriptions")
    assert main(words) == 0
    assert (tmp_path / "out" / "selected.txt").read_text() == chosen


def test_a_second_one_is_kept_out_until_all_is_written(folder, tmp_path, capsys, monkeypatch):
    out, codes = tmp_path / "out", []
    words = ["curate", "--pool", str(folder), "--out", str(out)]

    def write_last(path, report):
        codes.append(main([*words, "--set", "size=7"]))
        write_curation_report(path, report)

    monkeypatch.setattr("dino_tutorial.curation.command.write_curation_report", write_last)
    assert main([*words, "--set", "size=9"]) == 0 and codes == [2]
    told = f"process {os.getpid()} writes into {out}: wait for its end, or take another --out"
    assert told in capsys.readouterr().err
    assert len((out / "selected.txt").read_text().splitlines()) == 9
    assert not (out / ".lock").exists()


@pytest.mark.parametrize("sign", ["\n", "\r"])
def test_names_that_a_list_cannot_hold(sign, folder, tmp_path, capsys):
    shutil.copytree(folder / "a", tmp_path / "pool")
    (tmp_path / "pool" / "02.png").rename(tmp_path / "pool" / f"two{sign}lines.png")
    assert main(["curate", "--pool", f"{tmp_path}/pool", "--out", f"{tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert "pool: 1 of 20 names of images have a line break in them, such as 'two\\" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_curations_summary_is_not_recorded_as_a_trainings(tmp_path, capsys):
    shutil.copytree(RECORDS / "dino-patterns-laptop-s0", tmp_path / "run")
    shutil.copy(RECORDS / "curation-patterns" / "summary.json", tmp_path / "run")
    assert main(["record", str(tmp_path / "run"), "--into", str(tmp_path / "kept")]) == 2
    assert "summary.json is not the summary of a training" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_images_of_a_folder(folder):
    files = ImageFiles(folder, image_size=32)
    assert len(files) == 43 and files.classes == ("a", "b")
    assert files.paths == sorted(files.paths)
    assert (files.images(torch.tensor([42])) == 0).all()  # zz.png
    with Image.open(folder / files.paths[1]) as image:
        direct = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(files.images(torch.tensor([1]))[0].permute(1, 2, 0), direct)
    few = ImageFiles(folder, limit=5)
    assert len(few) == 5 and set(few.paths) <= set(files.paths)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    words = ["curate", "--pool", "scenes", "--seeds", "scenes", "--limit", "400"]
    assert main([*words, "--out", str(out), "--set", "size=60"]) == 0
    return out


def test_scenes_are_measured_against_the_truth(curated):
    summary = json.loads((curated / "summary.json").read_text())
    assert summary["selected"] == 60
    assert min(summary["pair_precision"], summary["pair_recall"]) >= 0.95
    assert 0 <= summary["purity_nearest"] <= 1 and summary["copies"] > 40
    assert summary["copies_by_hash"] < summary["copies"]


def test_patterned_scenes_are_a_pool_too(tmp_path, capsys):
    """Pool and seeds of the same kinds as the coloured ones', image by image."""
    words = ["curate", "--pool", "patterns", "--seeds", "patterns", "--evaluation", "patterns"]
    assert main([*words, "--limit", "300", "--out", str(tmp_path), "--set", "size=40"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["pool"], summary["selected"]) == ("patterns", 40)
    assert min(summary["pair_precision"], summary["pair_recall"]) >= 0.9
    images, groups = open_pool("patterns", 32, 300)
    coloured, same_groups = open_pool("scenes", 32, 300)
    assert torch.equal(images.labels, coloured.labels) and np.array_equal(groups, same_groups)
    assert not torch.equal(images.images(), coloured.images())


def test_the_report_is_one_accessible_file(curated):
    text = (curated / "report.html").read_text()
    page = Page(text)
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", text)
    figures = page.named("svg")
    assert len(figures) >= 5 and all(figure.get("aria-label") for figure in figures)
    assert page.heads("h2")[:3] == [
        "What was removed",
        "What was found",
        "Balance before and after",
    ]
    words = " ".join(page.text)
    assert "Run it again" in words and "--seeds scenes" in words
    assert "Copies: precision of pairs" in words and "prefers-color-scheme: dark" in text


def test_warnings_tell_what_does_not_fit():
    summary = {"largest_component": 12, "images": 1000, "blank": 3, "near_evaluation": 0}
    assert curation_warnings(summary) == []
    worse = summary | {"largest_component": 300, "blank": 500, "near_evaluation": 1}
    assert [text.split()[0] for text in curation_warnings(worse)] == ["One", "50.0", "1"]


def test_shares_are_described():
    counts = {"pool": np.array([1, 3]), "selected": np.array([5, 5])}
    told = share_curves(counts, ("cat", "dog")).alt_text
    assert "pool, 25.0 % to 75.0 %" in told and "selected, 50.0 % to 50.0 %" in told


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--pool", "scens"], "Did you mean scenes?"),
        (["--pool", "no/such"], "no/such"),
        (
            ["--pool", "scenes", "--weights", "no/run"],
            "no/run is not a run's folder",
        ),
        (["--pool", "scenes", "--weights", "dino_vits99"], "dino_vits99 is not a run's folder"),
        (["--pool", "scenes", "--set", "sise=3"], "did you mean 'size'"),
        (["--pool", "scenes", "--set", "similarity=2"], "out of range"),
        (["--pool", "scenes", "--set", "seed=2147483648"], "seed = 2147483648 is out of range"),
        (["--pool", "scenes", "--limit", "0"], "limit"),
        (["--pool", "scenes", "--limit", "20", "--seeds", "no/such"], "no/such"),
    ],
)
def test_mistakes(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["curate", *words, "--out", "out", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dino-tutorial: ") and error.count("\n") == 1 and sentence in error
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dino_tutorial.curation.command.curate_pool", stop)
    assert main(["curate", "--pool", "scenes", "--out", str(tmp_path)]) == 130
    assert "Continue with the same command" in capsys.readouterr().err


def test_two_processes_describe_what_one_does(folder, tmp_path):
    words = ["--pool", str(folder), "--device", "cpu", "--out"]
    assert main(["curate", *words, str(tmp_path / "one")]) == 0
    written = in_two_processes("curate", *words, str(tmp_path / "two"))
    assert written.count("images in the pool") == 1
    names = ("selected.txt", "summary.json")
    one, two = ([(tmp_path / way / name).read_text() for name in names] for way in ("one", "two"))
    assert one == two


def test_a_pool_with_junk_can_be_trained_on(tmp_path):
    """Images without a label are trained on like all others; only labelled ones measure."""
    images = ArrayDataset(*uncurated_pool(300, 32)[:2], CLASSES, "scenes")
    write_shards(images, tmp_path / "pool" / "train")
    changes = {"folder": str(tmp_path / "runs"), "train.epochs": 0.5, "data.limit": 256}
    run = train(configure("dino", str(tmp_path / "pool"), "smoke", changes))
    assert (open_dataset(tmp_path / "pool").labels < 0).any()
    assert 0 < run.summary["bank"] < 256 and run.summary["knn_top1"] is not None
