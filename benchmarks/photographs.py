"""What training crops of photographs see, how sharp they are, and what their canvas costs.

    python -m benchmarks.photographs FOLDER            # of photographs, with its subfolders
    python -m benchmarks.photographs FOLDER --sample 200

Compared with torchvision's RandomResizedCrop (bicubic) on the photographs themselves, at equal
draws: the share of a photograph that no crop can show; the share of crops that have fewer pixels
than the view that is made of them; and the energy above half of the Nyquist frequency (0.25 cycles
a pixel, in gray, under a Hann window), summed over all crops. `whole` is the canvas of training,
`center` what it was before and still is in evaluation.

A photograph stands for one whose short side has `--side` pixels: canvas and views are scaled down
alike. ImageNet's are 500 x 375 in the median; samples of it are often stored at 256.

Then images a second on one core, by processor time, decoded in memory: our canvas against Pillow
and RandomResizedCrop, for one crop and for the ten of DINO. The photographs are as their files
are, and enlarged and encoded again (JPEG, quality 92).

Results are added to benchmarks/photographs.json with the machine described.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from dino_tutorial.datasets.decode import open_image, to_canvas
from dino_tutorial.datasets.folder import find_images
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.views import Augment, ViewSpec

RESULTS = Path(__file__).parent / "photographs.json"
CANVASES = {"whole": 512, "center": 256}
# Side of the view and share of the area, as in the presets `photo` and `paper`.
VIEWS = {
    "dino global": (224, (0.4, 1.0)),
    "dino local": (96, (0.05, 0.4)),
    "dinov2 global": (224, (0.32, 1.0)),
    "dinov2 local": (98, (0.05, 0.32)),
    "byol": (224, (0.08, 1.0)),
    "swav global": (224, (0.14, 1.0)),
    "swav local": (96, (0.05, 0.14)),
}
PLAIN = {f"{name}_p": 0.0 for name in ("flip", "jitter", "gray", "blur", "solarize")}
BICUBIC = InterpolationMode.BICUBIC
SIDES = (None, 375, 1500)  # short sides of the photographs that are timed; None: as they are
LARGE = 24  # photographs that are timed at the largest side


def detail(crops: np.ndarray) -> np.ndarray:
    """Energy above half Nyquist of gray crops (n, s, s) in [0, 1], a pixel of the window: (n,)."""
    side = crops.shape[-1]
    window = np.outer(*[np.hanning(side + 2)[1:-1]] * 2)
    mean = (crops * window).sum((1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((crops - mean) * window)) ** 2
    frequency = np.fft.fftfreq(side)
    high = np.hypot(frequency[:, None], frequency) > 0.25
    return power[:, high].sum(1) / window.sum()


def gray(views: torch.Tensor) -> np.ndarray:
    """Views (n, 3, s, s) in [0, 1] as (n, s, s), with the weights of Pillow's "L"."""
    return torch.einsum("nchw,c->nhw", views, torch.tensor([0.299, 0.587, 0.114])).double().numpy()


