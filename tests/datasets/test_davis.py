"""A tiny folder in the layouts of DAVIS, written here and read back."""

import numpy as np
import pytest
import torch
from PIL import Image

from dino_tutorial.datasets.davis import Davis
from dino_tutorial.errors import UserError

LAYOUTS = [("JPEGImages/480p", "Annotations/480p"), ("frames", "masks")]


def pictures(index, height=18, width=30):
    """A flat colour and a box, both known from the frame's number."""
    frame = np.full((height, width, 3), (40 * index, 100, 200 - 30 * index), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[2 + index : 9 + index, 3:12] = 255
    return frame, mask


def write(folder, layout=LAYOUTS[0], names=("bear", "boat"), count=3, palette=False):
    for name in names:
        places = [folder / part / name for part in layout]
        for place in places:
            place.mkdir(parents=True)
        for index in range(count):
            frame, mask = pictures(index)
            Image.fromarray(frame).save(places[0] / f"{index:05}.jpg", quality=100)
            image = Image.fromarray(np.minimum(mask, 2) if palette else mask)
            if palette:
                image.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0])  # an object drawn as black as nothing
            image.save(places[1] / f"{index:05}.png")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("palette", [False, True])
def test_films_come_back(tmp_path, layout, palette):
    videos = Davis(write(tmp_path, layout, palette=palette))
    assert videos.names == ("bear", "boat")
    assert [video.name for video in videos] == ["bear", "boat"]
    video = videos[1]
    assert video.frames.shape == (3, 3, 18, 30)
    assert video.frames.dtype == torch.uint8
    assert video.masks.dtype == torch.bool
    for index in range(3):
        frame, mask = pictures(index)
        difference = video.frames[index].permute(1, 2, 0).int() - torch.from_numpy(frame).int()
        assert difference.abs().max() <= 3  # JPEG
        assert torch.equal(video.masks[index], torch.from_numpy(mask > 0))


def test_frames_are_resized_to_multiples_and_masks_are_not(tmp_path):
    video = Davis(write(tmp_path), short_side=36, multiple=8)[0]
    assert video.frames.shape == (3, 3, 32, 56)  # 36 x 60, made smaller
    assert video.masks.shape == (3, 18, 30)
    assert Davis(tmp_path, multiple=8)[0].frames.shape == (3, 3, 16, 24)
    assert Davis(tmp_path, multiple=20)[0].frames.shape == (3, 3, 20, 20)


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("ImageSets/2016", "boat\n"),
        (
            "ImageSets/480p",
            "".join(
                f"/JPEGImages/480p/boat/{i:05}.jpg /Annotations/480p/boat/{i:05}.png \n"
                for i in range(3)
            ),
        ),
    ],
)
def test_lists_choose_the_sequences(tmp_path, place, lines):
    write(tmp_path)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "val.txt").write_text(lines)
    assert Davis(tmp_path, "val").names == ("boat",)
    with pytest.raises(UserError, match="no list of the split 'train'"):
        Davis(tmp_path, "train")
    (tmp_path / place / "train.txt").write_text("bear\ncow\n")
    with pytest.raises(UserError, match="no sequence cow"):
        Davis(tmp_path, "train")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="is no copy of DAVIS"):
        Davis(tmp_path)
    write(tmp_path)
    missing = tmp_path / LAYOUTS[0][1] / "bear" / "00001.png"
    missing.unlink()
    with pytest.raises(UserError, match=r"00001\.png does not exist"):
        Davis(tmp_path)[0]
    missing.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        Davis(tmp_path)[0]
    Image.new("L", (4, 4)).save(missing)
    with pytest.raises(UserError, match="several sizes"):
        Davis(tmp_path)[0]


def test_empty_folders_are_named(tmp_path):
    for part in LAYOUTS[1]:
        (tmp_path / part).mkdir()
    with pytest.raises(UserError, match="no sequences"):
        Davis(tmp_path)
    (tmp_path / "frames" / "bear").mkdir()
    with pytest.raises(UserError, match=r"no \.jpg"):
        Davis(tmp_path)[0]
