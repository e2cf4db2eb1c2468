"""Grading: submitted notebooks are run, each apart from all others, and their checks counted.

`folder` makes the table, `submission` runs one notebook and ends it when it exceeds its limits,
`worker` is the process in which that happens.
"""

from dino_tutorial.grading.folder import grade_folder

__all__ = ["grade_folder"]
