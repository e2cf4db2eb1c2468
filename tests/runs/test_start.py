"""Going on from a backbone alone: its architecture, its weights, fresh heads that learn first."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from dino_tutorial import configure, load_run, train
from dino_tutorial.cli import main
from dino_tutorial.models import VisionTransformer
from dino_tutorial.models.weights_file import read_encoder
from dino_tutorial.runs import build_method, record, start_from
from dino_tutorial.runs.start import with_architecture
from dino_tutorial.training.checkpoint import CURRENT, PREVIOUS

CHECKPOINTS = Path(__file__).resolve().parents[2] / "data" / "checkpoints"
TRAINED = CHECKPOINTS / "dino-scenes-laptop-s0"
NAME = "vit_small_patch14_reg4_dinov2.lvd142m"
TINY = {"img_size": 70, "depth": 2, "embed_dim": 64, "num_heads": 1}
STEPS = {  # two of three steps frozen
    "train.freeze_backbone_steps": 2,
    "train.checkpoint_every": 1,
    "train.epochs": 1,
    "train.batch_size": 16,
    "data.limit": 48,
    "optim.warmup_epochs": 0,
    "optim.layer_decay": 0.8,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file of timm's DINOv2 architecture with registers; its weights were drawn."""
    torch.manual_seed(0)
    donor = timm.create_model(NAME, **TINY)
    path = tmp_path_factory.mktemp("released") / "model.safetensors"
    save_file(donor.state_dict(), path)
    return path


@pytest.mark.parametrize("method", ["dino", "dinov2"])
def test_a_run_takes_the_architecture_and_the_weights(released, method):
    config = configure(method, preset="smoke", changes={"train.init": str(released)})
    config, told = with_architecture(config)
    assert config.model.patch_size == 14 and config.model.num_register_tokens == 4
    assert (config.model.embed_dim, config.model.depth, config.model.num_heads) == (64, 2, 1)
    assert config.views.global_size % 14 == 0 == config.views.local_size % 14
    assert "model.patch_size = 14" in told and "views.global_size" in told
    built, donor = build_method(config), read_encoder(released)
    heads = {name: value.clone() for name, value in built.student.head.state_dict().items()}
    start_from(built, released)
    images = torch.randn(2, 3, config.views.global_size, config.views.global_size)
    for backbone in built.backbones:
        assert backbone.grid_size != donor.grid_size  # its positions were interpolated
        torch.testing.assert_close(backbone.eval()(images), donor(images), atol=1e-5, rtol=1e-5)
        for name, value in donor.state_dict().items():
            assert name in ("pos_embed", "mask_token") or torch.equal(
                backbone.state_dict()[name], value
            ), name
    assert all(torch.equal(built.student.head.state_dict()[name], heads[name]) for name in heads)


@pytest.mark.slow
def test_the_backbones_stay_for_the_frozen_steps_and_then_learn(released, tmp_path, capsys):
    changes = STEPS | {"train.init": str(released), "folder": str(tmp_path)}
    changes |= {"views.global_size": 28, "data.image_size": 28}  # scenes have 16 px or more
    run = train(configure("dinov2", preset="smoke", changes=changes))
    assert "note: as " in capsys.readouterr().err
    donor = read_encoder(released)
    positions = donor.positions(*run.encoder().grid_size).detach()
    begun = donor.state_dict() | {"pos_embed": positions}
    states = {
        name: torch.load(run.folder / name, weights_only=True) for name in (PREVIOUS, CURRENT)
    }
    assert [state["step"] for state in states.values()] == [2, 3]
    for network in ("student.backbone.", "teacher.network.backbone."):
        then, after = (
            {
                name.removeprefix(network): value
                for name, value in state["method"].items()
                if name.startswith(network)
            }
            for state in states.values()
        )
        assert then.keys() == begun.keys()
        assert all(torch.equal(then[name], begun[name]) for name in begun), network
        assert not all(torch.equal(after[name], begun[name]) for name in begun), network
    heads = [state["method"]["student.head.mlp.0.weight"] for state in states.values()]
    assert not torch.equal(*heads)
    # Resumed at the step where the backbone is freed, by the settings of the caller.
    (run.folder / CURRENT).unlink()
    (run.folder / "summary.json").unlink()
    again = train(configure("dinov2", preset="smoke", changes=changes), resume=True)
    state = torch.load(again.folder / CURRENT, weights_only=True)
    for name, value in states[CURRENT]["method"].items():
        assert torch.equal(state["method"][name], value), name
    kept = record(again, tmp_path / "kept")
    assert str(released.parent.parent) not in (kept / "config.yaml").read_text()
    assert "model.patch_size=14" in (kept / "command.txt").read_text()


def test_a_released_name_is_one_too(monkeypatch):
    torch.manual_seed(0)
    shape = {"img_size": 70, "patch_size": 14, "embed_dim": 384, "depth": 12, "num_heads": 6}
    small = VisionTransformer(**shape, layer_scale_init=1e-5)
    monkeypatch.setattr("dino_tutorial.runs.encoders.pretrained", lambda name: small)
    config = configure("dino", preset="smoke", changes={"train.init": "dinov2_vits14"})
    config, _ = with_architecture(config)
    assert (config.model.arch, config.model.embed_dim) == ("vit_small", None)
    built = build_method(config)
    start_from(built, "dinov2_vits14")
    last = built.student.backbone.blocks[11].mlp.fc2.weight
    assert torch.equal(last, small.blocks[11].mlp.fc2.weight)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.patch_size": 16}, "does not fit model.patch_size = 16"),
        ({"model.arch": "vit_tiny"}, "--set model.arch=vit_small --set model.patch_size=14"),
        ({"views.global_size": 32}, "is not a multiple of the patch size 14"),
        ({"model.stem": "conv"}, "does not fit model.stem = conv"),
    ],
)
def test_settings_against_the_weights_are_one_sentence(
    released, changes, sentence, tmp_path, capsys
):
    words = ["train", "dino", "--preset", "smoke", "--device", "cpu", "--folder", str(tmp_path)]
    for key, value in {"train.init": released, **changes}.items():
        words += ["--set", f"{key}={value}"]
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dino-tutorial: ") and sentence in error
    assert list(tmp_path.iterdir()) == []


def test_what_agrees_may_be_named(released):
    changes = {"model.patch_size": 14, "model.drop_path_rate": 0.2, "train.init": str(released)}
    config, _ = with_architecture(configure("dino", preset="smoke", changes=changes))
    assert (config.model.patch_size, config.model.drop_path_rate) == (14, 0.2)
    assert config.model.num_register_tokens == 4


@pytest.mark.parametrize(
    "name, stem", [("dino-scenes-laptop-s0", "conv"), ("dino-patterns-laptop-s0", "conv_local")]
)
def test_the_backbone_of_a_run_begins_another_method(name, stem):
    run = load_run(CHECKPOINTS / name)
    changes = {"train.init": str(run.folder / "backbone.safetensors")}
    config, _ = with_architecture(configure("byol", preset="smoke", changes=changes))
    assert config.model.stem == stem
    built, trained = build_method(config), run.encoder()
    start_from(built, changes["train.init"])
    images = torch.randn(2, 3, 32, 32)
    for backbone in built.backbones:
        torch.testing.assert_close(backbone.patch_embed(images), trained.patch_embed(images))
        for name, value in trained.blocks.state_dict().items():
            assert torch.equal(backbone.blocks.state_dict()[name], value), name
