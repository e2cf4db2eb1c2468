"""High-resolution finish: what tokens cost, and how much of a gain a cheaper run recovers."""

import math

from torch import Tensor

from dino_tutorial.exercises.exercise import Answer, Exercise, Mistake, Observation, draw, randn

CHAPTER = "high-resolution-finish"


def _block_products(
    side: int,
    patch_size: int,
    width: int,
    depth: int,
    *,
    class_token: int = 1,
    linear: int = 12,
    attention: str = "both",
    tokens: str = "grid",
    blocks: bool = True,
) -> int:
    patches = {"grid": (side // patch_size) ** 2, "row": side // patch_size}[tokens]
    t = class_token + patches
    squares = {
        "both": 2 * t * t * width,
        "scores": t * t * width,
        "none": 0,
        "patches": 2 * patches * patches * width,
        "bare": 2 * t * t,
        "width squared": 2 * t * width * width,
    }[attention]
    return (depth if blocks else 1) * (linear * t * width * width + squares)


def _observe_products(answer: Answer) -> Observation:
    return {
        f"the count for {side} pixels, patches of {p}, width {width} and {depth} blocks": (
            answer.number(side, p, width, depth).double()
        )
        for side, p, width, depth in (
            (32, 8, 96, 3),
            (224, 14, 64, 2),
            (518, 14, 64, 5),
            (16 * (2 + draw() % 6), 16, 80, 4),
        )
    }


BLOCK_PRODUCTS = Exercise(
    name="block_products",
    chapter=CHAPTER,
    call="block_products(side, patch_size, width, depth)",
    task="`side` of a square image and `patch_size` in pixels, `width` D and `depth` to the "
    "number of multiplications in the matrix products of all blocks, for one image: T = 1 +"
    " N tokens with the class token, an MLP with a hidden width of 4 D, all tokens "
    "computed. Stem, biases, softmax and norms do not count.",
    solution=_block_products,
    variant=_block_products,
    observe=_observe_products,
    checked="three sizes of image, two widths, three depths",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "class-token-missing",
            "the class token is missing; it goes through the blocks like a patch, so T = 1 + N",
            {"class_token": 0},
        ),
        Mistake(
            "side-not-area",
            "the number of patches grows with the area of the image: square side / patch",
            {"tokens": "row"},
        ),
        Mistake(
            "no-square",
            "the two products of attention are missing, scores and weighted sum, 2 T² D a block",
            {"attention": "none"},
        ),
        Mistake(
            "one-product-of-attention",
            "attention has two products of T² D, the scores and the weighted sum of the values, "
            "and this counts one",
            {"attention": "scores"},
        ),
        Mistake(
            "width-of-attention-missing",
            "each of the T² scores is a sum over the width, D multiplications over all heads",
            {"attention": "bare"},
        ),
        Mistake(
            "square-of-the-width",
            "attention's products grow with the square of T, not of D",
            {"attention": "width squared"},
        ),
        Mistake(
            "mlp-missing",
            "the MLP is missing: two maps between D and 4 D are 8 T D² a block",
            {"linear": 4},
        ),
        Mistake(
            "one-map-of-the-mlp",
            "one map of the MLP is missing; there are two, 4 T D² each a block",
            {"linear": 8},
        ),
        Mistake(
            "square-of-the-patches",
            "the class token is missing in attention's products; they are T × T, not N × N",
            {"attention": "patches"},
        ),
        Mistake(
            "projection-missing",
            "the map that joins the heads is missing, T D² a block",
            {"linear": 11},
        ),
        Mistake(
            "one-block",
            "this is one block; the tokens go through all of them",
            {"blocks": False},
        ),
    ),
)


def _recovered(low: Tensor, high: Tensor, finish: Tensor, *, rule: str = "share") -> Tensor:
    gained, possible = finish - low, high - low
    return {
        "share": gained.mean() / possible.mean(),
        "mean of shares": (gained / possible).mean(),
        "each": gained / possible,
        "of the total": finish.mean() / high.mean(),
        "of the start": gained.mean() / low.mean(),
        "missing": (high - finish).mean() / possible.mean(),
        "inverted": possible.mean() / gained.mean(),
        "difference": gained.mean(),
        "best": gained.max() / possible.max(),
    }[rule]


def _observe_recovered(answer: Answer) -> Observation:
    seen = {}
    for seeds, better, part in ((3, 0.2, 0.7), (5, -0.1, 0.7), (4, 0.2, -0.4), (2, 0.1, 1.6)):
        low = 0.6 + 0.02 * randn(seeds, seed=seeds)
        high = low + better + 0.03 * randn(seeds, seed=seeds + 10)
        finish = low + part * better + 0.03 * randn(seeds, seed=seeds + 20)
        what = "an accuracy" if better > 0 else "an error"
        seen[f"the share, near {part}, for {what} and {seeds} seeds"] = answer.number(
            low, high, finish
        )
    return seen


RECOVERED = Exercise(
    name="recovered",
    chapter=CHAPTER,
    call="recovered(low, high, finish)",
    task="`low`, `high` and `finish`, one number a seed, (S,) each, to one number: the mean of "
    "finish − low over the mean of high − low, whatever their signs, for accuracies and for"
    " errors.",
    solution=_recovered,
    variant=_recovered,
    observe=_observe_recovered,
    checked="accuracies and an error; shares below 0, between 0 and 1, and above",
    mistakes=(
        Mistake(
            "mean-of-shares",
            "this is the mean of the seeds' shares, in which a seed that gains next to nothing "
            "decides; divide the mean gains",
            {"rule": "mean of shares"},
        ),
        Mistake("one-a-seed", "this is a share for each seed; return one number", {"rule": "each"}),
        Mistake(
            "of-the-total",
            "this divides the measures themselves, so that low alone looks good; subtract low "
            "from both first",
            {"rule": "of the total"},
        ),
        Mistake(
            "of-the-start",
            "the gain is divided by what low has; divide it by the gain of high",
            {"rule": "of the start"},
        ),
        Mistake(
            "what-is-missing",
            "this is the share that the finish does not recover; subtract it from 1",
            {"rule": "missing"},
        ),
        Mistake(
            "upside-down",
            "this is the gain of high as a multiple of the finish's; turn the fraction round",
            {"rule": "inverted"},
        ),
        Mistake(
            "not-a-share",
            "this is the gain in points; divide it by the gain of high",
            {"rule": "difference"},
        ),
        Mistake(
            "best-seed",
            "this compares the best seeds; compare the means",
            {"rule": "best"},
        ),
    ),
)

EXERCISES = (BLOCK_PRODUCTS, RECOVERED)
