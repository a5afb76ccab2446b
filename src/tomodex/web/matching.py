"""DICOM's own way to ask (QIDO-RS, PS3.18 10.6.1.2), turned into our language.

Keys are keywords or tags of attributes; what they match is PS3.4 C.2.2.2: single values, lists of
UIDs, ranges of dates, and `*` at an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from tomodex.errors import BadQuery
from tomodex.search import ASKABLE, And, Has, Interval, Query, Term, format

#: What can be asked for: attributes that DICOM has, by keyword.
KEYWORDS: tuple[str, ...] = tuple(k for k in ASKABLE if tag_for_keyword(k) is not None)

#: Parameters that are no attribute.
OTHERS = ("query", "includefield", "limit", "offset", "fuzzymatching")

_UIDS = ("SeriesInstanceUID", "StudyInstanceUID")
_DAY = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_AGE = re.compile(r"([0-9]{3})([DWMY])")
_YEARS: Mapping[str, float] = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """What a request asks for."""

    terms: tuple[Term, ...]
    keywords: tuple[str, ...]  #: attributes that it names, to match or to be included
    everything: bool  #: includefield=all


def matching_of(parameters: Iterable[tuple[str, str]]) -> Matching:
    """What these parameters of a request ask for.

    Raises:
        BadQuery: an attribute is not one that series can be found by, or its value is none.
    """
    pairs = [(name, value) for name, value in parameters if name not in OTHERS[2:]]
    matched = [(_keyword(name), value) for name, value in pairs if name not in OTHERS]
    included = [part for name, value in pairs if name == "includefield" for part in _list(value)]
    named = (*(keyword for keyword, _ in matched), *map(_known, included))
    return Matching(
        terms=tuple(_term(keyword, value) for keyword, value in matched if value),
        keywords=tuple(dict.fromkeys(keyword for keyword in named if keyword)),
        everything="all" in included,
    )


def asked(matching: Matching, query: Query, more: Sequence[Term] = ()) -> str:
    """All of it in one question of our language."""
    terms = (*(() if query.term is None else (query.term,)), *more, *matching.terms)
    if not terms:
        return ""
    return format(Query(text="", term=And(terms=terms) if len(terms) > 1 else terms[0]))


def _list(value: str) -> list[str]:
    return [part for part in value.replace("\\", ",").split(",") if part]


def _known(name: str) -> str:
    """The keyword of an attribute that is known; "" for any other, which is left out."""
    keyword = keyword_for_tag(name) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
    return keyword if keyword in KEYWORDS else ""


def _keyword(name: str) -> str:
    keyword = _known(name)
    if not keyword:
        close = get_close_matches(name[:100], KEYWORDS, n=3)
        raise BadQuery(
            f"series cannot be found by {name[:100]!r}, only by: {', '.join(KEYWORDS)}",
            suggestions=tuple(close),
        )
    return keyword


def _term(keyword: str, value: str) -> Term:
    kind = ASKABLE[keyword]
    if keyword in _UIDS:
        return Has(keyword=keyword, values=tuple(_list(value)))
    if keyword == "PatientAge":
        return Has(keyword=keyword, interval=_age(value))
    if kind == "date":
        return Has(keyword=keyword, interval=_days(keyword, value))
    if kind == "number":
        return Has(keyword=keyword, interval=_number(keyword, value))
    if "?" in value or "\\" in value or "*" in value.strip("*"):
        _refuse(keyword, "matches a value, or one with * at its ends")
    return Has(keyword=keyword, values=(value,))


def _days(keyword: str, value: str) -> Interval:
    first, hyphen, last = value.partition("-")
    low, high = (_day(keyword, end) if end else None for end in (first, last))
    if low is None and high is None:
        _refuse(keyword, "is YYYYMMDD, YYYYMMDD-YYYYMMDD, YYYYMMDD- or -YYYYMMDD")
    return Interval(low=low, high=high if hyphen else low)


def _day(keyword: str, text: str) -> str:
    match = _DAY.fullmatch(text)
    if match is None or not ("01" <= match[2] <= "12" and "01" <= match[3] <= "31"):
        _refuse(keyword, "is YYYYMMDD, YYYYMMDD-YYYYMMDD, YYYYMMDD- or -YYYYMMDD")
    return "-".join(match.groups())


def _age(value: str) -> Interval:
    match = _AGE.fullmatch(value)
    if match is None:
        _refuse("PatientAge", "is 052Y, 006M, 003W or 012D")
    # Ages are kept to two decimals of a year.
    years = int(match[1]) / _YEARS[match[2]]
    return Interval(low=round(years - 0.005, 3), high=round(years + 0.005, 3))


def _number(keyword: str, value: str) -> Interval:
    if not re.fullmatch(r"[-+]?[0-9]{1,15}(\.[0-9]{1,15})?", value.strip(), re.ASCII):
        _refuse(keyword, "is a number")
    return Interval(low=float(value), high=float(value))


def _refuse(keyword: str, what: str) -> NoReturn:
    raise BadQuery(f"{keyword} {what}")
