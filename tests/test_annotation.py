from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.annotated import LIVER, ONE
from tests.annotated_series_schema import PATH, make_schema, to_text
from tomodex.annotation import (
    SCHEMA_VERSION,
    AnnotatedSeries,
    Annotation,
    Coding,
    Image,
    Provenance,
    annotate,
    from_json,
    to_json,
)
from tomodex.errors import Misconfigured
from tomodex.measurement import Measurement, Side
from tomodex.segmentation import Algorithm
from tomodex.series import Series
from tomodex.terminology import Structure, Terminology

SCHEMA = Draft202012Validator(json.loads(PATH.read_text()))

#: Their name says all: lengths and angles in the unit that ends it.
NAMED_WELL_ENOUGH = {"voxel_count", "mean_hu", "centroid_mm", "oblique_deg", "tilt_deg"}

text = st.text(max_size=12)
numbers = st.floats(allow_nan=False, allow_infinity=False)
points = st.tuples(numbers, numbers, numbers)
texts = st.lists(text, max_size=3).map(tuple)
counts = st.integers(0, 2**53)
attributes = st.dictionaries(text, text | numbers, max_size=4)
measurements = st.builds(
    Measurement,
    voxel_count=counts,
    volume_ml=numbers,
    mean_hu=numbers,
    sd_hu=numbers,
    centroid_mm=points,
    box_min_mm=points,
    box_max_mm=points,
    cut=st.lists(st.sampled_from(get_args(Side)), unique=True).map(tuple),
)
codings = st.builds(Coding, system=text, code=text, display=text)
annotations = st.builds(
    Annotation,
    structure=text,
    codings=st.lists(codings, max_size=2).map(tuple),
    laterality=st.sampled_from(["left", "right", ""]),
    measurement=measurements,
)
algorithms = st.builds(
    Algorithm,
    name=text,
    version=text,
    model=text,
    weights_sha256=text,
    options=st.dictionaries(text, text, max_size=2),
    segmentation_uids=texts,
)
images = st.builds(
    Image,
    shape=st.tuples(counts, counts, counts),
    spacing_mm=points,
    affine=st.tuples(*[st.tuples(*[numbers] * 4)] * 4),
    plane=st.sampled_from(["axial", "coronal", "sagittal"]),
    oblique_deg=numbers,
    tilt_deg=numbers,
    box_min_mm=points,
    box_max_mm=points,
    corrected=texts,
    left_out=st.dictionaries(text, counts, max_size=2),
)
provenances = st.builds(
    Provenance,
    algorithm=st.none() | algorithms,
    terminology=text,
    software=st.dictionaries(text, text, max_size=2),
    source=text,
    configuration=text,
    started=text,
    finished=text,
    stage_seconds=st.dictionaries(text, numbers, max_size=2),
)
series = st.builds(
    Series,
    series_uid=text,
    study_uid=text,
    patient=text,
    modality=text,
    sop_classes=texts,
    instance_count=st.none() | counts,
    fingerprint=text,
    attributes=attributes,
)
annotated_series = st.builds(
    AnnotatedSeries,
    series=series,
    image=images,
    annotations=st.lists(annotations, max_size=3).map(tuple),
    unmapped=texts,
    provenance=provenances,
)

TERMINOLOGY = Terminology(
    version="drawn by hand",
    structures={
        "spleen": Structure(
            name="spleen",
            display="Spleen",
            laterality="",
            snomed="78961009",
            snomed_display="Splenic structure",
            radlex="RID86",
            radlex_display="spleen",
        ),
        "kidney_left": Structure(
            name="kidney_left",
            display="Left kidney",
            laterality="left",
            snomed="18639004",
            snomed_display="Left kidney structure",
            radlex="",
            radlex_display="",
        ),
    },
)


def ml(volume: float) -> Measurement:
    return replace(LIVER.measurement, volume_ml=volume)


def test_the_largest_structure_comes_first() -> None:
    found = annotate({"kidney_left": ml(160.0), "spleen": ml(200.0)}, TERMINOLOGY)
    assert [a.structure for a in found] == ["spleen", "kidney_left"]
    assert [a.measurement.volume_ml for a in found] == [200.0, 160.0]


