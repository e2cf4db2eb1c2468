"""Views: what is drawn, how it is cut in groups and parts, and that applying it is pure."""

from dataclasses import fields

import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.views import Augment, ViewSpec, augment, byol_views, dino_views


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, height: int = 24, width: int = 24, seed: int = 1) -> torch.Tensor:
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


def equal(one, other) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def test_byol_views_differ_only_in_blur_and_solarize():
    one, two = byol_views(96)
    assert (one.blur_p, two.blur_p) == (1.0, 0.1)
    assert (one.solarize_p, two.solarize_p) == (0.0, 0.2)
    assert one.scale == two.scale == (0.08, 1.0)
    same = {f.name for f in fields(one)} - {"blur_p", "solarize_p"}
    assert all(getattr(one, name) == getattr(two, name) for name in same)
    assert (one.brightness, one.contrast, one.saturation, one.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (one.flip_p, one.jitter_p, one.gray_p, one.blur_sigma) == (0.5, 0.8, 0.2, (0.1, 2.0))


def test_dino_views_are_two_global_and_then_the_local_crops():
    views = dino_views(n_local=8)
    assert [v.size for v in views] == [224] * 2 + [96] * 8
    assert [v.blur_p for v in views] == [1.0, 0.1] + [0.5] * 8
    assert [v.solarize_p for v in views] == [0.0, 0.2] + [0.0] * 8
    assert {v.scale for v in views[:2]} == {(0.4, 1.0)}
    assert {v.scale for v in views[2:]} == {(0.05, 0.4)}
    assert all(v.hue == 0.02 for v in dino_views(hue=0.02))


def test_probabilities_are_those_of_the_specs():
    n = 20_000
    params = Augment(dino_views(32, 16, 1)).sample(n, 32, 32, generator())
    tolerance = 4 * (0.25 / n) ** 0.5
    for mask, expected in (
        (params.flip, (0.5, 0.5, 0.5)),
        (params.jitter, (0.8, 0.8, 0.8)),
        (params.gray, (0.2, 0.2, 0.2)),
        (params.sigma > 0, (1.0, 0.1, 0.5)),
        (params.solarize, (0.0, 0.2, 0.0)),
    ):
        rate = mask.float().mean(dim=1)
        torch.testing.assert_close(rate, torch.tensor(expected), atol=tolerance, rtol=0)


def test_jitter_orders_are_all_permutations_equally_often():
    n = 24_000
    order = Augment(byol_views(16)).sample(n, 16, 16, generator()).order[0]
    assert torch.equal(order.sort(dim=1).values, torch.arange(4).expand(n, 4))
    counts = (order * torch.tensor([64, 16, 4, 1])).sum(dim=1).unique(return_counts=True)[1]
    assert len(counts) == 24
    chi_square = ((counts - n / 24) ** 2 / (n / 24)).sum()
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


def test_one_seed_gives_one_draw_and_the_next_draw_differs():
    views = Augment(dino_views(32, 16, 2))
    g = generator(3)
    first, second = views.sample(8, 32, 32, g), views.sample(8, 32, 32, g)
    assert equal(first, views.sample(8, 32, 32, generator(3)))
    assert not equal(first, second)


def test_a_changed_probability_moves_no_other_draw():
    usual = Augment(byol_views(32)).sample(64, 32, 32, generator())
    other = Augment(byol_views(32, gray_p=0.9, blur_p=0.0)).sample(64, 32, 32, generator())
    assert torch.equal(usual.boxes, other.boxes) and torch.equal(usual.factors, other.factors)
    assert torch.equal(usual.flip, other.flip) and torch.equal(usual.order, other.order)


def test_parts_of_a_draw_give_parts_of_the_views():
    views, images = Augment(dino_views(32, 16, 3)), pictures(10, 40, 36)
    params = views.sample(10, 40, 36, generator())
    whole = views.apply(images, params)
    for index in (slice(0, 5), slice(5, 10), [7, 2], torch.tensor([9])):
        assert len(params[index]) == len(images[index])
        part = views.apply(images[index], params[index])
        for of_part, of_whole in zip(part, whole, strict=True):
            torch.testing.assert_close(of_part, of_whole[:, index], atol=1e-5, rtol=0)


def test_the_size_of_the_chunks_changes_nothing(monkeypatch):
    views, images = Augment(dino_views(32, 16, 3)), pictures(12, 70, 50)
    params = views.sample(12, 70, 50, generator())
    whole = views.apply(images, params)
    monkeypatch.setattr(augment, "chunk_numbers", lambda device: 4000)
    for one, other in zip(views.apply(images, params), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_applying_is_deterministic_and_leaves_its_inputs_alone():
    views, images = Augment(byol_views(20)), pictures(6)
    params = views.sample(6, 24, 24, generator())
    images_before, params_before = images.clone(), params[:]
    state = torch.get_rng_state()
    first, second = views.apply(images, params), views.apply(images, params)
    assert torch.equal(first[0], second[0])
    assert torch.equal(images, images_before) and equal(params, params_before)
    assert torch.equal(torch.get_rng_state(), state)
    as_float = images.float() / 255
    kept = as_float.clone()
    torch.testing.assert_close(views.apply(as_float, params)[0], first[0])
    assert torch.equal(as_float, kept)


def test_applying_never_reads_the_device():
    # Tensors on the meta device have no values: whoever asked for one would get an error. So the
    # host can queue the whole work without waiting for a GPU.
    views = Augment(dino_views(32, 16, 3))
    params = views.sample(16, 40, 36, generator())
    assert params.gray.any() and params.solarize.any() and (params.sigma > 0).any()
    on_device = views.apply(pictures(16, 40, 36).to("meta"), params)
    assert [tuple(r.shape) for r in on_device] == [(2, 16, 3, 32, 32), (3, 16, 3, 16, 16)]
    assert all(r.device.type == "meta" for r in on_device)


def test_a_view_does_not_depend_on_its_company():
    views, images = Augment(byol_views(24)), pictures(8)
    params = views.sample(8, 24, 24, generator())
    together = views.apply(images, params)[0]
    alone = [views.apply(images[i : i + 1], params[i : i + 1])[0] for i in range(8)]
    torch.testing.assert_close(torch.cat(alone, dim=1), together, atol=1e-5, rtol=0)


def test_consecutive_views_of_one_size_make_one_tensor():
    sizes = (16, 16, 8, 16)
    views = Augment([ViewSpec(size, (0.3, 1.0)) for size in sizes])
    params = views.sample(5, 24, 24, generator())
    result = views.apply(pictures(5), params)
    assert [tuple(r.shape) for r in result] == [
        (2, 5, 3, 16, 16),
        (1, 5, 3, 8, 8),
        (1, 5, 3, 16, 16),
    ]
    assert all(r.dtype == torch.float32 and r.is_contiguous() for r in result)


PLAIN = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter_p=0.0, gray_p=0.0, blur_p=0.0)


def test_with_nothing_drawn_a_view_is_the_normalised_image_and_a_flip_mirrors_it():
    images = pictures(4)
    for flip_p, expected in ((0.0, images), (1.0, images.flip(3))):
        views = Augment([ViewSpec(24, flip_p=flip_p, **PLAIN)], (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        view = views.apply(images, views.sample(4, 24, 24, generator()))[0]
        mean = torch.tensor([0.5, 0.4, 0.3])[:, None, None]
        std = torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        torch.testing.assert_close(view[0], (expected / 255 - mean) / std)
        torch.testing.assert_close(views.denormalize(view)[0], expected / 255)


def test_gray_views_have_equal_channels_and_blur_smooths():
    images = pictures(4)
    gray, blurred, plain = (
        Augment([ViewSpec(24, flip_p=0.0, **{**PLAIN, **extra})], (0, 0, 0), (1, 1, 1))
        for extra in ({"gray_p": 1.0}, {"blur_p": 1.0, "blur_sigma": (1.0, 1.0)}, {})
    )
    gray, blurred, plain = (
        a.apply(images, a.sample(4, 24, 24, generator()))[0] for a in (gray, blurred, plain)
    )
    assert torch.equal(gray[:, :, 0], gray[:, :, 1]) and torch.equal(gray[:, :, 0], gray[:, :, 2])
    # White noise under a Gaussian of sigma 1 keeps 1 / (4 pi) of its variance.
    ratio = float(blurred[..., 4:-4, 4:-4].var() / plain.var())
    assert 0.06 < ratio < 0.10


@pytest.mark.parametrize(
    "values, word",
    [
        ({"size": 0}, "size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.4)}, "scale"),
        ({"scale": (0.5, 1.1)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"gray_p": 1.5}, "gray_p"),
        ({"contrast": -0.1}, "contrast"),
        ({"hue": 0.6}, "hue"),
    ],
)
def test_a_spec_out_of_range_says_which_field(values, word):
    with pytest.raises(UserError, match=word):
        ViewSpec(**{"size": 8, "scale": (0.1, 1.0), **values})


@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_told_in_a_sentence():
    views = Augment(byol_views(8))
    params = views.sample(4, 24, 24, generator())
    with pytest.raises(UserError, match="no setting 'colour'"):
        byol_views(8, colour=1)
    with pytest.raises(UserError, match="n_local"):
        dino_views(n_local=-1)
    with pytest.raises(UserError, match="at least one"):
        Augment([])
    with pytest.raises(UserError, match="batch_size must be 1"):
        views.sample(0, 24, 24, generator())
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        views.apply(pictures(4)[:, :1], params)
    with pytest.raises(UserError, match=r"uint8, or floats in \[0, 1\], not torch.int64"):
        views.apply(pictures(4).long(), params)
    with pytest.raises(UserError, match="4 images|5 images"):
        views.apply(pictures(5), params)
    with pytest.raises(UserError, match="reach"):
        views.apply(pictures(4, 8, 8), params)


def test_each_image_may_have_its_own_size():
    """Drawn together or alone, a sample gets the same parameters, in the geometry of its image."""
    views = Augment(dino_views(16, 8, 2))
    sizes = torch.tensor([[30, 40], [40, 17], [40, 40], [5, 40]])
    together = views.sample(4, *sizes.unbind(1), generator())
    for index, (height, width) in enumerate(sizes.tolist()):
        alone = views.sample(4, height, width, generator())[[index]]
        assert equal(together[[index]], alone)
    bottom_right = together.boxes[..., :2] + together.boxes[..., 2:]
    assert (together.boxes[..., :2] >= 0).all() and (bottom_right <= sizes).all()
    same = torch.full((4,), 40)
    assert equal(views.sample(4, same, same, generator()), views.sample(4, 40, 40, generator()))


def test_crops_reach_every_edge_of_an_image_and_none_beyond():
    sizes = torch.tensor([[30, 40]]).expand(4000, 2)
    boxes = Augment([ViewSpec(16, (0.05, 0.4))]).sample(4000, *sizes.unbind(1), generator()).boxes
    top, left, height, width = boxes[0].unbind(1)
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (30, 40)


def test_what_lies_beyond_an_image_on_its_canvas_is_in_no_crop():
    views = Augment(dino_views(16, 8, 2))
    images, sizes = (
        pictures(5, 40, 40),
        torch.tensor([[30, 40], [40, 17], [40, 40], [5, 40], [9, 9]]),
    )
    params = views.sample(5, *sizes.unbind(1), generator())
    black = images.clone()
    for image, (height, width) in zip(black, sizes.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = 0, 0
    for seen, expected in zip(views.apply(images, params), views.apply(black, params), strict=True):
        assert torch.equal(seen, expected)


def test_a_share_is_a_part_of_the_whole_draw():
    views, share = Augment(dino_views(16, 8, 2)), slice(4, 8)
    sizes = torch.tensor([[30, 40], [40, 17], [40, 40], [5, 40]])
    everything = views.sample(8, *sizes.repeat(2, 1).unbind(1), generator())
    assert equal(everything[share], views.sample(8, *sizes.unbind(1), generator(), share))
