"""Exercises of the book, checked: an answer is right, or one sentence says what is wrong.

>>> from dino_tutorial.exercises import check, hint, list_exercises, progress
>>> check("byol_loss", my_byol_loss)
✗ byol_loss: the stop-gradient is missing: ... `hint("byol_loss")` says more.
>>> hint("byol_loss")
use `target.detach()`.
"""

from dino_tutorial.exercises.checking import check, hint
from dino_tutorial.exercises.registry import list_exercises
from dino_tutorial.exercises.remembered import progress
from dino_tutorial.exercises.verdict import Verdict

__all__ = ["Verdict", "check", "hint", "list_exercises", "progress"]
