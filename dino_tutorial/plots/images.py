"""Figures of images: crops, attention, principal components, neighbours, masks.

Images are ``(n, 3, H, W)`` tensors or arrays, uint8 or floating point in [0, 1]; what a network
sees is brought back to that by :func:`denormalize`. Every function returns a figure with
``alt_text``.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from dino_tutorial.errors import UserError, printable
from dino_tutorial.evaluation.pca import component_colors
from dino_tutorial.options import array as some_array
from dino_tutorial.options import number as some_number
from dino_tutorial.options import numbers, takes, tensor, whole
from dino_tutorial.plots.style import (
    WIDTH,
    DescribedFigure,
    colour,
    counted,
    number,
    percent,
    styled,
)

# Marks on an image keep their colour on a dark page, where the image does not change either.
GLOBAL_CROP, LOCAL_CROP, ON_IMAGE = "#0066a1", "#c75300", "#ffffff"
MAX_PIXELS = 96  # longest side of an image in a grid: larger ones are reduced to it


@takes(
    images=tensor("... 3 H W", "float"),
    mean=numbers(some_number(-1e6, 1e6), 3),
    std=numbers(some_number(0, 1e6, above=True), 3),
)
def denormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation of a network's input.

    Args:
        images: (…, 3, H, W) floats.
        mean, std: of each channel.

    Returns:
        (…, 3, H, W) in [0, 1].
    """
    mean, std = (torch.as_tensor(x, device=images.device).view(3, 1, 1) for x in (mean, std))
    return (images * std + mean).clamp(0, 1)


