"""Folders of images: canvas, splits, classes, unreadable files."""

import io
import os
import pickle
import struct
import zlib
from hashlib import blake2b

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.transforms import functional as tvf

from dino_tutorial.datasets import decode
from dino_tutorial.datasets.base import identity
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.folder import find_images, open_folder
from dino_tutorial.errors import UserError


def noise(width, height, seed=0, channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze())


def smooth(width, height):
    """A picture without detail, so that two ways of resizing it agree closely."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / width, 255 * y / height
    return Image.fromarray(np.stack([red, green, (red + green) / 2], -1).astype(np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def by_class(tmp_path):
    """Two splits of two classes, eight squares of 16 px each; colours name the class."""
    for split in ("train", "val"):
        for number in range(8):
            for kind, colour in (("cat", (number, 0, 255)), ("dog", (number, 255, 0))):
                save(Image.new("RGB", (16, 16), colour), tmp_path / split / kind / f"{number}.png")
    return tmp_path


# The canvas


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
def test_canvas_is_resize_then_centre_crop(shape):
    image = noise(*shape)
    resized = tvf.resize(image, 32, tvf.InterpolationMode.BICUBIC, antialias=True)
    expected = np.asarray(tvf.center_crop(resized, 32))
    assert np.array_equal(decode.to_canvas(image_file(image), 32), expected)


def image_file(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(buffer)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image_file(smooth(90, 60), "JPEG", quality=95, exif=exif)
    upright = ImageOps.exif_transpose(stored)
    expected = np.asarray(tvf.center_crop(upright, 60)).astype(int)
    actual = decode.to_canvas(image_file(smooth(90, 60), "JPEG", quality=95, exif=exif), 60)
    assert np.abs(actual.astype(int) - expected).max() <= 2


def test_large_jpeg_decoded_small_matches_full_decoding():
    image = smooth(1024, 768)
    expected = np.asarray(tvf.resize(tvf.center_crop(image, 768), 32, antialias=True)).astype(int)
    actual = decode.to_canvas(image_file(image, "JPEG", quality=95), 32)
    assert np.abs(actual.astype(int) - expected).max() <= 4


def test_every_mode_becomes_rgb():
    grey = noise(8, 8, channels=1)
    assert np.array_equal(decode.to_canvas(image_file(grey), 8), np.asarray(grey.convert("RGB")))

    deep = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, -1)
    assert np.array_equal(decode.to_canvas(image_file(Image.fromarray(deep)), 8), expected)

    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    canvas = decode.to_canvas(image_file(cmyk, "TIFF"), 8)
    assert canvas[..., 0].min() > 200 and canvas[..., 1:].max() < 60  # red

    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    on_white = decode.to_canvas(image_file(half), 8)[0, 0].astype(int)
    assert np.abs(on_white - (255, 127, 127)).max() <= 1

    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode.to_canvas(image_file(palette), 8)[0, 0].tolist() == [10, 20, 30]
    assert decode.to_canvas(image_file(palette, transparency=1), 8)[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ("12 bits in 16", np.uint16),
        ("10 bits in 16", np.uint16),
        ("14 bits in 16", np.uint16),
        ("16 bits in 16", np.uint16),
        ("8 bits in 32", np.int32),
        ("12 bits in 32", np.int32),
        ("float to 1", np.float32),
        ("float from -1 to 1", np.float32),
        ("float to 255", np.float32),
        ("float to 4095", np.float32),
        ("float to 65535", np.float32),
        ("below 0", np.int32),
        ("24 bits in 32", np.int32),
        ("float below 0", np.float32),
    ],
)
def test_every_depth_of_grey_keeps_its_brightness(stored, kind, tmp_path):
    """The same ramp in every depth; black, white and the middle are where they were."""
    ramp = np.tile(np.arange(256) / 255, (256, 1))
    ranges = {"float to 1": (0, 1), "float from -1 to 1": (-1, 1), "below 0": (-1000, 3000)}
    ranges |= {"float to 255": (0, 255), "float to 4095": (0, 4095), "float to 65535": (0, 65535)}
    ranges |= {"float below 0": (-1000, 3000)}
    low, high = ranges.get(stored) or (0, 2 ** int(stored.split()[0]) - 1)
    values = low + ramp * (high - low)
    Image.fromarray((values if kind is np.float32 else values.round()).astype(kind)).save(
        tmp_path / "0.tiff"
    )
    canvas = open_folder(tmp_path, image_size=256).images()[0]
    assert np.abs(canvas[0, 0].numpy().astype(int) - np.arange(256)).max() <= 1


def test_grey_at_the_edges_of_its_range(tmp_path):
    black = np.zeros((8, 8), np.uint16)
    assert decode.grey_to_bytes(black).max() == 0
    assert decode.grey_to_bytes(black.astype(np.float32)).max() == 0
    over = np.array([[-0.05, 0.0, 0.5, 1.0, 1.05]], np.float32)  # as bicubic resizing leaves it
    assert decode.grey_to_bytes(over).tolist() == [[0, 0, 128, 255, 255]]
    holed = np.array([[np.nan, 0.0, 4095.0, np.inf]], np.float32)
    assert decode.grey_to_bytes(holed).tolist() == [[0, 0, 255, 0]]
    with pytest.raises(ValueError, match="no finite number"):
        decode.grey_to_bytes(np.full((2, 2), np.nan, np.float32))


def test_a_portable_graymap_says_its_own_depth(tmp_path):
    """Pillow scales it to 16 bits by the header, so a dark one must stay dark."""
    values = np.full((8, 8), 100, ">u2")
    (tmp_path / "0.pgm").write_bytes(b"P5 8 8 4095\n" + values.tobytes())
    canvas = open_folder(tmp_path, image_size=8).images()
    assert canvas.unique().tolist() == [100 * 256 // 4096]


def test_deep_colour_that_would_come_out_black_is_left_out_and_named(tmp_path, capsys):
    """Pillow keeps the upper 8 of 16 bits a colour: of 12 bits in 16 nothing would be left."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    for name, largest in (("12", 4095), ("16", 65535)):
        rows = np.random.default_rng(0).integers(0, largest, (8, 8, 3)).astype(">u2")
        lines = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        parts = {b"IHDR": header, b"IDAT": zlib.compress(lines), b"IEND": b""}
        content = b"".join(chunk(*part) for part in parts.items())
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    files = ImageFiles(tmp_path, image_size=8)
    shallow, deep = files.images().amax(dim=(1, 2, 3)).tolist()
    assert shallow == 0 and deep > 250
    assert "12.png (its 16 bits a colour use 12 or fewer" in capsys.readouterr().err


