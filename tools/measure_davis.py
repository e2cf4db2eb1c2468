"""Label propagation on DAVIS-2016 (Perazzi et al. 2016): J and F of runs and of their baselines.

    python tools/measure_davis.py FOLDER RUN [RUN ...]

FOLDER is a copy of DAVIS (see `dino_tutorial.datasets.Davis`), which this repository does not
hold; RUN is a folder of a run or of a checkpoint. Beside each run's patch features: those of the
first run's encoder before training, the pixels of the patches, their mean colours, and the outline
of the first frame left where it was. Writes summary.json, environment.json and command.txt.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor

from dino_tutorial import load_run
from dino_tutorial.datasets import Davis
from dino_tutorial.datasets.davis import Video
from dino_tutorial.evaluation import (
    label_masks,
    normalize,
    patch_pixels,
    propagate_labels,
    video_scores,
)
from dino_tutorial.files import make_folder, write_json, write_text
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.runs.folder import new_encoder

# As in DINO's release, which looks 12 patches away in frames that are 60 patches high.
SETTINGS = {"n_context": 7, "topk": 5, "temperature": 0.1}
REACH = 12 / 60
MEASURES = ("J", "F", "J&F", "J_recall", "F_recall")
FRAMES = 16  # through an encoder at once


def described_by(encoder):
    """The function from frames uint8 (T, 3, h, w) to the encoder's patch features (T, N, D)."""

    def describe(frames: Tensor) -> Tensor:
        parts = frames.split(FRAMES)
        return torch.cat([encoder.forward_features(normalize(part)).patches for part in parts])

    return describe


def mean_colours(frames: Tensor, patch_size: int) -> Tensor:
    """Of each patch, (T, N, 3)."""
    return patch_pixels(frames, patch_size).unflatten(-1, (3, -1)).mean(dim=-1)


def followed(features: Tensor, masks: Tensor, grid: tuple[int, int], reach: int) -> Tensor:
    """The object's mask in every frame, bool (T, H, W), from its mask in the first."""
    labels = propagate_labels(features, masks[0], grid, neighbourhood=reach, **SETTINGS)
    return label_masks(labels, grid, masks.shape[1:]) == 1


@torch.inference_mode()
def measure(
    film: Video, encoders: dict, patch_size: int, reach: int
) -> dict[str, dict[str, float]]:
    """The scores of one film, by the features that followed its object."""
    descriptions = {name: described_by(encoder) for name, encoder in encoders.items()}
    descriptions["pixels"] = lambda frames: patch_pixels(frames, patch_size)
    descriptions["colours"] = lambda frames: mean_colours(frames, patch_size)
    grid = tuple(side // patch_size for side in film.frames.shape[-2:])
    scores = {
        name: video_scores(followed(describe(film.frames), film.masks, grid, reach), film.masks)
        for name, describe in descriptions.items()
    }
    scores["outline left in place"] = video_scores(film.masks[:1].expand_as(film.masks), film.masks)
    return scores


def rounded(scores: dict[str, float]) -> dict[str, float]:
    return {measure: round(scores[measure], 4) for measure in ("J", "F")}


def averaged(by_film: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over films, by features and measure."""
    films = list(by_film.values())
    return {
        name: {m: round(sum(film[name][m] for film in films) / len(films), 4) for m in MEASURES}
        for name in films[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--split", help="train or val, if the folder has lists of them")
    parser.add_argument("--short-side", type=int, default=120, help="of the frames, in pixels")
    parser.add_argument("--into", type=Path, default=Path("data/results/davis16-val"))
    options = parser.parse_args()

    runs = [load_run(folder) for folder in options.runs]
    encoders = {run.folder.name: run.encoder() for run in runs}
    encoders["untrained"] = new_encoder(runs[0].config).eval()
    (patch_size,) = {encoder.patch_size for encoder in encoders.values()}
    films = Davis(options.folder, options.split, options.short_side, multiple=patch_size)
    reach = round(REACH * (options.short_side // patch_size))
    shown = " ".join(os.path.relpath(folder) for folder in options.runs)
    command = f"python tools/measure_davis.py FOLDER {shown} --short-side {options.short_side}"
    make_folder(options.into)
    write_text(options.into / "command.txt", command + "\n")
    write_json(options.into / "environment.json", describe_environment(torch.device("cpu")))
    by_film = {}
    for film in films:
        by_film[film.name] = measure(film, encoders, patch_size, reach)
        summary = {
            "data": "DAVIS-2016 val",
            "films": len(by_film),  # written after each: what is stopped early says so
            "frames_short_side": options.short_side,
            "masks_short_side": min(film.masks.shape[1:]),
            **SETTINGS,
            "neighbourhood": reach,
            "patch_size": patch_size,
            "scores": averaged(by_film),
            "by_film": {
                name: {features: rounded(row) for features, row in rows.items()}
                for name, rows in by_film.items()
            },
        }
        write_json(options.into / "summary.json", summary)
    for name, scores in summary["scores"].items():
        print(f"{name:32}" + "".join(f"{m} {100 * scores[m]:5.1f}  " for m in ("J", "F", "J&F")))


if __name__ == "__main__":
    main()
