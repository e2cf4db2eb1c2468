"""Every chapter opens and closes alike: what it asks, needs, does not show, and what to do next."""

import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
# The chapters are what is numbered; the other pages are there to look things up.
CHAPTERS = [
    ROOT / f"{page['file']}.ipynb"
    for part in PARTS
    if part.get("numbered")
    for page in part["chapters"]
]
KINDS = {"Understand", "Build", "Break", "Extend"}
LAST_SECTIONS = ["What this does not show", "Exercises", "Further reading"]
OPENING = {
    "no title": r"\A# \S",
    "no questions": r"\*\*Questions\.\*\*[^\n]*\?|\{admonition\} Questions\n:class: note\n[^\n]*\?",
    "no time": r"\*\*Time[.:]\*\* [^\n]*\d minutes to read",
    "nothing about what is needed before": r"\*\*(Needed before\.|Before:)\*\* \S",
    "no link to the symbols": r"\{doc\}`notation`",
    "no place in the package": r"(?m)^In the package: (\{py:\w+\}`dino_tutorial[.\w]+`(, |\.$))+$",
}
EXERCISE = re.compile(r"^`{3,}\{exercise(?:-start)?\}.*\n:label: (\S+)$", re.MULTILINE)
TASK = re.compile(
    r"^\*(\w+)( ·|\.) (easy|medium|hard)[ ·,]+\d+ minutes", re.MULTILINE | re.IGNORECASE
)
HINT = re.compile(r"\{hint\}|\{admonition\} Hint")


def faults(text: str) -> list[str]:
    """What the Markdown of a chapter lacks, one sentence each."""
    opening = text.split("\n## ", 1)[0]
    found = [lack for lack, pattern in OPENING.items() if not re.search(pattern, opening)]
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    if [name for name in sections if name in LAST_SECTIONS] != LAST_SECTIONS:
        return [*found, f"its last sections are not {', '.join(LAST_SECTIONS)}"]
    if list(sections)[-1] != LAST_SECTIONS[-1]:
        found.append("it does not end with further reading")
    limits, exercises, reading = (sections[name] for name in LAST_SECTIONS)
    if len(re.findall(r"^- ", limits, re.MULTILINE)) < 3:
        found.append("it names fewer than three limits")
    if len(re.findall(r"\{cite", reading)) < 3:
        found.append("it recommends fewer than three works")
    return found + list(exercise_faults(exercises))


def exercise_faults(text: str):
    """What is wrong with the exercises, each of which ends where the next begins."""
    _, *pieces = EXERCISE.split(text)
    exercises = dict(zip(pieces[::2], pieces[1::2], strict=True))
    tasks = {label: TASK.search(body) for label, body in exercises.items()}
    for label, body in exercises.items():
        if not tasks[label]:
            yield f"{label} has no kind, difficulty and minutes"
        if not HINT.search(body):
            yield f"{label} has no hint"
        if not re.search(rf"\{{solution(-start)?\}} {label}\n", body):
            yield f"{label} has no solution"
    if len(exercises) < 4:
        yield f"it has {len(exercises)} exercises, fewer than four"
    kinds = {task[1] for task in tasks.values() if task}
    if kinds != KINDS:
        yield f"its exercises are {sorted(kinds)}, not {sorted(KINDS)}"


def markdown(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_all_its_parts(path):
    assert faults(markdown(path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_where_its_idea_is_in_the_package_is_a_function_or_a_class(path):
    (line,) = re.findall(r"^In the package: .*$", markdown(path), re.MULTILINE)
    for role, name in re.findall(r"\{py:(\w+)\}`([.\w]+)`", line):
        module, _, attribute = name.rpartition(".")
        thing = getattr(import_module(module), attribute)
        assert role == ("class" if isinstance(thing, type) else "func"), name


def exercise(kind: str) -> str:
    return f"""
```{{exercise}} A question
:label: ex-{kind}

*{kind}. Easy, 10 minutes.* Why?
```

```{{hint}}
Look.
```

```{{solution}} ex-{kind}
So.
```
"""


GOOD = f"""# A chapter

```{{admonition}} Before you start
**Questions.** How does it work?

**Time.** 30 minutes to read.

**Needed before.** Python; {{doc}}`notation`.
```

In the package: {{py:func}}`dino_tutorial.train`, {{py:class}}`dino_tutorial.losses.DINOLoss`.

## The idea

## What this does not show

- One.
- Two.
- Three.

## Exercises
{"".join(map(exercise, sorted(KINDS)))}
## Further reading

- {{cite}}`a`
- {{cite:t}}`b`
- {{cite:p}}`c`
"""


def test_a_complete_chapter_has_no_faults():
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    "part, fault",
    [
        ("# A chapter", "no title"),
        ("**Questions.** How does it work?", "no questions"),
        ("**Time.** 30 minutes to read.", "no time"),
        ("**Needed before.** Python;", "nothing about what is needed before"),
        ("{doc}`notation`", "no link to the symbols"),
        ("In the package: ", "no place in the package"),
        ("`dino_tutorial.losses", "no place in the package"),
        ("## What this does not show", "its last sections are not"),
        ("- Two.", "fewer than three limits"),
        ("*Break. Easy, 10 minutes.*", "ex-Break has no kind"),
        ("```{hint}\nLook.\n```", "ex-Break has no hint"),
        ("{solution} ex-Build", "ex-Build has no solution"),
        (exercise("Extend"), "3 exercises, fewer than four"),
        ("*Extend.", "ex-Extend has no kind"),
        ("- {cite}`a`", "fewer than three works"),
    ],
)
def test_each_missing_part_is_found(part, fault):
    assert part in GOOD
    assert any(fault in found for found in faults(GOOD.replace(part, "", 1)))


def test_the_order_of_the_last_sections_counts():
    exercises, reading = "## Exercises", "## Further reading"
    swapped = GOOD.replace(exercises, "## X").replace(reading, exercises).replace("## X", reading)
    assert any("its last sections are not" in found for found in faults(swapped))
    assert "it does not end with further reading" in faults(GOOD + "\n## More\n")
