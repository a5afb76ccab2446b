"""docs/reference/fhir.md has every element that we fill, and none that we do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.render_ig import example_series

from tests.annotated import ONE
from tests.fhir_mutants import NAMING
from tomodex.annotation import AnnotatedSeries
from tomodex.formats.fhir import indexed_series, observations, transaction
from tomodex.terminology import load_terminology

PAGE = Path(__file__).parent.parent / "docs/reference/fhir.md"
ROW = re.compile(r"^\| ([A-Z]\w+\.[\w.()-]+) \|", re.MULTILINE)

#: What tells a value of one of FHIR's data types, which is one element to us, from a part.
OF_DATA_TYPES = frozenset({"coding", "system", "reference", "start"})


def elements(value: Any, path: str) -> Iterator[str]:
    """The path of all that a resource says, extensions by their names."""
    if isinstance(value, list):
        for one in value:
            yield from elements(one, path)
    elif not isinstance(value, dict):
        yield path
    else:
        if OF_DATA_TYPES & value.keys():
            yield path
        for name, part in value.items():
            if name == "extension":
                yield from extensions(part, path)
            elif name != "resourceType" and not OF_DATA_TYPES & value.keys():
                yield from elements(part, f"{path}.{name}")


def extensions(value: list[dict[str, Any]], path: str) -> Iterator[str]:
    for one in value:
        name = f"{path}.extension({one['url'].rpartition('/')[2]})"
        parts = one.get("extension", [])
        yield from (f"{name}.{part['url']}" for part in parts)
        if not parts:
            yield name


def said_of(one: AnnotatedSeries) -> Iterator[str]:
    numbers = observations(one, NAMING)
    for entry in transaction(one, [indexed_series(one)], NAMING, more=numbers)["entry"]:
        yield from elements(entry["resource"], entry["resource"]["resourceType"])


def test_the_page_has_every_element_that_we_fill_and_no_other() -> None:
    days = {"StudyDate": "2026-01-01", "SeriesDate": "2026-01-02", "SeriesNumber": 3.0}
    dated = replace(ONE, series=replace(ONE.series, attributes=days))
    examples = [dated, *example_series(load_terminology()).values()]
    rows = ROW.findall(PAGE.read_text())
    assert sorted(rows) == sorted({path for one in examples for path in said_of(one)})
