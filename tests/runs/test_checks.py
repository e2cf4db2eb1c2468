"""Settings that do not go together are refused in one sentence, before a folder is made."""

import re
import shlex
from contextlib import nullcontext

import pytest

from dino_tutorial import configure, train
from dino_tutorial.cli import main
from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.options import flatten, parse_assignments
from dino_tutorial.runs import PRESETS, build_method, read_config
from dino_tutorial.runs.checks import (
    check_batch,
    check_learning_rate,
    check_lengths,
    check_patches,
    check_run,
)

ONE_AT_A_TIME = "train.batch_size=32 train.accumulate=32"
# A method, its changes, and what the sentence says.
REFUSED = [
    ("dino", "train.accumulate=5", "train.accumulate = 5 does not divide the 32 images"),
    ("dino", "train.accumulate=64", "use a divisor of 32"),
    ("dino", "data.limit=31", "train.batch_size = 32 is larger than the data set of 31 images"),
    ("dino", "train.batch_size=300", "is larger than the data set of 256 images: use a smaller"),
    ("dino", "views.local_size=12", "views.local_size = 12 is not a multiple of the patch size 8"),
    ("dino", "views.local_size=4", "use 8 or another model.patch_size"),
    (
        "dino",
        "views.global_size=20",
        "views.global_size = 20 is not a multiple of the patch size 8",
    ),
    ("dino", "model.arch=vit_small model.patch_size=null views.global_size=40", "size 16: use 32"),
    ("dino", "model.arch=vit_giant model.patch_size=null views.global_size=48", "size 14: use 42"),
    ("dino", "model.num_heads=3", "embed_dim=32 cannot be shared by num_heads=3"),
    (
        "dino",
        "model.stem=conv model.patch_size=12 views.global_size=24 views.local_crops=0",
        "patch_size must be a power of two, not 12",
    ),
    ("dino", "model.arch=resnet10 model.depth=3", "resnet10 has no argument depth"),
    ("dino", "model.arch=resnet10 train.checkpoint_activations=true", "vision transformers"),
    ("dino", "train.sharding=fsdp", "train.sharding=fsdp cuts a model up"),
    ("dino", "data.image_size=8", "scenes are drawn at 16 to 512 pixels, not at 8"),
    ("dino", "views.global_size=8", "scenes are drawn at 16 to 512 pixels, not at 8"),
    ("dino", "optim.warmup_epochs=3", "optim.warmup_epochs = 3.0 is longer than the run"),
    (
        "dino",
        "train.epochs=4 optim.warmup_epochs=5",
        "set it to 4.0 or less, or train.epochs to 5.0",
    ),
    ("dino", "objective.freeze_last_layer_epochs=2.5", "set it to 2.0 or less"),
    ("dino", "objective.teacher_temp_warmup_epochs=30", "train.epochs to 30.0 or more"),
    ("dino", "optim.lr=0.008 optim.lr_final=0.002", "is above the learning rate of 0.001 that"),
    ("dino", "optim.lr_scaling=sqrt optim.lr=0.008 optim.lr_final=0.003", "rate of 0.00283 that"),
    ("jigsaw", "objective.permutations=10001", "[2, 10000]"),
    ("swav", "objective.freeze_prototypes_epochs=2.5", "longer than the run"),
    ("swav", "objective.queue_start_epochs=2.5", "longer than the run"),
    ("byol", ONE_AT_A_TIME, "one image at a time in a process, and byol normalises by the"),
    ("swav", ONE_AT_A_TIME, "train.batch_size = 32 with train.accumulate = 32 leaves one image"),
    ("simclr", ONE_AT_A_TIME, "and simclr tells it from others, its negatives: use a larger batch"),
    ("dinov2", ONE_AT_A_TIME, "and KoLeo keeps it away from others (objective.koleo_weight=0"),
    ("dinov2", "objective.dino_weight=0 objective.ibot_weight=0 objective.koleo_weight=0", "all 0"),
    (
        "dinov2",
        "objective.mask_share=0.01",
        "none of the 64 global crops of a batch would be masked",
    ),
    ("dinov2", "model.arch=resnet10", "choose a model.arch that begins with vit"),
    ("dinov2", "objective.mask_ratio=[0.5,0.1]", "the smaller number comes first"),
    ("jigsaw", "objective.tile_size=12", "tile_size = 12 is not a multiple of the patch size 8"),
    ("jigsaw", "objective.permutations=25", "4 tiles have 24 permutations"),
    ("byol", "views.local_crops=2", "set views.local_crops=0"),
    ("moco", "views.local_crops=2", "set views.local_crops=0"),
]


@pytest.mark.parametrize(("method", "changes", "sentence"), REFUSED)
def test_refused_alike_by_library_and_command_line(method, changes, sentence, tmp_path, capsys):
    folder = tmp_path / "runs"
    words = shlex.split(changes)
    own = {"device": "cpu", "folder": str(folder)}
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        train(configure(method, preset="smoke", changes=own | parse_assignments(words)))
    sets = [word for change in words for word in ("--set", change)]
    command = ["train", method, "--preset", "smoke", "--device", "cpu", "--folder", str(folder)]
    assert main([*command, *sets]) == 2
    assert capsys.readouterr().err == f"dino-tutorial: {error.value}\n"
    assert "\n" not in str(error.value) and not folder.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.warmup_epochs", 8),
        ("objective.freeze_last_layer_epochs", 5.5),
        ("objective.teacher_temp_warmup_epochs", 30),
    ],
)
def test_both_remedies_of_a_length_work(key, value):
    config = configure("dino", changes={key: value})
    with pytest.raises(UserError) as error:
        check_lengths(config)
    shorter, longer = re.findall(r"to ([\d.]+) or", str(error.value))
    assert check_lengths(config.changed({key: float(shorter)})) is None
    assert check_lengths(config.changed({"train.epochs": float(longer)})) is None


