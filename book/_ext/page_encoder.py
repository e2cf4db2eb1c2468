"""The book's small encoder for the figure that runs it in the reader's browser.

Written when the pages are built, out of the checkpoint in ``data/checkpoints``: its weights as
whole numbers of 16 bits (a tensor's largest value is 32767), the position embeddings of the two
sizes at which it runs, features and thumbnails of training scenes, and test scenes and photographs
to begin with.
It is a script, because a page that was opened as a file may load nothing else; a page asks for it
only when the reader does.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from dino_tutorial import load_run
from dino_tutorial.datasets.scenes import CLASSES, SceneDataset
from dino_tutorial.evaluation import normalize
from dino_tutorial.models import VisionTransformer

RUN = Path("data", "checkpoints", "dino-patterns-laptop-s0")
FILE = Path("_static", "encoder-data.js")
LARGE, SMALL = 96, 32  # pixels: for the maps, and for the nearest images, as it was trained
BANK, COLUMNS = 600, 30  # training scenes, and how many of them stand side by side
SAMPLES = 10  # test scenes, the first of each kind
PHOTOGRAPHS = ("cat", "coffee", "dahlia", "pavilion", "astronaut")  # of data/photos


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_script(Path(app.srcdir) / RUN, Path(app.outdir) / FILE)


def write_script(folder: Path, file: Path) -> None:
    """A script that holds all that the figure needs of the run in a folder."""
    text = json.dumps(stored(folder), separators=(",", ":"))
    file.write_text(f"var bookEncoderData = {text};\n", encoding="utf-8")


@torch.inference_mode()
def stored(folder: Path) -> dict[str, Any]:
    """What the page gets, ready for JSON."""
    encoder = load_run(folder).encoder().eval()
    bank = SceneDataset("train", LARGE, BANK, look="pattern")
    thumbnails = third(bank.images())
    features = encoder(normalize(thumbnails))  # (n, D)
    return packed(weights(encoder)) | {
        "heads": encoder.num_heads,
        "patch": encoder.patch_size,
        "depth": len(encoder.blocks),
        "sides": [LARGE, SMALL],
        "classes": list(CLASSES),
        "bank": packed({"mean": features.mean(0), "difference": features - features.mean(0)})
        | {"labels": bank.labels.tolist(), "columns": COLUMNS, "sheet": sheet(thumbnails)},
        "samples": samples() + photographs(folder.parents[1] / "photos"),
    }


def weights(encoder: VisionTransformer) -> dict[str, Tensor]:
    """All that the forward pass uses, by its name in the package."""
    unused = ("mask_token", "pos_embed")
    kept = {name: value for name, value in encoder.state_dict().items() if name not in unused}
    for side in (LARGE, SMALL):
        kept[f"positions.{side}"] = encoder.positions(*[side // encoder.patch_size] * 2)[0]
    return kept


def packed(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Shapes and scales, and all values in a row: int16, little-endian, base64."""
    head, rows = {}, []
    for name, value in tensors.items():
        scale = value.abs().max().clamp_min(1e-12).item() / 32767
        head[name] = {"shape": list(value.shape), "scale": scale}
        rows.append((value / scale).round().flatten().numpy().astype("<i2"))
    return {"tensors": head, "numbers": base64.b64encode(np.concatenate(rows).tobytes()).decode()}


def third(images: Tensor) -> Tensor:
    """uint8 (n, 3, H, W) to a third of the side, each pixel the mean of nine."""
    return F.avg_pool2d(images.float(), 3).round().to(torch.uint8)


def sheet(images: Tensor) -> str:
    """uint8 (n, 3, h, w) as one image, row by row."""
    rows = images.unflatten(0, (-1, COLUMNS)).permute(0, 3, 1, 4, 2)  # (rows, h, columns, w, 3)
    return address(rows.flatten(2, 3).flatten(0, 1).numpy(), quality=80)


def samples() -> list[dict[str, Any]]:
    scenes = SceneDataset("test", LARGE, 40, look="pattern")
    first = [int((scenes.labels == kind).nonzero()[0]) for kind in range(SAMPLES)]
    images = scenes.images(torch.tensor(first)).permute(0, 2, 3, 1).numpy()
    return [
        {
            "label": CLASSES[kind],
            "words": f"A test scene of the kind “{CLASSES[kind]}”",
            "image": address(image, lossless=True),
        }
        for kind, image in enumerate(images)
    ]


def photographs(folder: Path) -> list[dict[str, Any]]:
    """The middle of each photograph, cut as the page cuts a reader's."""
    samples = []
    for name in PHOTOGRAPHS:
        with Image.open(folder / f"{name}.jpg") as whole:
            square = ImageOps.fit(whole.convert("RGB"), (LARGE, LARGE), Image.Resampling.LANCZOS)
        image = address(np.asarray(square), quality=90)
        samples.append(
            {"label": f"photograph: {name}", "words": f"A photograph ({name})", "image": image}
        )
    return samples


def address(pixels: np.ndarray, **options: Any) -> str:
    """(h, w, 3) as the address of a WebP image that holds itself."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", method=6, **options)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
