"""The bibliography: no key twice, no field missing, no arXiv number that cannot be."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "book" / "references.bib").read_text("utf-8")
ENTRIES = re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}", TEXT, re.MULTILINE | re.DOTALL)
# Where each kind of entry says that it appeared.
VENUE = {"inproceedings": "booktitle", "article": "journal", "techreport": "institution"}


def test_no_work_is_listed_twice():
    keys = [key for _, key, _ in ENTRIES]
    assert len(keys) == TEXT.count("\n@") + TEXT.startswith("@")
    for name, values in (
        ("key", keys),
        ("title", re.findall(r"  title = \{(.*)\},", TEXT)),
        ("address", re.findall(r"url = \{(.*)\}", TEXT)),
    ):
        assert sorted(values) == sorted(set(values)), name


@pytest.mark.parametrize("kind, key, body", ENTRIES, ids=[key for _, key, _ in ENTRIES])
def test_an_entry_is_complete(kind, key, body):
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", body, re.MULTILINE))
    assert {"title", "author", "year", VENUE.get(kind, "url")} <= fields.keys()
    year = int(fields["year"])
    assert fields["year"] in key
    if arxiv := re.search(r"arxiv\.org/abs/(\d\d)(\d\d)\.\d{4,5}$", fields.get("url", "")):
        submitted, month = 2000 + int(arxiv[1]), int(arxiv[2])
        assert 1 <= month <= 12
        assert submitted <= year <= submitted + 2, "printed before it was submitted, or long after"
