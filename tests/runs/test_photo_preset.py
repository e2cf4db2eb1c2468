"""The preset for a folder of photographs: lengths in steps, a batch that fits, on any machine."""

import gc
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial import configure, train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.options import parse_assignments
from dino_tutorial.runs import Run, adapt, build_method, doctor, read_config
from dino_tutorial.runs.adapt import adapted, parts_that_fit
from dino_tutorial.runs.checks import check_batch, check_lengths
from dino_tutorial.runs.cost import LiveBytes, StepCost, step_cost
from dino_tutorial.views import Augment

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30
# The photo preset with an encoder and views that a test can afford.
SMALL = {
    "data.image_size": 64,
    "views.global_size": 32,
    "views.local_size": 16,
    "model.arch": "vit_tiny",
    "model.patch_size": 8,
    "model.embed_dim": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "objective.out_dim": 64,
    "objective.head_hidden_dim": 64,
    "device": "cpu",
    "train.workers": 0,
}


@pytest.fixture
def photographs(tmp_path):
    """Fourteen JPEGs of mixed shapes and sizes, without classes."""
    place = tmp_path / "photographs"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(14):
        shape = 30 + 13 * number, 150 - 7 * number, 3
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(place / f"{number}.jpg")
    return place


@pytest.fixture
def a_gpu(monkeypatch):
    """A device that has as many GiB as it is told, and computes in 16 bits."""

    def of(gib):
        monkeypatch.setattr(adapt, "device_memory", lambda device: gib * GIB)
        monkeypatch.setattr(adapt, "choose_precision", lambda name, device: "bf16")
        return GPU

    return of


def test_a_folder_of_photographs_trains_with_one_command(photographs, tmp_path, capsys):
    sets = [f"--set={key}={value}" for key, value in SMALL.items() if key != "device"]
    sets += ["--set=train.steps=3", "--device=cpu", f"--folder={tmp_path / 'runs'}"]
    command = ["train", "dino", "--data", str(photographs), "--preset", "photo", "--name", "own"]
    assert main([*command, *sets]) == 0
    said = capsys.readouterr().err
    run = tmp_path / "runs" / "own"
    stored = read_config(run / "config.yaml")
    n = stored.train.batch_size
    assert stored.data.fit == "whole" and 2 <= n <= 14 and not stored.train.adapt
    assert f"a batch of {n} images, run in 1 part (the preset says 256" in said
    assert "warmup_epochs = 10.0" in said and "the run of train.steps = 3, and are cut" in said
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2  # the first and the last
    assert (run / "report.html").is_file()


# Portrait, landscape, square, narrow; smaller than a view and larger than the canvas: (W, H).
SHAPES = ((480, 640), (640, 480), (512, 512), (900, 300), (120, 90), (1600, 1067))


@pytest.mark.slow
def test_the_preset_as_it_is_takes_three_steps_on_a_cpu(tmp_path, capsys):
    """ViT-S/16 and ten views of 224 and 96 pixels; two thirds of the time are the three steps."""
    place, run = tmp_path / "photographs", tmp_path / "runs" / "own"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        width, height = SHAPES[number % len(SHAPES)]
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(place / f"{number}.jpg")
    command = ["train", "dino", "--data", str(place), "--preset", "photo", "--name", "own"]
    own = ["--device=cpu", f"--folder={run.parent}", "--set=train.steps=3"]
    assert main([*command, *own]) == 0
    assert "a batch of 8 images, run in 1 part" in capsys.readouterr().err
    stored, rows = read_config(run / "config.yaml"), Run(run).metrics
    assert (stored.model.arch, stored.views.local_crops) == ("vit_small", 8)
    assert stored.train.batch_size == 8 and not stored.train.adapt
    assert [row["step"] for row in rows] == [0, 2]
    assert all(abs(row["loss"] - row["ln_k"]) < 1 for row in rows)  # still at its beginning
    assert {"checkpoint.pt", "backbone.safetensors", "report.html"} < set(os.listdir(run))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_preset(method):
    """At 224 px, from whole photographs, in steps whose number their number does not change."""
    config = configure(method, "FOLDER", "photo")
    assert config.data.image_size == 512 and config.views.global_size in (224, 225)
    assert config.train.total_steps(120) == config.train.total_steps(10**6) >= 6000
    assert config.train.adapt and check_lengths(config) is None
    assert Augment(METHODS[method].view_specs(config.views)).specs