@takes(images=some_array("n 3 H W"), columns=whole())
@styled
def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    description: str | None = None,
) -> DescribedFigure:
    """Images in rows, each under its title.

    Args:
        images: (n, 3, H, W).
        titles: n of them, or none.
        columns: images in a row.
        description: what the images are; it opens the alt text.
    """
    arrays = to_arrays(images)
    if titles is not None and len(titles) != len(arrays):
        raise UserError(f"{len(arrays)} images need as many titles, not {len(titles)}")
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    figure, panels = _panels(rows, columns, arrays[0].shape, titled=titles is not None)
    for index, array in enumerate(arrays):
        axes = panels[index // columns][index % columns]
        _show(axes, array)
        if titles is not None:
            axes.set_title(printable(titles[index]), fontsize=9, loc="center", pad=3)
    figure.alt_text = f"{description or 'Grid of images'}: {counted(len(arrays), 'image')}"
    if titles is not None:
        figure.alt_text += " (" + _tally(titles) + ")"
    figure.alt_text += "."
    return figure


@takes(boxes=tensor("n V 4", "real"))
@styled
def crop_figure(
    source_images: Tensor | Sequence[Tensor], crops: Sequence[Tensor], boxes: Tensor
) -> DescribedFigure:
    """Where each crop was taken, and beside it the crop as the student saw it.

    Global crops have solid boxes, local crops dashed ones, and every box has the number of its
    crop.

    Args:
        source_images: (n, 3, H, W), or n tensors (3, H, W), each of its own shape.
        crops: V tensors (n, 3, h, w), in display range; the views whose crops are largest count as
            global.
        boxes: (n, V, 4) pixels of the source: left, top, right, bottom.
    """
    of_all = _at_least_one(source_images, "source_images")
    for crop in _at_least_one(crops, "crops"):
        some_array("n 3 h w")("crops", crop)
    for image in of_all:
        some_array("3 H W")("source_images", image)
    if any(len(crop) != len(of_all) for crop in crops) or boxes.shape[:2] != (
        len(of_all),
        len(crops),
    ):
        raise UserError(
            f"{len(of_all)} images and {len(crops)} views need boxes ({len(of_all)}, {len(crops)}, "
            f"4) and crops of each image, not boxes {tuple(boxes.shape)} and crops of "
            f"{', '.join(str(len(crop)) for crop in crops)}"
        )
    sources = [to_arrays(image[None], 192)[0] for image in source_images]
    boxes = torch.as_tensor(boxes).double().cpu().numpy().copy()
    for box, image, array in zip(boxes, source_images, sources, strict=True):
        box *= array.shape[0] / image.shape[-2]
    largest = max(crop.shape[-1] for crop in crops)
    kinds = [crop.shape[-1] == largest for crop in crops]  # True: global
    n_global, n_local = sum(kinds), len(crops) - sum(kinds)
    views = [to_arrays(crop) for crop in crops]
    side, gap = 1.7, 0.07  # of a source image, between images, in inches
    places = crop_places(kinds, WIDTH - side - 3 * gap, side, gap)
    height = len(sources) * (side + 2 * gap)
    figure = DescribedFigure(figsize=(WIDTH, height))
    for row, array in enumerate(sources):
        base = height - row * (side + 2 * gap) - gap  # top of this row
        axes = _place(figure, gap, base, side, side)
        _show(axes, array)
        for view, box in enumerate(boxes[row]):
            _numbered_box(axes, box, view, kinds[view])
        for view, (left, down, size) in enumerate(places):
            axes = _place(figure, side + 2 * gap + left, base - down, size, size)
            _show(axes, views[view][row], edge=_crop_tint(kinds[view]), dashed=not kinds[view])
            _tag(axes, -0.5, -0.5, view, kinds[view])
    sizes = ", ".join(
        f"{counted(count, kind)} of {size} pixels"
        for kind, count, size in (
            ("global crop", n_global, largest),
            ("local crop", n_local, min(crop.shape[-1] for crop in crops)),
        )
        if count
    )
    shares = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    shares = shares / [[array.shape[0] * array.shape[1]] for array in sources]
    figure.alt_text = (
        f"{counted(len(sources), 'image')} with numbered boxes where the crops were taken, and"
        f" beside each the crops that the student saw: {sizes}; boxes cover"
        f" {100 * shares.min():.0f} to {100 * shares.max():.0f} % of the image."
    )
    return figure


@takes(images=some_array("n 3 H W"), attention=some_array("n heads h w"), max_heads=whole())
@styled
def attention_heads(images: Tensor, attention: Tensor, max_heads: int = 6) -> DescribedFigure:
    """What the CLS token attends to: each image, then one map per head laid over it.

    Args:
        images: (n, 3, H, W).
        attention: (n, heads, h, w) over the patches, non-negative; each map is scaled to its own
            maximum.
        max_heads: at most so many heads are drawn.
    """
    attention = torch.as_tensor(attention).detach().float().cpu().nan_to_num()
    n_heads = min(attention.shape[1], max_heads)
    arrays = to_arrays(images)
    figure, panels = _panels(
        len(arrays), 1 + n_heads, arrays[0].shape, titled=True, every_row=False
    )
    for row, array in enumerate(arrays):
        _show(panels[row][0], array)
        maps = F.interpolate(attention[row : row + 1, :n_heads], size=array.shape[:2])[0]
        for head in range(n_heads):
            _show(panels[row][1 + head], _heat(array, maps[head].numpy()))
    for column in range(1 + n_heads):
        title = "image" if column == 0 else f"head {column}" if n_heads < 6 else str(column)
        panels[0][column].set_title(title, fontsize=9, loc="center", pad=3)
    share = _share_of_top_tenth(attention[:, :n_heads])
    figure.alt_text = (
        f"Attention of the CLS token in {counted(n_heads, 'head')} over"
        f" {counted(len(arrays), 'image')}. The tenth of the patches that a head attends to"
        f" most holds {100 * share.min():.0f} to {100 * share.max():.0f} % of its attention,"
        f" {100 * share.mean():.0f} % on average."
    )
    return figure


@takes(image=some_array("3 H W"), attention=some_array("h w"))
@styled
def attention_map(image: Tensor, attention: Tensor) -> DescribedFigure:
    """One image, and beside it what one token attends to in it, laid over it.

    Args:
        image: (3, H, W).
        attention: (h, w) over the patches, non-negative, scaled to its own maximum.
    """
    (array,) = to_arrays(image[None])
    attention = torch.as_tensor(attention).detach().float().cpu().nan_to_num()
    figure, ((left, right),) = _panels(1, 2, array.shape, widest=WIDTH)
    _show(left, array)
    glow, weight = _glow(attention.numpy())
    _show(right, np.repeat(_dimmed(array), 3, axis=-1))
    height, width = array.shape[:2]
    right.imshow(
        np.concatenate([glow, weight], axis=-1), extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
    share = attention / attention.sum().clamp_min(1e-12)
    row, column = divmod(int(share.argmax()), share.shape[1])
    figure.alt_text = (
        f"An image and the attention over its {share.shape[0]} by {share.shape[1]} patches. The"
        f" patch in row {row + 1}, column {column + 1} gets most, {percent(share.max().item())},"
        f" {share.max().item() * share.numel():.2f} times the even share. The strongest tenth of"
        f" the patches gets {100 * _share_of_top_tenth(attention[None, None]).item():.0f} %."
    )
    return figure


@takes(images=some_array("n 3 H W"), components=some_array("n h w 3"), columns=whole())
@styled
def patch_pca_images(images: Tensor, components: Tensor, columns: int = 4) -> DescribedFigure:
    """Images, and under each its patches coloured by three principal components.

    Args:
        images: (n, 3, H, W).
        components: (n, h, w, 3) of any range, scaled over all images together so that equal colours
            mean equal features. NaN marks background, drawn gray.
        columns: images in a row.
    """
    arrays = to_arrays(images)
    coloured = component_colors(torch.as_tensor(components).detach().cpu().double()).numpy()
    background = np.isnan(coloured).any(axis=-1)
    coloured[background] = 0.5
    columns = min(columns, len(arrays))
    figure, panels = _panels(2 * -(-len(arrays) // columns), columns, arrays[0].shape)
    for index, array in enumerate(arrays):
        row, column = divmod(index, columns)
        _show(panels[2 * row][column], array)
        _show(panels[2 * row + 1][column], coloured[index])
    height, width = components.shape[1:3]
    figure.alt_text = (
        f"{counted(len(arrays), 'image')}, and under each its {height} by {width} patches"
        " coloured by the first three principal components of their features."
    )
    if background.any():
        figure.alt_text += f" {percent(background.mean())} of the patches are background, in gray."
    return figure


@takes(
    query_images=tensor("q 3 H W"),
    neighbour_images=tensor("q k 3 h w"),
    query_labels=tensor("q", "int", none=True),
    neighbour_labels=tensor("q k", "int", none=True),
)
@styled
def neighbour_rows(
    query_images: Tensor,
    neighbour_images: Tensor,
    query_labels: Tensor | None = None,
    neighbour_labels: Tensor | None = None,
    classes: Sequence[str] = (),
) -> DescribedFigure:
    """Each query with its nearest neighbours, marked right (tick) or wrong (cross) by class.

    Where one of two labels is -1, the pair is neither right nor wrong; where that is so of all, no
    marks are drawn.

    Args:
        query_images: (q, 3, H, W).
        neighbour_images: (q, k, 3, H, W), nearest first.
        query_labels: (q,) indices of ``classes``.
        neighbour_labels: (q, k) likewise.
        classes: their names.
    """
    queries = to_arrays(query_images)
    k = neighbour_images.shape[1]
    labelled = query_labels is not None and neighbour_labels is not None
    if labelled:
        known = (query_labels[:, None] >= 0) & (neighbour_labels >= 0)
        labelled = bool(known.any())
    figure, panels = _panels(len(queries), k + 1, queries[0].shape, titled=True, every_row=labelled)
    n_right = 0
    for row, query in enumerate(queries):
        _show(panels[row][0], query, edge=colour("ink"))
        query_label = int(query_labels[row]) if labelled else None
        panels[row][0].set_title(
            _shorten(_class_name(query_label, classes)) if labelled else "query",
            fontsize=8.5,
            loc="center",
            pad=3,
            fontweight="bold",
        )
        for column, array in enumerate(to_arrays(neighbour_images[row])):
            axes = panels[row][1 + column]
            if not labelled or not known[row, column]:
                _show(axes, array)
                continue
            label = int(neighbour_labels[row][column])
            right = label == query_label
            n_right += right
            _show(axes, array, edge=colour("blue" if right else "vermillion"), dashed=not right)
            name = "✓" if right else f"✗ {_shorten(_class_name(label, classes))}"
            axes.set_title(
                name,
                fontsize=8.5,
                loc="center",
                pad=3,
                color=colour("blue-text" if right else "vermillion-text"),
            )
    figure.alt_text = (
        f"{counted(len(queries), 'query image')} with {counted(k, 'nearest neighbour')}"
        f"{' each' if len(queries) > 1 else ''}"
    )
    if labelled:
        total = int(known.sum())
        some = "neighbours" if total == len(queries) * k else "labelled neighbours"
        figure.alt_text += f"; {n_right} of {total} {some} are of the query's class"
    figure.alt_text += "."
    return figure


@takes(
    images=some_array("n 3 H W"),
    masks=some_array("n h w"),
    truth=some_array("n h w", none=True),
    columns=whole(),
)
@styled
def mask_overlay(
    images: Tensor, masks: Tensor, truth: Tensor | None = None, columns: int = 4
) -> DescribedFigure:
    """Masks tinted over their images, and the true outline dashed where ``truth`` is given.

    Args:
        images: (n, 3, H, W).
        masks: (n, H, W) boolean.
        truth: (n, H, W) boolean; with it the title of each image is the Jaccard index, the overlap
            divided by the union.
        columns: images in a row.
    """
    masks = torch.as_tensor(masks).bool().cpu()
    columns = min(columns, len(images))
    arrays = to_arrays(images)
    figure, panels = _panels(
        -(-len(arrays) // columns),
        columns,
        arrays[0].shape,
        titled=truth is not None,
        every_row=True,
    )
    scores = []
    tint = np.array([int(colour("orange")[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    for index, array in enumerate(arrays):
        axes = panels[index // columns][index % columns]
        mask = _resize_mask(masks[index], array.shape[:2])[..., None]
        dimmed = 0.55 * array
        _show(axes, np.where(mask, 0.6 * array + 0.4 * tint, dimmed))
        if truth is not None:
            true = torch.as_tensor(truth[index]).bool().cpu()
            scores.append(_jaccard(masks[index], true))
            small = _resize_mask(true, array.shape[:2]).astype(float)
            if small.min() < small.max():
                axes.contour(
                    small,
                    levels=[0.5],
                    colors=[ON_IMAGE],
                    linewidths=1.4,
                    linestyles="dashed",
                )
            axes.set_title(f"J {scores[-1]:.2f}", fontsize=9, loc="center", pad=3)
    covered = masks.float().mean(dim=(1, 2))
    figure.alt_text = (
        f"Masks over {counted(len(arrays), 'image')}, covering"
        f" {100 * covered.min():.0f} to {100 * covered.max():.0f} % of them."
    )
    if scores:
        figure.alt_text += f" Mean Jaccard index with the true masks: {number(np.mean(scores))}."
    return figure


@styled
def removed_pairs(
    kept: Tensor, removed: Tensor, similarity: Tensor, right: Tensor | None = None
) -> DescribedFigure:
    """Images that were kept, each beside one that was removed for it.

    Args:
        kept, removed: (n, 3, H, W).
        similarity: (n,) of the pairs.
        right: (n,) boolean, whether they are true copies.
    """
    left, beside = to_arrays(kept), to_arrays(removed)
    per_row = 3
    rows = -(-len(left) // per_row)
    figure, panels = _panels(rows, 2 * per_row, left[0].shape, titled=True, every_row=True)
    for index, (one, other) in enumerate(zip(left, beside, strict=True)):
        row, column = divmod(index, per_row)
        pair = panels[row][2 * column : 2 * column + 2]
        sure = right is None or bool(right[index])
        edge = None if right is None else colour("blue" if sure else "vermillion")
        _show(pair[0], one, edge=edge, dashed=not sure)
        _show(pair[1], other, edge=edge, dashed=not sure)
        mark = "" if right is None else " ✓" if sure else " ✗"
        pair[1].set_title(f"{float(similarity[index]):.2f}{mark}", fontsize=8.5, loc="right", pad=3)
        pair[0].set_title("kept", fontsize=8.5, loc="left", pad=3)
    figure.alt_text = (
        f"{counted(len(left), 'pair')} of an image kept and an image removed as its copy, with"
        f" similarities from {float(min(similarity)):.2f} to {float(max(similarity)):.2f}"
    )
    if right is not None:
        figure.alt_text += f"; {int(right.sum())} of {len(right)} are true copies"
    figure.alt_text += "."
    return figure


@styled
def cluster_rows(images: Tensor, sizes: Sequence[int]) -> DescribedFigure:
    """Some images of each cluster, a row each.

    Args:
        images: (c, k, 3, H, W).
        sizes: (c,) images of each cluster.
    """
    figure, panels = _panels(
        len(images), images.shape[1], images.shape[-2:], titled=True, every_row=True
    )
    for row, (cluster, size) in enumerate(zip(images, sizes, strict=True)):
        for axes, array in zip(panels[row], to_arrays(cluster), strict=True):
            _show(axes, array)
        panels[row][0].set_title(counted(size, "image"), fontsize=8.5, loc="left", pad=3)
    figure.alt_text = (
        f"{counted(len(images), 'cluster')} with {counted(images.shape[1], 'example')} each; they"
        f" hold {min(sizes):,} to {max(sizes):,} images."
    )
    return figure


def _at_least_one(tensors: Tensor | Sequence[Tensor], name: str) -> Tensor | Sequence[Tensor]:
    if isinstance(tensors, Tensor):
        tensor("n 3 H W")(name, tensors)
    if len(tensors) == 0 or any(0 in one.shape for one in tensors):
        raise UserError(f"{name} is empty: give at least one")
    return tensors


def to_arrays(images: Tensor, longest: int = MAX_PIXELS) -> list[np.ndarray]:
    """``(n, 3, H, W)`` as n arrays ``(H, W, 3)`` in [0, 1], none longer than ``longest``."""
    images = torch.as_tensor(images).detach().cpu()
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    images = images.nan_to_num()
    scale = longest / max(images.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in images.shape[-2:]]
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return list(images.clamp(0, 1).permute(0, 2, 3, 1).numpy())


def _panels(
    rows: int,
    columns: int,
    shape: tuple[int, ...],
    titled: bool = False,
    every_row: bool = True,
    widest: float = 1.6,
) -> tuple[DescribedFigure, list[list[Axes]]]:
    """A figure of the usual width, just high enough for rows of images of one ``shape``.

    ``titled`` leaves room for a title over the first row, or with ``every_row`` over each. No
    image is wider than ``widest`` inches.
    """
    gap, title = 0.06, 0.19 if titled else 0.0  # inches
    width = min((WIDTH - gap) / columns, widest) - gap
    height = width * shape[0] / shape[1]
    total = rows * (height + gap) + title * (rows if every_row else 1) + gap
    figure = DescribedFigure(figsize=(WIDTH, total))
    panels, top = [], total
    for row in range(rows):
        top -= gap + (title if every_row or row == 0 else 0.0)
        panels.append(
            [_place(figure, gap + i * (width + gap), top, width, height) for i in range(columns)]
        )
        top -= height
    for axes in figure.axes:
        axes.axis("off")
    return figure, panels


def _show(axes: Axes, array: np.ndarray, edge: str | None = None, dashed: bool = False) -> None:
    """One image without ticks; ``edge`` is the colour of a frame."""
    axes.imshow(array, vmin=0, vmax=1, interpolation="none")
    axes.axis("off")
    if edge:
        axes.add_patch(
            Rectangle(
                (0, 0),
                1,
                1,
                transform=axes.transAxes,
                fill=False,
                clip_on=False,
                edgecolor=edge,
                linewidth=2,
                linestyle=(0, (2, 1.5)) if dashed else "-",
            )
        )


def crop_places(
    kinds: Sequence[bool], width: float, height: float, gap: float
) -> list[tuple[float, float, float]]:
    """Left, distance from the top and size (inches) of each crop: global ones over local ones."""
    n_global, n_local = sum(kinds), len(kinds) - sum(kinds)
    rows = -(-n_local // 8)  # of local crops
    per_row = -(-n_local // rows) if rows else 1
    local = min((width + gap) / per_row - gap, 0.5 * height / rows - gap) if rows else 0.0
    local = min(local, 0.3 * height)
    room = height - rows * (local + gap)
    large = min((width + gap) / n_global - gap, room)
    places, seen = [], {True: 0, False: 0}
    for kind in kinds:
        index, seen[kind] = seen[kind], seen[kind] + 1
        if kind:
            places.append((index * (large + gap), 0.0, large))
        else:
            row, column = divmod(index, per_row)
            top = height - (rows - row) * (local + gap) + gap
            places.append((column * (local + gap), top, local))
    return places


def _place(figure: DescribedFigure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the left and from the bottom of the figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, (top - height) / up, width / across, height / up))


def _crop_tint(is_global: bool) -> str:
    return GLOBAL_CROP if is_global else LOCAL_CROP


def _numbered_box(axes: Axes, box: np.ndarray, view: int, is_global: bool) -> None:
    left, top, right, bottom = box - 0.5  # pixel i covers i - 0.5 to i + 0.5
    axes.add_patch(  # a pale casing, so that the box shows on any image
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=ON_IMAGE,
            alpha=0.65,
            linewidth=3.4 if is_global else 2.8,
        )
    )
    axes.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=_crop_tint(is_global),
            linewidth=2 if is_global else 1.4,
            linestyle="-" if is_global else (0, (2, 1.2)),
        )
    )
    _tag(axes, left, top, view, is_global)


def _tag(axes: Axes, left: float, top: float, view: int, is_global: bool) -> None:
    axes.text(
        left,
        top,
        str(view + 1),
        fontsize=7.5,
        color=ON_IMAGE,
        ha="left",
        va="top",
        clip_on=True,
        fontweight="bold",
        bbox={
            "facecolor": _crop_tint(is_global),
            "edgecolor": "none",
            "boxstyle": "square,pad=0.12",
        },
    )


def _heat(array: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """A gray, darkened image with the attention glowing over it, at ``(H, W)``."""
    glow, weight = _glow(attention)
    return (1 - weight) * _dimmed(array) + weight * glow


def _dimmed(array: np.ndarray) -> np.ndarray:
    return 0.7 * array.mean(axis=-1, keepdims=True)


def _glow(attention: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour ``(h, w, 3)`` of the attention, and ``(h, w, 1)`` how much of it covers an image."""
    strength = attention / max(float(attention.max()), 1e-12)
    return colormaps["inferno"](strength)[..., :3], 0.25 + 0.7 * strength[..., None]


def _share_of_top_tenth(attention: Tensor) -> np.ndarray:
    """Of each image and head: the share of attention on its strongest tenth of the patches."""
    flat = attention.flatten(2)
    top = flat.topk(max(1, round(flat.shape[-1] / 10)), dim=-1).values.sum(-1)
    return (top / flat.sum(-1).clamp_min(1e-12)).numpy()


def _resize_mask(mask: Tensor, size: tuple[int, int]) -> np.ndarray:
    return F.interpolate(mask[None, None].float(), size=size)[0, 0].numpy() > 0.5


def _jaccard(mask: Tensor, truth: Tensor) -> float:
    union = (mask | truth).sum().item()
    return (mask & truth).sum().item() / union if union else 1.0


def _class_name(label: int, classes: Sequence[str]) -> str:
    if label < 0:
        return "none"
    return classes[label] if label < len(classes) else f"class {label}"


def _shorten(name: str, longest: int = 9) -> str:
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _tally(names: Sequence[str]) -> str:
    counts = Counter(map(printable, names))
    return ", ".join(name if n == 1 else f"{name} x {n}" for name, n in counts.items())
