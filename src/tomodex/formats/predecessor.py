"""Messages as the IMPETUS CT Indexer wrote them, for those who read them still.

Written down from its source (IMIS-MIKI/impetus-ct-indexer, `kafka_consumer.py`, `segmentor.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from tomodex.annotation import RADLEX, SNOMED, AnnotatedSeries, Annotation

#: `whole`: structures wholly inside the image, as there; `all`: cut ones too, as far as visible.
Labels = Literal["whole", "all"]

Message = Mapping[str, Any]

#: Its clock has no offset.
_CLOCK = "%Y-%m-%dT%H:%M:%S"

_ML = 1000.0  # mm3


def result_message(
    annotated: AnnotatedSeries, task: Message, labels: Labels, now: datetime
) -> dict[str, Any]:
    """The answer to `task`: what was found, and what was asked, as it came.

    `volume` is in mm3, `intensity` in HU; `coding` is the code in SNOMED CT and that in RadLex, ""
    where there is none.
    """
    seconds = annotated.provenance.stage_seconds
    loading_s = seconds.get("retrieve", 0.0) + seconds.get("load", 0.0)
    total_s = sum(seconds.values())
    return {
        "labels": {
            one.structure: _label(one)
            for one in annotated.annotations
            if labels == "all" or one.measurement.complete
        },
        "identification": task["identification"],
        "s3-input": task["s3-input"],
        "provenance": _versions(annotated),
        "duration": _duration(total_s, loading_s),
        "dateCreated": now.strftime(_CLOCK),
    }


def masks_message(
    made: Mapping[str, str], software: Mapping[str, str], task: Message, now: datetime
) -> dict[str, Any]:
    """The answer to `task` of its segmentation mode: the names of the files that were stored.

    There it was a set of these names, which no message can hold, so nobody ever read one.

    Args:
        made: what the operation says that made them.
        software: versions by package.
    """
    loading_s, total_s = float(made["loading_s"]), float(made["total_s"])
    return {
        "files": sorted(made["files"].split(",")),
        "identification": task["identification"],
        "s3-input": task["s3-input"],
        "s3-output": task["s3-output"],
        "provenance": {**software, "algorithm": made["algorithm"]},
        "duration": _duration(total_s, loading_s),
        "dateCreated": now.strftime(_CLOCK),
    }


def error_message(task: object, kind: str, sentence: str, now: datetime) -> dict[str, Any]:
    """Why there is no answer to `task`; `error` is a Python dict as text, as it was there."""
    return {
        "dateCreated": now.strftime(_CLOCK),
        "message": task,
        "error": str({"type": kind, "message": sentence}),
    }


def _label(one: Annotation) -> dict[str, Any]:
    codes = {coding.system: coding.code for coding in one.codings}
    return {
        "volume": one.measurement.volume_ml * _ML,
        "intensity": one.measurement.mean_hu,
        "coding": [codes.get(SNOMED, ""), codes.get(RADLEX, "")],
    }


def _versions(annotated: AnnotatedSeries) -> dict[str, str]:
    provenance = annotated.provenance
    versions = {**provenance.software, "terminology": provenance.terminology}
    if provenance.algorithm:
        versions["algorithm"] = provenance.algorithm.name
    return versions


def _duration(total_s: float, loading_s: float) -> dict[str, str]:
    return {
        "total": _clock(total_s),
        "loading": _clock(loading_s),
        "indexing": _clock(total_s - loading_s),
    }


def _clock(seconds: float) -> str:
    """As Python writes a `timedelta`: "0:01:23.456000"."""
    return str(timedelta(seconds=round(max(0.0, seconds), 6)))
