"""Photographs on a canvas that shows all of them: shape, sharpness, place, and what is told."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dino_tutorial import configure
from dino_tutorial.datasets import decode, open_dataset
from dino_tutorial.datasets.decode import open_image, to_canvas
from dino_tutorial.datasets.folder import open_folder
from dino_tutorial.datasets.subset import Subset
from dino_tutorial.errors import UserError
from dino_tutorial.runs.images import Images
from dino_tutorial.training.batches import BatchOrder, batches

CPU = torch.device("cpu")


def where(width, height):
    """A photograph whose red tells the column, green the row, each from 0 to 255."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


def stored(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return open_image(buffer)


@pytest.fixture
def photographs(tmp_path):
    """Twelve of mixed shapes in two classes, some larger than a canvas of 48 px, one broken."""
    for number in range(12):
        place = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        where(20 + 11 * number, 90 - 6 * number).save(place / f"{number}.png")
    (place / "7.png").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (300, 40), (500, 333), (64, 64), (1, 300)])
def test_all_of_a_photograph_is_on_its_canvas(shape):
    pixels = to_canvas(stored(where(*shape)), 64, "whole").astype(int)
    height, width = pixels.shape[:2]
    scale = min(1, 64 / max(shape))
    for side, length in ((width, shape[0]), (height, shape[1])):
        assert side == 1 or abs(side - scale * length) <= 0.5
    for axis, length in enumerate(shape):
        if length > 1:
            # From the middle of the first pixel to that of the last.
            assert np.ptp(pixels[..., axis]) >= 255 * (1 - 1 / pixels.shape[1 - axis]) - 2


def test_a_centre_square_leaves_the_sides_out():
    pixels = to_canvas(stored(where(90, 60)), 60).astype(int)
    assert np.ptp(pixels[..., 1]) >= 249 and 160 <= np.ptp(pixels[..., 0]) <= 180  # two thirds


def test_what_is_no_larger_than_the_canvas_keeps_its_pixels():
    photograph = where(61, 47)
    assert np.array_equal(to_canvas(stored(photograph), 64, "whole"), np.asarray(photograph))


def test_a_larger_one_keeps_its_fine_detail():
    """Of noise, Lanczos' kernel leaves more of what is finer than four pixels than bicubic does."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)

    def fine(pixels):
        power = np.abs(np.fft.fft2(pixels[..., 0].astype(float))) ** 2
        high = np.abs(np.fft.fftfreq(64)) > 0.25
        return power[high][:, high].sum()

    square = stored(Image.fromarray(noise))
    assert fine(to_canvas(square, 64, "whole")) > 1.3 * fine(to_canvas(square, 64, "center"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [96, 48])
def test_a_photograph_is_upright(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "exif": exif}
    upright = ImageOps.exif_transpose(stored(where(90, 60), "JPEG", **options))
    scale = min(1, size / 90)
    shape = [round(scale * side) for side in upright.size]
    expected = np.asarray(upright.resize(shape, Image.Resampling.LANCZOS)).astype(int)
    actual = to_canvas(stored(where(90, 60), "JPEG", **options), size, "whole").astype(int)
    assert actual.shape == expected.shape and np.abs(actual - expected).max() <= 3


def test_a_photograph_of_a_camera_is_decoded_at_a_quarter():
    photograph = stored(where(1000, 750), "JPEG", quality=90)
    pixels = to_canvas(photograph, 128, "whole").astype(int)
    assert photograph.size == (250, 188)  # as 4,000 x 3,000 for a canvas of 512
    expected = where(1000, 750).resize((128, 96), Image.Resampling.BICUBIC)
    assert pixels.shape == (96, 128, 3) and np.abs(pixels - np.asarray(expected)).max() <= 4


def test_a_data_set_tells_what_each_image_fills(photographs, capsys):
    dataset = open_folder(photographs, image_size=48, fit="whole")
    images, sizes = dataset.placed()
    assert dataset.padded and images.shape[1:] == (3, 48, 48) and sizes.max() == 48
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        assert image[:, height:].sum() == 0 and image[:, :, width:].sum() == 0
        assert image[0, 0, width - 1] >= 240 and image[1, height - 1, 0] >= 240
    chosen = torch.tensor([3, 0])
    few = Subset(dataset, chosen)
    for ours, theirs in zip(few.placed(), (images[chosen], sizes[chosen]), strict=True):
        assert torch.equal(ours, theirs)
    assert few.padded and torch.equal(few.placed(torch.tensor([1]))[1], sizes[:1])
    assert "1 of" in capsys.readouterr().err  # the broken one


def test_on_demand_is_as_in_memory(photographs, monkeypatch):
    kept = open_folder(photographs, image_size=48, fit="whole")
    monkeypatch.setattr(decode, "MEMORY_LIMIT", 0)
    late = open_folder(photographs, image_size=48, fit="whole")
    assert late.padded and not late.in_memory
    good = [n for n in range(len(late)) if late._source.name(n) != "cat/7.png"]
    for ours, theirs in zip(late.placed(torch.tensor(good)), kept.placed(), strict=True):
        assert torch.equal(ours, theirs)
    # The broken one is replaced, with the size of what stands for it.
    broken = late._source._paths.tolist().index(b"cat/7.png") if len(good) < len(late) else 0
    images, sizes = late.placed(torch.tensor([broken]))
    height, width = sizes[0].tolist()
    assert images[0, 0, 0, width - 1] >= 240 and images[0, 1, height - 1, 0] >= 240


@pytest.mark.parametrize("limit", [2**31, 0])
def test_a_step_gets_sizes_with_its_images(photographs, monkeypatch, limit):
    monkeypatch.setattr(decode, "MEMORY_LIMIT", limit)
    dataset = open_folder(photographs, image_size=48, fit="whole")
    order = BatchOrder(len(dataset), 3, total_steps=2, seed=0)
    for indices, batch in zip(order, batches(dataset, order, CPU, workers=0), strict=True):
        images, sizes = dataset.placed(torch.tensor(indices))
        assert torch.equal(batch.images, images) and torch.equal(batch.sizes, sizes)
        assert torch.equal(batch.labels, dataset.labels[torch.tensor(indices)])


def test_squares_that_fill_the_canvas_are_what_they_were(tmp_path):
    for number in range(12):
        where(32, 32).save(tmp_path / f"{number}.png")
    whole, center = (open_folder(tmp_path, fit=fit) for fit in ("whole", "center"))
    assert not whole.padded and torch.equal(whole.images(), center.images())
    assert whole.fingerprint() == center.fingerprint()
    assert torch.equal(whole.placed()[1], torch.full((len(whole), 2), 32))


def test_other_pixels_have_another_fingerprint(photographs):
    whole, center = (open_folder(photographs, image_size=48, fit=f) for f in ("whole", "center"))
    assert whole.fingerprint()["contents"] != center.fingerprint()["contents"]


def test_training_sees_whole_photographs_and_evaluation_the_centre(photographs):
    changes = {"data.image_size": 16, "data.limit": None}  # as large as the views of evaluation
    images = Images.open(configure("dino", str(photographs), "smoke", changes))
    assert images.train.padded and not images.bank.padded and not images.test.padded
    centred = Images.open(
        configure("dino", str(photographs), "smoke", changes | {"data.fit": "center"})
    )
    assert not centred.train.padded and centred.bank is centred.train
    assert torch.equal(centred.bank.images(), images.bank.images())


def test_an_unknown_fit_is_refused(photographs):
    with pytest.raises(UserError, match="there is no fit 'wide'; choose whole or center"):
        open_dataset(photographs, fit="wide")
