"""Views against torchvision and PIL: every operation, whole views, and the distributions."""

import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from dino_tutorial.views import Augment, ViewSpec, byol_views, dino_views
from dino_tutorial.views.color import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    blend_,
    grayscale,
    shift_hue_,
    solarize,
)
from dino_tutorial.views.params import crop_boxes
from dino_tutorial.views.resample import (
    column_blocks,
    gaussian_blur,
    max_blocks,
    max_taps,
    resized_crop,
)

BICUBIC = InterpolationMode.BICUBIC


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colourful images, bytes / 255, so that PIL sees the same numbers."""
    coarse = torch.rand(n, 3, 6, 6, generator=generator(seed))
    fine = torch.rand(n, 3, height, width, generator=generator(seed + 1))
    image = 0.8 * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (image + 0.2 * fine).clamp(0, 1).mul(255).round() / 255


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pil(picture: Image.Image) -> torch.Tensor:
    return reference.pil_to_tensor(picture).float() / 255


def edge_pixels() -> torch.Tensor:
    """All colours with channels in {0, 1/4, …, 1}: grays, pure hues and every tie among them."""
    steps = torch.linspace(0, 1, 5)
    return torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 5, 25)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 3.0])
@pytest.mark.parametrize("kind", [BRIGHTNESS, CONTRAST, SATURATION])
def test_brightness_contrast_and_saturation(kind, factor):
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)[
        kind
    ]
    for images in (noise(3, 20, 30), edge_pixels()):
        n = len(images)
        ours = blend_(images.clone(), torch.full((n,), kind), torch.full((n,), factor))
        torch.testing.assert_close(ours, adjust(images, factor), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.37, 0.5])
def test_hue(shift):
    for images in (noise(3, 20, 30), edge_pixels()):
        ours = shift_hue_(images.clone(), torch.full((len(images),), shift))
        torch.testing.assert_close(ours, reference.adjust_hue(images, shift), atol=5e-6, rtol=0)


def test_adjustments_with_a_factor_for_each_sample():
    images = noise(3, 12, 12)
    kinds, factors = torch.tensor([SATURATION, BRIGHTNESS, CONTRAST]), torch.tensor([0.2, 1.3, 0.7])
    expected = torch.stack(
        [
            reference.adjust_saturation(images[0], 0.2),
            reference.adjust_brightness(images[1], 1.3),
            reference.adjust_contrast(images[2], 0.7),
        ]
    )
    torch.testing.assert_close(blend_(images.clone(), kinds, factors), expected)


def test_grayscale_and_solarize():
    images = torch.cat([noise(2, 5, 25), edge_pixels()])
    torch.testing.assert_close(grayscale(images), reference.rgb_to_grayscale(images))
    torch.testing.assert_close(solarize(images), reference.solarize(images, 128 / 255))
    every_value = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    inverted = from_pil(ImageOps.solarize(to_pil(every_value[0]), 128))
    torch.testing.assert_close(solarize(every_value)[0], inverted)


BOXES = torch.tensor(
    [[0, 0, 70, 90], [3, 5, 30, 20], [41, 2, 9, 55], [69, 89, 1, 1], [10, 8, 40, 3]]
)


@pytest.mark.parametrize("size", [5, 16, 32, 96])
def test_crops_equal_torchvision_and_pil(size):
    images = ((0.25 + 0.5 * noise(2, 70, 90)) * 255).round() / 255  # no overshoot to be cut off
    source, flip = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([True, False, True, False, False])
    crops = resized_crop(
        column_blocks(images),
        source,
        BOXES,
        flip,
        size,
        max_taps(BOXES, size),
        max_blocks(BOXES, 70),
    )
    for crop, i, box, mirrored in zip(crops, source, BOXES.tolist(), flip, strict=True):
        expected = reference.resized_crop(images[i], *box, [size, size], BICUBIC, antialias=True)
        expected = expected.flip(2) if mirrored else expected
        torch.testing.assert_close(crop, expected, atol=2e-6, rtol=0)
        picture = reference.resized_crop(to_pil(images[i]), *box, [size, size], BICUBIC)
        picture = from_pil(picture).flip(2) if mirrored else from_pil(picture)
        # PIL rounds to bytes after each of its two passes.
        assert (crop - picture).abs().max() <= 1.5 / 255


def test_blur_equals_torchvision_inside_and_pil_up_to_the_border():
    images, sigma = noise(4, 40, 44), torch.tensor([0.1, 0.7, 1.3, 2.0])
    which = torch.tensor([2, 0, 3, 1])
    blurred = gaussian_blur(images, which, sigma[which], radius=6)
    for i, ours in zip(which.tolist(), blurred, strict=True):
        expected = reference.gaussian_blur(images[i], [13, 13], [float(sigma[i])] * 2)
        inside = (slice(None), slice(6, -6), slice(6, -6))
        torch.testing.assert_close(ours[inside], expected[inside], atol=1e-6, rtol=0)
        picture = from_pil(to_pil(images[i]).filter(ImageFilter.GaussianBlur(float(sigma[i]))))
        difference = (ours - picture).abs()  # PIL stacks three box filters, in bytes
        assert difference.mean() < 1.2 / 255 and difference.max() < 8 / 255


def reference_view(image: torch.Tensor, spec: ViewSpec, params, view: int, i: int) -> torch.Tensor:
    """One view made step by step with torchvision, from the parameters drawn for it."""
    box, size = params.boxes[view, i].tolist(), [spec.size, spec.size]
    x = reference.resized_crop(image, *box, size, BICUBIC, antialias=True).clamp(0, 1)
    if params.flip[view, i]:
        x = reference.horizontal_flip(x)
    if params.jitter[view, i]:
        factors = params.factors[view, i].tolist()
        for k in params.order[view, i].tolist():
            adjust = (
                reference.adjust_brightness,
                reference.adjust_contrast,
                reference.adjust_saturation,
                reference.adjust_hue,
            )[k]
            x = adjust(x, factors[k])
    if params.gray[view, i]:
        x = reference.rgb_to_grayscale(x, num_output_channels=3)
    sigma = float(params.sigma[view, i])
    if sigma > 0:
        padded = reference.pad(x, [12], padding_mode="edge")
        x = reference.gaussian_blur(padded, [13, 13], [sigma] * 2)[:, 12:-12, 12:-12]
    if params.solarize[view, i]:
        x = reference.solarize(x, 128 / 255)
    return reference.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("height, width", [(40, 40), (33, 70)])
def test_whole_views_equal_torchvision_step_by_step(height, width):
    n, specs = 24, dino_views(32, 16, 3)
    views, images = Augment(specs), noise(n, height, width)
    params = views.sample(n, height, width, generator(7))
    for name in ("flip", "jitter", "gray", "solarize"):
        assert getattr(params, name).any() and not getattr(params, name).all()
    ours = [view for group in views.apply(images, params) for view in group]
    assert len(ours) == len(specs)
    for v, spec in enumerate(specs):
        expected = torch.stack([reference_view(images[i], spec, params, v, i) for i in range(n)])
        close = (ours[v] - expected).abs() < 5e-4
        # Solarization is not continuous: a pixel at the threshold may fall on the other side.
        assert close.float().mean() > 0.999
        assert close[~params.solarize[v]].all()


def kolmogorov_smirnov(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two empirical distributions, in units of its 0.1 % quantile."""
    values = torch.cat([one, other]).sort().values
    cumulative = [
        torch.searchsorted(sample.sort().values, values, right=True) / len(sample)
        for sample in (one, other)
    ]
    critical = 1.95 * ((len(one) + len(other)) / (len(one) * len(other))) ** 0.5
    return float((cumulative[0] - cumulative[1]).abs().max()) / critical