def test_it_does_not_matter_in_which_order_lengths_are_named():
    config = configure("dino", changes={"optim.warmup_epochs": 8}).changed({"train.epochs": 9})
    assert check_lengths(config) is None
    with pytest.raises(UserError, match="optim.warmup_epochs = 8.0 is longer"):
        check_lengths(config.changed({"train.epochs": 7}))


def test_a_presets_lengths_are_cut_with_a_sentence(tmp_path, capsys):
    changes = {"train.epochs": 0.125, "folder": str(tmp_path), "device": "cpu"}
    config = configure("dino", preset="smoke", changes=changes)
    sentence = (
        "objective.freeze_last_layer_epochs = 1.0 and optim.warmup_epochs = 0.5 are longer than "
        "the run of train.epochs = 0.125, and are cut to it"
    )
    assert check_lengths(config) == sentence
    run = train(config)
    assert capsys.readouterr().err.count(f"note: {sentence}\n") == 1
    stored = read_config(run.folder / "config.yaml")  # nobody named its lengths
    assert stored == config and check_lengths(stored) == sentence
    # What is printed changes nothing: these lengths, named, give the same run.
    named = {key: 0.125 for key in ("objective.freeze_last_layer_epochs", "optim.warmup_epochs")}
    again = train(config.changed(named | {"name": "again"}))
    assert "longer than the run" not in capsys.readouterr().err
    assert again.metrics == run.metrics


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("data", ["scenes", "patterns"])
def test_the_lengths_of_presets_fit(method, preset, data):
    config = configure(method, data, preset)
    assert any(key.endswith("_epochs") for key in flatten(config))
    assert check_lengths(config) is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_rest_of_a_preset_fits(method, preset):
    config = configure(method, preset=preset)
    check_batch(config)
    check_learning_rate(config)
    check_patches(config)


def test_convolutions_and_unused_crops_need_no_patches():
    changes = {"model.arch": "resnet10", "views.global_size": 31, "views.local_size": 15}
    check_patches(configure("dino", preset="smoke", changes=changes))
    check_patches(configure("byol", preset="smoke", changes={"views.local_size": 15}))


@pytest.mark.parametrize(("world", "refuses"), [(1, False), (2, False), (3, True), (64, True)])
def test_a_batch_divides_among_processes(world, refuses):
    config = configure("dino", preset="smoke")
    says = pytest.raises(UserError, match=f"= 32 does not divide among {world} processes")
    with says if refuses else nullcontext():
        check_batch(config, world)


def test_parts_divide_what_a_process_has():
    config = configure("dino", preset="smoke", changes={"train.accumulate": 32})
    check_batch(config, world=1)
    with pytest.raises(UserError, match="does not divide the 16 images that a process has"):
        check_batch(config, world=2)


@pytest.mark.parametrize(
    ("method", "device", "refuses"),
    [
        ("byol", "cpu", True),  # each process has statistics of its own
        ("byol", "cuda", False),  # they are shared
        ("simclr", "cpu", False),  # negatives come from all processes
        ("dinov2", "cuda", True),  # KoLeo looks for neighbours in one
        ("moco", "cpu", False),  # negatives come from the queue
        ("dino", "cpu", False),
    ],
)
def test_one_image_in_each_of_two_processes(method, device, refuses):
    config = configure(method, preset="smoke", changes={"train.batch_size": 2})
    with pytest.raises(UserError, match="larger batch") if refuses else nullcontext():
        check_run(config, build_method(config), 256, device, world=2)


@pytest.mark.parametrize(
    ("method", "changes"), [("dino", {}), ("moco", {}), ("dinov2", {"objective.koleo_weight": 0})]
)
def test_where_no_image_needs_another_one_at_a_time_will_do(method, changes, tmp_path):
    changes |= {"train.accumulate": 32, "train.epochs": 0.125, "folder": str(tmp_path)}
    run = train(configure(method, preset="smoke", changes=changes | {"device": "cpu"}))
    assert run.complete and run.metrics[-1]["grad_norm"] > 0


def test_a_presets_end_of_the_learning_rate_follows_a_lower_start(tmp_path):
    """DINO ends at 1e-6; whoever lowers the start below it does not have to lower the end too."""
    changes = {"optim.lr": 1e-6, "train.epochs": 0.25, "folder": str(tmp_path), "device": "cpu"}
    config = configure("dino", preset="smoke", changes=changes)
    assert config.optim.lr_final == 1e-6 > 1e-6 / 8
    assert train(config).metrics[-1]["lr"] == pytest.approx(1e-6 / 8)


def test_three_images_are_enough_for_a_run_with_its_report(tmp_path):
    changes = {"data.limit": 3, "train.batch_size": 2, "folder": str(tmp_path), "device": "cpu"}
    run = train(configure("dino", preset="smoke", changes=changes))
    assert run.complete and run.summary["steps"] == 2 and run.report.exists()
