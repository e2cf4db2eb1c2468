"""Views of images of any shape: boxes stay inside, values in range, parts equal the whole."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.views import Augment, ViewSpec, dino_views

QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SIDES = st.integers(1, 80)
SEEDS = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@QUICK
@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    seed=SEEDS,
    low=st.floats(0.001, 1),
    high=st.floats(0.001, 1),
    widest=st.floats(1, 5),
)
def test_boxes_lie_inside_the_image(height, width, seed, low, high, widest):
    scale = (min(low, high), max(low, high))
    views = Augment([ViewSpec(8, scale, ratio=(1 / widest, widest))] * 2)
    params = views.sample(50, height, width, generator(seed))
    top, left, h, w = params.boxes.unbind(2)
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()


@QUICK
@given(height=SIDES, width=SIDES, size=st.integers(1, 48), seed=SEEDS, extreme=st.booleans())
def test_views_of_any_shape_are_finite_and_in_range(height, width, size, seed, extreme):
    images = torch.rand(3, 3, height, width, generator=generator(seed))
    images = images.round() if extreme else images
    strong = dict(brightness=2.0, contrast=2.0, saturation=2.0, hue=0.5)
    specs = dino_views(size, max(1, size // 2), 2, **strong)
    views = Augment(specs, mean=(0, 0, 0), std=(1, 1, 1))
    for group in views.apply(images, views.sample(3, height, width, generator(seed))):
        assert group.isfinite().all()
        assert group.min() >= -1e-6 and group.max() <= 1 + 1e-6


@QUICK
@given(height=SIDES, width=SIDES, seed=SEEDS, cut=st.integers(1, 4))
def test_two_parts_of_a_batch_make_the_views_of_the_whole(height, width, seed, cut):
    shape = (5, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))
    views = Augment(dino_views(16, 8, 1))
    params = views.sample(5, height, width, generator(seed))
    whole = views.apply(images, params)
    first = views.apply(images[:cut], params[:cut])
    second = views.apply(images[cut:], params[cut:])
    for one, two, both in zip(first, second, whole, strict=True):
        joined = torch.cat([one, two], dim=1)
        # Rounding may differ in the last bit, and solarization turns that into a jump.
        assert ((joined - both).abs() < 1e-5).float().mean() > 0.99


@QUICK
@given(height=SIDES, width=SIDES, size=st.integers(1, 40), value=st.integers(0, 255))
def test_a_crop_of_one_colour_keeps_it(height, width, size, value):
    images = torch.full((4, 3, height, width), value, dtype=torch.uint8)
    views = Augment([ViewSpec(size, (0.05, 1.0), jitter_p=0.0, blur_p=1.0)], (0,) * 3, (1,) * 3)
    view = views.apply(images, views.sample(4, height, width, generator(value)))[0]
    torch.testing.assert_close(view, torch.full_like(view, value / 255), atol=1e-4, rtol=0)
