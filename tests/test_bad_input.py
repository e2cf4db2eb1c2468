"""Bad input to every command and public function: one sentence, exit code 2, nothing half-written.

A row of the table is what is wrong, the words of a command (or a call of the library), and words
that the sentence has to have: what is wrong, and what to do. New cases are a line each.
"""

import ctypes
import json
import math
import os
import re
import shutil
import struct
import sys
from functools import partial
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dino_tutorial
from dino_tutorial import configure, evaluate, load_run, losses, models
from dino_tutorial import evaluation as ev
from dino_tutorial.cli import main
from dino_tutorial.curation.command import curate_pool
from dino_tutorial.datasets import Davis, open_dataset, write_shards
from dino_tutorial.errors import UserError
from dino_tutorial.grading import grade_folder
from dino_tutorial.methods.schedules import cosine_schedule, linear_warmup
from dino_tutorial.models.notes import digest, with_notes
from dino_tutorial.runs import read_config, record
from dino_tutorial.runs.encoders import open_encoder
from dino_tutorial.runs.show import show

pytestmark = pytest.mark.slow  # many small commands
RUN = Path(__file__).resolve().parents[1] / "data" / "checkpoints" / "dino-scenes-laptop-s0"
LONG = "x" * 5000
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with a run and every kind of thing that can lie in a file's place."""
    root = tmp_path_factory.mktemp("original")
    shutil.copytree(RUN, root / "run")
    (root / "empty").mkdir()
    (root / "file").write_text("in the way")
    (root / "broken").mkdir()
    for name, content in BROKEN_IMAGES.items():
        (root / "broken" / name).write_bytes(content)
    (root / "few").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 9, 200)).save(root / "few" / f"{number}.png")
    for number in range(4):
        path = root / "kinds" / ("red", "blue")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 9, 200)).save(path)
    _write_weights(root)
    _write_features(root)
    (root / "notebooks").mkdir()
    (root / "notebooks" / "one.ipynb").write_text("{}")
    (root / "byol.ipynb").write_text("{}")
    (root / "d.safetensors").mkdir()
    (root / "junk.tar").write_bytes(bytes(range(256)) * 20)
    return root


def _write_weights(root):
    """Files that are called like weights, and are none that can be used."""
    state = load_file(RUN / "backbone.safetensors")
    notes = {"num_heads": "3", "stem": "conv"}
    kinds = {
        "nan": lambda x: x * NAN,
        "int8": lambda x: x.to(torch.int8),
        "complex": lambda x: x.to(torch.complex64),
    }
    for kind, change in kinds.items():
        changed = {name: change(value) for name, value in state.items()}
        save_file(changed, root / f"{kind}.safetensors", with_notes(**notes))
    of_others = notes | {"sha256": digest(state | {"cls_token": state["cls_token"] + 1})}
    for kind, noted in {
        "other": of_others,
        "no-heads": {},
        "heads": notes | {"num_heads": "many"},
        "seven": notes | {"num_heads": "7"},
        "stem": notes | {"stem": "none"},
    }.items():
        save_file(state, root / f"{kind}.safetensors", with_notes(**noted))
    flat = state | {"register_tokens": torch.zeros(96)}
    save_file(flat, root / "flat.safetensors", with_notes(**notes))
    save_file({"x": torch.zeros(2)}, root / "x.safetensors")
    torch.save([1, 2], root / "list.pth")
    torch.save({}, root / "none.pth")
    (root / "short.pth").write_bytes(b"PK\3\4" + bytes(100))
    (root / "page.pth").write_text("<!doctype html>")


def _write_features(root):
    """Files that are called like those of embed, and hold other things."""
    right = {"files": np.array(list("abcd")), "labels": np.array([0, 1, 0, 1]), "image_size": 32}
    right |= {"classes": np.array(["a", "b"]), "weights": open_encoder(RUN).digest}
    right |= {"features": np.ones((4, 96), np.float32)}
    for kind, change in {
        "right": {},
        "rows": {"features": np.ones((3, 96), np.float32)},
        "flat": {"features": np.ones(4, np.float32)},
        "text": {"features": np.array([list("abcd")]).T},
        "nan": {"features": np.full((4, 96), np.nan, np.float32)},
        "labels": {"labels": np.array([0, 1, 2, 3])},
        "negative": {"labels": np.array([0, 1, -2, 1])},
        "objects": {"files": np.array([print, 1, 2, 3], dtype=object)},
        "encoder": {"weights": "0"},
    }.items():
        np.savez(root / f"{kind}.npz", **right | change)
    whole = (root / "right.npz").read_bytes()
    (root / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (root / "words.npz").write_text("no archive")
    np.save(root / "array.npy", np.ones(3))
    (root / "array.npy").rename(root / "array.npz")


BROKEN_IMAGES = {
    "empty.png": b"",
    "text.jpg": b"not an image",
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "bomb.bmp": b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0"
    + (100_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24),
}  # fmt: skip


@pytest.fixture(scope="module")
def copies(original, tmp_path_factory):
    """Copies of it, one after the other: a new one where a test has changed the last."""
    last, before = None, None

    def copy():
        nonlocal last, before
        if last is None or state_of(last) != before:
            last = tmp_path_factory.mktemp("copy") / "place"
            shutil.copytree(original, last, symlinks=True)
            os.mkfifo(last / "pipe")
            (last / "loop").symlink_to("loop")
            before = state_of(last)
        return last

    return copy


def state_of(folder):
    """What tells whether anything below a folder was changed."""
    states = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in states.items()}


