"""What is counted of series that were found: aggregations, and how their answers are read.

Different studies and patients are counted exactly, by a script that collects their keys: the
server's own `cardinality` is an estimate, and whether there are fewer patients than somebody may
know of must not be one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tomodex.errors import BadQuery
from tomodex.indexes.elasticsearch.documents import unsigned
from tomodex.search import FIELDS, THICKNESSES, CellCount

#: Values of one field that are counted at most.
MOST_VALUES = 10_000

_LISTS = {"structure": "shown", "complete": "complete", "cut": "cut"}


def distinct(field: str) -> Mapping[str, object]:
    """How many different keys there are in a field, and their sum in 64 bits."""
    return {
        "scripted_metric": {
            "params": {"field": field},
            "init_script": "state.keys = new HashSet()",
            "map_script": "def keys = doc[params.field];"
            " if (keys.size() > 0) { state.keys.add(keys.value) }",
            # A list, as nodes can send each other that.
            "combine_script": "return new ArrayList(state.keys)",
            "reduce_script": "Set all = new HashSet(); for (keys in states) { all.addAll(keys) }"
            " long sum = 0L; for (key in all) { sum += (long) key }"
            " return ['count': all.size(), 'sum': sum]",
        }
    }


def distinct_of(answer: Mapping[str, Any]) -> tuple[int, int]:
    """(how many, sum of their keys)"""
    return int(answer["value"]["count"]), unsigned(int(answer["value"]["sum"]))


def buckets(field: str) -> Mapping[str, object]:
    """One bucket for each value of a field.

    Raises:
        BadQuery: there is no such field, or it is not counted.
    """
    match field:
        case "StudyYear":
            years = {"field": "a.StudyDate", "calendar_interval": "year", "format": "yyyy"}
            return {"date_histogram": {**years, "min_doc_count": 1}}
        case "AgeDecade":
            return {"histogram": {"field": "a.PatientAge", "interval": 10, "min_doc_count": 1}}
        case "SliceThicknessClass":
            return {"range": {"field": "a.SliceThickness", "ranges": _thicknesses()}}
    if field not in FIELDS:
        close = tuple(difflib.get_close_matches(field, FIELDS, n=3))
        sentence = f"no field {field!r} to count; known: {', '.join(FIELDS)}"
        raise BadQuery(sentence, suggestions=close)
    name = _LISTS.get(field, f"a.{field}")
    return {"terms": {"field": name, "size": MOST_VALUES}}


def counts_of(field: str, answer: Mapping[str, Any]) -> Mapping[str, int]:
    """How many series have each value, most frequent first."""
    found = [(_value(field, bucket), int(bucket["doc_count"])) for bucket in answer["buckets"]]
    return dict(sorted(filter(_is_there, found), key=lambda item: (-item[1], item[0])))


def cells_of(field: str, answer: Mapping[str, Any]) -> Mapping[str, CellCount]:
    """The same with their patients, where each bucket has `patients`."""
    counted = counts_of(field, answer)
    patients = {_value(field, b): distinct_of(b["patients"]) for b in answer["buckets"]}
    return {
        value: CellCount(
            series=series, patients=patients[value][0], patients_key=patients[value][1]
        )
        for value, series in counted.items()
    }


def _is_there(found: tuple[str, int]) -> bool:
    return found[1] > 0


def _value(field: str, bucket: Mapping[str, Any]) -> str:
    match field:
        case "StudyYear":
            return str(int(bucket["key_as_string"]))
        case "AgeDecade":
            first = int(bucket["key"])
            return f"{first}-{first + 9}"
    return str(bucket["key"])


def _thicknesses() -> Sequence[Mapping[str, object]]:
    """Classes with their upper ends; the server's ranges leave these out."""
    after = [math.nextafter(end, math.inf) for end in THICKNESSES]
    ends = zip([None, *after[:-1]], [*after[:-1], None], THICKNESSES.values(), strict=True)
    return [
        {
            "key": name,
            **({} if low is None else {"from": low}),
            **({} if high is None else {"to": high}),
        }
        for low, high, name in ends
    ]
