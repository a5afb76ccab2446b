"""What a BodyStructure may include: every structure once, on the side of its name, measured.

Nine tenths of a bundle are this, and nearly all of it is as it always is. So a structure is looked
at as its bytes first: its numbers by a pattern, its names by whether the same were right before.
What is otherwise is taken apart, element by element.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from tomodex.formats.fhir import naming
from tomodex.formats.fhir.kinds import (
    REMEMBERED,
    Kind,
    Wrong,
    coding,
    concept,
    number,
    one_of,
    positive,
    quantity,
    record,
    seen_before,
    several,
    text,
    told_by,
)
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import ARBITRARY, HOUNSFIELD, SIDES
from tomodex.measurement import SIDES as AXES

CUTS = tuple(side for axis in AXES for side in axis)

#: Between the numbers and the names of a structure, as we write it.
BETWEEN = b',"structure":'

_SIDE = re.compile(r"(?:^|_)(left|right)(?:_|$)")


def structure_concept(ours: Naming) -> Kind:
    """SNOMED CT and RadLex as far as they have it, then our own name, always."""
    own = coding(ours.labels)
    theirs = {system: coding(system) for system in (naming.SNOMED, naming.RADLEX)}
    each = several(told_by("system", theirs, own), most=3)

    def codings(value: Any) -> None:
        each(value)
        systems = [one["system"] for one in value]
        if len(set(systems)) != len(systems) or ours.labels not in systems:
            raise Wrong("does not have our own name once, and each system at most once")

    return seen_before(record({"coding": codings}, {"text": text}))


def included_structures(ours: Naming) -> Kind:
    """A list of structures, none of them twice."""
    name_of = _named_structure(ours)

    def check(value: Any) -> None:
        if type(value) is not list or not value:
            raise Wrong("is no list of as many as it has to be")
        seen: set[str] = set()
        place = 0
        try:
            for place, one in enumerate(value):  # noqa: B007
                seen.add(name_of(one))
        except Wrong as wrong:
            raise wrong.below(f"[{place}]") from None
        if len(seen) < len(value):
            raise Wrong("has a structure twice")

    return check


def _named_structure(ours: Naming) -> Callable[[Any], str]:
    """Our own name of a structure that is as it should be."""
    plain, apart = _plain_measurement(ours), _structure(ours)
    right: dict[bytes, str] = {}

    def name_of(value: Any) -> str:
        try:
            numbers, _, names = orjson.dumps(value).partition(BETWEEN)
        except TypeError:
            raise Wrong("is nothing that JSON can say") from None
        known = right.get(names)
        if known is not None and plain.fullmatch(numbers):
            return known
        apart(value)
        name = _own_name(value, ours)
        if names and plain.fullmatch(numbers) and len(right) < REMEMBERED:
            right[names] = name
        return name

    return name_of


def _plain_measurement(ours: Naming) -> re.Pattern[bytes]:
    """The bytes before `BETWEEN` of nearly every structure; others may be right as well."""
    above_zero = r"(?:[1-9][0-9]*\.[0-9]+|0\.[0-9]*[1-9][0-9]*)"
    volume = _plain_part("volume", above_zero, "mm3", "mm3")
    any_number = r"-?[0-9]+\.[0-9]+"
    means = [_plain_part("meanIntensity", any_number, *unit) for unit in (HOUNSFIELD, ARBITRARY)]
    cut = rf'{{"url":"cut","valueCode":"(?:{"|".join(CUTS)})"}}'
    parts = rf"{volume}(?:,(?:{'|'.join(means)}))?(?:,{cut}){{0,{len(CUTS)}}}"
    url = re.escape(orjson.dumps(ours.measurement).decode())
    return re.compile(rf'\{{"extension":\[\{{"url":{url},"extension":\[{parts}\]\}}\]'.encode())


def _plain_part(url: str, value: str, unit: str, code: str) -> str:
    system = re.escape(naming.UCUM)
    rest = rf'"unit":"{re.escape(unit)}","system":"{system}","code":"{re.escape(code)}"'
    return rf'\{{"url":"{url}","valueQuantity":\{{"value":{value},{rest}\}}\}}'


def _structure(ours: Naming) -> Kind:
    side = concept(naming.SNOMED, *(code for code, _ in SIDES.values()))
    return record(
        {"structure": structure_concept(ours)},
        {"extension": several(_measurement(ours), most=1), "laterality": side},
    )


def _measurement(ours: Naming) -> Kind:
    volume = record({"url": one_of("volume"), "valueQuantity": quantity(positive, "mm3")})
    units = quantity(number, HOUNSFIELD[1], ARBITRARY[1])
    mean = record({"url": one_of("meanIntensity"), "valueQuantity": units})
    cut = record({"url": one_of("cut"), "valueCode": one_of(*CUTS)})
    parts = {"meanIntensity": mean, "cut": cut}
    each = several(told_by("url", parts, volume), most=2 + len(CUTS))

    def measured(value: Any) -> None:
        each(value)
        names = [one["url"] for one in value]
        if names.count("volume") != 1 or names.count("meanIntensity") > 1:
            raise Wrong("does not have one volume and at most one mean")

    return record({"url": one_of(ours.measurement), "extension": measured})


def _own_name(value: Any, ours: Naming) -> str:
    """Our name of a structure, whose side is the one that it is said to be on."""
    codings = value["structure"]["coding"]
    name: str = next(one["code"] for one in codings if one["system"] == ours.labels)
    side = _SIDE.search(name)
    said = value["laterality"]["coding"][0]["code"] if "laterality" in value else None
    if side is not None and said != SIDES[side[1]][0]:
        raise Wrong("is not the side of its name").below("laterality")
    return name
