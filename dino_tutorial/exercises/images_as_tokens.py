"""Images as tokens: patches, attention, and positions at another size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    as_tensor,
    draw,
    randn,
)
from dino_tutorial.models.block import Attention
from dino_tutorial.models.vit import VisionTransformer


def _unfolded(images: Tensor, patch_size: int) -> Tensor:
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


def _to_patches(images: Tensor, patch_size: int, *, order: str = "byxcij") -> Tensor:
    """``order``: batch, row and column of the patch, channel, row and column inside it."""
    batch, _, height, width = images.shape
    rows, columns, p = height // patch_size, width // patch_size, patch_size
    if order == "reshaped":
        return images.reshape(batch, rows * columns, -1)
    cut = images.reshape(batch, -1, rows, p, columns, p)
    cut = torch.einsum(f"bcyixj->{order}", cut)
    if order == "bcyxij":
        return cut.reshape(batch, -1, p * p)
    return cut.reshape(batch, rows * columns, -1)


def _observe_patches(answer: Answer) -> Observation:
    return {
        f"the patches of {height} × {width} pixels, {channels} channels": answer.tensor(
            randn(2, channels, height, width, seed=height), p
        )
        for channels, height, width, p in (
            (3, 8, 8, 4),
            (1, 9, 6, 3),
            (5, 4, 6, 2),
            (2 + draw() % 5, 6, 15, 3),
        )
    }


TO_PATCHES = Exercise(
    name="to_patches",
    chapter="images-as-tokens",
    call="to_patches(images, patch_size)",
    task="`images` (B, C, H, W) with any number of channels, H and W multiples of P = "
    "`patch_size`, to (B, N, C·P·P): the patches row by row from the top left; inside a "
    "patch one channel after the other, each row by row.",
    solution=_unfolded,
    variant=_to_patches,
    observe=_observe_patches,
    checked="every number's place, for a square and an oblong image",
    mistakes=(
        Mistake(
            "reshaped",
            "this is a reshape: its rows are strips of one channel and no patches; split both "
            "sides, and bring the two `which patch` axes to the front",
            {"order": "reshaped"},
        ),
        Mistake(
            "columns-first",
            "the patches go down the columns; they have to go along the rows",
            {"order": "bxycij"},
        ),
        Mistake(
            "turned",
            "each patch is turned: its rows and columns have changed places",
            {"order": "byxcji"},
        ),
        Mistake(
            "channels-last",
            "the channels come last in each patch; the weights of a convolution have them first",
            {"order": "byxijc"},
        ),
        Mistake(
            "one-channel",
            "each channel has patches of its own; a patch holds all channels",
            {"order": "bcyxij"},
        ),
    ),
)


def _attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    heads: int,
    *,
    scale: str = "head",
    axis: int = -1,
    softmax: bool | str = True,
    causal: bool = False,
    turned: bool = False,
    parts: tuple[int, int, int] = (0, 1, 2),
    split: str = "heads",
    joined: str = "side by side",
    project: bool = True,
    bias: bool = True,
) -> Tensor:
    batch, tokens, width = x.shape
    count = heads if split == "heads" else 1
    qkv = x @ qkv_weight.T + (qkv_bias if bias else 0)
    if split == "interleaved":
        qkv = qkv.reshape(batch, tokens, 3, width // heads, heads).permute(2, 0, 4, 1, 3)
    else:
        qkv = qkv.reshape(batch, tokens, 3, count, width // count).permute(2, 0, 3, 1, 4)
    q, k, v = (qkv[part] for part in parts)
    d = q.shape[-1]
    divisor = {
        "head": d**0.5,
        "no": 1.0,
        "width": width**0.5,
        "twice": d,
        "times": d**-0.5,
        "tokens": tokens**0.5,
        "heads": heads**0.5,
    }
    scores = q @ k.transpose(-2, -1) / divisor[scale]
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
    weights = {True: scores.softmax(dim=axis), False: scores}
    weights |= {"sigmoid": scores.sigmoid(), "exp": scores.exp()}
    out = weights[softmax] @ v
    if split == "interleaved":
        out = out.permute(0, 2, 3, 1)
    elif joined == "side by side":
        out = out.transpose(1, 2)
    out = out.reshape(batch, tokens, width)
    if turned:
        return out @ proj_weight + proj_bias
    return out @ proj_weight.T + proj_bias if project else out


def _package_attention(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    heads: int,
) -> Tensor:
    names = "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"
    weights = dict(zip(names, (qkv_weight, qkv_bias, proj_weight, proj_bias), strict=True))
    return functional_call(Attention(x.shape[-1], heads, qkv_bias=True), weights, (x,))


def _observe_attention(answer: Answer) -> Observation:
    seen = {}
    for batch, tokens, width, heads in (
        (2, 5, 12, 3),
        (3, 6, 8, 2),
        (1, 4, 12, 4 + 2 * (draw() % 2)),
    ):
        shapes = (batch, tokens, width), (3 * width, width), (3 * width,), (width, width), (width,)
        x, *weights = (randn(*shape, seed=width + i, scale=0.7) for i, shape in enumerate(shapes))
        value = answer(x, *weights, heads)
        pair = isinstance(value, tuple | list) and len(value) == 2  # with attention's weights
        output = value[0] if pair else value
        seen[f"the output for {heads} heads"] = as_tensor(output).detach()
    return seen


ATTENTION = Exercise(
    name="attention",
    chapter="images-as-tokens",
    call="attention(x, qkv_weight, qkv_bias, proj_weight, proj_bias, heads)",
    task="`x` (B, T, D), `qkv_weight` (3D, D), `qkv_bias` (3D,), `proj_weight` (D, D), "
    "`proj_bias` (D,) and the number of `heads` to (B, T, D). A weight W and a bias b act "
    "as in `nn.Linear`, x @ W.T + b. Of the 3D numbers the first D are queries, the next "
    "keys, the last values; head h owns the numbers h·d to (h + 1)·d − 1 of each, d = D / "
    "heads. Scores are q·k / √d, the softmax runs over the keys. The attention weights may "
    "be returned too, as a second value.",
    solution=_package_attention,
    variant=_attention,
    observe=_observe_attention,
    checked="the output for 2, 3 and 4 heads",
    mistakes=(
        Mistake(
            "no-square-root",
            "the scores are not divided by √d, so that the softmax is all but an arg max",
            {"scale": "no"},
        ),
        Mistake(
            "whole-width",
            "the scores are divided by √D; a head has only d = D / heads numbers, so √d",
            {"scale": "width"},
        ),
        Mistake("divided-by-d", "the scores are divided by d; divide by √d", {"scale": "twice"}),
        Mistake(
            "wrong-axis",
            "the softmax runs over the queries; the weights with which one token takes have to "
            "sum to 1, `dim=-1`",
            {"axis": -2},
            {"axis": 1},
        ),
        Mistake(
            "other-scale",
            "the scores are scaled by another number than √d; divide by the root of a head's width",
            {"scale": "times"},
            {"scale": "tokens"},
            {"scale": "heads"},
        ),
        Mistake("no-softmax", "there is no softmax over the scores", {"softmax": False}),
        Mistake(
            "weights-without-sum",
            "the weights of a token do not sum to 1; a softmax divides by the sum",
            {"softmax": "sigmoid"},
            {"softmax": "exp"},
        ),
        Mistake(
            "causal",
            "a token looks only at those before it; in an image it looks at all",
            {"causal": True},
        ),
        Mistake(
            "weight-not-transposed",
            "the last map is x @ W; it is x @ W.T, as in `nn.Linear`",
            {"turned": True},
        ),
        Mistake(
            "parts-mixed-up",
            "queries, keys and values are mixed up; the 3D outputs hold them in this order",
            {"parts": (1, 0, 2)},
            {"parts": (0, 2, 1)},
            {"parts": (2, 1, 0)},
        ),
        Mistake(
            "one-head",
            "all of the width is one head; each head attends by itself",
            {"split": "one"},
        ),
        Mistake(
            "heads-interleaved",
            "the width is cut into heads the wrong way: a head owns D / heads neighbouring numbers",
            {"split": "interleaved"},
        ),
        Mistake(
            "heads-not-joined",
            "the heads are not put side by side again: bring the tokens' axis before the heads' "
            "and then reshape",
            {"joined": "as they are"},
        ),
        Mistake("no-projection", "the last linear map is missing", {"project": False}),
        Mistake("no-bias", "the bias of the first linear map is missing", {"bias": False}),
    ),
)


def _resize_positions(
    pos_embed: Tensor,
    n: int,
    height: int,
    width: int,
    *,
    tenth: bool = True,
    mode: str = "bicubic",
    turned: bool = False,
    class_token: str = "kept",
    antialias: bool = False,
    corners: bool = False,
    reshaped: bool = False,
    swapped: bool = False,
    offset: float = 0.1,
    with_tenth: bool = False,
) -> Tensor:
    if class_token == "resized":  # as if it were a place of the grid
        flat = pos_embed.transpose(1, 2)
        return F.interpolate(flat, size=1 + height * width, mode="linear").transpose(1, 2)
    grid = pos_embed[:, 1:].unflatten(1, (n, n)).permute(0, 3, 1, 2)
    if reshaped:
        grid = pos_embed[:, 1:].reshape(1, -1, n, n)
    if turned:
        grid = grid.transpose(2, 3)
    if swapped:
        height, width = width, height
    size = {"size": (height, width)}
    scale = {"scale_factor": ((height + offset) / n, (width + offset) / n)}
    exact = not tenth or antialias or corners or mode in ("nearest", "area")
    exact = exact and not with_tenth
    kind = {"mode": mode, "antialias": antialias}
    if mode not in ("nearest", "area"):
        kind["align_corners"] = corners
    grid = F.interpolate(grid, **(size if exact else scale), **kind)
    places = grid.flatten(2).transpose(1, 2)
    if class_token == "dropped":
        return places
    first, last = ([pos_embed[:, :1]], []) if class_token == "kept" else ([], [pos_embed[:, :1]])
    return torch.cat([*first, places, *last], dim=1)


def _package_positions(pos_embed: Tensor, n: int, height: int, width: int) -> Tensor:
    model = VisionTransformer(n, 1, embed_dim=pos_embed.shape[-1], depth=1, num_heads=1)
    model.pos_embed = nn.Parameter(pos_embed)
    model.pos_embed_mode = "offset"
    return model.positions(height, width)


def _observe_positions(answer: Answer) -> Observation:
    return {
        f"the positions of {height} × {width} patches": answer.tensor(
            randn(1, 1 + n * n, d, seed=n), n, height, width
        )
        for n, d, height, width in ((4, 3, 6, 6), (5, 3, 3, 3), (4, 2 + draw() % 4, 3, 7))
    }


RESIZE_POSITIONS = Exercise(
    name="resize_positions",
    chapter="images-as-tokens",
    call="resize_positions(pos_embed, n, height, width)",
    task="`pos_embed` (1, 1 + n·n, D), the class token's position first and then an n by n grid "
    "row by row, to (1, 1 + height·width, D) as released DINO does: the grid by bicubic "
    "`F.interpolate` with scale_factor=((height + 0.1) / n, (width + 0.1) / n), "
    "align_corners=False and no antialiasing; the class token's as it is, in front.",
    solution=_package_positions,
    variant=_resize_positions,
    observe=_observe_positions,
    checked="a larger, a smaller and an oblong grid",
    mistakes=(
        Mistake(
            "tenth-missing",
            "the tenth of a patch is missing; the released weights were trained with it",
            {"tenth": False},
        ),
        Mistake(
            "antialiased",
            "the resizing is anti-aliased, which DINOv2's weights with registers want, and DINO's "
            "do not",
            {"antialias": True},
            {"antialias": True, "with_tenth": True},
        ),
        Mistake(
            "bilinear",
            "the resizing is bilinear; it is bicubic",
            {"mode": "bilinear"},
            {"mode": "bilinear", "tenth": False},
        ),
        Mistake(
            "nearest",
            "each place takes its nearest neighbour; the resizing is bicubic",
            {"mode": "nearest"},
        ),
        Mistake(
            "corners-aligned",
            "the corners are aligned, which stretches the grid; use `align_corners=False`",
            {"corners": True},
        ),
        Mistake(
            "turned",
            "rows and columns of the grid have changed places",
            {"turned": True},
        ),
        Mistake(
            "height-and-width-swapped",
            "the grid gets `width` rows and `height` columns; it is the other way round",
            {"swapped": True},
        ),
        Mistake(
            "reshaped",
            "the D numbers of a place are mixed with the places: bring D to the front with "
            "`permute` before the resizing, a reshape alone does not",
            {"reshaped": True},
        ),
        Mistake(
            "other-offset",
            "another part of a patch than a tenth is added to the size",
            {"offset": 0.5},
            {"offset": 0.01},
        ),
        Mistake(
            "averaged",
            "each place takes the mean of an area; the resizing is bicubic",
            {"mode": "area"},
            {"mode": "area", "with_tenth": True},
        ),
        Mistake(
            "class-token-dropped",
            "the class token's position is missing; it stays as it is, in front",
            {"class_token": "dropped"},
        ),
        Mistake(
            "class-token-last",
            "the class token's position comes last; it stays in front",
            {"class_token": "last"},
        ),
        Mistake(
            "class-token-resized",
            "the class token's position is resized with the others, along one line; the patches "
            "form a grid, and the class token is no place in it",
            {"class_token": "resized"},
        ),
    ),
)

EXERCISES = (TO_PATCHES, ATTENTION, RESIZE_POSITIONS)
