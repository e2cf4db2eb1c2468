"""The claims ledger: every entry has a verdict, a source and links, and its section agrees."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

BOOK = Path(__file__).resolve().parents[2] / "book"
CLAIMS = yaml.safe_load((BOOK / "claims.yml").read_text("utf-8"))
ARTICLES = [
    "DINO: Unleashing the Potential of Self-Supervised Learning",
    "DINO: Emerging Properties in Self-Supervised Vision Transformers",
    "From BYOL to DINO",
    "DINOv2: Self-Supervised Computer Vision Models by Meta AI",
]
VERDICTS = {"supported", "imprecise", "wrong", "not tested there"}
KEYS = set(re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text("utf-8"), re.MULTILINE))
CELLS = nbformat.read(BOOK / "claims.ipynb", as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")


def targets() -> set[str]:
    """What a page can link to: the names of pages, and the labels of headings and figures."""
    found = {path.stem for path in BOOK.iterdir() if path.suffix in (".ipynb", ".md")}
    for path in BOOK.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            found |= set(re.findall(r"^\(([\w-]+)\)=$", cell.source, re.MULTILINE))
            found.add(cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))
    return found


TARGETS = targets()


def section(number: int) -> str:
    """What the notebook says about a claim: from its label to the next one or the next article."""
    start = TEXT.index(f"(claim-{number})=\n")
    return re.split(r"\n\(claim-\d+\)=\n|\n## ", TEXT[start:])[0]


def faults(claim: dict, text: str, live: bool) -> list[str]:
    """Where an entry of claims.yml is incomplete, or its section in the notebook differs."""
    found = []
    if claim["article"] not in ARTICLES:
        found.append("no article")
    if claim["verdict"] not in VERDICTS:
        found.append("no verdict")
    if f"\n### {claim['number']}. {claim['claim']}\n" not in text:
        found.append("another heading")
    if not text.partition("\n**")[2].lower().startswith(claim["verdict"]):
        found.append("another verdict in the text")
    if not claim["sources"] or not all(claim["sources"].values()):
        found.append("no source, or no place in it")
    found += [f"{key} is no reference" for key in claim["sources"] if key not in KEYS]
    cited = set(re.findall(r"\{cite(?::\w)?\}`(\w+)`", text))
    found += [
        f"only the list or only the text cites {key}" for key in set(claim["sources"]) ^ cited
    ]
    linked = set(re.findall(r"\{(?:ref|numref|doc)\}`([\w-]+)`", text))
    found += [
        f"only the list or only the text links to {label}" for label in set(claim["shown"]) ^ linked
    ]
    found += [f"{label} is nowhere" for label in claim["shown"] if label not in TARGETS]
    if claim["live"] != live:
        found.append("a live check too many or too few")
    return found


def is_live(number: int) -> bool:
    return any(f"claim-{number}" in cell.metadata.get("tags", []) for cell in CELLS)


def test_all_claims_are_there_in_order():
    assert [claim["number"] for claim in CLAIMS] == list(range(1, 29))
    articles = [claim["article"] for claim in CLAIMS]
    assert articles == sorted(articles, key=ARTICLES.index)
    assert re.findall(r"^## (.*)", TEXT, re.MULTILINE) == ["All claims", *ARTICLES]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim["number"]))
def test_an_entry_is_complete_and_its_section_agrees(claim):
    assert faults(claim, section(claim["number"]), is_live(claim["number"])) == []


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"article": "Another"}, "no article"),
        ({"verdict": "perhaps"}, "no verdict"),
        ({"verdict": "supported"}, "another verdict in the text"),
        ({"claim": "Something else"}, "another heading"),
        ({"sources": {}}, "no source"),
        ({"sources": {"caron2021dino": ""}}, "no place in it"),
        ({"sources": {"nobody1999": "table 1"}}, "nobody1999 is no reference"),
        ({"sources": {"he2020moco": "table 1"}}, "cites he2020moco"),
        ({"shown": []}, "links to several-orders"),
        ({"shown": ["nowhere"]}, "nowhere is nowhere"),
        ({"live": True}, "a live check too many"),
    ],
)
def test_each_fault_is_found(change, fault):
    claim = CLAIMS[9]  # a wrong one, with a source, a link and no live check
    assert any(fault in found for found in faults(claim | change, section(10), live=False))
