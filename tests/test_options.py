"""Settings: every mistake is one sentence that names the key; every configuration reads back."""

import pytest

from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.options import describe, flatten, parse_assignments
from dino_tutorial.runs import PRESETS, configure, read_config


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_reads_back(method, preset, tmp_path):
    config = configure(method, preset=preset)
    (tmp_path / "config.yaml").write_text(config.dump())
    assert read_config(tmp_path / "config.yaml") == config


def test_dino_paper_preset_is_the_reference_recipe():
    config = configure("dino", preset="paper")
    o, d, v = config.optim, config.objective, config.views
    assert (o.lr, o.lr_final, o.warmup_epochs, o.weight_decay, o.weight_decay_final) == (
        5e-4,
        1e-6,
        10,
        0.04,
        0.4,
    )
    assert (o.clip, o.clip_rule, d.freeze_last_layer_epochs) == (3.0, "parameter", 1)
    assert (d.out_dim, d.student_temp, d.teacher_temp, d.center_momentum) == (65536, 0.1, 0.04, 0.9)
    assert (d.momentum, d.momentum_final, d.norm_last_layer) == (0.996, 1.0, True)
    assert (v.global_size, v.local_size, v.local_crops) == (224, 96, 8)
    assert (v.global_scale, v.local_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert (config.model.arch, config.model.patch_size, config.model.drop_path_rate) == (
        "vit_small",
        16,
        0.1,
    )


def test_byol_paper_preset_is_the_papers_recipe():
    config = configure("byol", preset="paper")
    o = config.optim
    assert (o.name, o.lr, o.warmup_epochs, o.weight_decay) == ("lars", 0.2, 10, 1.5e-6)
    assert (config.train.epochs, config.train.batch_size) == (1000, 4096)
    assert (config.objective.hidden_dim, config.objective.out_dim) == (4096, 256)
    assert config.model.arch == "resnet50" and config.views.global_scale == (0.08, 1.0)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("optim.lrr=1", "unknown key 'optim.lrr': did you mean 'optim.lr'"),
        ("optim=1", "unknown key 'optim'"),
        ("seed.x=1", "unknown key 'seed.x'"),
        ("optim.lr=-1", "optim.lr = -1.0 is out of range: it lies in 0 or more"),
        ("optim.lr=.nan", "optim.lr = nan is out of range: it wants a finite number"),
        ("optim.lr=.inf", "optim.lr = inf is out of range: it wants a finite number"),
        ("optim.lr=1" + 400 * "0", "optim.lr wants a number, got 1000"),
        ("views.blur_sigma=[0.1, .inf]", "views.blur_sigma = inf is out of range"),
        ("seed=4294967296", r"seed = 4294967296 is out of range: it lies in \[0, 4294967295\]"),
        ("train.checkpoint_every=0", "train.checkpoint_every = 0 is out of range: .* 1 or more"),
        ("objective.out_dim=1", "objective.out_dim = 1 is out of range: it lies in 2 or more"),
        ("objective.teacher_temp=0", "objective.teacher_temp = 0.0 is out of range"),
        ("named=[seed]", "unknown key 'named'"),
        ("optim.lr=fast", "optim.lr wants a number, got 'fast'"),
        ("train.batch_size=1.5", "train.batch_size wants a whole number"),
        ("train.compile=3", "train.compile wants true or false"),
        ("objective.momentum=1.2", r"objective.momentum = 1.2 is out of range: .* \[0, 1\]"),
        ("views.global_scale=[0.9, 0.2]", "views.global_scale.*out of order"),
        ("views.global_scale=0.5", "views.global_scale wants 2 numbers"),
        ("model.arch=vit_smal", "did you mean 'vit_small'"),
        ("optim.lr", "--set wants key=value"),
        ("optim.lr=[1", "not a value that YAML can read"),
    ],
)
def test_mistakes_are_named(change, sentence):
    with pytest.raises(UserError, match=sentence):
        configure("dino", preset="smoke", changes=parse_assignments([change]))


@pytest.mark.parametrize(
    ("method", "key"),
    [
        *((method, "out_dim") for method in ("byol", "simclr", "moco", "swav")),
        ("dino", "head_bottleneck_dim"),
        ("dinov2", "patch_bottleneck_dim"),
    ],
)
def test_unit_vectors_have_two_dimensions_or_more(method, key):
    """In one they are 1 or -1, and nothing has a gradient."""
    with pytest.raises(UserError, match=f"objective.{key} = 1 is out of range"):
        configure(method, changes={f"objective.{key}": 1})
    assert configure(method, changes={f"objective.{key}": 2})