def share_seen(width: int, height: int, size: int, fit: str) -> float:
    """Share of a photograph that is on its canvas, from one whose pixels tell where they are."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = to_canvas(Image.fromarray(np.stack([x, y, y], -1).astype(np.uint8)), size, fit)
    return float(np.prod([np.ptp(pixels[..., axis]) / 255 for axis in (0, 1)]))


def crops_of(
    photo: Image.Image, spec: ViewSpec, size: int, fit: str, seed: int
) -> tuple[np.ndarray, torch.Tensor]:
    """One crop through a canvas: (1, s, s) in gray, and its box (4,)."""
    pixels = torch.from_numpy(to_canvas(photo, size, fit).copy()).permute(2, 0, 1)[None]
    augment = Augment([spec], mean=(0, 0, 0), std=(1, 1, 1))
    draw = augment.sample(1, *pixels.shape[2:], torch.Generator().manual_seed(seed))
    return gray(augment.apply(pixels, draw)[0][0]), draw.boxes[0, 0]


def reference_crop(
    photo: Image.Image, spec: ViewSpec, seed: int
) -> tuple[np.ndarray, torch.Tensor]:
    """The same of the photograph itself, as torchvision cuts and resizes."""
    generator = torch.Generator().manual_seed(seed)
    box = Augment([spec]).sample(1, photo.height, photo.width, generator).boxes[0, 0]
    crop = np.asarray(resized_crop(photo, *box.tolist(), [spec.size] * 2, BICUBIC))
    return gray(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255), box


def sharpness(photos: list[Path], side: int) -> dict:
    """Energy and upsampled crops of each kind of view on each canvas, against the reference."""
    energy: dict[tuple[str, str], list[float]] = {}
    upsampled: dict[tuple[str, str], list[bool]] = {}
    for seed, path in enumerate(photos):
        photo = open_image(path).convert("RGB")
        scale = min(photo.size) / side
        for name, (pixels, area) in VIEWS.items():
            spec = ViewSpec(round(pixels * scale), area, **PLAIN)
            made = {
                fit: crops_of(photo, spec, round(size * scale), fit, seed)
                for fit, size in CANVASES.items()
            } | {"reference": reference_crop(photo, spec, seed)}
            for how, (crop, box) in made.items():
                energy.setdefault((name, how), []).append(float(detail(crop)[0]))
                small = bool(box[2] * box[3] < spec.size**2)
                upsampled.setdefault((name, how), []).append(small)
    return {
        name: {
            how: {
                "energy": sum(energy[name, how]) / sum(energy[name, "reference"]),
                "upsampled": statistics.mean(upsampled[name, how]),
            }
            for how in (*CANVASES, "reference")
        }
        for name in VIEWS
    }


def unseen(photos: list[Path]) -> dict:
    """Mean share of a photograph that no crop can show, by canvas."""
    shapes = [open_image(path).size for path in photos]
    return {
        fit: statistics.mean(1 - share_seen(*shape, size, fit) for shape in shapes)
        for fit, size in CANVASES.items()
    }


def encoded(photos: list[Path], short: int | None) -> Iterator[bytes]:
    for path in photos:
        if short is None:
            yield path.read_bytes()
            continue
        photo = open_image(path).convert("RGB")
        scale, buffer = short / min(photo.size), io.BytesIO()
        shape = [round(length * scale) for length in photo.size]
        photo.resize(shape, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
        yield buffer.getvalue()


def speed(photos: list[Path], rounds: int) -> dict:
    """Images a second and core of each way, in turn; medians of the rounds."""
    one = RandomResizedCrop(224, (0.4, 1.0), interpolation=BICUBIC)
    ten = [one] * 2 + [RandomResizedCrop(96, (0.05, 0.4), interpolation=BICUBIC)] * 8

    def opened(data: bytes) -> Image.Image:
        return open_image(io.BytesIO(data))

    def cut(crops: list[RandomResizedCrop]) -> Callable[[bytes], object]:
        def work(data: bytes) -> object:
            photo = opened(data).convert("RGB")
            return [np.asarray(crop(photo)) for crop in crops]

        return work

    def through(fit: str, size: int) -> Callable[[bytes], object]:
        return lambda data: to_canvas(opened(data), size, fit)

    ways = {fit: through(fit, size) for fit, size in CANVASES.items()}
    ways |= {"Pillow + RandomResizedCrop": cut([one]), "Pillow + its ten of DINO": cut(ten)}
    found = {}
    for short in SIDES:
        some = photos[:LARGE] if short == max(filter(None, SIDES)) else photos
        files = list(encoded(some, short))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, work in ways.items():
                start = time.process_time()
                for data in files:
                    work(data)
                times[name].append(time.process_time() - start)
        found["as they are" if short is None else f"short side {short}"] = {
            name: len(files) / statistics.median(seconds) for name, seconds in times.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of photographs")
    parser.add_argument("--sample", type=int, help="only this many of them, evenly spread")
    parser.add_argument("--side", type=int, default=375, help="short side that they stand for")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each way")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = [args.folder / path for path in find_images(args.folder)]
    n = min(args.sample or len(paths), len(paths))
    photos = [paths[index] for index in np.linspace(0, len(paths) - 1, n).astype(int)]
    results = {
        "photographs": n,
        "side": args.side,
        "unseen": unseen(photos),
        "crops": sharpness(photos, args.side),
        "images_per_second_and_core": speed(photos[: min(n, 200)], args.rounds),
        "environment": describe_environment(torch.device("cpu")),
    }
    for fit, share in results["unseen"].items():
        print(f"{fit}: {100 * share:.1f} % of a photograph is never seen")
    print(f"\n{'against crops of the photographs':34}{'energy':>10}{'upsampled':>12}")
    for name, row in results["crops"].items():
        for how, values in row.items():
            share = 100 * values["upsampled"]
            print(f"{name:16}{how:18}{values['energy']:10.3f}{share:10.1f} %")
    print("\nimages a second and core")
    for kind, row in results["images_per_second_and_core"].items():
        print(kind, ", ".join(f"{name} {rate:.0f}" for name, rate in row.items()), sep=": ")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
