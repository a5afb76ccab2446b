"""Orders as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.errors import BadQuery
from tomodex.search import NEWEST, SEARCHABLE, Measured, Order, format_order, parse_order
from tomodex.terminology import load_terminology

TERMS = load_terminology()
SORTABLE = [keyword for keyword, kind in SEARCHABLE.items() if kind != "text"]
#: Those that a name means alone.
NAMES = ["spleen", "kidney_left", "vertebrae_L1", "lung_left", "eye_left", "mandible"]

ORDERS = st.builds(
    Order,
    by=st.sampled_from(SORTABLE)
    | st.builds(
        Measured, structure=st.sampled_from(NAMES), what=st.sampled_from(["volume_ml", "mean_hu"])
    ),
    greatest_first=st.booleans(),
)


@given(ORDERS)
def test_what_was_written_is_read_as_the_same(order: Order) -> None:
    assert parse_order(format_order(order), TERMS) == order


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", NEWEST),
        (" Newest ", NEWEST),
        ("oldest", Order(by="StudyDate")),
        ("thinnest", Order(by="SliceThickness")),
        ("eldest", Order(by="PatientAge", greatest_first=True)),
        ("-patientage", Order(by="PatientAge", greatest_first=True)),
        ("- Alter", Order(by="PatientAge", greatest_first=True)),
        ("slice thickness", Order(by="SliceThickness")),
        (
            "Largest  Milz",
            Order(by=Measured(structure="spleen", what="volume_ml"), greatest_first=True),
        ),
        ("smallest left kidney", Order(by=Measured(structure="kidney_left", what="volume_ml"))),
        (
            "densest L1",
            Order(by=Measured(structure="vertebrae_L1", what="mean_hu"), greatest_first=True),
        ),
        ("least dense sct:10200004", Order(by=Measured(structure="liver", what="mean_hu"))),
        (
            "largest unterkiefer",
            Order(by=Measured(structure="mandible", what="volume_ml"), greatest_first=True),
        ),
    ],
)
def test_an_order_is_called_as_people_call_it(text: str, order: Order) -> None:
    assert parse_order(text, TERMS) == order


@pytest.mark.parametrize(
    ("text", "says", "offered"),
    [
        ("newst", "no order is called 'newst'", "newest"),
        ("-SliceThicknes", "no order is called '-SliceThicknes'", "-SliceThickness"),
        ("spleen", "no order is called 'spleen'", "largest spleen"),
        ("largest sacrun", "no structure is called 'sacrun'", "largest sacrum"),
        ("largest kidney", "'kidney' are 2 structures", "largest left kidney"),
        ("densest lung", "'lung' are 5 structures", "densest upper lobe of left lung"),
        ("Manufacturer", "Manufacturer is text, which has no order", "newest"),
        ("-SeriesInstanceUID", "SeriesInstanceUID is text, which has no order", "newest"),
        ("1; drop table series", "no order is called", "newest"),
    ],
)
def test_what_is_no_order_is_refused_with_what_was_meant(
    text: str, says: str, offered: str
) -> None:
    with pytest.raises(BadQuery, match=says) as refused:
        parse_order(text, TERMS)
    assert offered in refused.value.suggestions
    assert f"did you mean: {', '.join(refused.value.suggestions)}?" in str(refused.value)


def test_what_is_offered_for_a_wrong_order_is_one() -> None:
    for text in ("newst", "spleen", "largest kidney", "densest lung", "smallest hip", "foo"):
        with pytest.raises(BadQuery) as refused:
            parse_order(text, TERMS)
        for offered in refused.value.suggestions:
            parse_order(offered, TERMS)


@pytest.mark.parametrize("text", ["largest " * 1000, "-" * 10**6, "\udcff", "largest \x00"])
def test_a_strange_text_is_refused_soon(text: str) -> None:
    with pytest.raises(BadQuery) as refused:
        parse_order(text, TERMS)
    assert len(str(refused.value)) < 500


def test_every_documented_order_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs/reference/query-language.md").read_text()
    section = page.partition("\n## Order\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    shown = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(shown) >= 10
    for text in shown:
        parse_order(text, TERMS)