def test_lengths_in_steps_images_and_epochs():
    config = configure("dino", changes={"train.batch_size": 20})
    steps = {"train.steps": 7}, {"train.images": 150}, {"train.epochs": 2}
    assert [config.changed(c).train.total_steps(100) for c in steps] == [7, 8, 10]
    counted = config.changed({"train.epoch_steps": 50, "train.epochs": 2})
    assert counted.train.total_steps(100) == 100 and counted.train.steps_of_epoch(100) == 50


def test_two_lengths_are_refused():
    config = configure("dino", changes={"train.steps": 7, "train.epochs": 2})
    with pytest.raises(UserError, match="train.epochs and train.steps both say how long"):
        check_lengths(config)


def test_a_named_warm_up_has_to_fit_into_steps():
    named = {"train.steps": 60, "optim.warmup_epochs": 3}
    config = configure("dino", changes=named | {"train.batch_size": 20})
    assert check_lengths(config) is None  # 100 images or 1,000: nobody knows yet
    assert check_lengths(config, n_images=400) is None  # 3 passes
    with pytest.raises(UserError, match=r"train.steps = 60: set it to 1.2 or less$"):
        check_lengths(config, n_images=1000)
    with pytest.raises(UserError, match=r"train.steps = 60: set it to 0.6 or less$"):
        check_lengths(config.changed({"train.epoch_steps": 100}))


def test_steps_warm_up_and_freezing_last_as_long_as_the_epochs_they_mean(tmp_path):
    """Ten steps an epoch of steps are what ten steps an epoch of images are, number for number."""
    own = {"device": "cpu", "data.limit": 160, "train.batch_size": 16, "train.epochs": 0.8}
    by_images = train(configure("dino", preset="smoke", changes=own | {"folder": f"{tmp_path}/a"}))
    counted = own | {"train.epoch_steps": 10, "folder": f"{tmp_path}/b"}
    by_steps = train(configure("dino", preset="smoke", changes=counted))
    rows = by_steps.metrics
    assert by_images.metrics == rows and len(rows) == 8
    assert rows[0]["lr"] == 0 and rows[4]["lr"] == max(row["lr"] for row in rows)  # warm after 5


def test_a_step_without_values_needs_what_a_step_with_them_needs():
    """The same counter over a step that computes; its weights are there before it counts."""
    changes = parse_assignments([f"{key}={value}" for key, value in SMALL.items()])
    config = configure("dino", preset="photo", changes=changes)
    specs = METHODS["dino"].view_specs(config.views)
    cost = step_cost(build_method(config), specs, reduced=False)
    method = build_method(config)
    weights = sum(t.nbytes for t in [*method.parameters(), *method.buffers()])
    moments = 8 * sum(p.numel() for p in method.parameters() if p.requires_grad)
    values = {name: float(table[0]) for name, table in method.schedules(1, 1).items()}
    gc.collect()
    for n in (4, 24):
        with LiveBytes() as alive:
            views = [torch.rand(2, n, 3, 32, 32), torch.rand(8, n, 3, 16, 16)]
            method(views, values, False)["loss"].backward()
        method.zero_grad(set_to_none=True)
        assert cost.bytes(n) == pytest.approx(weights + moments + alive.peak, rel=0.1)


