"""Exercises of the book, checked: an answer is right, or one sentence names the mistake.

>>> from dino_tutorial.exercises import check, list_exercises
>>> check("byol_loss", my_byol_loss)
✗ byol_loss: the stop-gradient is missing: ...
"""

from dino_tutorial.exercises.checking import check
from dino_tutorial.exercises.registry import list_exercises
from dino_tutorial.exercises.verdict import Verdict

__all__ = ["Verdict", "check", "list_exercises"]
