"""Kinds of values: each takes a value, and raises `Wrong` if it is none of its kind.

They take microseconds, since a sink looks at everything that it sends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

import orjson

from tomodex.formats.fhir import naming
from tomodex.formats.fhir.resources import MOST, is_uid

Kind = Callable[[Any], None]

#: Of each kind; all structures of all models are some hundreds.
REMEMBERED = 4096

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.\-]*:[^\s<>\"{}|\\^`]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Wrong(Exception):
    """An element is not as its kind wants it; its place is known when it has come up to the top."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.place = ""

    def below(self, name: str) -> Wrong:
        """The same, one level further up."""
        dot = "." if self.place and not self.place.startswith("[") else ""
        self.place = f"{name}{dot}{self.place}"
        return self


def text(value: Any) -> None:
    """FHIR's string: not empty, no blank ends, no control characters."""
    if type(value) is not str or not value:
        raise Wrong("is no text")
    if not value.isprintable() and _CONTROL.search(value):
        raise Wrong("has control characters")
    if value.strip() != value:
        raise Wrong("begins or ends with a space")


def identity(value: Any) -> None:
    """FHIR's id."""
    if type(value) is not str or not _ID.fullmatch(value):
        raise Wrong("is no id")


def url(value: Any) -> None:
    """An absolute URI."""
    if type(value) is not str or not _URL.fullmatch(value):
        raise Wrong("is no absolute URI")


def uid(value: Any) -> None:
    """A DICOM UID."""
    if type(value) is not str or not is_uid(value):
        raise Wrong("is no UID")


def whole(value: Any) -> None:
    """FHIR's unsignedInt."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise Wrong("is no whole number that FHIR takes")


def number(value: Any) -> None:
    """FHIR's decimal: it has neither NaN nor infinity."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Wrong("is no number")


def positive(value: Any) -> None:
    """A number above zero."""
    number(value)
    if value <= 0:
        raise Wrong("is not above zero")


def truth(value: Any) -> None:
    """FHIR's boolean."""
    if type(value) is not bool:
        raise Wrong("is neither true nor false")


def day(value: Any) -> None:
    """A date without a time."""
    try:
        if date.fromisoformat(value).isoformat() == value:
            return
    except (ValueError, TypeError):
        pass
    raise Wrong("is no date")


def moment(value: Any) -> None:
    """FHIR's instant: a time to the second at least, with its offset from UTC."""
    try:
        if (
            "T" in value
            and len(value) >= 20
            and datetime.fromisoformat(value).utcoffset() is not None
        ):
            return
    except (ValueError, TypeError):
        pass
    raise Wrong("is no time with an offset")


def one_of(*values: str) -> Kind:
    """One of these words."""
    known = frozenset(values)

    def check(value: Any) -> None:
        if type(value) is not str or value not in known:
            raise Wrong("is none of the words that it may be")

    return check


def several(kind: Kind, most: int | None = None) -> Kind:
    """A list of at least one."""

    def check(value: Any) -> None:
        if type(value) is not list or not value or (most and len(value) > most):
            raise Wrong("is no list of as many as it has to be")
        place = 0
        try:
            for place, one in enumerate(value):  # noqa: B007
                kind(one)
        except Wrong as wrong:
            raise wrong.below(f"[{place}]") from None

    return check


def _unknown(value: Any) -> None:
    del value
    raise Wrong("is not known")


def record(required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Kind:
    """An object with all of these, perhaps some of those, and nothing else."""
    known = {**required, **(optional or {})}
    wanted = required.keys()

    def check(value: Any) -> None:
        if type(value) is not dict or not value:
            raise Wrong("is no object")
        if not wanted <= value.keys():
            raise Wrong("is missing").below(next(name for name in wanted if name not in value))
        name = ""
        try:
            for name, part in value.items():
                known.get(name, _unknown)(part)
        except Wrong as wrong:
            raise wrong.below(name) from None

    return check


def coding(system: str, *codes: str) -> Kind:
    """One of these codes of a system; any, if none is given."""
    known = frozenset(codes)
    one = record(
        {"system": one_of(system), "code": one_of(*codes) if codes else text}, {"display": text}
    )

    def check(value: Any) -> None:
        # Two thirds of all elements are codings; this is what they are if nothing is wrong.
        if type(value) is dict and len(value) == 3 and value.get("system") == system:
            code, display = value.get("code"), value.get("display")
            if type(code) is str and (code in known or not known) and type(display) is str:
                text(code)
                text(display)
                return
        one(value)

    return check


def seen_before(kind: Kind) -> Kind:
    """The same, remembering what was right: an archive names the same few hundred things always."""
    right: set[bytes] = set()

    def check(value: Any) -> None:
        try:
            text_of_it = orjson.dumps(value)
        except TypeError:
            raise Wrong("is nothing that JSON can say") from None
        if text_of_it in right:
            return
        kind(value)
        if len(right) < REMEMBERED:
            right.add(text_of_it)

    return check


def told_by(name: str, kinds: Mapping[str, Kind], otherwise: Kind) -> Kind:
    """The one of these kinds that the element `name` tells."""

    def check(value: Any) -> None:
        told = value.get(name) if type(value) is dict else None
        (kinds.get(told, otherwise) if type(told) is str else otherwise)(value)

    return check


def concept(system: str, *codes: str) -> Kind:
    """One code, as a CodeableConcept."""
    return record({"coding": several(coding(system, *codes), most=1)}, {"text": text})


def quantity(value: Kind, *codes: str) -> Kind:
    """A number with one of these UCUM units."""
    required = {"value": value, "system": one_of(naming.UCUM), "code": one_of(*codes)}
    return record(required, {"unit": text})


UID_TYPE = concept(naming.DCM, "110180")


def identifier(system: Kind) -> Kind:
    """A value in a system."""
    return record(
        {"system": system, "value": text},
        {"use": one_of("usual", "official", "temp", "secondary", "old"), "type": UID_TYPE},
    )
