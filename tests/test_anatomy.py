"""The vocabulary as a tree that leads from every structure to the top."""

from __future__ import annotations

import pytest

from tomodex.anatomy import anatomy_of, found_by
from tomodex.search import Shows, parse
from tomodex.terminology import load_terminology

TERMS = load_terminology()
KNOWN = anatomy_of(TERMS)


def test_every_structure_and_group_is_there_once():
    assert set(KNOWN) == set(TERMS.structures) | set(TERMS.groups)


def test_every_parent_is_there_and_none_is_its_own_ancestor():
    for name in KNOWN:
        seen: set[str] = set()
        waiting = list(KNOWN[name].parents)
        while waiting:
            parent = waiting.pop()
            assert parent != name
            if parent not in seen:
                seen.add(parent)
                waiting += KNOWN[parent].parents


def test_what_it_says_to_ask_finds_its_members():
    for named in KNOWN.values():
        term = parse(named.query, TERMS).term
        assert isinstance(term, Shows)
        assert set(term.structures) == set(named.members)


def test_codes_and_synonyms_mean_it():
    left = KNOWN["kidney_left"]
    assert left.codes["SCT"] == "18639004"
    assert left.codes["RADLEX"] == "RID29663"
    assert "Niere" in KNOWN["kidney"].synonyms
    assert (left.display, left.display_de, left.laterality) == (
        "Left kidney",
        "Niere links",
        "left",
    )
    assert left.parents == ("kidney",)


@pytest.mark.parametrize("text", ["kidney", "Niere", "sct:64033007", "rid:RID205", "Nieren"])
def test_a_group_is_found_with_its_structures_by_any_of_its_names(text):
    assert [named.name for named in found_by(text, TERMS)] == [
        "kidney",
        "kidney_left",
        "kidney_right",
    ]


def test_a_structure_is_found_alone():
    assert [named.name for named in found_by("linke Niere", TERMS)] == ["kidney_left"]


def test_what_means_nothing_finds_nothing():
    assert found_by("nonsense", TERMS) == ()
