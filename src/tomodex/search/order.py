"""The order in which series are shown: "newest", "-PatientAge", "largest spleen"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from tomodex.errors import BadQuery
from tomodex.search.everyday import keyword_of
from tomodex.search.searchable import ASKABLE

if TYPE_CHECKING:
    from tomodex.terminology import Terminology

#: What is measured of a structure, and compared.
Measure = Literal["volume_ml", "mean_hu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is measured of one structure, whole or cut as the image shows it."""

    structure: str  #: a name of our terminology
    what: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By which number or date of a series, and from which end.

    A series that has none comes last, whichever end is first. What is alike comes newest study
    first, without a date last, and within a day by the SeriesInstanceUID: so pages that follow one
    another miss nothing and repeat nothing.
    """

    by: str | Measured  #: a keyword of `SEARCHABLE` that is a number or a date, or a measure
    greatest_first: bool = False


NEWEST = Order(by="StudyDate", greatest_first=True)

#: Orders by what people call them.
NAMED: Mapping[str, Order] = {
    "newest": NEWEST,
    "oldest": Order(by="StudyDate"),
    "thinnest": Order(by="SliceThickness"),
    "thickest": Order(by="SliceThickness", greatest_first=True),
    "youngest": Order(by="PatientAge"),
    "eldest": Order(by="PatientAge", greatest_first=True),
}

#: What stands before the name of a structure.
SUPERLATIVES: Mapping[str, tuple[Measure, bool]] = {
    "largest": ("volume_ml", True),
    "smallest": ("volume_ml", False),
    "densest": ("mean_hu", True),
    "least dense": ("mean_hu", False),
}

#: What is offered to who seems not to know any.
_SOME = ("newest", "oldest", "thinnest", "-PatientAge", "largest spleen")

#: Members of a group that are offered in its place.
MOST_OFFERED = 4

#: A text has no more: the longest name of a structure has 55.
MAX_CHARACTERS = 200


def parse_order(text: str, terminology: Terminology) -> Order:
    """The order that `text` means; an empty one is newest study first.

    Raises:
        BadQuery: it means none; with what was probably meant.
    """
    words = " ".join(text[: MAX_CHARACTERS + 1].split())
    if len(words) > MAX_CHARACTERS:
        raise BadQuery(f"an order has at most {MAX_CHARACTERS} characters")
    if not words:
        return NEWEST
    if named := NAMED.get(words.casefold()):
        return named
    for superlative, (what, greatest_first) in SUPERLATIVES.items():
        if words.casefold().startswith(f"{superlative} "):
            structure = _structure(words[len(superlative) + 1 :], superlative, terminology)
            return Order(by=Measured(structure=structure, what=what), greatest_first=greatest_first)
    return _by_attribute(words, terminology)


def format_order(order: Order) -> str:
    """The canonical text of an order, which `parse_order` reads as the same."""
    for name, known in NAMED.items():
        if order == known:
            return name
    if isinstance(order.by, str):
        return f"-{order.by}" if order.greatest_first else order.by
    asked = (order.by.what, order.greatest_first)
    superlative = next(word for word, meant in SUPERLATIVES.items() if meant == asked)
    return f"{superlative} {order.by.structure}"


def _by_attribute(words: str, terminology: Terminology) -> Order:
    keyword = keyword_of(words.removeprefix("-").strip())
    if not keyword:
        raise _refusal(f"no order is called {words!r}", _offers(words, terminology))
    if ASKABLE[keyword] == "text":
        raise _refusal(f"{keyword} is text, which has no order", _SOME)
    return Order(by=keyword, greatest_first=words.startswith("-"))


def _structure(name: str, superlative: str, terminology: Terminology) -> str:
    """The one structure that a name means.

    Raises:
        BadQuery: it means none, or several: of these a series may show any number.
    """
    known, names = terminology.structures, terminology.resolve(name)
    if not names:
        close = terminology.suggest(name, 3)
        sentence = f"no structure is called {name!r}"
        raise _refusal(sentence, [f"{superlative} {one}" for one in close])
    # A name of our own means itself, though others may go by it too.
    if "_" in name and name in names:
        return name
    usual = [one for one in names if known[one].total_class is not None] or list(names)
    if len({known[one].same_as or one for one in usual}) > 1:
        sentence = f"{name!r} are {len(usual)} structures; series are sorted by one"
        displays = (known[one].display for one in usual[:MOST_OFFERED])
        raise _refusal(sentence, [f"{superlative} {one[0].lower()}{one[1:]}" for one in displays])
    return name if name in usual else usual[0]


def _offers(words: str, terminology: Terminology) -> list[str]:
    """What was probably meant by words that are no order."""
    if terminology.resolve(words):
        return [f"{superlative} {words}" for superlative in SUPERLATIVES]
    sign = "-" if words.startswith("-") else ""
    sortable = [keyword for keyword, kind in ASKABLE.items() if kind != "text"]
    close = get_close_matches(words.removeprefix("-"), [*NAMED, *sortable], n=3)
    return [f"{sign}{one}" if one in sortable else one for one in close] or list(_SOME)


def _refusal(sentence: str, offers: Sequence[str]) -> BadQuery:
    asked = f"\ndid you mean: {', '.join(offers)}?" if offers else ""
    return BadQuery(f"{sentence}{asked}", suggestions=tuple(offers))
