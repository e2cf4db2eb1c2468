"""A handful of images is enough for a run, its report, an evaluation and a look."""

import numpy as np
import pytest
from PIL import Image

from dino_tutorial import configure, evaluate, train
from dino_tutorial.cli import main
from dino_tutorial.runs.report import report_again

pytestmark = pytest.mark.slow  # whole trainings


@pytest.mark.parametrize(("n", "test"), [(2, 1), (3, 1), (4, 2), (9, 9)])
@pytest.mark.parametrize("classes", [1, 2])
def test_few_images(tmp_path, capsys, n, test, classes):
    rng = np.random.default_rng(n)
    for split, count in (("train", n), ("test", test)):
        for kind in "ab"[:classes]:
            (tmp_path / "images" / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                path = tmp_path / "images" / split / kind / f"{number}.png"
                Image.fromarray(pixels).save(path)
    changes = {"folder": str(tmp_path / "runs"), "device": "cpu", "train.epochs": 1}
    changes |= {"train.batch_size": 2, "data.image_size": 32}
    run = train(configure("dino", str(tmp_path / "images"), "smoke", changes))
    assert run.report.exists() and report_again(run) == run.report
    out = tmp_path / "neighbours.png"
    assert main(["show", str(run.folder), "neighbours", "--out", str(out)]) == 0
    if classes == 2:
        assert run.summary["k"] == min(20, 2 * n) and run.summary["knn_top1"] is not None
        assert evaluate(run, device="cpu")["k"] == min(20, 2 * n)
        assert main(["eval", str(run.folder), "--device", "cpu"]) == 0
        capsys.readouterr()
        assert main(["eval", str(run.folder), "--device", "cpu", "--k", "99"]) == 2
        assert f"bank of {2 * n} images" in capsys.readouterr().err
    else:
        assert run.summary["knn_top1"] is None
