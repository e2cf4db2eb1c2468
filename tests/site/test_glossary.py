"""The glossary: in order, each term once, each explained in a few sentences."""

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "book" / "glossary.md").read_text("utf-8")
ENTRIES = dict(
    re.findall(r"^(\w[^\n]*)\n  ([^\n]+)$", TEXT.split(":::{glossary}")[1], re.MULTILINE)
)
# BYOL's and DINO's words for one thing, and what a reader meets in the chapters unprepared.
EXPECTED = """
    Online network, Student, Target network, Teacher, Predictor, Projector, Prototypes, Center,
    Sharpening, Multi-crop, CLS token, Patch token, Register, EMA, Momentum, k-NN, Linear probe,
    Collapse, Sinkhorn-Knopp, Queue, InfoNCE, False negative, KoLeo, iBOT, mIoU, J and F, CorLoc
"""


def test_the_terms_are_in_order_and_each_is_there_once():
    terms = re.findall(r"^(\w.*)\n  ", TEXT, re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)


def test_the_expected_terms_are_explained():
    assert {term.strip() for term in EXPECTED.split(",")} <= ENTRIES.keys()


def test_each_is_explained_in_a_few_sentences():
    for term, text in ENTRIES.items():
        assert text.endswith((".", ")")), term
        assert len(re.findall(r"[.!?](?= [A-Z$*]|$)", text)) <= 4, term
        assert len(text.split()) <= 70, term
