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
from tomodex.search.crowd import BITS, Crowd

#: Values of one field that are counted at most.
MOST_VALUES = 10_000

#: Collects the different keys in a field on each node.
_COLLECT: Mapping[str, object] = {
    "params": {"field": "patient_key"},
    "init_script": "state.keys = new HashSet()",
    "map_script": "def keys = doc[params.field];"
    " if (keys.size() > 0) { state.keys.add(keys.value) }",
    # A list, as nodes can send each other that.
    "combine_script": "return new ArrayList(state.keys)",
}

_LISTS = {"structure": "shown", "complete": "complete", "cut": "cut"}


def distinct(field: str) -> Mapping[str, object]:
    """How many different keys there are in a field, and their sum in 64 bits."""
    return {
        "scripted_metric": {
            **_COLLECT,
            "params": {"field": field},
            "reduce_script": "Set all = new HashSet(); for (keys in states) { all.addAll(keys) }"
            " long sum = 0L; for (key in all) { sum += (long) key }"
            " return ['count': all.size(), 'sum': sum]",
        }
    }


def crowd() -> Mapping[str, object]:
    """The patients, and of their keys how many have each bit.

    The 64 counters are kept upright: `planes[i]` has bit i of each of them, so that a key is added
    by some operations on whole words.
    """
    return {
        "scripted_metric": {
            **_COLLECT,
            "reduce_script": """
                void count(long[] planes, long key) {
                    int i = 0;
                    while (key != 0L) {
                        long both = planes[i] & key;
                        planes[i] = planes[i] ^ key;
                        key = both;
                        i++;
                    }
                }
                Set all = new HashSet();
                for (keys in states) { all.addAll(keys) }
                long[] planes = new long[32];
                for (key in all) { count(planes, (long) key) }
                List counted = new ArrayList();
                for (plane in planes) { counted.add(plane) }
                return ['count': all.size(), 'planes': counted]""",
        }
    }


def crowd_of(answer: Mapping[str, Any], **more: int) -> Crowd:
    """What `crowd` has found."""
    found = answer["value"]
    planes = [unsigned(int(plane)) for plane in found["planes"]]
    bits = [sum((plane >> bit & 1) << i for i, plane in enumerate(planes)) for bit in range(BITS)]
    return Crowd(patients=int(found["count"]), bits=tuple(bits), **more)


def crowds_of(field: str, answer: Mapping[str, Any]) -> Mapping[str, Crowd]:
    """The patients who have each value, where each bucket has `crowd`."""
    counted = counts_of(field, answer)
    asked = {_value(field, bucket): bucket["crowd"] for bucket in answer["buckets"]}
    return {value: crowd_of(asked[value], series=series) for value, series in counted.items()}


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
