"""CITATION.cff has the fields that the Citation File Format 1.2.0 requires and no unknown ones; versions agree."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from documented import ROOT

import cokv

CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# Of schema.json of the format: what is required, and what of it this project may use.
REQUIRED = {"cff-version", "message", "title", "authors"}
KNOWN = REQUIRED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
    *("preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url"),
    "version",
}
REFERENCE = {"authors", "title", "type", "year", "identifiers", "doi", "journal", "conference", "url"}
PERSON = {"family-names", "given-names", "name-particle", "name-suffix", "affiliation", "orcid", "email", "alias"}
ENTITY = {"name", "email", "alias", "website", "orcid"}


def test_required_fields_are_there_and_no_other() -> None:
    assert CITATION.keys() >= REQUIRED and CITATION.keys() <= KNOWN
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] in ("software", "dataset")
    assert all(isinstance(CITATION[key], str) for key in CITATION if key not in ("authors", "keywords", "references"))


@pytest.mark.parametrize("cited", [CITATION, *CITATION["references"]], ids=lambda cited: cited["title"][:30])
def test_authors_are_persons_or_entities(cited: dict[str, Any]) -> None:
    assert cited["authors"]
    for author in cited["authors"]:
        assert author.keys() <= (ENTITY if "name" in author else PERSON) and all(author.values())


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda reference: reference["title"][:30])
def test_references_are_articles_with_an_arxiv_number(reference: dict[str, Any]) -> None:
    assert reference.keys() <= REFERENCE and reference["type"] == "article" and isinstance(reference["year"], int)
    (identifier,) = reference["identifiers"]
    assert identifier.keys() == {"type", "value"} and identifier["type"] == "other"
    number = re.fullmatch(r"arXiv:(\d\d)\d\d\.\d{5}", identifier["value"])
    assert number and 2000 + int(number[1]) == reference["year"], "arXiv numbers begin with the year"


def test_the_version_is_the_packages() -> None:
    assert CITATION["version"] == cokv.__version__


def test_unreleased_changes_come_first() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_changes_have_the_kinds_of_keep_a_changelog() -> None:
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
