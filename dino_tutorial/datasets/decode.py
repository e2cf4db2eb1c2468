"""From encoded images of any shape and mode to square uint8 canvases, in memory or on demand.

Folders, shards and downloaded sets differ only in where the bytes come from. Each of them makes a
`Source`; `open_source` turns any source into an `ImageDataset`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from dino_tutorial.datasets.base import ArrayDataset, ImageDataset, digest
from dino_tutorial.errors import UserError, printable

MEMORY_LIMIT = 2 * 2**30  # bytes of uint8 pixels that are decoded once and kept
LARGEST_NATIVE = 64  # px; small images of one size keep it
DEFAULT_SIZE = 256  # px; the canvas of everything else
TINY = 128 * 128  # pixels; decoding so few is mostly Python, which does not run in parallel
# Of the size of a photograph on its canvas: what it is decoded at, at least. A little less than 2,
# for then 1,920 pixels of a screen and 4,000 of a camera are decoded at 960 and 1,000 for 512.
DRAFT = 1.875
CHUNK = 64  # images a thread decodes before it asks for more work
ORIENTATION = 0x0112  # the EXIF tag
DEPTHS = (8, 10, 12, 14, 16)  # bits of grey that cameras and scanners use
OVERSHOOT = 0.1  # by which resizing takes floating-point values out of their range
FEW_LEVELS = 16.0  # floating-point values below are no levels of 8 bits
UPRIGHT = {  # EXIF orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# What a photograph or a drawing comes as. Pillow reads forty more, and starts other programs for
# some of them: a PostScript file may be called photo.jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
LARGEST_IMAGE = 2**27  # pixels; one of them needs half a gigabyte
# Said in our own words, by open_image.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_LIST: ContextVar[Path | None] = ContextVar("where what cannot be read is listed", default=None)


def open_image(file: str | os.PathLike[str] | io.BytesIO) -> Image.Image:
    """An image as Pillow opens it, not yet decoded.

    Args:
        file: the path of a regular file, or an open one.

    Raises:
        OSError: there is no such file, it is none of `FORMATS`, or it is a pipe or a device.
        ValueError: it has too many pixels.
    """
    if isinstance(file, str | os.PathLike) and not stat.S_ISREG(os.stat(file).st_mode):
        raise OSError("it is not a regular file")  # a pipe would keep us waiting
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > LARGEST_IMAGE:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {LARGEST_IMAGE:,}")
    return image


@contextlib.contextmanager
def listing(path: Path | None) -> Iterator[None]:
    """Have all names that `report` is given written to a file, which is made when there is one."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    token = _LIST.set(path)
    try:
        yield
    finally:
        _LIST.reset(token)


class Source:
    """N images that can be opened one by one. Picklable, so that loader workers can have it."""

    def __len__(self) -> int:
        raise NotImplementedError

    def open(self, index: int) -> Image.Image:
        """The image as Pillow opens it, not yet decoded. Any exception means unreadable."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What to call the image when it is reported as unreadable."""
        raise NotImplementedError

    def take(self, indices: Tensor) -> Source:
        """The source of these images only, in this order."""
        raise NotImplementedError

    def contents(self) -> tuple[str, str]:
        """Hashes of what the pictures are, and of when their files were changed last."""
        return digest(*map(self.name, range(len(self)))), ""

    @staticmethod
    def hash_files(paths: Iterable[str]) -> tuple[str, str]:
        """Hashes of the sizes, and of the times of the last change, of files."""
        sizes, times = [], []
        for path in paths:
            with contextlib.suppress(OSError):  # what cannot be read is told when it is decoded
                known = os.stat(path)
                sizes.append(known.st_size)
                times.append(known.st_mtime_ns)
        return digest(sizes), digest(times)


