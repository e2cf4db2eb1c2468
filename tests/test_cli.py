"""The command line as a user meets it: results, and one clear sentence for every mistake."""

import json
import shlex
import shutil
import subprocess
import sys
from functools import partial
from importlib import import_module

import pytest
import torch
from PIL import Image

from dino_tutorial import load_run
from dino_tutorial.cli import main
from dino_tutorial.evaluation import evaluate_dense

QUICK = ["--preset", "smoke", "--device", "cpu", "--set", "train.epochs=0.25"]


def say(capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refused(capsys, *arguments):
    """The one sentence of a command that has to fail with exit code 2."""
    code, out, error = say(capsys, *arguments)
    assert code == 2 and out == ""
    lines = [line for line in error.splitlines() if line.startswith("dino-tutorial:")]
    assert len(lines) == 1 and "Traceback" not in error
    return lines[0]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    assert main(["train", "dino", *QUICK, "--folder", str(root)]) == 0
    return root / "dino-scenes-smoke"


def test_train_ends_with_a_table_and_the_reports_place(capsys, tmp_path):
    code, out, _ = say(capsys, "train", "byol", *QUICK, "--folder", tmp_path)
    assert code == 0
    for words in ("k-NN, learned features", "k-NN, untrained encoder", "k-NN, raw pixels"):
        assert words in out
    assert str(tmp_path / "byol-scenes-smoke" / "report.html") in out


def test_eval_prints_the_probe_and_the_baselines(capsys, run_folder):
    code, out, _ = say(capsys, "eval", run_folder, "--limit", 128, "--linear", "--k", 5)
    assert code == 0 and "linear probe" in out and "k-NN, colour histogram" in out


def test_eval_of_patches_prints_each_measure_with_its_baselines(capsys, run_folder, monkeypatch):
    few_steps = partial(evaluate_dense, steps=5)
    monkeypatch.setattr(import_module("dino_tutorial.runs.scores"), "evaluate_dense", few_steps)
    code, out, _ = say(capsys, "eval", run_folder, "--limit", 40, "--dense", "--k", 5)
    assert code == 0
    for words in ("mIoU, learned", "mIoU, untrained", "depth RMSE, pixels", "depth delta1, mean"):
        assert words in out


def test_eval_of_patches_needs_masks_and_depth(capsys, run_folder, tmp_path):
    for split in ("train", "test"):
        for kind in ("dark", "light"):
            folder = tmp_path / split / kind
            folder.mkdir(parents=True)
            for index in range(6):
                Image.new("RGB", (32, 32), (index, 9 * index, 200)).save(folder / f"{index}.png")
    sentence = refused(capsys, "eval", run_folder, "--data", tmp_path, "--dense", "--k", 2)
    assert "no masks and depth" in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("eval", "--k", 0), "k must be 1 to 2147483647, not 0"),
        (("eval", "--temperature", 0), "temperature is 0.0: use a number, more than 0"),
        (("eval", "--temperature", "nan"), "temperature is nan: use a number, more than 0"),
        (("eval", "--size", 0), "image_size must be 1 to 4096 pixels, not 0"),
        (("eval", "--size", 8), "scenes are drawn at 16 to 512 pixels, not at 8"),
        (("eval", "--device", "tpu"), "device=tpu is unknown: use auto, "),
        (("show", "pca", "--size", 0), "image_size must be 1 to 4096 pixels, not 0"),
        (("show", "crops", "--n", 0), "--n must be 1 to 64 images, not 0"),
    ],
)
def test_bounds_of_measuring_and_showing(capsys, run_folder, tmp_path, arguments, sentence):
    command, *rest = arguments
    rest += ["--limit", 40] if command == "eval" else ["--out", tmp_path / "figure.png"]
    assert sentence in refused(capsys, command, run_folder, *rest)
    assert list(tmp_path.iterdir()) == []


def test_eval_agrees_with_the_summary(capsys, run_folder):
    from dino_tutorial import evaluate

    summary = json.loads((run_folder / "summary.json").read_text())
    again = evaluate(run_folder, limit=256)
    for key in ("knn_top1", "knn_random_init", "knn_raw_pixels", "knn_color_histogram"):
        assert again[key] == pytest.approx(summary[key], abs=1e-6)


def test_record_keeps_the_numbers_and_leaves_the_weights(capsys, run_folder, tmp_path):
    code, out, _ = say(capsys, "record", run_folder, "--into", tmp_path, "--name", "kept")
    assert code == 0 and str(tmp_path / "kept") in out
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "environment.json"} <= names
    assert not any(name.endswith((".pt", ".safetensors")) for name in names)
    assert str(run_folder.parent) not in (tmp_path / "kept" / "config.yaml").read_text()
    command = shlex.split((tmp_path / "kept" / "command.txt").read_text())
    assert command[:3] == ["dino-tutorial", "train", "dino"]
    assert command[-2:] == ["--set", "train.epochs=0.25"]


