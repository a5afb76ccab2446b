"""All real series of the test data, from the folder to an answered search."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tomodex.indexing import Summary, index_source
from tomodex.queues import Queue
from tomodex.search import parse
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of, source_url

DATA = os.environ.get("TOMODEX_REAL_DATA", "")
REFERENCE = Path(
    os.environ.get(
        "TOMODEX_REAL_REFERENCE", Path(__file__).parents[1] / "../shared/data/_reference"
    )
)
ANSWERS = REFERENCE.parent / "SERIES.csv"

pytestmark = pytest.mark.skipif(
    not DATA or not ANSWERS.is_file(), reason="TOMODEX_REAL_DATA names no unpacked test data"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return Settings(data=tmp_path_factory.mktemp("real"), workers=2)


@pytest.fixture(scope="module")
def summary(settings) -> Summary:
    return index_source(
        settings, source_url(DATA), "on-demand", lambda title: lambda done, total: None
    )


@pytest.fixture(scope="module")
def queue(settings, summary) -> Iterator[Queue]:
    opened = queue_of(settings)
    yield opened
    opened.close()


def rows(*expected: str) -> list[dict[str, str]]:
    """Rows of the answers that name a series, with one of these expectations.

    How many slices are enough is the product's decision, so such a row says nothing here;
    tests/test_selection_real.py has the decision. Series that two items share come once.
    """
    if not ANSWERS.is_file():
        return []
    with ANSWERS.open(encoding="utf-8") as lines:
        found = {
            row["series_uid"]: row
            for row in csv.DictReader(lines)
            if row["expected"] in expected
            and row["series_uid"] not in ("", "None")
            and "product threshold" not in row["reason"]
        }
    return list(found.values())


def name(row: dict[str, str]) -> str:
    return f"{row['id']}-{row['series_uid'][-8:]}"


def test_nothing_fails_and_everything_is_settled(summary):
    assert (summary.failed, summary.waiting) == (0, 0)
    assert summary.indexed + sum(summary.rejected.values()) == summary.found


@pytest.mark.parametrize("row", rows("process"), ids=name)
def test_what_is_a_volume_is_indexed(queue, row):
    (state,) = queue.states(row["series_uid"])
    assert (state.status, state.sentence) == ("completed", "")
    result = queue.result(row["series_uid"])
    shape = tuple(json.loads(row["hu"])["shape_zyx"])
    assert result.annotated.image.shape == shape


@pytest.mark.parametrize("row", rows("reject", "segmentation"), ids=name)
def test_what_is_none_is_rejected_with_a_reason(queue, row):
    (state,) = queue.states(row["series_uid"])
    assert state.status == "rejected"
    assert state.reason


def test_a_stored_segmentation_is_found_by_what_it_contains(settings, queue):
    page = index_of(settings).search(parse("Leber", load_terminology()))
    found = {hit.series_uid for hit in page.hits}
    segmented = {
        listed.series.series_uid
        for listed in queue.find_states("completed", limit=1000)
        if listed.series.segmentations
    }
    assert len(segmented) == 2
    assert found == segmented


def test_the_index_holds_exactly_what_the_queue_says(settings, summary):
    everything = index_of(settings).search(parse("Modality = CT", load_terminology()))
    assert everything.series == summary.indexed