def test_the_yardstick_tells_different_distributions_apart():
    one, other = torch.rand(2, 3000, generator=generator())
    assert kolmogorov_smirnov(one, other) < 1
    assert kolmogorov_smirnov(one, other * 0.9) > 1


@pytest.mark.parametrize(
    "height, width, spec",
    [
        (32, 32, byol_views(16)[0]),
        (64, 48, dino_views(16, 8, 1)[0]),
        (64, 48, dino_views(16, 8, 1)[2]),
        (20, 90, dino_views(16, 8, 1)[0]),  # wide: many draws need several tries
    ],
)
def test_boxes_are_distributed_as_torchvisions(height, width, spec):
    n = 4000
    boxes = Augment([spec]).sample(n, height, width, generator()).boxes[0].float()
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        draw = v2.RandomResizedCrop(spec.size, spec.scale, spec.ratio)
        theirs = [draw.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).float()
    for quantity in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        assert kolmogorov_smirnov(quantity(boxes), quantity(theirs)) < 1


@pytest.mark.parametrize("height, width", [(10, 100), (100, 10), (30, 31)])
def test_the_box_of_last_resort_is_torchvisions(height, width):
    narrow, wide = 0.9, 1.1
    impossible = torch.full((1, 1, 10), 1.0), torch.full((1, 1, 10), 50.0)
    limits = torch.tensor([[narrow]], dtype=torch.float64), torch.tensor([[wide]]).double()
    sides = torch.tensor(height), torch.tensor(width)
    ours = crop_boxes(*impossible, torch.zeros(1, 1, 2), limits, *sides)[0, 0]
    # A scale of 4 never fits, so that all of torchvision's tries fail.
    draw = v2.RandomResizedCrop(8, (4.0, 4.0), (narrow, wide))
    theirs = draw.make_params([torch.empty(3, height, width)])
    assert ours.tolist() == [theirs["top"], theirs["left"], theirs["height"], theirs["width"]]


