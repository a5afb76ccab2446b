"""In which order series are shown, in which others they can be, and what of each they go by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tomodex.chips import NAMES, UNITS
from tomodex.errors import BadQuery
from tomodex.search import NEWEST, Hit, Measured, Order, Seen, format_order, parse_order
from tomodex.search.order import SUPERLATIVES
from tomodex.terminology import Terminology
from tomodex.web.pages.asking import Asked

#: Orders that go by what every series has, as `parse_order` reads them.
USUAL: Mapping[str, str] = {
    "newest": "Newest first",
    "oldest": "Oldest first",
    "thinnest": "Thinnest slices first",
    "youngest": "Youngest first",
    "eldest": "Eldest first",
}

#: Structures of the question that series can be sorted by.
MOST_STRUCTURES = 3

#: What stands on every card anyway.
ON_CARDS = ("StudyDate", "PatientAge", "SliceThickness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """An order that can be chosen."""

    text: str  #: as it stands in the address; "": not at all
    label: str
    chosen: bool


def sortings_of(order: Order, asked: Asked, terminology: Terminology) -> tuple[Sorting, ...]:
    """The usual orders, those by the structures that are asked for, and the one that it is."""
    texts = dict.fromkeys([*USUAL, *_by_structure(asked, terminology), format_order(order)])
    return tuple(_sorting(text, order, terminology) for text in texts)


def _sorting(text: str, chosen: Order, terminology: Terminology) -> Sorting:
    order = parse_order(text, terminology)
    return Sorting(
        text="" if order == NEWEST else text,
        label=_label(text, terminology),
        chosen=order == chosen,
    )


def sorted_by(hit: Hit, seen: Sequence[Seen], order: Order, terminology: Terminology) -> str:
    """What a series has of what it is sorted by: "Spleen: 312 ml, 48 HU"; "" for what shows."""
    match order.by:
        case Measured(structure=structure):
            one = next((s for s in seen if s.structure == structure), None)
            measured = f"{one.volume_ml:,.0f} ml, {one.mean_hu:.0f} HU" if one else "not shown"
            return f"{terminology.structures[structure].display}: {measured}"
        case keyword if keyword not in ON_CARDS:
            value = hit.attributes.get(keyword)
            said = f"{value:,g}" if isinstance(value, float | int) else value
            return f"{NAMES.get(keyword, keyword)}: {said or 'not known'}{_unit(keyword, said)}"
    return ""


def _unit(keyword: str, said: str | None) -> str:
    return UNITS.get(keyword, "") if said else ""


def _by_structure(asked: Asked, terminology: Terminology) -> Iterator[str]:
    known = [name for name in asked.framed if _can_be_sorted_by(name, terminology)]
    for name in known[:MOST_STRUCTURES]:
        for superlative in SUPERLATIVES:
            yield f"{superlative} {name}"


def _can_be_sorted_by(name: str, terminology: Terminology) -> bool:
    """Whether a name of ours means this structure alone, and not others besides."""
    try:
        order = parse_order(f"largest {name}", terminology)
    except BadQuery:
        return False
    return isinstance(order.by, Measured) and order.by.structure == name


def _label(text: str, terminology: Terminology) -> str:
    if text in USUAL:
        return USUAL[text]
    by = parse_order(text, terminology).by
    if isinstance(by, str):
        greatest = "greatest" if text.startswith("-") else "least"
        return f"{NAMES.get(by, by)}, {greatest} first"
    display = terminology.structures[by.structure].display
    superlative = text.removesuffix(by.structure).strip()
    return f"{superlative.capitalize()} {display[:1].lower()}{display[1:]} first"
