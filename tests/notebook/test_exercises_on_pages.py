"""Every chapter has exercises of all four kinds, each with a hint and a solution of its own."""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from dino_tutorial.exercises import list_exercises
from dino_tutorial.exercises.registry import CHAPTERS, EXERCISES

BOOK = Path(__file__).resolve().parents[2] / "book"
ASKS_NOTHING = {"claims", "add-a-method"}  # pages of reference
PAGES = sorted({path.stem for path in BOOK.glob("*.ipynb")} - ASKS_NOTHING)
KINDS = ("Understand", "Build", "Break", "Extend")
START = re.compile(r"^`{3,}\{exercise(?:-start)?\} .+\n:label: (\S+)$", re.MULTILINE)
HEAD = re.compile(rf"^\*({'|'.join(KINDS)}) · (easy|medium|hard) · (\d+) minutes\b", re.MULTILINE)
HINT = re.compile(r"\{hint\}|\{admonition\} Hint")
SOLUTION = re.compile(r"^`{3,}\{solution(?:-start)?\} (\S+)$", re.MULTILINE)
# Lines that open, close or describe a directive say nothing by themselves.
MARKUP = re.compile(r"^(`{3,}|:{3,}|:\w+:|\+{3}).*$", re.MULTILINE)


@dataclass
class OnPage:
    label: str
    text: str  # the exercise with its hint
    solved: str  # label that its solution names
    solution: str  # text and code of it

    @property
    def head(self) -> re.Match | None:
        return HEAD.search(self.text)


def text_of(page: str) -> str:
    """The chapter's Markdown and code, without what was printed."""
    return "\n".join(cell.source for cell in nbformat.read(BOOK / f"{page}.ipynb", 4).cells)


def exercises_of(text: str) -> list[OnPage]:
    ends = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)] + [len(text)]
    found = []
    starts = list(START.finditer(text))
    for number, match in enumerate(starts):
        end = min(end for end in ends if end > match.start())
        if number + 1 < len(starts):
            end = min(end, starts[number + 1].start())
        part = text[match.end() : end]
        begins = SOLUTION.search(part)
        asked, answered = (part[: begins.start()], part[begins.end() :]) if begins else (part, "")
        found.append(OnPage(match[1], asked, begins[1] if begins else "", answered))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_there_are_four_kinds_of_exercises(page):
    kinds = [exercise.head[1] for exercise in exercises_of(text_of(page)) if exercise.head]
    assert len(kinds) >= 4 and set(kinds) == set(KINDS)


@pytest.mark.parametrize("page", PAGES)
def test_each_has_difficulty_minutes_hint_and_solution(page):
    for exercise in exercises_of(text_of(page)):
        assert exercise.head, f"{exercise.label}: kind · difficulty · minutes"
        assert 5 <= int(exercise.head[3]) <= 60, exercise.label
        asked, hint = HINT.split(exercise.text, maxsplit=1)
        assert len(MARKUP.sub("", asked).strip()) > 80, exercise.label
        assert len(MARKUP.sub("", hint).strip()) > 10, f"{exercise.label}: an empty hint"
        assert exercise.solved == exercise.label
        assert len(MARKUP.sub("", exercise.solution).strip()) > 80, f"{exercise.label}: no solution"
        assert ":class: dropdown" in exercise.solution, f"{exercise.label}: an open solution"


@pytest.mark.parametrize("page", PAGES)
def test_the_minutes_that_a_chapter_promises_are_those_of_its_exercises(page):
    text = text_of(page)
    total = sum(int(exercise.head[3]) for exercise in exercises_of(text))
    for promised in re.findall(r"(\d+) minutes (?:for|with) the exercises", text):
        assert int(promised) == total


def test_the_teachers_plan_has_the_same_minutes():
    rows = re.findall(
        r"^\| \d+ \| \{doc\}`([a-z-]+)` \|.*\| (\d+) minutes \|$",
        (BOOK / "teaching.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) >= 8
    for page, minutes in rows:
        exercises = exercises_of(text_of(page))
        assert int(minutes) == sum(int(exercise.head[3]) for exercise in exercises), page


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapters_speak_of_their_checkers_by_their_names(page):
    text = text_of(page)
    assert set(re.findall(r'check\("(\w+)"', text)) <= EXERCISES.keys()
    for exercise in list_exercises(page):
        assert f'"{exercise.name}"' in text or f"`{exercise.name}`" in text, exercise.name


@pytest.mark.parametrize("page", CHAPTERS)
def test_what_is_checked_stands_on_the_page(page):
    """Names, shapes and conventions, word for word as `list_exercises` says them."""
    text = text_of(page)
    for exercise in list_exercises(page):
        assert f"`{exercise.call}`: {exercise.task}" in text, exercise.name


@pytest.mark.parametrize("page", PAGES)
def test_solutions_are_folded_in_jupyter(page):
    inside, folded = False, 0
    for cell in nbformat.read(BOOK / f"{page}.ipynb", 4).cells:
        if cell.cell_type == "markdown":
            for found in re.finditer(r"^`{3,}\{solution-(start|end)\}", cell.source, re.MULTILINE):
                inside = found[1] == "start"
        elif cell.cell_type == "code":
            assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == inside
            folded += inside
    assert folded


GOOD = """## Exercises

```{exercise} Count
:label: ex-count
*Break · easy · 5 minutes.* How many views has a picture in DINO's recipe,
and how many pairs are compared?
```

```{hint}
:class: dropdown
Two are large and eight are small.
```

```{solution} ex-count
:class: dropdown
Ten views. Each of the two large ones is compared with nine others, which makes eighteen pairs.
```

## Further reading
"""


def test_an_exercise_is_read_as_it_is_written():
    (exercise,) = exercises_of(GOOD)
    assert (exercise.label, exercise.solved) == ("ex-count", "ex-count")
    assert exercise.head.groups() == ("Break", "easy", "5")
    assert "eighteen" in exercise.solution and "eighteen" not in exercise.text
    assert "Further" not in exercise.solution
    (unsolved,) = exercises_of(GOOD.replace("{solution} ex-count", "{note}"))
    assert unsolved.solved == "" and unsolved.solution == ""
