"""What is offered to a person who is typing a question."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.completion import complete
from tomodex.search import parse
from tomodex.terminology import load_terminology

TERMS = load_terminology()
MANUFACTURERS = (("SIEMENS", 9), ("GE MEDICAL SYSTEMS", 3), ('The "Best"', 1))


def values(keyword: str, prefix: str) -> Iterable[tuple[str, int | None]]:
    assert keyword in ("Manufacturer", "PatientSex")
    return [pair for pair in MANUFACTURERS if pair[0].casefold().startswith(prefix.casefold())]


def offered(text: str, limit: int = 8):
    return complete(text, len(text), TERMS, values, limit)


def texts(text: str, limit: int = 8) -> list[str]:
    return [one.text for one in offered(text, limit)]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("kid", "left kidney"),
        ("Nie", "Niere"),
        ("liver and not kid", "kidney"),
        ("left kidney complete, sac", "sacrum"),
        ("left autochthon between heart and L", "L1"),
        ("kidney_l", "kidney_left"),
        ("covers L1..L", "L5"),
        ("sct:1020", "sct:10200004"),
        ("liver ", "complete"),
        ("liver comp", "complete"),
        ("liver complete a", "and"),
        ("Manu", "Manufacturer"),
        ("slice th", "SliceThickness"),
        ("liver and PatientS", "PatientSex"),
        ("no", "not"),
        ("PatientSex = F a", "and"),
        ("PatientAge 40..60 o", "or"),
        ("(liver or spleen) an", "and"),
    ],
)
def test_what_was_begun_is_offered_whole(typed, wanted):
    assert wanted in texts(typed)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("liver and Manufacturer = SIE", "SIEMENS"),
        ("Manufacturer = ", "SIEMENS"),
        ("hersteller != sie", "SIEMENS"),
        ("Manufacturer in (SIEMENS, GE", '"GE MEDICAL SYSTEMS"'),
        ('Manufacturer = "GE MED', '"GE MEDICAL SYSTEMS"'),
        ("Manufacturer = The", '"The ""Best"""'),
    ],
)
def test_values_of_an_attribute_are_offered_as_the_language_writes_them(typed, wanted):
    best = offered(typed)[0]
    assert (best.text, best.kind) == (wanted, "value")
    assert best.count in (9, 3, 1)
    done = typed[: best.start] + best.text + (")" if "(" in typed else "")
    assert parse(done, TERMS).term is not None


def test_numbers_have_no_values_to_offer():
    assert texts("PatientAge = 4") == []


@pytest.mark.parametrize(
    "typed", ["kid", "liver and not kid", "left kidney complete, sac", "Lin", "sct:1020", "wirb"]
)
def test_what_is_offered_can_be_asked(typed):
    for one in offered(typed):
        if one.kind in ("structure", "group", "code"):
            assert parse(typed[: one.start] + one.text, TERMS).term is not None
            assert one.end == len(typed)


def test_the_cursor_may_be_in_the_middle():
    text = "kid and PatientSex = F"
    best = complete(text, 3, TERMS, values, 5)[0]
    assert (best.text, best.start, best.end) == ("kidney", 0, 3)


@pytest.mark.parametrize("typed", ["liver and a", "not a", "(a", "liver, a", "a"])
def test_nothing_is_joined_where_something_is_missing(typed):
    assert "and" not in texts(typed, 50)


def test_no_more_are_offered_than_wanted_and_none_twice():
    found = texts("l", 50)
    assert len(found) == len(set(found)) <= 50
    assert len(texts("l", 3)) == 3


@given(st.text(max_size=400), st.integers(0, 400))
def test_anything_may_be_typed(text, cursor):
    for one in complete(text, min(cursor, len(text)), TERMS, lambda *_: (), 10):
        assert 0 <= one.start <= one.end <= len(text)
