"""Turns a term of a query into a clause of the Query DSL.

What compares two structures of one series is found by the words of `order.py`. Only where large
groups are compared of which each structure is asked for its size or whether it is whole, which
would take more words than a server looks for at once, a script decides on every series that shows
the structures at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np

from tomodex.errors import BadQuery
from tomodex.indexes.elasticsearch.order import (
    Clause,
    any_is_below,
    is_below,
    lies_between,
    lies_between_any,
)
from tomodex.search import (
    ASKABLE,
    IDENTIFIERS,
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
)

Place = Above | Below | Between

ALWAYS: Clause = {"match_all": {}}
NEVER: Clause = {"match_none": {}}

#: Fields of the UIDs, by what they are asked for.
UIDS = dict(zip(IDENTIFIERS, ("series_uid", "study_uid"), strict=True))

#: Fields of structures that are so, by what is asked.
SHOWN = {"any": "shown", "complete": "complete", "cut": "cut"}

#: Clauses of one search: servers take 1,024, or more.
MOST_CLAUSES = 1000

#: Words of one search, which are some bytes each.
MOST_WORDS = 20_000

#: Stretches of which each is asked for by itself; more than these are found in the line.
MOST_STRETCHES = 2

#: Painless, for Elasticsearch and OpenSearch alike. Lengths are floats, as they are stored.
PLACED = """
boolean inside(double x, def ends) {
  if (ends.containsKey('gt') && !(x > ends.gt)) { return false; }
  if (ends.containsKey('gte') && !(x >= ends.gte)) { return false; }
  if (ends.containsKey('lt') && !(x < ends.lt)) { return false; }
  return !(ends.containsKey('lte') && !(x <= ends.lte));
}
boolean shows(def doc, def asked, String name) {
  String bottom = 'm.' + name + '.b';
  if (!doc.containsKey(bottom) || doc[bottom].size() == 0) { return false; }
  if (!doc[asked.field].contains(name)) { return false; }
  if (asked.containsKey('v') && !inside(doc['m.' + name + '.v'].value, asked.v)) { return false; }
  return !(asked.containsKey('h') && !inside(doc['m.' + name + '.h'].value, asked.h));
}
float bottom(def doc, String name) { return (float) doc['m.' + name + '.b'].value; }
float top(def doc, String name) { return (float) doc['m.' + name + '.t'].value; }
boolean stretch(float bottom, float top, float from, float to, float room) {
  return from <= to + room && ((from <= bottom + room && top <= to + room)
    || (from >= bottom - room && to - room <= top));
}
boolean placed(def doc, def params, String name) {
  float b = bottom(doc, name);
  float t = top(doc, name);
  float room = (float) params.room;
  for (one in params.one.names) {
    if (!shows(doc, params.one, one)) { continue; }
    if (params.place == 'above' && top(doc, one) <= b + room) { return true; }
    if (params.place == 'below' && t <= bottom(doc, one) + room) { return true; }
    if (params.place != 'between') { continue; }
    for (other in params.other.names) {
      if (!shows(doc, params.other, other)) { continue; }
      if (stretch(b, t, top(doc, one), bottom(doc, other), room)) { return true; }
      if (stretch(b, t, top(doc, other), bottom(doc, one), room)) { return true; }
    }
  }
  return false;
}
boolean all = params.subject.match == 'all';
for (name in params.subject.names) {
  boolean found = shows(doc, params.subject, name) && placed(doc, params, name);
  if (found && !all) { return true; }
  if (!found && all) { return false; }
}
return all;
"""


def clause_of(term: Term | None) -> Clause:
    """Which series a term finds.

    Raises:
        BadQuery: an attribute is unknown, or compared with what it cannot be.
    """
    clause = _clause(term, _worded)
    return clause if _size(clause) <= MOST_CLAUSES else _clause(term, _scripted)


def _clause(term: Term | None, placed: Callable[[Place], Clause]) -> Clause:
    match term:
        case None:
            return ALWAYS
        case And(terms=terms):
            return _every([_clause(part, placed) for part in terms])
        case Or(terms=terms):
            return _some([_clause(part, placed) for part in terms])
        case Not(term=part):
            known = [{"term": {"a.segmented": "yes"}}] if is_anatomical(part) else []
            return {"bool": {"filter": known, "must_not": [_clause(part, placed)]}}
        case Has():
            return _has(term)
        case Shows():
            return _shows(term)
    return placed(term)


def _size(clause: object) -> int:
    """How many clauses a server counts in one."""
    match clause:
        case {"bool": dict(parts)} | {"intervals": dict(parts)}:
            return sum(map(_size, parts.values()))
        case {"all_of": dict(parts)} | {"any_of": dict(parts)}:
            return _size(parts["intervals"])
        case list():
            return sum(map(_size, clause))
    return int(isinstance(clause, dict))


def _every(clauses: Sequence[Clause]) -> Clause:
    return {"bool": {"filter": list(clauses)}}


def _some(clauses: Sequence[Clause]) -> Clause:
    # Without any clause `should` would ask for nothing.
    return {"bool": {"should": list(clauses), "minimum_should_match": 1}} if clauses else NEVER


def _has(has: Has) -> Clause:
    kind = ASKABLE.get(has.keyword)
    if kind is None:
        raise BadQuery(f"{has.keyword} is no attribute; known: {', '.join(ASKABLE)}")
    if has.interval and kind == "text":
        raise BadQuery(f"{has.keyword} is text, which has no order")
    field = UIDS.get(has.keyword, f"a.{has.keyword}")
    clauses: list[Clause] = [{"exists": {"field": field}}]
    if has.values:
        clauses.append(_some([_valued(has.keyword, field, kind, value) for value in has.values]))
    if has.interval:
        clauses.append({"range": {field: _ends(has.interval)}})
    return _every(clauses)


def _valued(keyword: str, field: str, kind: str, value: str) -> Clause:
    if value == "*":
        return ALWAYS
    if kind != "text":
        raise BadQuery(f"{keyword} is a {kind}; it is compared, or '= *'")
    field = field if keyword in UIDS else f"{field}.folded"
    if value.strip("*") == value:
        return {"term": {field: value}}
    begin, end = ("*" if at(value) else "" for at in (_is_open_before, _is_open_after))
    return {"wildcard": {field: {"value": f"{begin}{_escaped(value)}{end}"}}}


def _is_open_before(value: str) -> bool:
    return value.startswith("*")


def _is_open_after(value: str) -> bool:
    return value.endswith("*")


def _escaped(value: str) -> str:
    """What stands between the stars at the ends, none of it a pattern."""
    inner = value[value.startswith("*") : len(value) - value.endswith("*")]
    return "".join(f"\\{letter}" if letter in "*?\\" else letter for letter in inner)


def _ends(interval: Interval) -> Mapping[str, float | str]:
    low = {"gt" if interval.low_open else "gte": interval.low}
    high = {"lt" if interval.high_open else "lte": interval.high}
    return {sign: end for sign, end in {**low, **high}.items() if end is not None}


def _shows(shows: Shows) -> Clause:
    if shows.match == "any" and not _is_measured(shows) and shows.structures:
        return {"terms": {SHOWN[shows.completeness]: list(shows.structures)}}
    clauses = [_one(shows, name) for name in shows.structures]
    return _every(clauses) if shows.match == "all" and clauses else _some(clauses)


def _one(shows: Shows, name: str) -> Clause:
    clauses: list[Clause] = [{"term": {SHOWN[shows.completeness]: name}}]
    for key, interval in (("v", shows.volume_ml), ("h", shows.mean_hu)):
        if interval:
            clauses.append({"range": {f"m.{name}.{key}": _ends(interval)}})
    return _every(clauses) if len(clauses) > 1 else clauses[0]


def _is_measured(shows: Shows) -> bool:
    return bool(shows.volume_ml or shows.mean_hu)


def _worded(term: Place) -> Clause:
    """Which series have words that say so, where these are not too many to write down."""
    if _is_too_much(term):
        return _scripted(term)
    clauses = [
        _known(term.subject, name, _some(_relations(term, name)))
        for name in term.subject.structures
    ]
    return _every(clauses) if term.subject.match == "all" and clauses else _some(clauses)


def _is_too_much(term: Place) -> bool:
    """Whether nobody should even write it down."""
    sizes = [len(shows.structures) for shows in _landmarks(term)]
    subjects = len(term.subject.structures)
    if all(map(_is_any, _landmarks(term))):
        return subjects * sum(sizes) > MOST_WORDS
    return subjects * math.prod(sizes) > MOST_CLAUSES


def _landmarks(term: Place) -> Sequence[Shows]:
    return (term.one, term.other) if isinstance(term, Between) else (term.landmark,)


def _relations(term: Place, subject: str) -> list[Clause]:
    """What may be so, any of it, for one structure to lie where it should."""
    match term:
        case Above(landmark=landmark) if _is_any(landmark):
            return [any_is_below(landmark.structures, [subject])]
        case Below(landmark=landmark) if _is_any(landmark):
            return [any_is_below([subject], landmark.structures)]
        case Above(landmark=landmark):
            return [_known(landmark, one, is_below(one, subject)) for one in landmark.structures]
        case Below(landmark=landmark):
            return [_known(landmark, one, is_below(subject, one)) for one in landmark.structures]
    return _stretches(term, subject)


def _stretches(term: Between, subject: str) -> list[Clause]:
    """The stretches between the landmarks, from either one up to the other."""
    one, other = term.one.structures, term.other.structures
    if _is_any(term.one) and _is_any(term.other) and len(one) * len(other) > MOST_STRETCHES:
        ways = [(one, other)] if set(one) == set(other) else [(one, other), (other, one)]
        return [lies_between_any(subject, *way) for way in ways]
    each = [
        _known(term.one, first, _known(term.other, second, lies_between(subject, *ends)))
        for first, second in product(one, other)
        for ends in ((first, second), (second, first))
    ]
    return [_every([{"term": {SHOWN["any"]: subject}}, _some(each)])]


def _is_any(shows: Shows) -> bool:
    """Whether it is enough that a structure is shown, and there is one to be."""
    return shows.completeness == "any" and not _is_measured(shows) and bool(shows.structures)


def _known(shows: Shows, name: str, clause: Clause) -> Clause:
    """The clause, which says itself that the structure is shown, of one that is as asked."""
    return clause if _is_any(shows) else _every([_one(shows, name), clause])


def _scripted(term: Place) -> Clause:
    match term:
        case Above(subject=subject, landmark=one):
            place, roles = "above", {"subject": subject, "one": one}
        case Below(subject=subject, landmark=one):
            place, roles = "below", {"subject": subject, "one": one}
        case Between(subject=subject, one=one, other=other):
            place, roles = "between", {"subject": subject, "one": one, "other": other}
    if not subject.structures:
        return NEVER
    params = {role: _role(shows) for role, shows in roles.items()}
    script = {"source": PLACED, "params": {**params, "place": place, "room": TOLERANCE_MM}}
    candidates = [_shows(shows) for shows in roles.values()]
    return _every([*candidates, {"script": {"script": script}}])


def _role(shows: Shows) -> Mapping[str, object]:
    ends = {"v": shows.volume_ml, "h": shows.mean_hu}
    return {
        "names": list(shows.structures),
        "match": shows.match,
        "field": SHOWN[shows.completeness],
        **{key: _float_ends(interval) for key, interval in ends.items() if interval},
    }


def _float_ends(interval: Interval) -> Mapping[str, float]:
    """Ends as the measurements are stored, in single precision."""
    return {sign: float(np.float32(end)) for sign, end in _ends(interval).items()}
