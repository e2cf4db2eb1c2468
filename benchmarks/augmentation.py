"""Images a second that one core augments: batched views against torchvision on PIL images.

    python benchmarks/augmentation.py

Both make DINO's recipe from the same images, on one thread, in turn, several times over; the
table gives medians and their ratio. The clock is the processor time of this process, so that
other work on the machine disturbs it little. Decoding is in neither side.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image
from pil_views import PilView

from dino_tutorial.views import Augment, ViewSpec, dino_views

# Name, views, side of the source images, images in a batch.
SETTINGS = (
    ("2x32 + 6x16 from 32 px", dino_views(32, 16, 6), 32, 64),
    ("2x224 + 8x96 from 256 px", dino_views(224, 96, 8), 256, 16),
    ("2x224 + 8x96 from 320 px", dino_views(224, 96, 8), 320, 16),
    ("2x224 + 8x96 from 400 px", dino_views(224, 96, 8), 400, 16),
)


def smooth_noise(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Images with detail at every scale, as photographs have: (n, 3, size, size) uint8."""
    generator = torch.Generator().manual_seed(seed)
    image, side = torch.zeros(n, 3, size, size), 4
    while side <= size:
        octave = torch.randn(n, 3, side, side, generator=generator)
        image += torch.nn.functional.interpolate(octave, (size, size), mode="bilinear") / side**0.5
        side *= 2
    return (image * 60 + 128).clamp(0, 255).byte()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(specs: tuple[ViewSpec, ...], size: int, batch: int, rounds: int) -> dict[str, float]:
    """Medians in images a second, and the median ratio of the rounds."""
    images = smooth_noise(batch, size)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    pil_views, augment = [PilView(spec) for spec in specs], Augment(specs)
    generator = torch.Generator().manual_seed(0)

    def pil() -> None:
        for picture in pictures:
            for view in pil_views:
                view(picture)

    def batched() -> None:
        augment.apply(images, augment.sample(batch, size, size, generator))

    pil(), batched()
    times = [(seconds(pil), seconds(batched)) for _ in range(rounds)]
    return {
        "pil": batch / statistics.median(t for t, _ in times),
        "batched": batch / statistics.median(t for _, t in times),
        "ratio": statistics.median(a / b for a, b in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of each side")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    print(f"{'images/s on one core':28}{'PIL':>10}{'batched':>10}{'ratio':>8}")
    for name, specs, size, batch in SETTINGS:
        row = results[name] = compare(specs, size, batch, args.rounds)
        print(f"{name:28}{row['pil']:10.0f}{row['batched']:10.0f}{row['ratio']:8.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