@pytest.fixture
def place(copies, monkeypatch):
    """A fresh copy of it, as the working folder."""
    place = copies()
    monkeypatch.chdir(place)
    return place


def one_sentence(text: str) -> str:
    """The sentence, after what every one of them has to be."""
    assert "\n" not in text and "Traceback" not in text and text.strip() == text
    assert len(text) < 1200, "too long to read"
    assert re.search(r"[:;,(]", text), f"no remedy: {text}"
    assert "(None)" not in text and " ()" not in text
    return text


def command(capsys, words) -> str:
    code = main([str(word) for word in words])
    out, error = capsys.readouterr()
    assert code == 2, error
    lines = [line for line in error.splitlines() if line.startswith("dino-tutorial: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert out == ""
    return one_sentence(lines[0].removeprefix("dino-tutorial: "))


def train(*words):
    return ["train", "dino", "--preset", "smoke", "--device", "cpu", *words]


def setting(assignment):
    return train("--set", assignment)


def evaluating(*words):
    return ["eval", "run", "--device", "cpu", "--limit", "40", *words]


def embedding(*words):
    return ["embed", "run", "--data", "few", "--out", "a.npz", "--device", "cpu", *words]


def embedding_by(weights):
    return ["embed", weights, "--data", "few", "--out", "a.npz", "--device", "cpu"]


def classifying(*words):
    return ["classify", "run", "--data", "few", "--device", "cpu", *words]


def curating(*words):
    return ["curate", "--pool", "few", "--device", "cpu", "--out", "curated", *words]


COMMANDS = {
    # names are no paths
    "name up": (train("--name", "../../x"), "cannot name a folder"),
    "name absolute": (train("--name", "/tmp/x"), "cannot name a folder"),
    "name slash": (train("--name", "a/b"), "cannot name a folder"),
    "name dots": (train("--name", ".."), "cannot name a folder"),
    "name dot": (train("--name", "."), "cannot name a folder"),
    "name newline": (train("--name", "a\nb"), "cannot name a folder"),
    "name nul": (train("--name", "a\0b"), "cannot name a folder"),
    "name long": (train("--name", LONG), "at most 200 bytes"),
    "name empty": (train("--name", ""), "cannot name a folder"),
    "name dash": (train("--name=-x"), "cannot name a folder"),
    "name hidden": (train("--name", ".x"), "cannot name a folder"),
    "name by --set": (setting("name=../x"), "cannot name a folder"),
    "name number": (setting("name=3"), "name wants text"),
    "record name": (["record", "run", "--into", "out", "--name", "../x"], "cannot name a folder"),
    "record empty": (["record", "run", "--into", "out", "--name", ""], "cannot name a folder"),
    "record nul": (["record", "run", "--into", "out", "--name", "a\0"], "cannot name a folder"),
    "record long": (["record", "run", "--into", "out", "--name", LONG], "cannot name a folder"),
    # places
    "folder file": (train("--folder", "file"), "cannot be written"),
    "folder below file": (train("--folder", "file/x"), "whose parents are folders"),
    "folder pipe": (train("--folder", "pipe"), "cannot be written"),
    "folder loop": (train("--folder", "loop"), "loop"),
    "folder long": (train("--folder", LONG), "too long"),
    "folder nobody": (train("--folder", "~nobody-here/x"), "write the whole path"),
    "folder nul": (train("--folder", "a\0b"), "is no path"),
    "folder empty": (train("--folder", ""), "is no path"),
    "resume nothing": (train("--resume"), "start it without --resume"),
    "resume in file": (train("--resume", "--folder", "file"), "nothing to resume"),
    "name taken": (train("--folder", ".", "--name", "few"), "take another --name"),
    "name of run": (train("--folder", ".", "--name", "run"), "continue it with --resume"),
    "name of file": (train("--folder", ".", "--name", "file"), "is a file"),
    # data
    "data unknown": (train("--data", "cifar1O"), "Did you mean cifar10"),
    "data missing": (train("--data", "no/such"), "give an existing folder"),
    "data empty": (train("--data", "empty"), "no images in empty"),
    "data broken": (train("--data", "broken"), "none of the"),
    "data file": (train("--data", "./file"), "is a file"),
    "data pipe": (train("--data", "./pipe"), "is a file"),
    "data loop": (train("--data", "./loop"), "loop"),
    "data long": (train("--data", LONG), "too long"),
    "data nul": (train("--data", "a\0b"), "a data set's name or a path was expected"),
    "data nobody": (train("--data", "~nobody-here/x"), "write the whole path"),
    "data blank": (train("--data", ""), "Give the path of a folder"),
    "shards broken": (train("--data", "junk.tar"), "give .tar files of images"),
    "shards missing": (train("--data", "no-{00..03}.tar"), "there is no shard"),
    "shards without end": (train("--data", "no-{0..99999999999}.tar"), "names more than"),
    "shards many": (train("--data", "no-{0..999999}.tar"), "names more than"),
    # settings
    "key unknown": (setting("optim.lrr=1"), "did you mean 'optim.lr'"),
    "key of none": (
        ["train", "rotation", "--preset", "smoke", "--set", "objective.x=1"],
        "there is nothing to set under objective"),
    "clip rule": (setting("optim.clip_rule=none"), "is unknown: it is one of"),
    "width fraction": (setting("objective.out_dim=1.5e0"), "a whole number"),
    "width exponent": (setting("model.embed_dim=9e9"), "out of range"),
    "key group": (setting("optim=1"), "unknown key"),
    "key none": (setting("=1"), "wants key=value"),
    "no equals": (setting("optim.lr"), "wants key=value"),
    "no yaml": (setting("optim.lr=[1"), "YAML"),
    "lr text": (setting("optim.lr=fast"), "wants a number"),
    "lr list": (setting("optim.lr=[1]"), "wants a number"),
    "lr null": (setting("optim.lr=null"), "wants a number"),
    "lr bool": (setting("optim.lr=true"), "wants a number"),
    "lr negative": (setting("optim.lr=-1"), "out of range"),
    "lr date": (setting("optim.lr=2020-01-01"), "wants a number"),
    "lr nan": (setting("optim.lr=.nan"), "out of range"),
    "lr inf": (setting("optim.lr=.inf"), "out of range"),
    "epochs inf": (setting("train.epochs=.inf"), "out of range"),
    "epochs huge": (setting("train.epochs=1e300"), "out of range"),
    "epochs nan": (setting("train.epochs=.nan"), "out of range"),
    "epochs zero": (setting("train.epochs=0"), "out of range"),
    "warmup inf": (setting("optim.warmup_epochs=.inf"), "out of range"),
    "decay inf": (setting("optim.weight_decay=.inf"), "out of range"),
    "clip nan": (setting("optim.clip=.nan"), "out of range"),
    "batch one": (setting("train.batch_size=1"), "out of range"),
    "batch huge": (setting("train.batch_size=1000000000000"), ""),
    "batch text": (setting("train.batch_size=many"), "a whole number"),
    "batch fraction": (setting("train.batch_size=2.5"), "a whole number"),
    "seed negative": (train("--seed", "-1"), "out of range"),
    "seed huge": (train("--seed", "9" * 40), "out of range"),
    "limit zero": (setting("data.limit=0"), "out of range"),
    "limit huge": (setting("data.limit=1000000000000000"), "out of range"),
    "canvas huge": (setting("data.image_size=1000000"), "out of range"),
    "width huge": (setting("model.embed_dim=8000000000"), "out of range"),
    "depth huge": (setting("model.depth=100000000"), "out of range"),
    "patch zero": (setting("model.patch_size=0"), "out of range"),
    "heads zero": (setting("model.num_heads=0"), "out of range"),
    "heads odd": (setting("model.num_heads=7"), "num_heads=7"),
    "arch unknown": (setting("model.arch=vit_smal"), "did you mean 'vit_small'"),
    "temperature zero": (setting("objective.student_temp=0"), "out of range"),
    "temperature nan": (setting("objective.student_temp=.nan"), "out of range"),
    "scale order": (setting("views.global_scale=[1.0,0.4]"), "out of order"),
    "scale nan": (setting("views.global_scale=[.nan,1.0]"), "out of range"),
    "scale short": (setting("views.global_scale=[0.4]"), "wants 2 numbers"),
    "workers negative": (setting("train.workers=-1"), "out of range"),
    "workers many": (setting("train.workers=1000000"), "out of range"),
    "k zero": (setting("knn.k=0"), "out of range"),
    "knn temperature": (setting("knn.temperature=0"), "out of range"),
    "method": (["train", "dinno"], "did you mean 'dino'"),
    "method empty": (["train", ""], "unknown method"),
    "preset": (["train", "dino", "--preset", "lap"], "unknown preset"),
    "device": (["train", "dino", "--device", "gpu"], "device"),
    "init missing": (setting("train.init=no/such"), "not a run's folder"),
    "init name": (setting("train.init=dinov2_vits15"), "did you mean the released dinov2_vits14"),
    "init dinov3": (setting("train.init=dinov3_vits16"), "rotary position embeddings"),
    "init text": (setting("train.init=file"), "is a text and no file of weights"),
    "init nan": (setting("train.init=nan.safetensors"), "NaN or infinity in"),
    "init int8": (setting("train.init=int8.safetensors"), "name weights in floating point"),
    "init image": (setting("train.init=few/0.png"), "is an image and no file of weights"),
    "init pipe": (setting("train.init=pipe"), "it is a pipe, not a file"),
    "init record": (setting("train.init=run"), "name the folder that the run was trained in"),
    "init number": (setting("train.init=3"), "wants text"),
    "init empty": (setting("train.init=''"), "is no path"),
    "init patch": (
        train("--set", "train.init=run/backbone.safetensors", "--set", "model.patch_size=4"),
        "model.patch_size=8",
    ),
    "freeze negative": (setting("train.freeze_backbone_steps=-1"), "out of range"),
    "freeze all": (setting("train.freeze_backbone_steps=1000000"), "freeze it for fewer"),
    # distillation
    "teacher missing": (["distill", "no/such"], "not a run's folder"),
    "teacher file": (["distill", "file"], "an encoder without the heads"),
    "teacher empty": (["distill", "empty"], "not a run's folder"),
    "teacher record": (
        ["distill", "run", "--preset", "smoke", "--device", "cpu"],
        "name the folder that the run was trained in",
    ),
    # evaluation
    "run missing": (["eval", "no/such"], "not a run's folder"),
    "run file": (["eval", "file"], "not a run's folder"),
    "run pipe": (["eval", "pipe"], "not a run's folder"),
    "run empty": (["eval", "empty"], "not a run's folder"),
    "run long": (["eval", LONG], "too long"),
    "run nul": (["eval", "a\0b"], "is no path"),
    "run blank": (["eval", ""], "is no path"),
    "run nobody": (["eval", "~nobody-here/x"], "write the whole path"),
    "eval k 0": (evaluating("--k", "0"), "k must be 1 to"),
    "eval k -1": (evaluating("--k", "-1"), "k must be 1 to"),
    "eval k many": (evaluating("--k", "4000"), "use a k from 1 to"),
    "eval t 0": (evaluating("--temperature", "0"), "temperature is 0"),
    "eval t nan": (evaluating("--temperature", "nan"), "temperature is nan"),
    "eval t inf": (evaluating("--temperature", "inf"), "temperature is inf"),
    "eval limit": (["eval", "run", "--limit", "0"], "limit must be"),
    "eval limit huge": (["eval", "run", "--limit", "9" * 30], "limit must be"),
    "eval size 0": (evaluating("--size", "0"), "image_size must be"),
    "eval size huge": (evaluating("--size", "100000"), "image_size must be"),
    "eval size patch": (evaluating("--size", "33"), "cannot be cut into patches"),
    "eval device": (["eval", "run", "--device", "gpu"], "use auto, cuda"),
    "eval data": (evaluating("--data", "no/such"), "give an existing folder"),
    "eval unlabelled": (evaluating("--data", "few"), "use images by class"),
    # record, report, show, export
    "record missing": (["record", "no/such"], "not a run's folder"),
    "record into file": (["record", "run", "--into", "file"], "cannot be written"),
    "record over others": (
        ["record", "run", "--into", ".", "--name", "few"], "take another --name"),
    "report missing": (["report", "no/such"], "not a run's folder"),
    "show missing": (["show", "no/such", "pca"], "not a run's folder"),
    "show n": (["show", "run", "pca", "--n", "0"], "--n must be 1 to"),
    "show n huge": (["show", "run", "pca", "--n", "100000000"], "--n must be 1 to"),
    "show ending": (["show", "run", "pca", "--out", "a.bmp"], "has to end in"),
    "show no folder": (["show", "run", "pca", "--out", "no/a.png"], "make it first"),
    "show below file": (["show", "run", "pca", "--out", "file/a.png"], "make it first"),
    "show long": (["show", "run", "pca", "--out", f"{LONG}.png"], "too long"),
    "show size": (["show", "run", "pca", "--size", "0"], "image_size must be"),
    "show data": (["show", "run", "pca", "--data", "empty"], "no images in empty"),
    "show released": (["show", "dino_vits16", "pca"], "name some with --data"),
    "export missing": (["export", "no/such", "--out", "a.safetensors"], "not a run's folder"),
    "export ending": (["export", "run", "--out", "a.pt"], "has to end in"),
    "export no folder": (["export", "run", "--out", "no/a.safetensors"], "make it first"),
    "export timm": (["export", "run", "--to", "timm", "--out", "o"], "--set model.stem=patch"),
    "export hf": (["export", "run", "--to", "hf", "--out", "o"], "--set model.stem=patch"),
    "export onnx": (["export", "run", "--to", "onnx", "--out", "a.pt"], "has to end in .onnx"),
    "export folder": (["export", "run", "--out", "d.safetensors"], "name a file with --out"),
    "export empty": (["export", "run", "--out", ""], "is no path"),
    "export loop": (["export", "run", "--out", "loop/a.safetensors"], "loop"),
    # features of one's own images
    "embed missing": (["embed", "no/such", "--data", "few", "--out", "a.npz"], "not a run's"),
    "embed name": (["embed", "dino_vits17", "--data", "few", "--out", "a.npz"], "did you mean"),
    "embed dinov3": (
        ["embed", "vit_small_patch16_dinov3", "--data", "few", "--out", "a.npz"],
        "of DINOv3's there are dinov3_vits16,",
    ),
    "embed text": (embedding_by("file"), "is a text and no file of weights"),
    "embed pipe": (["embed", "pipe", "--data", "few", "--out", "a.npz"], "cannot be read"),
    "embed no run": (["embed", "empty", "--data", "few", "--out", "a.npz"], "has no config.yaml"),
    "embed long": (["embed", LONG, "--data", "few", "--out", "a.npz"], "too long"),
    "embed data": (embedding("--data", "no/such"), "give an existing folder"),
    "embed nothing": (embedding("--data", "empty"), "no images in empty"),
    "embed broken": (embedding("--data", "broken"), "none of the 5 image files"),
    "embed ending": (embedding("--out", "a.txt"), "has to end in .npz"),
    "embed no folder": (embedding("--out", "no/a.npz"), "make it first"),
    "embed long out": (embedding("--out", f"{LONG}.npz"), "too long"),
    "embed patches": (embedding("--out", "a.csv", "--patches"), "no room for patches"),
    "embed size": (embedding("--size", "0"), "image_size must be"),
    "embed size patch": (embedding("--size", "33"), "cannot be cut into patches"),
    "embed nan": (embedding_by("nan.safetensors"), "NaN or infinity in"),
    "embed int8": (embedding_by("int8.safetensors"), "name weights in floating point"),
    "embed complex": (embedding_by("complex.safetensors"), "name weights in floating point"),
    "embed changed": (embedding_by("other.safetensors"), "its checksum is wrong"),
    "embed no heads": (embedding_by("no-heads.safetensors"), "name the run's folder"),
    "embed heads": (embedding_by("heads.safetensors"), "notes 'many' attention heads"),
    "embed seven heads": (embedding_by("seven.safetensors"), "cannot be shared by num_heads=7"),
    "embed stem": (embedding_by("stem.safetensors"), "stem='none' is unknown"),
    "embed flat": (embedding_by("flat.safetensors"), "no register_tokens of 3 dimensions"),
    "embed x": (embedding_by("x.safetensors"), "holds no vision transformer"),
    "embed list": (embedding_by("list.pth"), "a list instead of a state dict: name a file of"),
    "embed none": (embedding_by("none.pth"), "holds no vision transformer"),
    "embed short": (embedding_by("short.pth"), "empty, cut short or damaged"),
    "embed page": (embedding_by("page.pth"), "is a web page"),
    "embed an image": (embedding_by("few/0.png"), "is an image and no file of weights"),
    "embed a config": (embedding_by("run/config.yaml"), "is a text and no file of weights"),
    "embed features": (embedding_by("right.npz"), "cannot be read as weights"),
    "embed device": (embedding("--device", "x"), "use auto, cuda"),
    "classify missing": (["classify", "no/such", "--data", "few"], "not a run's folder"),
    "classify flat": (classifying(), "has no classes"),
    "classify data": (classifying("--data", "no/such"), "give an existing folder"),
    "classify npz": (classifying("--data", "no.npz"), "make it by"),
    "classify rows": (classifying("--data", "rows.npz"), "4 files do not go with features (3, 96)"),
    "classify flat features": (classifying("--data", "flat.npz"), "do not go with features (4,)"),
    "classify text": (classifying("--data", "text.npz"), "features of type <U1"),
    "classify nan": (classifying("--data", "nan.npz"), "NaN or infinite"),
    "classify labels": (classifying("--data", "labels.npz"), "labels from 0 to 3 of 2 classes"),
    "classify negative": (classifying("--data", "negative.npz"), "labels from -2 to 1"),
    "classify objects": (classifying("--data", "objects.npz"), "make it by dino-tutorial embed"),
    "classify cut": (classifying("--data", "cut.npz"), "make it by dino-tutorial embed"),
    "classify words": (classifying("--data", "words.npz"), "it is no archive of arrays"),
    "classify array": (classifying("--data", "array.npz"), "it is no archive of arrays"),
    "classify encoder": (classifying("--data", "encoder.npz"), "of another encoder than run"),
    "classify other size": (
        classifying("--data", "right.npz", "--size", "64"), "the images again with --size 64"),
    "classify k": (classifying("--k", "0"), "k must be 1 to"),
    "classify k -1": (classifying("--k", "-1"), "k must be 1 to"),
    "classify k many": (classifying("--data", "right.npz", "--k", "9"), "use a k from 1 to 3"),
    "classify predict": (
        classifying("--data", "right.npz", "--predict", "no/such"), "give an existing folder"),
    "classify broken": (
        classifying("--data", "right.npz", "--predict", "broken"), "none of the 5 image files"),
    "classify out": (classifying("--predict", "few", "--out", "a.txt"), "has to end in .csv"),
    "classify no folder": (classifying("--predict", "few", "--out", "no/a.csv"), "make it first"),
    "classify size": (classifying("--data", "kinds", "--size", "33"), "cannot be cut into patches"),
    # curation
    "pool missing": (["curate", "--pool", "no/such", "--out", "o"], "give an existing folder"),
    "pool empty": (["curate", "--pool", "empty", "--out", "o"], "no images in empty"),
    "pool long": (["curate", "--pool", LONG, "--out", "o"], "too long"),
    "pool nobody": (["curate", "--pool", "~nobody-here", "--out", "o"], "write the whole path"),
    "curate limit": (curating("--limit", "0"), "limit must be"),
    "curate weights": (curating("--weights", "no/such"), "not a run's folder"),
    "curate model": (curating("--weights", "dino_vits17"), "did you mean"),
    "curate set": (curating("--set", "similarity=2"), "out of range"),
    "curate nan": (curating("--set", "similarity=.nan"), "out of range"),
    "curate key": (curating("--set", "sizes=2"), "did you mean 'size'"),
    "curate seed huge": (curating("--set", "seed=99999999999"), "out of range"),
    "curate seeds broken": (curating("--seeds", "broken"), "none of the 5 image files"),
    "curate seeds blank": (curating("--seeds", ""), "is no path"),
    "curate evaluation": (curating("--evaluation", "broken"), "none of the 5 image files"),
    "curate evaluation blank": (curating("--evaluation", ""), "is no path"),
    "curate evaluation empty": (curating("--evaluation", "empty"), "no images in empty"),
    "pool broken": (["curate", "--pool", "broken", "--out", "o"], "none of the 5 image files"),
    "curate seeds": (curating("--seeds", "no/such"), "give an existing folder"),
    "curate out": (["curate", "--pool", "few", "--out", "file"], "cannot be written"),
    "curate device": (["curate", "--pool", "few", "--out", "o", "--device", "x"], "use auto, cuda"),
    # grading
    "grade missing": (["grade", "no/such"], "is not a folder"),
    "grade file": (["grade", "file"], "is not a folder"),
    "grade empty": (["grade", "empty"], "there is no notebook"),
    "grade time": (["grade", "notebooks", "--timeout", "0"], "more than 0 s"),
    "grade time nan": (["grade", "notebooks", "--timeout", "nan"], "more than 0 s"),
    "grade time inf": (["grade", "notebooks", "--timeout", "inf"], "no more than a week"),
    "grade memory": (["grade", "notebooks", "--memory", "0"], "at least 1 GiB"),
    "grade memory inf": (["grade", "notebooks", "--memory", "inf"], "GiB"),
    "grade out": (["grade", "notebooks", "--out", "no/g.csv"], "make the folder no first"),
    "grade over one": (
        ["grade", "notebooks", "--out", "notebooks/one.ipynb"], "is one of the notebooks"),
    "grade chapter": (["grade", "notebooks", "--chapter", ""], "there is no chapter"),
    "grade loop": (["grade", "loop"], "loop cannot be opened"),
    "grade out folder": (["grade", "notebooks", "--out", "empty"], "name a file"),
    # exercises to hand out
    "assignment chapter": (["assignment", "biol", "--out", "o"], "there is no chapter 'biol'"),
    "assignment path": (["assignment", "../byol", "--out", "o"], "there is no chapter"),
    "assignment file": (["assignment", "byol", "--out", "file"], "there is a file of that name"),
    "assignment below": (["assignment", "byol", "--out", "file/x"], "whose parents are folders"),
    "assignment empty": (["assignment", "byol", "--out", ""], "is no path"),
    "assignment nul": (["assignment", "byol", "--out", "a\0b"], "is no path"),
    "assignment long": (["assignment", "byol", "--out", LONG], "too long"),
    "assignment loop": (["assignment", "byol", "--out", "loop"], "loop/byol.ipynb cannot be op"),
    "assignment nobody": (["assignment", "byol", "--out", "~nobody-here"], "write the whole path"),
    "assignment there": (["assignment", "all", "--out", "."], "choose another folder with --out"),
    # settings
    "settings method": (["settings", "dinno"], "did you mean 'dino'"),
    "settings preset": (["settings", "dino", "--preset", "x"], "unknown preset"),
}  # fmt: skip


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_refuses(what, place, capsys):
    words, sentence = COMMANDS[what]
    before = faults.tree(place / "run")
    names = sorted(path.name for path in place.iterdir())
    assert sentence in command(capsys, words)
    assert sorted(path.name for path in place.iterdir()) == names
    assert faults.tree(place / "run") == before


def obeying(words):
    """A command that may not do what is forbidden, even where root runs the tests."""

    def obey():
        if os.geteuid() == 0:
            no_capabilities = struct.pack("II", 0x20080522, 0), bytes(24)  # Linux, version 3
            assert ctypes.CDLL(None).capset(*no_capabilities) == 0
        return main(words)

    return faults.run(obey)


FORBIDDEN = {  # what is closed, the words, the sentence
    "config": ("run/config.yaml", evaluating(), "ask its owner for chmod +r"),
    "backbone": ("run/backbone.safetensors", evaluating(), "ask its owner for chmod +r"),
    "summary": ("run/summary.json", ["record", "run", "--into", "o"], "ask its owner for chmod +r"),
    "rows": ("run/metrics.jsonl", ["record", "run", "--into", "o"], "ask its owner for chmod +r"),
    "run": ("run", evaluating(), "run/config.yaml cannot be opened (Permission denied)"),
    "weights": ("int8.safetensors", embedding_by("int8.safetensors"), "for chmod +r"),
    "features": ("right.npz", classifying("--data", "right.npz"), "ask its owner for chmod +r"),
    "start": ("nan.safetensors", setting("train.init=nan.safetensors"), "for chmod +r"),
    "images": ("few", embedding(), "few may not be read (Permission denied)"),
    "training images": ("few", train("--data", "few"), "few may not be read (Permission denied)"),
    "pool": ("few", curating(), "few may not be read (Permission denied): ask its owner"),
    "notebooks": ("notebooks", ["grade", "notebooks"], "ask its owner for chmod +rx"),
    "train": ("closed", train("--folder", "closed/runs"), "ask the owner of closed for chmod +x"),
    "embed": ("closed", embedding("--out", "closed/a.npz"), "closed/a.npz cannot be opened"),
    "export": ("closed", ["export", "run", "--out", "closed/a.safetensors"], "Permission denied"),
    "assignment": ("closed", ["assignment", "byol", "--out", "closed"], "Permission denied"),
    "curate": ("closed", curating("--out", "closed"), "Permission denied"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="gives up capabilities")
@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_forbidden_is_said(what, place):
    closed, words, sentence = FORBIDDEN[what]
    (place / "closed").mkdir()
    mode = (place / closed).stat().st_mode
    (place / closed).chmod(0)
    code, said = obeying(words)
    (place / closed).chmod(mode)
    assert code == 2 and "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if line.startswith("dino-tutorial: ")]
    assert sentence in one_sentence(line.removeprefix("dino-tutorial: "))
    assert not list((place / "closed").iterdir()) and not (place / "a.npz").exists()


DEEP = "[" * 100_000
DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "nul": lambda path: path.write_bytes(bytes(500)),
    "list": lambda path: path.write_text("[1, 2]\n"),
    "deep": lambda path: path.write_text(DEEP),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "loop": lambda path: (path.unlink(), path.symlink_to(path)),
    "missing": lambda path: path.unlink(),
}
READERS = {
    "config.yaml": ["eval", "run", "--device", "cpu", "--limit", "40", "--k", "3"],
    "summary.json": ["record", "run", "--into", "out"],
    "environment.json": ["record", "run", "--into", "out"],
    "backbone.safetensors": ["export", "run", "--out", "a.safetensors"],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_run_is_not_trusted(name, damage, place, capsys):
    DAMAGE[damage](place / "run" / name)
    sentence = command(capsys, READERS[name])
    assert "run" in sentence
    assert not (place / "out").exists() and not (place / "a.safetensors").exists()


@pytest.mark.parametrize(
    "content",
    [
        "1: 2\n",
        "method: [dino]\n",
        "method: 3\n",
        "method: dino\n",
        "method: dino\nseed: 2020-13-45\n",
        "method: dino\nname: ../../x\n",
        "method: dino\n? [a, b]\n: 1\n",
        "a: &a [1]\nb: [*a\n",
        "method: !!python/object/apply:os.system ['touch ran']\n",
        "method: \x07\n",
    ],
)
def test_a_configuration_is_not_trusted(content, place):
    (place / "run" / "config.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        read_config(place / "run" / "config.yaml")
    assert "config.yaml" in one_sentence(str(error.value)) or "unknown method" in str(error.value)
    assert not (place / "ran").exists()


@pytest.mark.parametrize(
    "change", [("model.arch: vit_tiny", "model.arch: resnet18"), ("method: dino", "method: dinno")]
)
def test_a_configuration_that_fits_nothing_is_named(change, place, capsys):
    path = place / "run" / "config.yaml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    assert "run/config.yaml: " in command(capsys, evaluating())


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which nothing can be made")
@pytest.mark.parametrize("words", [train("--folder", "/proc/x"), curating("--out", "/proc/x/y")])
def test_a_folder_that_cannot_be_made_is_not_asked_for(words, place, capsys):
    assert "/proc/x cannot be written" in (sentence := command(capsys, words))
    assert "choose another place, nothing can be made there" in sentence


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize("content", ["[1]\n", "\0\0\n", '{"step": 1, "loss": "low"}\n', "x\n"])
def test_rows_that_are_none_are_not_recorded(name, content, place, capsys):
    (place / "run" / name).write_text(content)
    assert f"line 1 of run/{name} is no row" in command(capsys, ["record", "run", "--into", "out"])
    assert not (place / "out").exists()


@pytest.mark.parametrize("key", ["knn_top1", "final_loss", "parameters"])
@pytest.mark.parametrize("value", ["many", [1], {"a": 1}, True])
def test_a_summary_without_numbers(key, value, place, capsys):
    path = place / "run" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert "is no number" in command(capsys, ["record", "run", "--into", "out"])
    assert not (place / "out").exists()


X, Y = torch.randn(12, 4), torch.arange(12) % 3
VIT = partial(models.VisionTransformer, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
KNN = partial(ev.knn_classify, X, Y, X)
CALLS = {
    "open list": lambda: open_dataset([1]),
    "open none": lambda: open_dataset(None),
    "open bytes": lambda: open_dataset(b"scenes"),
    "open split": lambda: open_dataset("scenes", "dev"),
    "open size float": lambda: open_dataset("scenes", image_size=32.5),
    "open size text": lambda: open_dataset("scenes", image_size="32"),
    "open size bool": lambda: open_dataset("scenes", image_size=True),
    "open limit nan": lambda: open_dataset("scenes", limit=NAN),
    "open limit text": lambda: open_dataset("scenes", limit="8"),
    "davis missing": lambda: Davis("no/such"),
    "davis none": lambda: Davis(None),
    "shards none": lambda: write_shards(open_dataset("scenes", limit=2), None),
    "shards per": lambda: write_shards(open_dataset("scenes", limit=2), "s", per_shard=0),
    "load none": lambda: load_run(None),
    "load number": lambda: load_run(3),
    "load bytes": lambda: load_run(b"run"),
    "configure none": lambda: configure(None),
    "configure preset": lambda: configure("dino", preset=None),
    "configure nan": lambda: configure("dino", changes={"optim.lr": NAN}),
    "configure bytes": lambda: configure("dino", changes={"name": b"x"}),
    "configure huge": lambda: configure("dino", changes={"train.epochs": 10**400}),
    "evaluate none": lambda: evaluate("run", k=[1]),
    "evaluate text": lambda: evaluate("run", k="20"),
    "evaluate float": lambda: evaluate("run", k=2.5),
    "evaluate list": lambda: evaluate("run", temperature=[1]),
    "evaluate nothing": lambda: evaluate(torch.nn.Flatten()),
    "evaluate device": lambda: evaluate("run", device=None),
    "show what": lambda: show(load_run("run"), "weights", Path("a.png")),
    "show none": lambda: show(load_run("run"), "pca", None),
    "record name": lambda: record(load_run("run"), Path("out"), "a/b"),
    "grade none": lambda: grade_folder(None),
    "curate none": lambda: curate_pool("few", None),
    "curate limit": lambda: curate_pool("few", "o", limit=2.5),
    "weights source": lambda: models.load_weights(VIT(), {}, "dyno"),
    "weights none": lambda: models.load_weights(VIT(), None),
    "weights empty": lambda: models.load_weights(VIT(), {}),
    "weights missing": lambda: models.load_weights(VIT(), "no.pth"),
    "weights folder": lambda: models.load_weights(VIT(), "few"),
    "weights pipe": lambda: models.load_weights(VIT(), "pipe"),
    "weights text": lambda: models.load_weights(VIT(), "file"),
    "pretrained": lambda: models.pretrained("dino_vits17"),
    "vit patch 0": lambda: VIT(patch_size=0),
    "vit heads 0": lambda: VIT(num_heads=0),
    "vit heads": lambda: VIT(num_heads=3),
    "vit depth": lambda: VIT(depth=0),
    "vit width": lambda: VIT(embed_dim=8.0),
    "vit text": lambda: VIT(embed_dim="8"),
    "vit size": lambda: VIT(img_size=9),
    "vit sizes": lambda: VIT(img_size=(8, 8, 8)),
    "vit size 0": lambda: VIT(img_size=0),
    "vit drop": lambda: VIT(drop_path_rate=NAN),
    "vit ratio": lambda: VIT(mlp_ratio=INF),
    "vit ffn": lambda: VIT(ffn="glu"),
    "vit list": lambda: VIT().forward_features([1]),
    "vit 3d": lambda: VIT()(torch.zeros(3, 8, 8)),
    "vit gray": lambda: VIT()(torch.zeros(1, 1, 8, 8)),
    "vit uint8": lambda: VIT()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
    "vit none": lambda: VIT()(torch.zeros(0, 3, 8, 8)),
    "vit odd": lambda: VIT()(torch.zeros(1, 3, 9, 8)),
    "head": lambda: models.DINOHead(8, 0),
    "head layers": lambda: models.DINOHead(8, 8, n_layers=0),
    "head text": lambda: models.BYOLHead("8"),
    "knn k 0": lambda: KNN(k=0),
    "knn k none": lambda: KNN(k=None),
    "knn k float": lambda: KNN(k=1.5),
    "knn k text": lambda: KNN(k="3"),
    "knn t 0": lambda: KNN(k=2, temperature=0),
    "knn t negative": lambda: KNN(k=2, temperature=-1.0),
    "knn t nan": lambda: KNN(k=2, temperature=NAN),
    "knn t inf": lambda: KNN(k=2, temperature=INF),
    "knn t text": lambda: KNN(k=2, temperature="1"),
    "knn lists": lambda: ev.knn_classify([["a", "b"]], Y, X, 2),
    "knn numpy": lambda: ev.knn_classify(X.numpy()[0], Y, X, 2),
    "knn none": lambda: ev.knn_classify(X, None, X, 2),
    "knn labels": lambda: ev.knn_classify(X, Y + 0.5, X, 2),
    "knn flat": lambda: ev.knn_classify(X[0], Y, X, 2),
    "knn nan": lambda: ev.knn_classify(X * NAN, Y, X, 2),
    "accuracy": lambda: ev.accuracy(X, Y, topk=0),
    "accuracy list": lambda: ev.accuracy([1], Y),
    "nearest": lambda: ev.nearest_neighbours(X, X, 0),
    "probe list": lambda: ev.linear_probe(X.tolist()[0], Y, X, Y),
    "probe labels": lambda: ev.linear_probe(X, Y + 0.5, X, Y),
    "probe steps": lambda: ev.linear_probe(X, Y, X, Y, steps=0),
    "probe fraction": lambda: ev.linear_probe(X, Y, X, Y, validation_fraction=NAN),
    "probe seed": lambda: ev.linear_probe(X, Y, X, Y, seed=-1),
    "retrieval": lambda: ev.retrieval_map(None, Y),
    "recall": lambda: ev.recall_at([1], Y),
    "pca": lambda: ev.patch_pca(X),
    "pca none": lambda: ev.patch_pca(None),
    "pca many": lambda: ev.patch_pca(X[None], 9),
    "attention": lambda: ev.attention_masks(None, (2, 2)),
    "attention mass": lambda: ev.attention_masks(torch.ones(1, 1, 4), (2, 2), NAN),
    "j and f": lambda: ev.region_and_boundary(X, X),
    "dino loss": lambda: losses.DINOLoss(0),
    "dino temp": lambda: losses.DINOLoss(4, student_temp=0),
    "dino nan": lambda: losses.DINOLoss(4, student_temp=NAN),
    "dino momentum": lambda: losses.DINOLoss(4, center_momentum=2),
    "dino list": lambda: losses.DINOLoss(4)([1], X, 0.1),
    "dino t": lambda: losses.DINOLoss(4)(torch.ones(2, 3, 4), torch.ones(2, 3, 4), 0),
    "byol none": lambda: losses.byol_loss(None, X),
    "byol int": lambda: losses.byol_loss(Y[None], Y[None]),
    "sinkhorn": lambda: losses.sinkhorn_knopp(X, NAN),
    "sinkhorn iters": lambda: losses.sinkhorn_knopp(X, 0.1, 1.5),
    "koleo": lambda: losses.KoLeoLoss()(X[0]),
    "koleo none": lambda: losses.KoLeoLoss()(None),
    "info nce": lambda: losses.info_nce(X, X, temperature=NAN),
    "info nce list": lambda: losses.info_nce([1], X),
    "distill": lambda: losses.distillation_loss(X, X, NAN),
    "schedule": lambda: cosine_schedule(NAN, 0, 10),
    "schedule inf": lambda: cosine_schedule(1, INF, 10),
    "schedule text": lambda: cosine_schedule(1, 0, "10"),
    "schedule huge": lambda: cosine_schedule(1, 0, 10**12),
    "schedule float": lambda: cosine_schedule(1, 0, 10.5),
    "warmup": lambda: linear_warmup(0, 1, 10, -1),
    "train none": lambda: dino_tutorial.train(None),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_function_refuses(what, place, unchecked):
    names = sorted(path.name for path in place.iterdir())
    with pytest.raises(UserError) as error:
        CALLS[what]()
    one_sentence(str(error.value))
    assert sorted(path.name for path in place.iterdir()) == names


def test_the_table_is_long_enough():
    assert len(COMMANDS) + len(CALLS) + len(DAMAGE) * len(READERS) >= 250
