"""Turns a term of a query into a condition on the rows of `series`."""

from __future__ import annotations

from collections.abc import Mapping

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.places import Places, rows_of
from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, words_of
from tomodex.indexes.duckdb.sql import ALWAYS, NEVER, Condition, all_of, any_of, within
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

#: Columns of a UID and of its key, by what they are asked for.
_UIDS = {
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
            known = "\"segmented\" = 'yes' and " if is_anatomical(part) else ""
            inner = of(part)
            return Condition(f"{known}not ({inner.sql})", inner.values)
        case Has():
            return _has(term)
        case Shows():
            return _shows(term, labels)
    if _is_hopeless(term.subject, labels):
        return NEVER
    return Condition(f"number in (select series from {places.table(term)})")


def _has(has: Has) -> Condition:
    kind = ASKABLE.get(has.keyword)
    if kind is None:
        raise BadQuery(f"{has.keyword} is no attribute; known: {', '.join(ASKABLE)}")
    if has.keyword in _UIDS:
        return _identified(has)
    column = f'"{has.keyword}"'
    conditions = [_valued(column, kind, value) for value in has.values]
    if has.interval:
        cast = "?::date" if kind == "date" else "?::double"
        _require_order(has, kind)
        conditions.append(within(column, has.interval, cast))
    known = Condition(f"{column} is not null")
    return all_of([known, any_of(conditions or [ALWAYS])])


def _require_order(has: Has, kind: str) -> None:
    if has.interval and kind == "text":
        raise BadQuery(f"{has.keyword} is text, which has no order")


def _identified(has: Has) -> Condition:
    _require_order(has, "text")
    uid, key = _UIDS[has.keyword]
    return any_of([_named(uid, key, value) for value in has.values] or [ALWAYS])


def _named(uid: str, key: str, value: str) -> Condition:
    """A whole UID is looked for by its key, which is much shorter."""
    if value.strip("*") != value:
        return _like(uid, value, "?")
    return Condition(f"{key} = ?::ubigint and {uid} = ?", (key_of(value), value))


def _valued(column: str, kind: str, value: str) -> Condition:
    """The attribute is like `value`; lower on both sides, as only SQL's own agree."""
    if kind != "text" and value != "*":
        raise BadQuery(f"{column.strip(chr(34))} is a {kind}; it is compared, or '= *'")
    return _like(f"lower({column})", value, "lower(?)")


def _like(column: str, value: str, parameter: str) -> Condition:
    if value == "*":
        return ALWAYS
    match value.startswith("*"), value.endswith("*"):
        case True, True:
            return Condition(f"contains({column}, {parameter})", (value[1:-1],))
        case True, False:
            return Condition(f"suffix({column}, {parameter})", (value[1:],))
        case False, True:
            return Condition(f"prefix({column}, {parameter})", (value[:-1],))
    return Condition(f"{column} = {parameter}", (value,))


def _shows(shows: Shows, labels: Mapping[str, int]) -> Condition:
    if shows.volume_ml or shows.mean_hu:
        rows = rows_of(shows, labels)
        sql = f"select series, structure from annotation where {rows.sql}"
        return _any_or_all(shows, labels, Condition(sql, rows.values))
    if _is_hopeless(shows, labels):
        return NEVER
    words = words_of(labels[name] for name in shows.structures if name in labels)
    bits = [_bits(shows, index, word) for index, word in enumerate(words) if word]
    return all_of(bits) if shows.match == "all" else any_of(bits)


def _bits(shows: Shows, index: int, word: int) -> Condition:
    match shows.completeness:
        case "any":
            column = SHOWN[index]
        case "complete":
            column = COMPLETE[index]
        case "cut":
            column = f"({SHOWN[index]} & ~{COMPLETE[index]})"
    if shows.match == "all":
        return Condition(f"({column} & ?::ubigint) = ?::ubigint", (word, word))
    return Condition(f"({column} & ?::ubigint) != 0", (word,))


def _any_or_all(shows: Shows, labels: Mapping[str, int], found: Condition) -> Condition:
    """Series among `found` rows of (series, structure): of one structure, or of every one."""
    if _is_hopeless(shows, labels):
        return NEVER
    if shows.match == "any":
        return Condition(f"number in (select series from ({found.sql}))", found.values)
    return Condition(
        f"""number in (select series from ({found.sql})
        group by series having count(distinct structure) = ?)""",
        (*found.values, len(set(shows.structures))),
    )


def _is_hopeless(shows: Shows, labels: Mapping[str, int]) -> bool:
    """No series has what it asks for: the index has never seen such a structure."""
    seen = [name in labels for name in shows.structures]
    return not (any(seen) if shows.match == "any" else all(seen))