def test_equally_large_structures_come_in_one_order() -> None:
    one_way = annotate({"spleen": ml(200.0), "kidney_left": ml(200.0)}, TERMINOLOGY)
    other_way = annotate({"kidney_left": ml(200.0), "spleen": ml(200.0)}, TERMINOLOGY)
    assert one_way == other_way


def test_a_structure_gets_the_codes_that_the_tables_have() -> None:
    spleen, kidney = annotate({"spleen": ml(2.0), "kidney_left": ml(1.0)}, TERMINOLOGY)
    assert [(c.system, c.code, c.display) for c in spleen.codings] == [
        ("http://snomed.info/sct", "78961009", "Splenic structure"),
        ("http://radlex.org", "RID86", "spleen"),
    ]
    assert [c.code for c in kidney.codings] == ["18639004"]
    assert (spleen.laterality, kidney.laterality) == ("", "left")


def test_a_structure_without_a_code_is_not_lost_in_silence() -> None:
    with pytest.raises(KeyError, match="gizzard"):
        annotate({"gizzard": ml(20.0)}, TERMINOLOGY)


@given(annotated_series)
def test_comes_back_from_json_as_it_was(annotated: AnnotatedSeries) -> None:
    line = to_json(annotated)
    assert from_json(line) == annotated
    assert b"\n" not in line


def test_numbers_of_numpy_and_read_only_mappings_are_written_too() -> None:
    measured = replace(LIVER.measurement, mean_hu=np.float64(61.5), voxel_count=np.int64(1500))
    attributes = MappingProxyType(dict(ONE.series.attributes))
    annotated = replace(
        ONE,
        series=replace(ONE.series, attributes=attributes),
        annotations=(replace(LIVER, measurement=measured),),
    )
    assert to_json(annotated) == to_json(ONE)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_never_written(number: float) -> None:
    broken = replace(LIVER, measurement=replace(LIVER.measurement, mean_hu=number))
    with pytest.raises(ValueError, match="mean_hu"):
        to_json(replace(ONE, annotations=(broken,)))


def test_another_major_version_is_not_misread() -> None:
    assert SCHEMA_VERSION.startswith("1.")
    future = json.loads(to_json(ONE)) | {"schema_version": "2.0"}
    with pytest.raises(Misconfigured, match=r"schema version 2\.0"):
        from_json(json.dumps(future).encode())
    with pytest.raises(Misconfigured, match=r"schema version 2\.0"):
        from_json(b'{"schema_version": "2.0", "everything": "else"}')


def test_fields_of_a_later_minor_version_are_passed_over() -> None:
    later = json.loads(to_json(ONE)) | {"schema_version": "1.7", "mood": "good"}
    assert from_json(json.dumps(later).encode()) == replace(ONE, schema_version="1.7")


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b'{"series": {"series_uid": "SMITH^JOHN"}}'])
def test_what_is_no_annotated_series_is_refused_without_quoting_it(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an annotated series") as refused:
        from_json(line)
    assert "SMITH" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_nan_is_not_read_either() -> None:
    line = to_json(ONE).replace(b'"mean_hu":61.5', b'"mean_hu":NaN')
    with pytest.raises(ValueError, match="mean_hu"):
        from_json(line)


def test_the_published_schema_is_what_the_code_makes() -> None:
    """If this fails: `python -m tests.annotated_series_schema`, and think of SCHEMA_VERSION."""
    assert PATH.read_text() == to_text(make_schema())


@given(annotated_series)
def test_every_document_is_valid_under_the_published_schema(annotated: AnnotatedSeries) -> None:
    SCHEMA.validate(json.loads(to_json(annotated)))


def test_the_schema_says_what_every_number_is() -> None:
    schema = make_schema()
    for part in ("Measurement", "Image"):
        for name, field in schema["$defs"][part]["properties"].items():
            assert field.get("description") or name in NAMED_WELL_ENOUGH
    assert schema["$defs"]["Measurement"]["properties"]["sd_hu"]["description"].startswith("of the")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": "2.0"},
        {"annotations": None},
        {"image": {}},
        {"provenance": {"algorithm": {"name": 5}}},
    ],
)
def test_the_schema_refuses_what_is_no_annotated_series(change: dict[str, object]) -> None:
    assert SCHEMA.is_valid(json.loads(to_json(ONE)))
    assert not SCHEMA.is_valid(json.loads(to_json(ONE)) | change)
