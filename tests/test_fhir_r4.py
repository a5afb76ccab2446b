"""The decision on R4, as docs/reference/fhir-r4.md has it, is what the prototype does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fhir_mutants import NAMING, SERIES
from tests.fhir_r4 import as_r4, elements
from tomodex.formats.fhir import IndexedSeries, Resource, indexed_series, transaction

PAGE = Path(__file__).parent.parent / "docs/reference/fhir-r4.md"
ROW = re.compile(r"^\| ([A-Z]\w+\.[\w.]+) \| ([A-Z]\w+\.[\w.]+|nowhere) \|", re.MULTILINE)
TABLE = dict(ROW.findall(PAGE.read_text()))

FULL = replace(
    SERIES,
    series=replace(
        SERIES.series,
        attributes={"StudyDate": "2025-11-03", "SeriesDate": "2025-11-03", "SeriesNumber": 3.0},
    ),
)


@pytest.fixture
def r5() -> Resource:
    return transaction(
        FULL, [indexed_series(FULL), IndexedSeries(series_uid="1.2.9", instance_count=5)], NAMING
    )


def said(bundle: Resource) -> set[str]:
    return {path for entry in bundle["entry"] for path in elements(entry["resource"])}


def test_every_element_that_we_fill_has_its_row(r5: Resource) -> None:
    assert said(r5) == set(TABLE)


def test_every_row_leads_to_what_the_prototype_fills(r5: Resource) -> None:
    assert set(TABLE.values()) - {"nowhere"} <= said(as_r4(r5, NAMING))


def test_there_are_as_many_resources_with_the_same_ids(r5: Resource) -> None:
    ids = {entry["resource"]["id"] for entry in as_r4(r5, NAMING)["entry"]}
    assert ids == {entry["resource"]["id"] for entry in r5["entry"]}
    assert "BodyStructure" not in json.dumps(as_r4(r5, NAMING))
