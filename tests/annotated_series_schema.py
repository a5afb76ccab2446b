"""The published JSON Schema of an annotated series, made from the dataclasses it describes.

    python -m tests.annotated_series_schema        writes it anew, after a field has changed

Types come from the annotations, descriptions from the docstrings and the `#:` comments, so that
what is published cannot say something else than the code does.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tomodex import annotation
from tomodex.annotation import (
    SCHEMA_VERSION,
    AnnotatedSeries,
    Annotation,
    Coding,
    Image,
    Provenance,
)
from tomodex.measurement import Measurement
from tomodex.segmentation import Algorithm
from tomodex.series import Series

MAJOR = SCHEMA_VERSION.partition(".")[0]
PATH = Path(annotation.__file__).parent / "schemas" / f"annotated-series-{MAJOR}.json"
PARTS = (Algorithm, Annotation, Coding, Image, Measurement, Provenance, Series)


def make_schema() -> dict[str, Any]:
    """The schema of every document that this major version writes or ever wrote."""
    made = TypeAdapter(AnnotatedSeries).json_schema(mode="validation")
    for part in PARTS:
        _describe(made["$defs"][part.__name__], part)
    _describe(made, AnnotatedSeries)
    # Only a document that says its version can be told from one of another version.
    made["required"] = ["schema_version", *made["required"]]
    made["properties"]["schema_version"] |= {
        "pattern": rf"^{MAJOR}\.[0-9]+$",
        "description": "version of this schema; a later minor version only adds fields",
    }
    del made["properties"]["schema_version"]["default"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:tomodex:schema:annotated-series:{MAJOR}",
        **made,
    }


def to_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


def _describe(schema: dict[str, Any], part: type) -> None:
    said = dict(_comments(part))
    for name, of_field in schema["properties"].items():
        of_field.pop("title", None)
        if name in said:
            of_field["description"] = said[name]


def _comments(part: type) -> Iterator[tuple[str, str]]:
    """Each field with the text after its `#:`, over as many lines as it runs."""
    lines = inspect.getsource(part).splitlines()
    (body,) = ast.parse("\n".join(lines)).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            following = lines[node.end_lineno or node.lineno :]
            texts = [lines[(node.end_lineno or node.lineno) - 1].partition("#:")[2]]
            for line in following:
                if not line.strip().startswith("#:"):
                    break
                texts.append(line.partition("#:")[2])
            if text := " ".join(t.strip() for t in texts if t):
                yield node.target.id, text


if __name__ == "__main__":
    PATH.write_text(to_text(make_schema()))
