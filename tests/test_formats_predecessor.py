"""Messages in the shape that the IMPETUS CT Indexer gave them."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from datetime import datetime

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import Coding
from tomodex.formats.predecessor import error_message, masks_message, result_message

NOW = datetime(2026, 11, 23, 9, 5, 7).astimezone()

#: From the README of the predecessor.
TASK = {
    "identification": {
        "mpi": "123456789",
        "series": "1.2.3.4.5.6.7.8",
        "study": "1.2.3.4.5.6.7.8.9.10.11.12",
    },
    "s3-input": {"s3-bucket": "landing-ct-indexer", "s3-path": "test.zip"},
}
CODED = replace(SPLEEN, codings=(*SPLEEN.codings, Coding(system="http://radlex.org", code="RID86")))
TIMED = replace(
    ONE,
    annotations=(LIVER, CODED),
    provenance=replace(
        ONE.provenance, stage_seconds={"retrieve": 1.5, "load": 0.25, "segment": 60.0}
    ),
)

#: Members in the order and with the types that `kafka_consumer.py` and `segmentor.py` write.
GOLDEN = {
    "labels": {"spleen": {"volume": 200000.0, "intensity": 61.5, "coding": ["78961009", "RID86"]}},
    "identification": TASK["identification"],
    "s3-input": TASK["s3-input"],
    "provenance": {
        "tomodex": "0.1.0",
        "terminology": "2026-11-23",
        "algorithm": "drawn by hand",
    },
    "duration": {"total": "0:01:01.750000", "loading": "0:00:01.750000", "indexing": "0:01:00"},
    "dateCreated": "2026-11-23T09:05:07",
}


def test_a_result_is_said_in_the_predecessors_shape():
    message = result_message(TIMED, TASK, "whole", NOW)
    assert message == GOLDEN
    assert list(message) == list(GOLDEN)
    json.dumps(message, allow_nan=False)


def test_structures_that_are_cut_come_only_where_they_are_asked_for():
    assert set(result_message(TIMED, TASK, "all", NOW)["labels"]) == {"liver", "spleen"}


def test_a_code_that_nobody_has_keeps_its_place():
    uncoded = replace(TIMED, annotations=(replace(SPLEEN, codings=()),))
    assert result_message(uncoded, TASK, "whole", NOW)["labels"]["spleen"]["coding"] == ["", ""]


def test_whatever_else_identified_the_series_comes_back_as_it_came():
    task = {**TASK, "identification": {**TASK["identification"], "case": 7}}
    assert result_message(TIMED, task, "whole", NOW)["identification"]["case"] == 7


#: `kafka_consumer.py` adds these members, in this order, to the names that `segment_ct` returns.
GOLDEN_MASKS = {
    "files": ["liver.nii.gz", "statistics.json"],
    "identification": TASK["identification"],
    "s3-input": TASK["s3-input"],
    "s3-output": {"s3-bucket": "masks", "s3-path": "of/test"},
    "provenance": {"torch": "2.0", "algorithm": "drawn by hand"},
    "duration": {"total": "0:01:01.750000", "loading": "0:00:01.750000", "indexing": "0:01:00"},
    "dateCreated": "2026-11-23T09:05:07",
}


def test_where_masks_are_is_said_in_the_predecessors_shape():
    made = {
        "files": "statistics.json,liver.nii.gz",
        "loading_s": "1.750",
        "total_s": "61.750",
        "algorithm": "drawn by hand",
    }
    task = {**TASK, "s3-output": GOLDEN_MASKS["s3-output"]}
    message = masks_message(made, {"torch": "2.0"}, task, NOW)
    assert message == GOLDEN_MASKS
    assert list(message) == list(GOLDEN_MASKS)


def test_an_error_is_said_in_the_predecessors_shape():
    message = error_message(TASK, "few_slices", "has 2 slices", NOW)
    assert list(message) == ["dateCreated", "message", "error"]
    assert message["message"] == TASK
    assert ast.literal_eval(message["error"]) == {"type": "few_slices", "message": "has 2 slices"}
