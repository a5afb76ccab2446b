"""Turns a term of a query into a condition on the rows of `series`."""

from __future__ import annotations

from collections.abc import Mapping

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.places import Places
from tomodex.indexes.duckdb.shown import in_bits, rows_of
from tomodex.indexes.duckdb.sql import ALWAYS, NEVER, Condition, all_of, any_of, within
from tomodex.instance import Kind
from tomodex.search import (
    ASKABLE,
    And,
    Has,
    Not,
    Or,
    Shows,
    Term,
    is_anatomical,
    key_of,
)

#: Series whose structures are known.
SEGMENTED = (
    "\"segmented\" in (select number from word where keyword = 'segmented' and value = 'yes')"
)

#: Columns of a UID and of its key, by what they are asked for.
UIDS = {
    "SeriesInstanceUID": ("series_uid", "series_key"),
    "StudyInstanceUID": ("study_uid", "study_key"),
}


def condition_of(term: Term | None, labels: Mapping[str, int], places: Places) -> Condition:
    """Which rows of `series` a term finds, where `labels` has the number of each structure.

    Raises:
        BadQuery: an attribute is unknown, or compared with what it cannot be.
    """

    def of(part: Term) -> Condition:
        return condition_of(part, labels, places)

    match term:
        case None:
            return ALWAYS
        case And(terms=terms):
            return all_of([of(part) for part in terms])
        case Or(terms=terms):
            return any_of([of(part) for part in terms])
        case Not(term=part):
            known = f"{SEGMENTED} and " if is_anatomical(part) else ""
            inner = of(part)
            return Condition(f"{known}not ({inner.sql})", inner.values)
        case Has():
            return _has(term)
        case Shows():
            return _shows(term, labels)
    return Condition(f"number in (select series from {places.table(term)})")


def _has(has: Has) -> Condition:
    kind = require_sense(has)
    if has.keyword in UIDS:
        return _identified(has)
    column = f'"{has.keyword}"'
    conditions = [_valued(has.keyword, value) for value in has.values]
    if has.interval:
        cast = "?::date" if kind == "date" else "?::double"
        conditions.append(within(column, has.interval, cast))
    known = Condition(f"{column} is not null")
    return all_of([known, any_of(conditions or [ALWAYS])])


def require_sense(has: Has) -> Kind:
    """The kind of the attribute, which can be asked so.

    Raises:
        BadQuery: it is unknown, or compared with what it cannot be.
    """
    kind = ASKABLE.get(has.keyword)
    if kind is None:
        raise BadQuery(f"{has.keyword} is no attribute; known: {', '.join(ASKABLE)}")
    if has.interval and kind == "text":
        raise BadQuery(f"{has.keyword} is text, which has no order")
    if kind != "text" and any(value != "*" for value in has.values):
        raise BadQuery(f"{has.keyword} is a {kind}; it is compared, or '= *'")
    return kind


def _identified(has: Has) -> Condition:
    uid, key = UIDS[has.keyword]
    return any_of([_named(uid, key, value) for value in has.values] or [ALWAYS])


def _named(uid: str, key: str, value: str) -> Condition:
    """A whole UID is looked for by its key, which is much shorter."""
    if value == "*":
        return ALWAYS
    if value.strip("*") != value:
        return _like(uid, value, "?")
    return Condition(f"{key} = ?::ubigint and {uid} = ?", (key_of(value), value))


def _valued(keyword: str, value: str) -> Condition:
    """The attribute is like `value`; lower on both sides, as only SQL's own agree."""
    if value == "*":
        return ALWAYS
    like = _like("lower(value)", value, "lower(?)")
    words = f"select number from word where keyword = '{keyword}' and {like.sql}"
    return Condition(f'"{keyword}" in ({words})', like.values)


def _like(column: str, value: str, parameter: str) -> Condition:
    match value.startswith("*"), value.endswith("*"):
        case True, True:
            return Condition(f"contains({column}, {parameter})", (value[1:-1],))
        case True, False:
            return Condition(f"suffix({column}, {parameter})", (value[1:],))
        case False, True:
            return Condition(f"prefix({column}, {parameter})", (value[:-1],))
    return Condition(f"{column} = {parameter}", (value,))


def _shows(shows: Shows, labels: Mapping[str, int]) -> Condition:
    if not (shows.volume_ml or shows.mean_hu):
        return in_bits(shows, labels)
    if in_bits(shows, labels) == NEVER:
        return NEVER
    rows = rows_of(shows, labels)
    if shows.match == "any":
        sql = f"number in (select series from annotation where {rows.sql})"
        return Condition(sql, rows.values)
    # Every structure is in a series once.
    return Condition(
        f"""number in (select series from annotation where {rows.sql}
        group by series having count(*) = ?)""",
        (*rows.values, len(set(shows.structures))),
    )
