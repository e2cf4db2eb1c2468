"""Random numbers that belong to a place and not to what was drawn before.

A seed is mixed with the name of what it is for and, where needed, with a step, an epoch or a rank.
So step 1,000 draws the same whether step 999 was computed or not, and what one part draws does not
move the others.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (splitmix64).
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64 - 1  # numbers are taken modulo 2⁶⁴


class Stream(IntEnum):
    """What the random numbers of a run are for.

    The numbers are part of every recorded run and stay as they are. ``MASKS`` and ``SHOWN``
    share one without harm: masks are drawn from (seed, 6, step), images from (seed, 6).
    """

    ORDER = 1  #: the images of each batch: (seed, ORDER, epoch)
    VIEWS = 2  #: crops and colours: (seed, VIEWS, step)
    DROP_PATH = 3  #: what the networks draw as they run: (seed, DROP_PATH, step, rank)
    HEADS = 4  #: first weights of all but the encoder, which has the seed itself: (seed, HEADS)
    WATCHED = 5  #: the training images on which k-NN is measured meanwhile: (seed, WATCHED)
    MASKS = 6  #: hidden patches: (seed, MASKS, step)
    SHOWN = 6  #: the images that are shown: (seed, SHOWN)
    CROPS = 7  #: the crops of them that are shown: (seed, CROPS)
    BANK = 8  #: the images among which their neighbours are sought: (seed, BANK)


def mix(*numbers: int) -> int:
    """One 63-bit seed out of several integers, the same on every machine.

    Args:
        numbers: a seed, a :class:`Stream`, and what else tells the place.
    """
    state = 0
    for number in numbers:
        word = np.array([(state + number) & _WORD], dtype=np.uint64)
        state = int(splitmix64(word)[0])
    return state >> 1


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits into 64 bits, one to one: uint64 in, uint64 out, any shape."""
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