def test_record_takes_a_saved_evaluation_along(capsys, run_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    # Of the same data at the same size, the newer one is kept.
    for words in (("--k", 5), ("--k", 3), ("--k", 4, "--size", 32)):
        assert say(capsys, "eval", run, "--limit", 64, *words, "--save")[0] == 0
    assert say(capsys, "record", run, "--into", tmp_path, "--name", "kept")[0] == 0
    kept = load_run(tmp_path / "kept").evaluations
    assert list(kept) == ["scenes", "scenes at 32 px"]
    assert (kept["scenes"]["k"], kept["scenes"]["bank"]) == (3, 64)
    sizes = [(results["image_size"], results["k"]) for results in kept.values()]
    assert sizes == [(16, 3), (32, 4)]
    assert 0 <= kept["scenes"]["knn_top1"] <= 1
    assert load_run(run_folder).evaluations == {}


def test_record_with_weights_gives_an_encoder_and_its_card(capsys, run_folder, tmp_path):
    assert say(capsys, "record", run_folder, "--into", tmp_path, "--name", "w", "--weights")[0] == 0
    kept = load_run(tmp_path / "w").encoder().state_dict()
    trained = load_run(run_folder).encoder().state_dict()
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[key], trained[key]) for key in kept)
    card = (tmp_path / "w" / "card.md").read_text()
    summary = json.loads((run_folder / "summary.json").read_text())
    assert f"| these features | {summary['knn_top1']:.1%} |" in card
    assert (tmp_path / "w" / "command.txt").read_text().strip() in card


def test_report_is_written_again(capsys, run_folder):
    before = (run_folder / "report.html").read_text()
    (run_folder / "report.html").unlink()
    assert say(capsys, "report", run_folder)[0] == 0
    assert len((run_folder / "report.html").read_text()) == pytest.approx(len(before), rel=0.05)


def test_settings_and_doctor(capsys):
    code, out, _ = say(capsys, "settings", "dino", "--preset", "paper")
    assert code == 0 and "objective.out_dim: 65536" in out
    code, out, _ = say(capsys, "doctor")
    assert code == 0 and "torch:" in out and "preset laptop:" in out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["train", "dinno"], "unknown method 'dinno': did you mean 'dino'"),
        (["train", "dino", "--preset", "lap"], "unknown preset 'lap'"),
        (["train", "dino", "--data", "cifar1O"], "cifar10"),
        (["train", "dino", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "dino", "--set", "optim.lrr=1"], "did you mean 'optim.lr'"),
        (["train", "dino", "--set", "objective.momentum=2"], "out of range"),
        (["train", "dino", "--set", "views.global_size=30"], "not a multiple of the patch size 8"),
        (["train", "dino", "--set", "views.local_size=12"], "not a multiple of the patch size 8"),
        (["train", "dino", "--resume"], "nothing to resume in"),
        (["train", "byol", "--set", "views.local_crops=2"], "set views.local_crops=0"),
        (["train", "dino", "--set", "preset=gpu"], "preset = 'gpu' cannot replace 'smoke'"),
        (["train", "dino", "--set", "method=byol"], "begin with that method"),
        (["eval", "no/such/run"], "is not a run's folder"),
        (["record", "no/such/run"], "is not a run's folder"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    quick = ["--device", "cpu"] if arguments[0] == "train" else []
    if arguments[0] == "train" and "--preset" not in arguments:
        quick += ["--preset", "smoke"]
    assert sentence in refused(capsys, *arguments, *quick)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(capsys, tmp_path):
    arguments = ["train", "dino", "--preset", "smoke", "--device", "cuda", "--folder", tmp_path]
    assert "device=cuda was asked for but is not available" in refused(capsys, *arguments)


def test_folders_without_a_readable_image(capsys, tmp_path):
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"not a picture")
    for folder in (empty, broken):
        sentence = refused(capsys, "train", "dino", *QUICK, "--data", folder, "--folder", tmp_path)
        assert folder.name in sentence


def test_a_folder_of_pictures_trains_without_labels(capsys, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(80):
        pixels = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(pictures / f"{index}.png")
    (pictures / "notes.jpg").write_bytes(b"not a picture")
    code, out, _ = say(
        capsys, "train", "dino", *QUICK, "--data", pictures, "--folder", tmp_path / "runs"
    )
    assert code == 0 and "final loss" in out and "k-NN" not in out


def test_a_checkpoint_of_another_architecture(capsys, tmp_path):
    """Interrupted by hand: the summary is missing, and the settings changed under its feet."""
    assert say(capsys, "train", "dino", *QUICK, "--folder", tmp_path)[0] == 0
    folder = tmp_path / "dino-scenes-smoke"
    (folder / "summary.json").unlink()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("embed_dim: 32", "embed_dim: 64"))
    arguments = ["train", "dino", "--preset", "smoke", "--folder", tmp_path, "--resume"]
    assert "belongs to another architecture" in refused(capsys, *arguments)


def test_a_damaged_backbone(capsys, tmp_path):
    assert say(capsys, "train", "dino", *QUICK, "--folder", tmp_path)[0] == 0
    backbone = tmp_path / "dino-scenes-smoke" / "backbone.safetensors"
    backbone.write_bytes(backbone.read_bytes()[:100])
    assert "does not fit" in refused(capsys, "eval", backbone.parent)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's always full disk")
def test_a_full_disk(capsys, tmp_path, monkeypatch):
    """Every checkpoint goes to a device without room; the run ends with one sentence."""
    import dino_tutorial.training.checkpoint as checkpoint

    def full(*_):
        return open("/dev/full", "wb")

    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    sentence = refused(capsys, "train", "dino", *QUICK, "--folder", tmp_path)
    assert "No space left on device" in sentence and "--resume" in sentence
    assert not list(tmp_path.rglob("*.tmp"))


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from dino_tutorial.cli import build_parser; build_parser();"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_explain_themselves(capsys):
    code, out, _ = say(capsys, "settings", "dinov2", "--explain")
    assert code == 0
    for line in ("objective.koleo_weight = 0.1", 'model.arch = "vit_tiny"', "views.blur_p = null"):
        assert line in out.splitlines()
    assert "    Weight of KoLeo, which spreads class tokens out" in out
    assert "Values: 0 or more." in out and max(map(len, out.splitlines())) <= 100