def test_factors_and_sigmas_are_distributed_as_torchvisions():
    n, spec = 4000, ViewSpec(8, (0.5, 1.0), blur_p=1.0, brightness=1.2)
    params = Augment([spec]).sample(n, 8, 8, generator())
    jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    blur = v2.GaussianBlur(13, spec.blur_sigma)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [jitter.make_params([]) for _ in range(n)]
        sigmas = torch.tensor([blur.make_params([])["sigma"][0] for _ in range(n)])
    for k, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = torch.tensor([p[f"{name}_factor"] for p in drawn])
        assert kolmogorov_smirnov(params.factors[0, :, k], theirs) < 1, name
    assert kolmogorov_smirnov(params.sigma[0], sigmas) < 1
    theirs = torch.stack([torch.as_tensor(p["fn_idx"]) for p in drawn])
    for place in range(4):  # each adjustment is first, second, … a quarter of the time
        ours = (params.order[0, :, place, None] == torch.arange(4)).float().mean(dim=0)
        other = (theirs[:, place, None] == torch.arange(4)).float().mean(dim=0)
        torch.testing.assert_close(ours, other, atol=0.04, rtol=0)


def view_statistics(views: torch.Tensor) -> dict[str, torch.Tensor]:
    """Brightness, colourfulness, hue and sharpness of (n, 3, H, W) views in [0, 1]."""
    mean = views.mean(dim=(2, 3))
    red, green, blue = mean.unbind(1)
    return {
        "brightness": mean.mean(dim=1),
        "contrast": views.mean(dim=1).std(dim=(1, 2)),
        "colourfulness": mean.amax(dim=1) - mean.amin(dim=1),
        "hue": torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue),
        # Away from the border, which torchvision's blur reflects and PIL's repeats.
        "sharpness": (views[..., 7:-7, 7:-6] - views[..., 7:-7, 6:-7]).abs().mean(dim=(1, 2, 3)),
    }


@pytest.mark.parametrize("which", [0, 1, 2])
def test_finished_views_are_distributed_as_torchvisions(which):
    n, spec = 1500, dino_views(24, 24, 1)[which]
    image = noise(1, 32, 32, seed=5)
    image[:, 0] = image[:, 0] * 0.5 + 0.4  # a reddish picture has a mean hue
    ours = Augment([spec], (0, 0, 0), (1, 1, 1))
    views = ours.apply(image.expand(n, -1, -1, -1), ours.sample(n, 32, 32, generator()))[0][0]
    jitter = v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    recipe = v2.Compose(
        [
            v2.RandomResizedCrop(spec.size, spec.scale, spec.ratio, BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(spec.flip_p),
            v2.RandomApply([jitter], spec.jitter_p),
            v2.RandomGrayscale(spec.gray_p),
            v2.RandomApply([v2.GaussianBlur(13, spec.blur_sigma)], spec.blur_p),
            v2.RandomSolarize(128 / 255, spec.solarize_p),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = torch.stack([recipe(image[0]) for _ in range(n)])
    theirs = view_statistics(theirs)
    for name, values in view_statistics(views).items():
        assert kolmogorov_smirnov(values, theirs[name]) < 1, name