def test_a_tiff_is_turned_once(tmp_path):
    """Pillow turns a TIFF while it loads it, and the others not."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = image_file(smooth(60, 60), "TIFF", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(stored))
        actual = decode.to_canvas(image_file(smooth(60, 60), "TIFF", exif=exif), 60)
        assert np.array_equal(actual, expected)


def test_native_size_only_for_small_equal_squares(tmp_path):
    for folder, sizes, expected in [
        ("small", [(48, 48)] * 3, 48),
        ("large", [(65, 65)] * 3, 256),
        ("mixed", [(32, 32), (48, 48)], 256),
        ("oblong", [(32, 48)] * 2, 256),
    ]:
        for number, size in enumerate(sizes):
            save(noise(*size), tmp_path / folder / f"{number}.png")
        assert open_folder(tmp_path / folder).image_size == expected
    assert open_folder(tmp_path / "large", image_size=20).images().shape[-2:] == (20, 20)


# Splits and classes


def test_split_folders_and_classes(by_class):
    train, test = open_folder(by_class), open_folder(by_class, "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert len(train) == len(test) == 16 and train.in_memory and train.image_size == 16
    assert train.labels.tolist() == [0] * 8 + [1] * 8
    images, labels = train.__getitems__([9, 3])
    assert images.dtype == torch.uint8 and images[:, :, 0, 0].tolist() == [[1, 255, 0], [3, 0, 255]]
    assert labels.tolist() == [1, 0]


def test_test_folder_wins_over_val(by_class):
    save(noise(16, 16), by_class / "test" / "cat" / "only.png")
    assert len(open_folder(by_class, "test")) == 1


def test_classes_are_the_same_when_a_split_lacks_one(by_class):
    for path in (by_class / "val" / "cat").iterdir():
        path.unlink()
    test = open_folder(by_class, "test")
    assert test.classes == ("cat", "dog") and set(test.labels.tolist()) == {1}


@pytest.mark.parametrize("inside", ["", "train/"])
def test_hold_out_follows_the_hash_of_the_path(tmp_path, inside):
    names = [f"{inside}{kind}/{number}.png" for kind in "ab" for number in range(100)]
    for number, name in enumerate(names):
        save(Image.new("RGB", (8, 8), (number, 1, 2)), tmp_path / name)
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    held = {n for n, digest in enumerate(digests) if int.from_bytes(digest, "big") % 10 == 0}
    reds = {
        split: set(open_folder(tmp_path, split).images()[:, 0, 0, 0].tolist())
        for split in ("train", "test")
    }
    assert reds["test"] == held and 8 <= len(held) <= 35
    assert reds["train"] == set(range(200)) - held


def test_few_images_still_give_both_splits(tmp_path):
    save(noise(8, 8), tmp_path / "0.png")
    assert len(open_folder(tmp_path)) == 1
    with pytest.raises(UserError, match="too few images"):
        open_folder(tmp_path, "test")
    for number in range(1, 4):
        save(noise(8, 8), tmp_path / f"{number}.png")
        sizes = len(open_folder(tmp_path)), len(open_folder(tmp_path, "test"))
        assert min(sizes) >= 1 and sum(sizes) == number + 1


@pytest.mark.parametrize("folder", ["", "only/"])
def test_flat_folder_is_unlabelled(tmp_path, folder):
    for number in range(20):
        save(noise(8, 8), tmp_path / f"{folder}{number}.JPG", format="PNG")
    dataset = open_folder(tmp_path)
    assert dataset.classes == () and set(dataset.labels.tolist()) == {-1}


def test_images_beside_class_folders_are_left_out_and_named(by_class, capsys):
    save(noise(16, 16), by_class / "train" / "poster.png")
    assert len(open_folder(by_class)) == 16
    assert "train/poster.png" in capsys.readouterr().err


def test_hidden_files_and_looping_links_are_ignored(tmp_path):
    save(noise(8, 8), tmp_path / "a" / "b" / "0.png")
    save(noise(8, 8), tmp_path / ".trash" / "1.png")
    save(noise(8, 8), tmp_path / "a" / "._0.png")
    os.symlink(tmp_path / "a", tmp_path / "a" / "b" / "loop", target_is_directory=True)
    assert find_images(tmp_path) == ["a/b/0.png"]


# Unreadable files


def break_files(folder):
    """An empty file, a text, and a truncated JPEG."""
    (folder / "x_empty.jpg").write_bytes(b"")
    (folder / "x_text.png").write_text("not an image")
    noise(64, 64).save(folder / "x_cut.jpg")
    whole = (folder / "x_cut.jpg").read_bytes()
    (folder / "x_cut.jpg").write_bytes(whole[: len(whole) // 2])


def test_unreadable_files_are_listed_and_left_out(by_class, capsys):
    break_files(by_class / "train" / "cat")
    dataset = open_folder(by_class)
    assert dataset.labels.tolist() == [0] * 8 + [1] * 8
    assert dataset.images()[:, 0, 0, 0].tolist() == [*range(8), *range(8)]
    error = capsys.readouterr().err
    assert "3 of 19 images cannot be read" in error and error.count("\n") == 1
    assert "x_empty.jpg (not an image)" in error and "x_cut.jpg" in error


def test_nothing_readable_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        open_folder(tmp_path / "missing")
    with pytest.raises(UserError, match="no images in"):
        open_folder(tmp_path)
    break_files(tmp_path)
    with pytest.raises(UserError, match=r"none of the \d image files can be read"):
        open_folder(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        open_folder(tmp_path / "x_text.png")


# Memory


def test_on_demand_gives_the_same_pictures(by_class, monkeypatch):
    in_memory = open_folder(by_class)
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    lazy = open_folder(by_class)
    assert in_memory.in_memory and not lazy.in_memory
    assert torch.equal(lazy.images(), in_memory.images())
    chosen = torch.tensor([5, 11, 0])
    assert torch.equal(lazy.images(chosen), in_memory.images(chosen))
    restored = pickle.loads(pickle.dumps(lazy))
    assert torch.equal(restored.images(chosen), in_memory.images(chosen))


def test_on_demand_replaces_unreadable_within_the_class(by_class, monkeypatch, capsys):
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    (by_class / "train" / "cat" / "7.png").write_bytes(b"broken")
    dataset = open_folder(by_class)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=identity)
    for _ in range(2):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert labels.tolist() == [0] * 8 + [1] * 8
        assert torch.equal(images[7], images[0])  # the next cat, counting on from the start
    assert dataset.images(torch.tensor([7]))[0, 2].min() == 255
    assert capsys.readouterr().err.count("7.png") == 0  # the worker has already said so


def test_on_demand_without_any_readable_image(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    break_files(tmp_path)
    with pytest.raises(UserError, match="none of the"):
        open_folder(tmp_path)


def test_limit_is_a_nested_seeded_sample(by_class):
    def pick(limit, seed=0):
        images = open_folder(by_class, limit=limit, seed=seed).images()[:, :2, 0, 0]
        return {tuple(colour) for colour in images.tolist()}

    assert len(pick(5)) == 5 and pick(5) == pick(5) and pick(5) < pick(9)
    assert pick(5) != pick(5, seed=1)
    assert len(pick(1000)) == 16