def test_a_configuration_remembers_what_its_caller_named():
    config = configure("dino", preset="smoke", changes={"optim.lr": 1e-3}).changed({"seed": 1})
    assert config.named == {"optim.lr", "seed"}
    assert config == configure("dino", preset="smoke", changes={"optim.lr": 1e-3, "seed": 1})
    assert "named" not in flatten(config) and "named" not in config.dump()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("dinno",), "unknown method 'dinno': did you mean 'dino'"),
        (("dino", "scenes", "huge"), "unknown preset 'huge'"),
    ],
)
def test_unknown_method_and_preset(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        configure(*arguments)


def test_values_are_read_as_their_type():
    words = ["optim.lr=1e-3", "train.compile=true", "views.local_scale=[.1,.3]"]
    changes = parse_assignments(words)
    config = configure("dino", preset="smoke", changes=changes | {"train.epochs": 3})
    assert config.optim.lr == 1e-3 and config.train.compile is True
    assert config.views.local_scale == (0.1, 0.3) and config.train.epochs == 3.0


@pytest.mark.parametrize(
    "method, optim, train, objective, views",
    [
        (
            "simclr",  # Chen et al. 2020, sections 2 and 3, appendix A
            {"name": "lars", "lr": 0.3, "warmup_epochs": 10, "weight_decay": 1e-6},
            {"epochs": 1000, "batch_size": 4096},
            {"temperature": 0.1, "hidden_dim": 2048, "out_dim": 128},
            {"global_scale": (0.08, 1.0), "brightness": 0.8, "saturation": 0.8, "hue": 0.2},
        ),
        (
            "moco",  # facebookresearch/moco, v2
            {"name": "sgd", "lr": 0.03, "warmup_epochs": 0, "weight_decay": 1e-4},
            {"epochs": 200, "batch_size": 256},
            {"temperature": 0.2, "queue": 65536, "momentum": 0.999, "out_dim": 128},
            {"global_scale": (0.2, 1.0), "brightness": 0.4, "saturation": 0.4, "hue": 0.1},
        ),
        (
            "swav",  # facebookresearch/swav, 800 epochs: lr 4.8 for a batch of 4096
            {"name": "lars", "lr": 4.8 * 256 / 4096, "lr_final": 0.0048, "weight_decay": 1e-6},
            {"epochs": 800, "batch_size": 4096},
            {"temperature": 0.1, "sinkhorn_temp": 0.05, "prototypes": 3000},
            {"local_crops": 6, "global_scale": (0.14, 1.0), "local_scale": (0.05, 0.14)},
        ),
        (
            "rotation",  # Gidaris et al. 2018, section 3.2: lr 0.01 for a batch of 192
            {"name": "sgd", "lr": 0.01 * 256 / 192, "weight_decay": 5e-4},
            {"epochs": 30, "batch_size": 192},
            {},
            {"global_size": 224, "global_scale": (0.08, 1.0), "jitter_p": 0.0},
        ),
        (
            "jigsaw",  # Noroozi and Favaro 2016, section 4
            {"name": "sgd", "lr": 0.01},
            {"batch_size": 256},
            {"grid": 3, "tile_size": 64, "permutations": 1000, "tile_dim": 512, "hidden_dim": 4096},
            {"global_size": 225, "gray_p": 0.3},
        ),
        (
            "supervised",  # Goyal et al. 2017
            {"name": "sgd", "lr": 0.1, "warmup_epochs": 5, "weight_decay": 1e-4},
            {"epochs": 90, "batch_size": 256},
            {},
            {"global_scale": (0.08, 1.0)},
        ),
    ],
)
def test_paper_presets_are_the_papers_recipes(method, optim, train, objective, views):
    config = configure(method, preset="paper")
    assert config.model.arch == "resnet50"
    for group, expected in (
        (config.optim, optim | {"clip": 0.0}),
        (config.train, train),
        (config.objective, objective),
        (config.views, views),
    ):
        for name, value in expected.items():
            assert getattr(group, name) == pytest.approx(value), name


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_explains_itself(method):
    config = configure(method)
    described = list(describe(config))
    assert [one.key for one in described] == list(flatten(config))
    for one in described:
        assert one.help.endswith("."), one.key


def test_the_bounds_are_those_that_are_checked():
    bounds = {one.key: one.bounds for one in describe(configure("dino"))}
    assert bounds["views.hue"] == "[0, 0.5]" and bounds["optim.lr"] == "0 or more"
    assert bounds["optim.lr_scaling"] == "one of linear, sqrt" and bounds["train.init"] == ""
    assert bounds["model.stem"] == "one of patch, conv, conv_local, null"


def test_runs_from_before_whole_photographs_were_trained_on_the_centre(tmp_path):
    lines = configure("dino").dump().splitlines(keepends=True)
    assert "data.fit: whole\n" in lines
    (tmp_path / "config.yaml").write_text("".join(x for x in lines if not x.startswith("data.fit")))
    assert read_config(tmp_path / "config.yaml").data.fit == "center"
