"""Figures show the numbers they were given, say so in words, and survive awkward data."""

import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from dino_tutorial import plots
from dino_tutorial.plots import curves, images, style

LN_K = math.log(1024)


def rows_of(key: str, values: list, every: int = 10) -> list[dict]:
    return [{"step": index * every, key: value} for index, value in enumerate(values)]


def drawn(figure, panel: int = 0) -> list[np.ndarray]:
    """The (n, 2) points of every line in one panel."""
    return [line.get_xydata() for line in figure.axes[panel].lines]


def texts(figure) -> list[str]:
    found = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in found] + [axes.get_title("center") for axes in figure.axes]


def random_images(n: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


# Style


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours."""

    def luminance(value: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(value)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_and_lines_stand_out_on_both_cards(theme):
    card = style.COLOURS["card"][theme]
    for name, values in style.COLOURS.items():
        if name in ("ink", "muted") or name.endswith("-text"):
            assert contrast(values[theme], card) >= 4.5, name
    for name in ("blue", "vermillion", "green", "purple"):
        assert contrast(style.COLOURS[name][theme], card) >= 2.9, name


def test_palette_is_the_one_of_okabe_and_ito():
    published = {
        (0, 114, 178),
        (213, 94, 0),
        (0, 158, 115),
        (204, 121, 167),
        (230, 159, 0),
        (86, 180, 233),
        (240, 228, 66),
    }
    assert {tuple(round(255 * c) for c in to_rgb(style.colour(n))) for n in style.PALETTE} == (
        published
    )


def test_each_light_colour_is_unique_so_that_svg_can_name_it():
    light = [values[0] for values in style.COLOURS.values()]
    assert len(set(light)) == len(light)
    assert all(value == value.lower() for value in light)


def test_use_style_sets_the_defaults_and_figures_do_not():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = dict(matplotlib.rcParams)
        plots.to_png(plots.loss_curve(rows_of("loss", [2.0, 1.0])), dpi=40)
        assert dict(matplotlib.rcParams) == before
        plots.use_style()
        assert to_hex(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0]) == "#0072b2"
        assert matplotlib.rcParams["axes.facecolor"] == style.colour("card")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (6.931, "6.93"),
        (2.7, "2.70"),
        (12000, "12,000"),
        (0.0005, "5e-4"),
        (64.25, "64.2"),
        (1.25e-5, "1.25e-5"),
        (0.9995, "0.9995"),
        (0.04, "0.04"),
        (800, "800"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert style.number(value) == text


def test_spread_separates_labels_and_moves_them_least():
    apart = [0.0, 0.2, 0.9]
    assert style.spread(apart, 0.1) == pytest.approx(apart)
    assert style.spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    generator = np.random.default_rng(0)
    for _ in range(50):
        wanted = np.sort(generator.random(6))
        got = np.array(style.spread(list(wanted), 0.08))
        assert (np.diff(got) >= 0.08 - 1e-9).all()
        cost = ((got - wanted) ** 2).sum()
        for _ in range(30):  # no feasible neighbour is nearer
            step = np.sort(got + 0.02 * generator.standard_normal(6))
            if (np.diff(step) >= 0.08).all():
                assert ((step - wanted) ** 2).sum() >= cost - 1e-9


def test_svg_is_named_themed_and_can_stand_beside_another():
    figure = plots.loss_curve(rows_of("loss", [6.0, 3.0]), LN_K)
    figure.alt_text = 'a "quoted" & <odd> text'
    first, second = plots.to_svg(figure, "a"), plots.to_svg(figure, "b")
    assert first.replace("a-", "b-") == second.replace("a-", "b-")  # the same each time
    root = ElementTree.fromstring(first.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == figure.alt_text
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert len(re.findall(r' id="', first)) == len(ids[0])
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', first))
    assert used == ids[0]
    assert not [value for value, _ in style.COLOURS.values() if value in first]
    assert "var(--blue)" in first and "var(--card)" in first
    assert "DejaVu" not in first and "http" not in first and "<style" not in first


def test_paths_are_stored_to_a_hundredth_of_a_point():
    svg = plots.to_svg(plots.loss_curve(rows_of("loss", [6.0, 5.123456, 3.0]), LN_K), "a")
    path = re.search(r' d="(M [^"]*)" clip-path', svg)[1]
    assert re.search(r"\.\d\d\b", path) and not re.search(r"\.\d{3}", path)


def test_figure_shows_itself_in_a_notebook_and_a_terminal():
    figure = plots.loss_curve(rows_of("loss", [6.0, 3.0]), LN_K)
    assert repr(figure).startswith("<Figure: Loss falls from 6 to 3 in 10 steps")
    svg = figure._repr_svg_()
    assert svg == figure._repr_svg_() != plots.loss_curve(rows_of("loss", [6, 2]))._repr_svg_()
    root = ElementTree.fromstring(svg)  # a file of its own: all its names are declared
    assert root.get("aria-label") == figure.alt_text


def test_a_figure_brings_the_colours_of_both_themes():
    svg = plots.loss_curve(rows_of("loss", [6.0, 3.0]), LN_K)._repr_svg_()
    name = re.search(r'<svg id="([^"]+)"', svg)[1]
    used = set(re.findall(r"var\(--([a-z-]+)\)", svg)) - {"sans"}
    assert {"blue", "card", "muted"} <= used
    for rule, shade in ((f"#{name} {{", 0), (f'html[data-theme="dark"] #{name} {{', 1)):
        (given,) = re.findall(rf"^{re.escape(rule)} (.*) }}$", svg, flags=re.MULTILINE)
        stored = dict(pair.split(": ") for pair in given.split("; "))
        for key in used:
            assert stored[f"--{key}"] == style.COLOURS[key][shade]
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(
        re.findall(r' id="([^"]+)"', svg)
    )


# Curves


def test_loss_is_drawn_and_told():
    values = [6.2, 5.0, 3.1]
    figure = plots.loss_curve(rows_of("loss", values, every=400), LN_K)
    assert drawn(figure)[0].tolist() == [[0, 6.2], [400, 5.0], [800, 3.1]]
    assert drawn(figure)[1][:, 1].tolist() == [LN_K, LN_K]
    assert figure.alt_text == "Loss falls from 6.20 to 3.10 in 800 steps; ln K is 6.93."
    assert "loss  3.10" in texts(figure) and "ln K  6.93" in texts(figure)


def test_loss_without_ln_k_draws_no_line_for_it():
    figure = plots.loss_curve(rows_of("loss", [2.0, 2.5]))
    assert len(drawn(figure)) == 1
    assert figure.alt_text == "Loss rises from 2 to 2.50 in 10 steps."


def test_phases_are_bars_of_the_right_extent():
    figure = plots.loss_curve(
        rows_of("loss", [3.0, 2.0, 1.0]), None, [("warm-up", 0, 10), ("late", 10, 20)]
    )
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0, 10), (10, 10)]
    assert "Warm-up: steps 0 to 10. Late: steps 10 to 20." in figure.alt_text


def test_phases_are_found_in_the_schedules():
    rows = [
        {"step": step, "lr": min(step / 20, 1) * (2 - step / 100), "teacher_temp": temp}
        for step, temp in zip(range(0, 60, 10), (0.04, 0.05, 0.06, 0.07, 0.07, 0.07), strict=True)
    ]
    assert plots.phases_from_metrics(rows) == [
        ("learning rate warms up", 0, 20),
        ("teacher temperature warms up", 0, 30),
    ]
    constant = [{"step": step, "lr": 0.1} for step in range(3)]
    assert plots.phases_from_metrics(constant) == []


def test_long_series_get_a_running_mean():
    values = np.sin(np.arange(200.0))
    values[17] = np.nan
    got = curves.running_mean(values, 5)
    expected = [
        np.nanmean(values[max(0, i - 5) : i + 6]) if i != 17 else np.nan for i in range(200)
    ]
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert len(drawn(plots.loss_curve(rows_of("loss", list(values))))) == 2


def test_entropies_are_told_apart():
    rows = [
        {"step": 0, "teacher_entropy": 6.9, "batch_entropy": 6.5},
        {"step": 100, "teacher_entropy": 2.5, "batch_entropy": 6.4},
    ]
    figure = plots.entropy_curves(rows, LN_K)
    assert "Teacher entropy per image falls from 6.90 to 2.50 in 100 steps." in figure.alt_text
    assert "Entropy of the batch mean falls from 6.50 to 6.40 in 100 steps." in figure.alt_text
    heights = [line[-1, 1] for line in drawn(figure)]
    assert sorted(heights) == pytest.approx([0.0, 2.5, 6.4, LN_K])


def test_knn_stands_beside_its_baselines():
    rows = [{"step": 0, "loss": 1.0}, *rows_of("knn_top1", [0.4, 0.712], every=500)]
    figure = plots.knn_curve(rows, {"raw pixels": 0.49, "untrained encoder": None, "odd": math.nan})
    assert figure.alt_text == (
        "k-NN accuracy rises from 40.0 % to 71.2 % in 500 steps. Baselines: raw pixels 49.0 %."
    )
    assert [line[-1, 1] for line in drawn(figure)] == [0.712, 0.49]
    assert "49 % raw pixels" in texts(figure) and "71 % trained" in texts(figure)


def test_methods_are_ranked_with_a_dot_for_each_seed():
    figure = plots.method_dots(
        {"weak": [0.3, 0.4], "strong": [0.8, 0.7]},
        {"weak": [0.2, 0.2], "strong": [0.3, 0.1]},
        {"raw pixels": 0.44},
    )
    assert figure.alt_text == (
        "k-NN accuracy of 2 methods, means of 2 seeds, best first: strong 75.0 %, untrained"
        " 20.0 %; weak 35.0 %, untrained 20.0 %. Baselines: raw pixels 44.0 %."
    )
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["strong", "weak"]
    places = [tuple(dots.get_offsets()[:, 0]) for dots in axes.collections]
    assert places == [(0.3, 0.1), (0.8, 0.7), (0.2, 0.2), (0.3, 0.4)]


def test_schedules_have_a_panel_each_and_name_the_peak():
    rows = [
        {"step": step, "lr": lr, "momentum": momentum}
        for step, lr, momentum in ((0, 0.0, 0.996), (10, 5e-4, 0.998), (20, 1e-5, 1.0))
    ]
    figure = plots.schedule_curves(rows)
    assert len(figure.axes) == 2
    assert figure.alt_text == (
        "Learning rate rises from 0 to 5e-4 at step 10, then falls to 1e-5 at step 20."
        " Teacher momentum rises from 0.996 to 1 in 20 steps."
    )


def test_throughput_tells_the_median():
    figure = plots.throughput_curve(rows_of("images_per_second", [100.0, 300.0, 200.0]))
    assert figure.alt_text == "Images per second: median 200, from 100 to 300."


def test_powers_of_ten_are_written_out_and_not_as_a_formula():
    @style.styled
    def draw():
        figure = style.new_figure(2)
        figure.subplots().set(yscale="log", ylim=(1e-3, 1e3), xlabel="$5")
        return figure

    words = re.findall(r"<text[^>]*>([^<]*)</text>", style.to_svg(draw(), "figure"))
    assert {"10⁻³", "10¹", "10³", "$5"} <= set(words)


def test_temperature_curve_sorts_and_marks():
    figure = plots.temperature_curve([1.0, 0.1, 0.5], [3.0, 1.0, 2.0], LN_K, {"teacher": 0.3})
    assert drawn(figure)[0].tolist() == [[0.1, 1.0], [0.5, 2.0], [1.0, 3.0]]
    assert figure.alt_text == (
        "Entropy against temperature: 1 at 0.1, 3 at 1. At the teacher's 0.3 it is 1.50."
    )


def test_collapse_curves_share_their_axes_and_tell_all_four_series():
    def run(entropy):
        return [
            {
                "step": step,
                "loss": entropy,
                "batch_entropy": entropy + 1,
                "teacher_entropy": entropy,
                "feature_spread": 0.1 * step,
            }
            for step in (0, 1)
        ]

    figures = [plots.collapse_curves(run(e), LN_K, healthy=run(3.0)) for e in (0.0, 5.0)]
    limits = [[axes.get_ylim() for axes in figure.axes] for figure in figures]
    assert limits[0] == limits[1]
    low, high = limits[0][0]
    assert low < 0 and high > LN_K
    above = [{"step": 2, "loss": 40.0}, {"step": 3, "loss": math.inf}]
    far = plots.collapse_curves(run(5.0) + above, LN_K)
    assert far.axes[0].get_ylim()[1] > 40 and far.axes[1].get_ylim() == limits[0][1]
    gray, batch, gray_too, each, ln_k = (line[:, 1].tolist() for line in drawn(figures[0], 1))
    assert (gray, batch, gray_too, each, ln_k) == ([4, 4], [1, 1], [3, 3], [0, 0], [LN_K] * 2)
    assert figures[1].alt_text == (
        "Loss stays at 5 for 1 step. Entropy of the batch mean stays at 6 for 1 step. Teacher"
        " entropy per image stays at 5 for 1 step. Feature spread rises from 0 to 0.1 in 1 step."
        " ln K is 6.93."
    )


def test_answers_are_bars_and_their_entropies_marks():
    answers = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.double)
    figure = plots.answer_figure(answers)
    corners = figure.axes[0].patches[0].get_xy()
    assert corners.tolist() == [
        [0.5, 1e-4],
        [0.5, 1e-4],
        [0.5, 0.5],
        [1.5, 0.5],
        [1.5, 0.25],
        [3.5, 0.25],
        [3.5, 1e-4],
        [4.5, 1e-4],
        [4.5, 1e-4],
        [0.5, 1e-4],
    ]
    each = (1.5 * math.log(2) + 2 * math.log(2)) / 2
    mean = [0.375, 0.25, 0.25, 0.125]
    batch = -sum(p * math.log(p) for p in mean)
    marks = [line[0, 0] for line in drawn(figure, 2)[1:]]
    assert marks == pytest.approx([each, batch])
    assert figure.alt_text == (
        "Image 1: prototype 1 has most, 50.0 %. Image 2: prototype 1 has most, 25.0 %. Entropy"
        f" of one output {each:.2f} on average, of the mean output {batch:.2f}, difference"
        f" {batch - each:.3g}; ln K is 1.39."
    )


CURVES = {
    "loss": lambda rows: plots.loss_curve(rows, LN_K, [("phase", 0, 10)]),
    "teacher_entropy": lambda rows: plots.entropy_curves(rows, LN_K),
    "batch_entropy": plots.entropy_curves,
    "feature_spread": lambda rows: plots.spread_curve(rows, 0.1),
    "knn_top1": lambda rows: plots.knn_curve(rows, {"raw pixels": 0.3}),
    "lr": plots.schedule_curves,
    "images_per_second": plots.throughput_curve,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("key", CURVES)
@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.5],
        [0.5, 0.5, 0.5],
        [0.0, 0.0],
        [math.nan],
        [0.5, math.nan, math.inf, 0.2],
        [None, 0.5],
    ],
    ids=["empty", "one", "constant", "zero", "nan", "gaps", "missing"],
)
def test_curves_survive_awkward_rows(key, values):
    figure = CURVES[key](rows_of(key, values))
    assert figure.alt_text.endswith(".")
    svg = plots.to_svg(figure, "x")
    ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert not re.search(r'="[^"]*\bnan\b', re.sub(r'aria-label="[^"]*"', "", svg))


def test_values_that_are_not_finite_are_counted():
    figure = plots.loss_curve(rows_of("loss", [2.0, math.nan, math.inf, 1.0]))
    assert figure.alt_text == "Loss falls from 2 to 1 in 30 steps. 2 of 4 values not finite."
    figure = plots.loss_curve(rows_of("loss", [math.nan]))
    assert figure.alt_text == "Loss has no finite values. 1 of 1 value not finite."
    assert "no finite values" in texts(figure)


# Pictures


def test_denormalize_undoes_the_normalisation():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pictures = torch.rand(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    shape = (3, 1, 1)
    network_input = (pictures - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(plots.denormalize(network_input, mean, std), pictures)


def test_pictures_keep_their_pixels_and_large_ones_shrink():
    small = random_images(2, 32)
    got = images.to_arrays(small)
    np.testing.assert_allclose(got[1], small[1].permute(1, 2, 0).numpy() / 255, atol=1e-6)
    floats = images.to_arrays(small.float() / 255)
    np.testing.assert_allclose(floats[0], got[0], atol=1e-6)
    flat = images.to_arrays(torch.full((1, 3, 400, 200), 100, dtype=torch.uint8))[0]
    assert flat.shape == (96, 48, 3)
    np.testing.assert_allclose(flat, 100 / 255, atol=1e-6)


def test_grid_holds_every_image_in_order():
    pictures = random_images(5, 8)
    figure = plots.image_grid(pictures, ["cat", "dog", "cat", "ant", "cat"], 3, "Held-out scenes")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    for picture, array in zip(pictures, shown, strict=True):
        np.testing.assert_allclose(array, picture.permute(1, 2, 0) / 255, atol=1e-6)
    assert figure.alt_text == "Held-out scenes: 5 images (cat x 3, dog, ant)."


@pytest.mark.parametrize("size", [64, 384])
def test_crop_boxes_lie_where_the_crops_were_taken(size):
    sources = random_images(2, size)
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0]]]).repeat(2, 1, 1) * size
    crops = [random_images(2, 32, 1), random_images(2, 12, 2)]
    figure = plots.crop_figure(sources, crops, boxes)
    assert len(figure.axes) == 2 * (1 + 2)
    source = figure.axes[0]
    shown = source.images[0].get_array().shape[0]
    assert shown == min(size, 192)
    rectangles = [p for p in source.patches if isinstance(p, Rectangle) and p.get_alpha() is None]
    extents = [
        (
            (p.get_x() + 0.5) / shown,
            (p.get_y() + 0.5) / shown,
            p.get_width() / shown,
            p.get_height() / shown,
        )
        for p in rectangles
    ]
    assert extents == [pytest.approx((0, 0, 0.5, 0.5)), pytest.approx((0.25, 0.5, 0.25, 0.5))]
    assert rectangles[0].get_linestyle() != rectangles[1].get_linestyle()
    second = figure.axes[4]  # of the second row: source, global, local
    np.testing.assert_allclose(
        second.images[0].get_array(), crops[0][1].permute(1, 2, 0) / 255, atol=1e-6
    )
    assert second.texts[0].get_text() == "1"
    assert "1 global crop of 32 pixels, 1 local crop of 12 pixels" in figure.alt_text
    assert "boxes cover 12 to 25 % of the image" in figure.alt_text


@pytest.mark.parametrize("n_local", [0, 1, 6, 8, 10, 20])
@pytest.mark.parametrize("n_global", [1, 2, 4])
def test_crops_do_not_overlap_and_stay_inside(n_global, n_local):
    kinds = [True] * n_global + [False] * n_local
    places = images.crop_places(kinds, 2.8, 1.7, 0.07)
    assert len(places) == len(kinds)
    for index, (left, top, size) in enumerate(places):
        assert size > 0.1
        assert left >= 0 and top >= -1e-9
        assert left + size <= 2.8 + 1e-9 and top + size <= 1.7 + 1e-9
        for other_left, other_top, other in places[:index]:
            assert (
                left >= other_left + other
                or other_left >= left + size
                or top >= other_top + other
                or other_top >= top + size
            )


def test_attention_glows_where_it_is_and_is_told():
    attention = torch.full((1, 2, 4, 4), 1 / 32)
    attention[0, 0, 1, 2] = 0.5
    attention[0, 0] /= attention[0, 0].sum()
    attention[0, 1] = 1 / 16
    figure = plots.attention_heads(torch.full((1, 3, 32, 32), 128, dtype=torch.uint8), attention)
    heat = np.asarray(figure.axes[1].images[0].get_array()).sum(-1)
    assert np.unravel_index(heat.argmax(), heat.shape) == (8, 16)
    blocks = heat.reshape(4, 8, 4, 8).mean((1, 3))
    assert np.unravel_index(blocks.argmax(), blocks.shape) == (1, 2)
    top = attention[0].flatten(1).topk(2).values.sum(1) * 100
    assert f"{top.min():.0f} to {top.max():.0f} % of its attention" in figure.alt_text
    assert texts(figure)[-3:] == ["image", "head 1", "head 2"]


def test_attention_draws_no_more_heads_than_asked():
    figure = plots.attention_heads(random_images(2, 16), torch.rand(2, 9, 4, 4), max_heads=3)
    assert len(figure.axes) == 2 * 4
    assert "3 heads over 2 images" in figure.alt_text


def test_one_map_lies_over_its_picture_and_its_peak_is_named():
    attention = torch.full((4, 8), 1.0)
    attention[1, 6] = 9.0
    picture = random_images(1, 32)[0]
    figure = plots.attention_map(picture, attention)
    left, right = figure.axes
    np.testing.assert_allclose(
        left.images[0].get_array(), picture.permute(1, 2, 0) / 255, atol=1e-6
    )
    under, over = right.images
    assert under.get_extent() == over.get_extent()
    overlay = np.asarray(over.get_array())
    assert overlay.shape == (4, 8, 4)
    assert np.unravel_index(overlay[..., 3].argmax(), (4, 8)) == (1, 6)
    assert overlay[1, 6, 3] == pytest.approx(0.95)
    assert "row 2, column 7 gets most, 22.5 %, 7.20 times the even share" in figure.alt_text
    assert "strongest tenth of the patches gets 28 %" in figure.alt_text  # 3 of 32: 11 / 40


def test_components_keep_their_order_and_hide_the_background():
    components = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    components[0, 0, 0] = math.nan
    figure = plots.patch_pca_images(random_images(2, 20), 7 * components - 3)
    first, second = (figure.axes[i].images[0].get_array() for i in (2, 3))
    assert first[0, 0].tolist() == [0.5, 0.5, 0.5]
    flat = np.concatenate([np.asarray(first).reshape(-1, 3)[1:], np.asarray(second).reshape(-1, 3)])
    given = torch.cat([components[0].reshape(-1, 3)[1:], components[1].reshape(-1, 3)]).numpy()
    low, high = np.percentile(given, [1, 99], axis=0)
    np.testing.assert_allclose(flat, ((given - low) / (high - low)).clip(0, 1), atol=1e-5)
    assert "its 4 by 5 patches" in figure.alt_text
    assert "2.5 % of the patches are background" in figure.alt_text


def test_neighbours_are_marked_by_sign_and_frame_not_by_colour_alone():
    figure = plots.neighbour_rows(
        random_images(2, 8),
        random_images(6, 8).view(2, 3, 3, 8, 8),
        torch.tensor([0, 1]),
        torch.tensor([[0, 1, 0], [1, 1, 5]]),
        ("cat", "hippopotamus"),
    )
    titles = [axes.get_title("center") for axes in figure.axes]
    assert titles == ["cat", "✓", "✗ hippopot…", "✓", "hippopot…", "✓", "✓", "✗ class 5"]
    right, wrong = (figure.axes[i].patches[0].get_linestyle() for i in (1, 2))
    assert right != wrong
    assert figure.alt_text == (
        "2 query images with 3 nearest neighbours each; 4 of 6 neighbours are of the query's class."
    )


def test_neighbours_without_labels_are_only_shown():
    figure = plots.neighbour_rows(random_images(1, 8), random_images(2, 8)[None])
    assert figure.alt_text == "1 query image with 2 nearest neighbours."


def test_mask_overlay_measures_the_overlap():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    truth = masks.clone()
    masks[0, :4], truth[0, 2:6] = True, True  # overlap 2 rows of 6
    figure = plots.mask_overlay(random_images(2, 8), masks, truth)
    assert [axes.get_title("center") for axes in figure.axes] == ["J 0.33", "J 1.00"]
    assert "covering 0 to 50 % of them" in figure.alt_text
    assert "Mean Jaccard index with the true masks: 0.667." in figure.alt_text
    shown = np.asarray(figure.axes[1].images[0].get_array())
    np.testing.assert_allclose(shown, 0.55 * images.to_arrays(random_images(2, 8))[1], atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_pictures_survive_awkward_tensors():
    one = torch.full((1, 3, 1, 1), math.nan)
    figures = [
        plots.image_grid(one),
        plots.attention_heads(one, torch.zeros(1, 1, 1, 1)),
        plots.attention_heads(one, torch.full((1, 1, 2, 2), math.nan)),
        plots.attention_map(one[0], torch.full((2, 2), math.nan)),
        plots.patch_pca_images(one, torch.zeros(1, 2, 2, 3)),
        plots.patch_pca_images(one, torch.full((1, 2, 2, 3), math.nan)),
        plots.mask_overlay(one, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)),
        plots.crop_figure(one, [one], torch.tensor([[[0, 0, 1, 1]]])),
    ]
    for figure in figures:
        assert figure.alt_text.endswith(".") and "nan" not in figure.alt_text
        assert plots.to_svg(figure, "x").startswith("<svg")