class ArraySource(Source):
    """Images that are already decoded, uint8 (N, H, W, 3)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self._pixels[index]))

    def name(self, index: int) -> str:
        return f"image {index}"

    def take(self, indices: Tensor) -> ArraySource:
        return ArraySource(self._pixels[indices.numpy()])


def open_source(
    source: Source,
    labels: Int[Tensor, " N"],
    classes: Sequence[str],
    name: str,
    *,
    image_size: int,
    fit: str = "center",
    limit: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """The data set of a source: decoded at once if it fits in `MEMORY_LIMIT`, else on demand.

    Args:
        source: where the images come from.
        labels: (N,) int64, -1 for unlabelled.
        classes: names of the classes, indexed by label.
        name: a short name, used in reports.
        image_size: S, the side of the square canvas in pixels.
        fit: what of an image lies on it, see `to_canvas`.
        limit: keep a subset of this many (see `seeded_subset`).
        seed: of the subset.

    Images that cannot be decoded are listed on stderr and left out. When decoding on demand they
    are found only when they are asked for, and then replaced (see `OnDemandDataset`).

    Raises:
        UserError: not one image can be decoded.
    """
    chosen = seeded_subset(len(source), limit, seed)
    if chosen is not None:
        source, labels = source.take(chosen), labels[chosen]
    if len(source) * 3 * image_size**2 > MEMORY_LIMIT:
        return OnDemandDataset(source, labels, classes, name, image_size, fit)
    return decode_all(source, labels, classes, name, image_size, fit)


def seeded_subset(n: int, limit: int | None, seed: int) -> Int[Tensor, " n"] | None:
    """`limit` of n indices, ascending; None when all are kept.

    They are the start of a permutation seeded with `seed`, so a smaller subset lies inside a
    larger one. It is a plain random sample: classes are balanced only in expectation.
    """
    if limit is None or limit >= n:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:limit].sort().values


def native_size(source: Source) -> int:
    """The canvas when nobody asks for one: S px if the images are all S x S with S at most 64,
    else 256 px. Judged by the headers of up to 64 images spread over the source."""
    sizes = set()
    for index in np.linspace(0, len(source) - 1, min(len(source), 64)).astype(int):
        with contextlib.suppress(Exception), source.open(int(index)) as image:
            sizes.add(image.size)
    if len(sizes) == 1:
        width, height = sizes.pop()
        if width == height <= LARGEST_NATIVE:
            return width
    return DEFAULT_SIZE


def to_canvas(image: Image.Image, size: int, fit: str = "center") -> UInt8[np.ndarray, "h w 3"]:
    """What of an image lies on a square canvas of `size` pixels: uint8 (h, w, 3).

    EXIF orientation is honoured; transparency is laid on white; deep grey is scaled to 8 bits by
    the range that it uses (see `grey_to_bytes`); grey, palette and CMYK become RGB.

    Args:
        image: as Pillow opens it.
        size: S, in pixels.
        fit: "center", the centre square, antialiased to S pixels: "resize the short side
            (bicubic), then crop the centre" in one step. "whole", all of it in its own shape: as
            it is where it is no larger than the canvas, else made smaller until its long side has
            S pixels. Crops are resized once more, so that is done by Lanczos' kernel: bicubic
            would take a tenth of the energy of their fine detail (`benchmarks/photographs.py`).

    Raises:
        ValueError: the brightness cannot be told, see `grey_to_bytes`.
    """
    # A large JPEG is decoded at a half, quarter or eighth, never below twice our size or nearly.
    if fit == "whole":
        width, height = _shrunk(image.size, size)
        image.draft(None, (int(DRAFT * width), int(DRAFT * height)))
    else:
        image.draft(None, (2 * size, 2 * size))
    deep = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    image.load()
    if deep and not image.mode.startswith(("I", "F")):
        _check_deep_colour(image)
    orientation = _orientation(image)  # after loading: Pillow turns a TIFF itself, and says so
    image = _to_rgb(image)
    image = _whole(image, size) if fit == "whole" else _center_square(image, size)
    if orientation in UPRIGHT:  # either may be turned afterwards as well as before
        image = image.transpose(UPRIGHT[orientation])
    return np.asarray(image)


def _shrunk(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of an image that is made no larger than a canvas of `size` pixels."""
    scale = min(1.0, size / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _whole(image: Image.Image, size: int) -> Image.Image:
    shape = _shrunk(image.size, size)
    return image if image.size == shape else image.resize(shape, Image.Resampling.LANCZOS)


def _center_square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if (width, height) == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata does not make an image unreadable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # A PGM says its depth, and Pillow has scaled it to 16 bits.
        full = DEPTHS[-1:] if image.format == "PPM" else DEPTHS
        return Image.fromarray(grey_to_bytes(np.asarray(image), full)).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _check_deep_colour(image: Image.Image) -> None:
    """Of 16 bits a colour Pillow keeps the upper 8; 12 bits or fewer in them would come out black.

    Raises:
        ValueError: that is so.
    """
    colours = [band for band in image.getbands() if band != "A"]
    if all(image.getchannel(band).getextrema()[1] < 16 for band in colours):
        raise ValueError("its 16 bits a colour use 12 or fewer, or it is black: save it in 8 bits")


def grey_to_bytes(values: np.ndarray, depths: Sequence[int] = DEPTHS) -> np.ndarray:
    """Grey values of any depth as uint8 of the same shape: black to 0, white to 255.

    Args:
        values: (H, W) integers or floating-point numbers; NaN is drawn black.
        depths: bits that integers may use, ascending.

    Raises:
        ValueError: not one value is finite.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("it holds no finite number")
    black, white = _grey_range(values[finite], depths)
    scaled = np.where(finite, values, black).astype(np.float64) - black
    if values.dtype.kind == "f":
        scaled = np.rint(scaled * 255 / max(white - black, 1e-12))
    else:  # every level as wide as the others: 16 bits keep their high byte
        scaled *= 256 / (white - black + 1)
    return scaled.clip(0, 255).astype(np.uint8)


def _grey_range(values: np.ndarray, depths: Sequence[int]) -> tuple[float, float]:
    """The values that black and white have in an image, from its finite values.

    Files seldom say how many of their bits are used: cameras put 10, 12 or 14 bits in 16, and
    programs 8 in 32. The smallest depth that holds the largest value is taken. Floating-point
    values about [0, 1] or [-1, 1] mean these ranges. Anything else (below 0, beyond 16 bits) is
    drawn from its smallest to its largest value.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if low >= -1 - OVERSHOOT and high <= 1 + OVERSHOOT:
            return (0.0 if low >= -OVERSHOOT else -1.0), 1.0
        if high <= FEW_LEVELS:
            return low, high
    fitting = [2.0**bits - 1 for bits in depths if low >= 0 and high < 2**bits]
    return (0.0, fitting[0]) if fitting else (low, high)


class Decoded(NamedTuple):
    """Images on their canvases.

    Attributes:
        canvas: uint8 (n, 3, S, S); each image in the top left corner of its own, black beyond.
        sizes: int64 (n, 2), height and width of each.
        problems: the reason for each position that could not be decoded.
    """

    canvas: UInt8[np.ndarray, "n 3 S S"]
    sizes: Int[np.ndarray, "n 2"]
    problems: dict[int, str]


def decode_many(
    source: Source,
    indices: Sequence[int],
    size: int,
    fit: str = "center",
    progress: str | None = None,
) -> Decoded:
    """Decode images, large ones in threads (Pillow decodes without the interpreter lock).

    Args:
        source: where the images come from.
        indices: n of them.
        size: S, the side of the canvas in pixels.
        fit: what of an image lies on it, see `to_canvas`.
        progress: title of a progress bar on a terminal; None shows none.
    """
    canvas = np.zeros((len(indices), 3, size, size), dtype=np.uint8)
    sizes = np.full((len(indices), 2), size)
    problems: dict[int, str] = {}

    def decode(start: int) -> int:
        stop = min(start + CHUNK, len(indices))
        for position in range(start, stop):
            try:
                with source.open(indices[position]) as image:
                    pixels = to_canvas(image, size, fit).transpose(2, 0, 1)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise whatever they like on a broken file
                problems[position] = _reason(error)
            else:
                height, width = sizes[position] = pixels.shape[1:]
                canvas[position, :, :height, :width] = pixels
        return stop - start

    pool = ThreadPoolExecutor(_threads(source, indices))
    starts = range(0, len(indices), CHUNK)
    bar = tqdm(
        total=len(indices),
        desc=progress,
        unit=" images",
        leave=False,
        delay=1,
        disable=True if progress is None else None,
    )
    try:
        with bar:
            for count in pool.map(decode, starts):
                bar.update(count)
    finally:  # Ctrl-C must not wait for the images that are still queued
        pool.shutdown(cancel_futures=True)
    return Decoded(canvas, sizes, dict(sorted(problems.items())))


def _threads(source: Source, indices: Sequence[int]) -> int:
    if torch.utils.data.get_worker_info() is not None:
        return 1  # a loader worker already is one of many processes
    with contextlib.suppress(Exception), source.open(indices[0]) as image:
        if image.width * image.height <= TINY:
            return 1  # threads would only fight for the interpreter lock
    return min(16, os.cpu_count() or 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def decode_all(
    source: Source,
    labels: Int[Tensor, " N"],
    classes: Sequence[str],
    name: str,
    size: int,
    fit: str = "center",
) -> ArrayDataset:
    """Decode a whole source into memory; unreadable images are listed and left out."""
    decoded = decode_many(source, range(len(source)), size, fit, progress=f"decode {name}")
    canvas, sizes, problems = decoded
    if problems:
        good = [index for index in range(len(source)) if index not in problems]
        if not good:
            raise nothing_readable(name, len(source), source.name(0), problems[0])
        listed = [f"{source.name(index)} ({reason})" for index, reason in problems.items()]
        count = f"{len(problems)} of {len(source)} images"
        report(f"{name}: {count} cannot be read and are left out", listed)
        for to, index in enumerate(good):  # in place, so that memory is not needed twice
            if to != index:
                canvas[to] = canvas[index]
        canvas, sizes, labels = canvas[: len(good)], sizes[good], labels[good]
    origin = None if isinstance(source, ArraySource) else source.contents()
    filled = (sizes == size).all()
    return ArrayDataset(
        torch.from_numpy(canvas),
        labels,
        classes,
        name,
        origin,
        None if filled else torch.from_numpy(sizes),
    )


def nothing_readable(name: str, count: int, first: str, reason: str) -> UserError:
    return UserError(
        f"{name}: none of the {count} image files can be read (first: {first}, {reason}); "
        "give images that an image viewer can open"
    )


def report(what: str, names: Sequence[str], path: Path | None = None) -> None:
    """One line on stderr: what happened, and the first few names.

    All of them go to the file `path`, or to that of :func:`listing`, if there is one; what stands
    there already is not told again.
    """
    path = path or _LIST.get()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    if path is not None:
        lines = [f"{what}:", *(f"  {name}" for name in names)]
        content = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError), open(path, "a+b") as file:
            file.seek(0)
            if content in file.read():
                return  # a run opens its images more than once
            file.write(content)
            more = f"{more}, all in {path}" if more else ""
    print(printable(f"{what}: {', '.join(names[:3])}{more}."), file=sys.stderr)


class OnDemandDataset(ImageDataset):
    """Images too many for memory, decoded when they are asked for (by loader workers).

    Opening reads no pixels beyond the first readable image. An image that turns out to be
    unreadable is replaced by the next readable one of its class, so labels stay true and the
    length and order of an epoch do not change; it is named on stderr the first time that any
    worker meets it.
    """

    def __init__(
        self,
        source: Source,
        labels: Int[Tensor, " N"],
        classes: Sequence[str],
        name: str,
        image_size: int,
        fit: str = "center",
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.labels = labels.to(torch.int64)
        self.image_size = image_size
        self.padded = fit == "whole"
        self._fit = fit
        self._source = source
        self._list = _LIST.get()  # loader workers have it from here
        self._listed = torch.zeros(len(source), dtype=torch.bool).share_memory_()
        first_reason = None
        for index in range(len(source)):
            problems = decode_many(source, [index], image_size, fit).problems
            if not problems:
                return
            first_reason = first_reason or problems[0]
        raise nothing_readable(name, len(source), source.name(0), str(first_reason))

    def _contents(self) -> tuple[str, str]:
        return self._source.contents()

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        return self.placed(indices)[0]

    def placed(
        self, indices: Int[Tensor, " n"] | None = None
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, "n 2"]]:
        chosen = list(range(len(self))) if indices is None else indices.tolist()
        canvas, sizes, problems = decode_many(self._source, chosen, self.image_size, self._fit)
        for position, reason in problems.items():
            other = self._replacement(chosen[position] % len(self), reason)
            canvas[position], sizes[position] = other.canvas[0], other.sizes[0]
        return torch.from_numpy(canvas), torch.from_numpy(sizes)

    def _replacement(self, index: int, reason: str) -> Decoded:
        if not self._listed[index]:
            self._listed[index] = True
            report(
                f"{self.name}: an image cannot be read and is replaced by the next of its class",
                [f"{self._source.name(index)} ({reason})"],
                self._list,
            )
        following = (torch.arange(len(self) - 1) + index + 1) % len(self)
        same = self.labels[following] == self.labels[index]
        for other in torch.cat([following[same], following[~same]]).tolist():
            decoded = decode_many(self._source, [other], self.image_size, self._fit)
            if not decoded.problems:
                return decoded
        raise nothing_readable(self.name, len(self), self._source.name(index), reason)
