"""The document of a series, and how its fields are indexed.

One flat document for each series: nested ones cannot compare two structures, and would make each of
50 million annotations a document of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime

import numpy as np

from tomodex.annotation import AnnotatedSeries
from tomodex.indexes.elasticsearch.order import FIELD as BELOW
from tomodex.indexes.elasticsearch.order import LINE, line_of, words_of
from tomodex.instance import Kind
from tomodex.search import SEARCHABLE, Seen, attributes_of
from tomodex.search.keys import key_of

Document = dict[str, object]

#: Longer values are kept, and not searched: Lucene takes 32,766 bytes.
MOST_CHARACTERS = 8191

#: 512 structures with four numbers each, and the attributes.
MOST_FIELDS = 3000

_TEXT = {
    "type": "keyword",
    "ignore_above": MOST_CHARACTERS,
    "fields": {
        "folded": {"type": "keyword", "normalizer": "folded", "ignore_above": MOST_CHARACTERS}
    },
}
_FIELDS: Mapping[Kind, Mapping[str, object]] = {
    "text": _TEXT,
    "number": {"type": "double"},
    "date": {"type": "date", "format": "strict_date"},
}

MAPPINGS: Mapping[str, object] = {
    "dynamic": "strict",
    # Looked for, and made anew with every document.
    "_source": {"excludes": [BELOW, LINE]},
    # v volume in ml, h mean HU, b and t lower and upper end in mm.
    "dynamic_templates": [{"measurement": {"path_match": "m.*.*", "mapping": {"type": "float"}}}],
    "properties": {
        "series_uid": {"type": "keyword"},
        "study_uid": {"type": "keyword"},
        "patient": {"type": "keyword", "index": False, "doc_values": False},
        # 64 bits that are equal where the UID or pseudonym is, to be counted.
        "series_key": {"type": "long"},
        "study_key": {"type": "long"},
        "patient_key": {"type": "long"},
        "structure_count": {"type": "short"},
        "shown": {"type": "keyword"},
        "complete": {"type": "keyword"},
        "cut": {"type": "keyword"},
        BELOW: {"type": "keyword", "doc_values": False},
        LINE: {"type": "text", "analyzer": "whitespace", "norms": False},
        "a": {
            "dynamic": "strict",
            "properties": {keyword: _FIELDS[kind] for keyword, kind in SEARCHABLE.items()},
        },
        "m": {"dynamic": True, "type": "object"},
    },
}

#: How long a server knows the version of what was deleted.
REMEMBERED = "1h"

SETTINGS: Mapping[str, object] = {
    "index.gc_deletes": REMEMBERED,
    "index.mapping.total_fields.limit": MOST_FIELDS,
    "analysis": {"normalizer": {"folded": {"type": "custom", "filter": ["lowercase"]}}},
}

#: Changes when a field does: an index of another version is rebuilt, never read.
VERSION = hashlib.sha256(json.dumps([MAPPINGS, SETTINGS]).encode()).hexdigest()[:12]


def document_of(annotated: AnnotatedSeries) -> Document:
    """What is written of a series."""
    series = annotated.series
    # One measurement of each structure: its largest, should a series have two.
    largest_last = sorted(annotated.annotations, key=lambda a: a.measurement.volume_ml)
    shown = {a.structure: a.measurement for a in largest_last}
    ends = {name: (m.box_min_mm[2], m.box_max_mm[2]) for name, m in shown.items()}
    whole = {name for name, measurement in shown.items() if measurement.complete}
    document: Document = {
        "series_uid": series.series_uid,
        "study_uid": series.study_uid,
        "patient": series.patient,
        "series_key": signed(key_of(series.series_uid)),
        "study_key": signed(key_of(series.study_uid)),
        "structure_count": len(shown),
        "shown": sorted(shown),
        "complete": sorted(whole),
        "cut": sorted(shown.keys() - whole),
        BELOW: words_of(ends),
        LINE: line_of(ends),
        "a": _attributes(attributes_of(annotated)),
        "m": {
            name: {"v": m.volume_ml, "h": m.mean_hu, "b": m.box_min_mm[2], "t": m.box_max_mm[2]}
            for name, m in shown.items()
        },
    }
    if series.patient:
        document["patient_key"] = signed(key_of(series.patient))
    return document


def seen_of(document: Mapping[str, object]) -> tuple[Seen, ...]:
    """The structures of a document, from head to foot."""
    # A series that shows nothing has an empty object, which the server leaves out.
    measured, whole = document.get("m", {}), document.get("complete", [])
    assert isinstance(measured, Mapping)
    assert isinstance(whole, list)
    seen = [
        Seen(
            structure=name,
            volume_ml=_as_indexed(m["v"]),
            mean_hu=_as_indexed(m["h"]),
            bottom_mm=_as_indexed(m["b"]),
            top_mm=_as_indexed(m["t"]),
            complete=name in whole,
        )
        for name, m in measured.items()
    ]
    return tuple(sorted(seen, key=lambda one: (-one.top_mm, one.structure)))


def _as_indexed(number: float) -> float:
    """In single precision, by which it was found, and as the embedded index has it."""
    return float(np.float32(number))


def signed(key: int) -> int:
    """The same 64 bits as the `long` of Lucene, which has a sign."""
    return key - (1 << 64) if key >> 63 else key


def unsigned(key: int) -> int:
    return key % (1 << 64)


def _attributes(known: Mapping[str, str | float]) -> dict[str, str | float]:
    """Those that have a value of the kind that they should have."""
    stored = {keyword: _stored(SEARCHABLE[keyword], value) for keyword, value in known.items()}
    return {keyword: value for keyword, value in stored.items() if value is not None}


def _stored(kind: Kind, value: str | float) -> str | float | None:
    match kind:
        case "number":
            is_number = isinstance(value, int | float) and math.isfinite(value)
            return float(value) if is_number else None
        case "date":
            return _day(str(value))
    # A lone surrogate, from a wrong character set, has no UTF-8.
    return str(value).encode(errors="replace").decode() or None


def _day(text: str) -> str | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date().isoformat()  # noqa: DTZ007
    except ValueError:
        return None
