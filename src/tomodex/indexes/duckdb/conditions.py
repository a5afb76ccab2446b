"""Turns a term of a query into a condition on the rows of `series`.

Only names of our own columns are written into the SQL; every value is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomodex.errors import BadQuery
from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, words_of
from tomodex.search import (
    ASKABLE,
    TOLERANCE_MM,
    Above,
    And,
    Below,
    Between,
    Has,
    Interval,
    Not,
    Or,
    Shows,
    Term,
    is_anatomical,
    key_of,
)

_ROOM = f"{TOLERANCE_MM}::float"

#: `s` is in the stretch between the landmarks `lower` and `upper`, or fills it.
_STRETCH = f"""
({{lower}}.top_mm <= {{upper}}.bottom_mm + {_ROOM} and (
    (s.bottom_mm >= {{lower}}.top_mm - {_ROOM} and s.top_mm <= {{upper}}.bottom_mm + {_ROOM})
    or (s.bottom_mm <= {{lower}}.top_mm + {_ROOM} and s.top_mm >= {{upper}}.bottom_mm - {_ROOM})))
"""

#: The same for any two landmarks of two groups, from what `_ends` has of them for one subject.
_REACHED = f"""
({{lower}}.longest_from <= {{upper}}.longest_to + {_ROOM}
    and {{lower}}.longest_from <= {{lower}}.bottom_mm + {_ROOM}
    and {{upper}}.longest_to >= {{lower}}.top_mm - {_ROOM})
or {{lower}}.filled_from <= {{upper}}.filled_to + {_ROOM}
"""

#: Columns of a UID and of its key, by what they are asked for.
_UIDS = {
    "SeriesInstanceUID": ("series_uid", "series_key"),
    "StudyInstanceUID": ("study_uid", "study_key"),
}

#: Ends of an interval by whether they are left out.
_LOW = {False: ">=", True: ">"}
_HIGH = {False: "<=", True: "<"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of SQL that is true or false of a row, and never null."""

    sql: str
    values: tuple[object, ...] = ()  #: in the order of its question marks


NEVER = Condition("false")
ALWAYS = Condition("true")


def condition_of(term: Term | None, labels: Mapping[str, int]) -> Condition:
    """Which rows of `series` a term finds, where `labels` has the number of each structure.

    Raises:
        BadQuery: an attribute is unknown, or compared with what it cannot be.
    """
    match term:
        case None:
            return ALWAYS
        case And(terms=terms):
            return _joined("and", [condition_of(part, labels) for part in terms]) or ALWAYS
        case Or(terms=terms):
            return _joined("or", [condition_of(part, labels) for part in terms]) or NEVER
        case Not(term=part):
            inner = condition_of(part, labels)
            known = "\"segmented\" = 'yes' and " if is_anatomical(part) else ""
            return Condition(f"{known}not ({inner.sql})", inner.values)
        case Has():
            return _has(term)
        case Shows():
            return _shows(term, labels)
    return _placed(term, labels)


def _joined(word: str, conditions: Sequence[Condition]) -> Condition | None:
    if not conditions:
        return None
    return Condition(
        "(" + f" {word} ".join(f"({condition.sql})" for condition in conditions) + ")",
        tuple(value for condition in conditions for value in condition.values),
    )


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
        conditions.append(_within(column, has.interval, cast))
    known = Condition(f"{column} is not null")
    return _all([known, _joined("or", conditions) or ALWAYS])


def _require_order(has: Has, kind: str) -> None:
    if has.interval and kind == "text":
        raise BadQuery(f"{has.keyword} is text, which has no order")


def _identified(has: Has) -> Condition:
    _require_order(has, "text")
    uid, key = _UIDS[has.keyword]
    named = [_named(uid, key, value) for value in has.values]
    return _joined("or", named) or ALWAYS


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


def _within(column: str, interval: Interval, parameter: str) -> Condition:
    """The column lies in the interval; false where it is null."""
    conditions = []
    if interval.low is not None:
        sign = _LOW[interval.low_open]
        conditions.append(Condition(f"{column} {sign} {parameter}", (interval.low,)))
    if interval.high is not None:
        sign = _HIGH[interval.high_open]
        conditions.append(Condition(f"{column} {sign} {parameter}", (interval.high,)))
    return _joined("and", conditions) or ALWAYS


def _shows(shows: Shows, labels: Mapping[str, int]) -> Condition:
    if shows.volume_ml or shows.mean_hu:
        rows = _rows("s", shows, labels)
        sql = f"select s.series, s.structure from annotation s where {rows.sql}"
        return _any_or_all(shows, labels, Condition(sql, rows.values))
    if _is_hopeless(shows, labels):
        return NEVER
    words = words_of(labels[name] for name in shows.structures if name in labels)
    bits = [_bits(shows, index, word) for index, word in enumerate(words) if word]
    return _joined("and" if shows.match == "all" else "or", bits) or NEVER


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