@pytest.mark.parametrize(
    ("method", "gib"), [("dino", 18.0), pytest.param("dinov2", 18.8, marks=pytest.mark.slow)]
)
def test_the_gpu_preset_needs_its_18_gib_in_one_part_and_fits_a_card_of_16(method, gib, a_gpu):
    config = configure(method, preset="gpu")
    device = a_gpu(15)  # GiB that such a card, a T4, has
    cost = adapt.simulated(config, 10, device)
    assert cost.bytes(512) / GIB == pytest.approx(gib, rel=0.1)
    parts = parts_that_fit(cost, 512, adapt.usable_memory(device))
    assert parts == 2 and cost.bytes(512 // parts) / GIB <= 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "method", "n_images", "ceiling"),
    [
        ("photo", "dino", 128, 14),  # half of its batch on a card of 16 GB
        ("photo", "dinov2", 112, 14),
        ("paper", "dino", 64, 8),  # a GPU's share; 15.4 GB in Caron et al. 2021, table 8, 2 + 10
    ],
)
def test_a_step_of_photographs_keeps_below_its_ceiling(preset, method, n_images, ceiling, a_gpu):
    """Activations are in 16 bits: a part of the network that fell out of autocast would show."""
    cost = adapt.simulated(configure(method, "FOLDER", preset), 0, a_gpu(15))
    assert 0.85 * ceiling <= cost.bytes(n_images) / GIB <= ceiling


def test_parts_are_the_fewest_that_fit():
    cost = StepCost(fixed=100, per_image=10, flops=1)
    assert [parts_that_fit(cost, 12, budget) for budget in (220, 219, 160, 0)] == [1, 2, 2, 6]


@pytest.mark.parametrize(
    ("named", "world", "expected"),
    [
        ({}, 1, (108, 2)),  # all images, in two parts of 54
        ({}, 8, (104, 1)),  # thirteen a process
        ({"train.batch_size": 108}, 1, (108, 2)),
        ({"train.batch_size": 75}, 1, (75, 3)),  # two parts would do, and do not divide it
        ({"train.accumulate": 4}, 1, (108, 4)),
        ({"train.accumulate": 5}, 1, (105, 5)),
        ({"train.accumulate": 5}, 8, (80, 5)),
    ],
)
def test_a_batch_is_lowered_to_the_images_and_run_in_parts(monkeypatch, named, world, expected):
    cost = StepCost(fixed=0, per_image=GIB // 8, flops=1)
    monkeypatch.setattr(adapt, "simulated", lambda *_: cost)
    monkeypatch.setattr(adapt, "usable_memory", lambda _: 60 * cost.per_image)
    config = configure("dino", preset="photo", changes=named)
    fits, sentence = adapted(config, 108, 0, GPU, world, held=0)
    assert (fits.train.batch_size, fits.train.accumulate) == expected
    assert not fits.train.adapt and f"a batch of {expected[0]} images" in sentence
    assert adapted(fits, 108, 0, GPU, world, held=0) == (fits, None)


def test_more_parts_than_images_are_refused_by_their_own_name():
    named = configure("dino", preset="photo", changes={"train.accumulate": 20})
    with pytest.raises(UserError, match="train.accumulate = 20 does not divide the 14 images"):
        check_batch(adapted(named, 14, 0, GPU, 1, held=0)[0])


def test_a_cpu_gets_a_small_batch_of_large_images(monkeypatch):
    monkeypatch.setattr(adapt, "simulated", lambda *_: StepCost(0, 1, 1))
    sizes = {
        p: adapted(configure("dino", preset=p), 10**6, 0, CPU, 1, 0)[0] for p in ("photo", "gpu")
    }
    assert sizes["photo"].train.batch_size == 8 and sizes["gpu"].train.batch_size == 418


def test_the_doctor_says_which_presets_fit_and_how_long_they_take(monkeypatch, a_gpu):
    cost = StepCost(fixed=GIB, per_image=GIB // 16, flops=10**11)
    monkeypatch.setattr(doctor, "simulated", lambda *_: cost)
    monkeypatch.setattr(doctor, "device_memory", adapt.device_memory)
    a_gpu(16)
    # 10,000 steps of 256 images: 2.56e17 operations, three tenths of 1e14 a second.
    assert doctor.fit_in_words("photo", GPU, 1e14) == (
        "about 2 hours on this GPU for 10,000 images, a batch of 256 in 2 parts"
    )
    a_gpu(2)
    assert doctor.fit_in_words("photo", GPU, 1e14).startswith("needs 1.1 GiB for two images")
