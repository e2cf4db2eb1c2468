"""All exercises by name, and a list of them to read."""

from collections.abc import Iterator
from importlib import import_module

from dino_tutorial.errors import UserError
from dino_tutorial.exercises.exercise import Exercise
from dino_tutorial.options import takes

# In the order of the book. The exercises of a chapter are in the module of its name.
CHAPTERS = (
    "why-labels-run-out",
    "images-as-tokens",
    "contrast-and-cluster",
    "byol",
    "self-distillation",
    "multi-crop",
    "centering-sharpening",
    "momentum-teacher",
    "training-dino",
    "measuring-features",
    "what-emerges",
    "dinov2-objective",
    "efficient-training",
    "curating-data",
    "scaling",
    "high-resolution-finish",
    "distillation",
    "frozen-features",
    "matching-and-retrieval",
    "released-models",
    "gram-anchoring",
)
EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for chapter in CHAPTERS
    for exercise in import_module(f"dino_tutorial.exercises.{chapter.replace('-', '_')}").EXERCISES
}


class Listing(tuple[Exercise, ...]):
    """Exercises in the order of the book; prints as a list a reader can use."""

    def __str__(self) -> str:
        return "\n".join(self._lines("{0}", "  {0}\n      {1}"))

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return "\n".join(self._lines("\n**{0}**\n", "- `{0}`: {1}"))

    def _lines(self, heading: str, line: str) -> Iterator[str]:
        chapter = None
        for exercise in self:
            if exercise.chapter != chapter:
                chapter = exercise.chapter
                yield heading.format(chapter)
            yield line.format(exercise.call, exercise.task)


@takes()
def list_exercises(chapter: str | None = None) -> Listing:
    """The exercises that :func:`check` knows, each with how it is called and what it has to do.

    Args:
        chapter: file name of a chapter, such as ``"byol"``; all by default.

    Raises:
        UserError: if there is no such chapter.
    """
    if chapter not in (None, *CHAPTERS):
        raise UserError(f"there is no chapter '{chapter}': choose one of {', '.join(CHAPTERS)}")
    return Listing(e for e in EXERCISES.values() if chapter in (None, e.chapter))