def _placed(term: Above | Below | Between, labels: Mapping[str, int]) -> Condition:
    match term:
        case Above(subject=subject, landmark=landmark):
            found = _beside(subject, landmark, f"s.bottom_mm >= l.top_mm - {_ROOM}", labels)
        case Below(subject=subject, landmark=landmark):
            found = _beside(subject, landmark, f"s.top_mm <= l.bottom_mm + {_ROOM}", labels)
        case Between(subject=subject, one=one, other=other):
            found = _between(subject, one, other, labels)
    return _any_or_all(subject, labels, found)


def _beside(subject: Shows, landmark: Shows, place: str, labels: Mapping[str, int]) -> Condition:
    upper, lower = _rows("s", subject, labels), _rows("l", landmark, labels)
    return Condition(
        f"""select s.series, s.structure from annotation s join annotation l using (series)
        where {upper.sql} and {lower.sql} and {place}""",
        (*upper.values, *lower.values),
    )


def _between(subject: Shows, one: Shows, other: Shows, labels: Mapping[str, int]) -> Condition:
    if len(one.structures) == len(other.structures) == 1:
        return _between_two(subject, one, other, labels)
    ones, others = _ends(subject, one, labels), _ends(subject, other, labels)
    return Condition(
        f"""select a.series, a.structure from ({ones.sql}) a join ({others.sql}) b
        on a.series = b.series and a.structure = b.structure
        where {_REACHED.format(lower="a", upper="b")} or {_REACHED.format(lower="b", upper="a")}""",
        (*ones.values, *others.values),
    )


def _between_two(subject: Shows, one: Shows, other: Shows, labels: Mapping[str, int]) -> Condition:
    rows = [
        _rows(table, shows, labels)
        for table, shows in zip("sab", (subject, one, other), strict=True)
    ]
    return Condition(
        f"""select s.series, s.structure from annotation s
        join annotation a on a.series = s.series join annotation b on b.series = s.series
        where {" and ".join(part.sql for part in rows)}
        and ({_STRETCH.format(lower="a", upper="b")} or {_STRETCH.format(lower="b", upper="a")})""",
        tuple(value for part in rows for value in part.values),
    )


def _ends(subject: Shows, landmark: Shows, labels: Mapping[str, int]) -> Condition:
    """For each subject, the ends of a landmark that could make a stretch it is in, or fills.

    Of several landmarks only these matter: the ends that make the stretch longest, and those that
    make it longest without reaching beyond the subject. So many landmarks cost their sum in time,
    and not their product.
    """
    subjects, landmarks = _rows("s", subject, labels), _rows("l", landmark, labels)
    return Condition(
        f"""select s.series, s.structure, s.bottom_mm, s.top_mm,
            min(l.top_mm) as longest_from, max(l.bottom_mm) as longest_to,
            min(l.top_mm) filter (l.top_mm >= s.bottom_mm - {_ROOM}) as filled_from,
            max(l.bottom_mm) filter (l.bottom_mm <= s.top_mm + {_ROOM}) as filled_to
        from annotation s join annotation l on l.series = s.series
        where {subjects.sql} and {landmarks.sql} group by all""",
        (*subjects.values, *landmarks.values),
    )


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


def _rows(table: str, shows: Shows, labels: Mapping[str, int]) -> Condition:
    """The rows of `annotation` that are as `shows` says, of any one of its structures."""
    numbers = [labels[name] for name in shows.structures if name in labels]
    if not numbers:
        return NEVER
    places = ", ".join("?" for _ in numbers)
    conditions = [Condition(f"{table}.structure in ({places})", tuple(numbers))]
    if shows.completeness != "any":
        negated = "" if shows.completeness == "complete" else "not "
        conditions.append(Condition(f"{negated}{table}.complete"))
    if shows.volume_ml:
        conditions.append(_within(f"{table}.volume_ml", shows.volume_ml, "?::float"))
    if shows.mean_hu:
        conditions.append(_within(f"{table}.mean_hu", shows.mean_hu, "?::float"))
    return _all(conditions)


def _is_hopeless(shows: Shows, labels: Mapping[str, int]) -> bool:
    """No series has what it asks for: the index has never seen such a structure."""
    seen = [name in labels for name in shows.structures]
    return not (any(seen) if shows.match == "any" else all(seen))


def _all(conditions: Sequence[Condition]) -> Condition:
    return _joined("and", conditions) or ALWAYS
