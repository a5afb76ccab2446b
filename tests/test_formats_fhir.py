"""Annotated series as FHIR R5; the shapes are checked by fhir.resources, which is not ours."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from fhir.resources.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unsuitable
from tomodex.formats.fhir import (
    IndexedSeries,
    Naming,
    indexed_series,
    observations,
    transaction,
)

SITE = Naming(base="https://pacs.example/fhir")
KIDNEY = replace(LIVER, structure="kidney_left", laterality="left")


def bundle(
    annotated: AnnotatedSeries = ONE, *others: IndexedSeries, mode: str = "put"
) -> dict[str, Any]:
    study = [indexed_series(annotated), *others]
    made = transaction(annotated, study, SITE, mode)  # type: ignore[arg-type]
    Bundle.model_validate_json(json.dumps(made, allow_nan=False))
    return made


def resource(made: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [
        entry["resource"] for entry in made["entry"] if entry["resource"]["resourceType"] == kind
    ]
    return found


def kinds(made: dict[str, Any]) -> list[str]:
    return [entry["resource"]["resourceType"] for entry in made["entry"]]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [one for part in value for one in references(part)]
    if isinstance(value, dict):
        here = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return here + [one for part in value.values() for one in references(part)]
    return []


def attributed(**attributes: str | float) -> AnnotatedSeries:
    return replace(ONE, series=replace(ONE.series, attributes=attributes))


def test_a_series_makes_five_resources_each_after_those_it_refers_to() -> None:
    made = bundle()
    assert kinds(made) == ["Patient", "Device", "BodyStructure", "ImagingStudy", "Provenance"]
    seen: set[str] = set()
    for entry in made["entry"]:
        assert set(references(entry["resource"])) <= seen
        seen.add(entry["request"]["url"])


def test_the_same_result_makes_the_same_bytes_again() -> None:
    assert json.dumps(bundle()) == json.dumps(bundle())


def test_a_new_run_is_a_new_provenance_of_the_same_body_structure() -> None:
    later = replace(ONE, provenance=replace(ONE.provenance, finished="2027-01-01T00:00:00+01:00"))
    first, second = bundle(ONE), bundle(later)
    assert resource(first, "BodyStructure")["id"] == resource(second, "BodyStructure")["id"]
    assert resource(first, "Provenance")["id"] != resource(second, "Provenance")["id"]


def test_other_weights_are_another_device() -> None:
    algorithm = ONE.provenance.algorithm
    assert algorithm is not None
    other = replace(algorithm, weights_sha256="f" * 64)
    changed = replace(ONE, provenance=replace(ONE.provenance, algorithm=other))
    assert resource(bundle(ONE), "Device")["id"] != resource(bundle(changed), "Device")["id"]


def test_a_setting_has_no_control_characters_and_an_empty_one_is_left_out() -> None:
    algorithm = ONE.provenance.algorithm
    assert algorithm is not None
    odd = replace(algorithm, model=" total\x0c3 mm\x00", options={"mode": "\x1f"})
    made = bundle(replace(ONE, provenance=replace(ONE.provenance, algorithm=odd)))
    said = {one["type"]["coding"][0]["code"]: one for one in resource(made, "Device")["property"]}
    assert said["model"]["valueString"] == "total 3 mm"
    assert "mode" not in said


def test_a_structure_has_every_code_that_it_is_known_by_and_its_side() -> None:
    made = bundle(replace(ONE, annotations=(KIDNEY,)))
    (found,) = resource(made, "BodyStructure")["includedStructure"]
    assert [(c["system"], c["code"]) for c in found["structure"]["coding"]] == [
        ("http://snomed.info/sct", "10200004"),
        ("https://pacs.example/fhir/CodeSystem/structure", "kidney_left"),
    ]
    assert found["laterality"]["coding"][0]["code"] == "7771000"


def test_a_structure_without_a_side_has_no_laterality() -> None:
    (found,) = resource(bundle(), "BodyStructure")["includedStructure"]
    assert "laterality" not in found


def test_volume_mean_and_cut_sides_are_in_the_extension() -> None:
    (found,) = resource(bundle(), "BodyStructure")["includedStructure"]
    ((extension,),) = [found["extension"]]
    parts = {part["url"]: part for part in extension["extension"]}
    assert parts["volume"]["valueQuantity"]["value"] == 1_500_000.0
    assert parts["volume"]["valueQuantity"]["code"] == "mm3"
    assert parts["meanIntensity"]["valueQuantity"] == {
        "value": 61.5,
        "unit": "HU",
        "system": "http://unitsofmeasure.org",
        "code": "[hnsf'U]",
    }
    assert parts["cut"]["valueCode"] == "inferior"


def test_the_mean_of_an_mr_has_no_hounsfield_unit() -> None:
    made = bundle(replace(ONE, series=replace(ONE.series, modality="MR")))
    assert "hnsf" not in json.dumps(made)
    assert "[arb'U]" in json.dumps(made)


def test_a_mean_that_is_no_number_is_left_out() -> None:
    odd = replace(LIVER, measurement=replace(LIVER.measurement, mean_hu=math.nan))
    assert "meanIntensity" not in json.dumps(bundle(replace(ONE, annotations=(odd,))))


def test_where_nothing_was_found_the_run_is_told_of_the_study() -> None:
    made = bundle(replace(ONE, annotations=()))
    assert kinds(made) == ["Patient", "Device", "ImagingStudy", "Provenance"]
    (target,) = resource(made, "Provenance")["target"]
    assert target["reference"] == f"ImagingStudy/{resource(made, 'ImagingStudy')['id']}"
    assert "bodySite" not in resource(made, "ImagingStudy")["series"][0]


def test_a_series_that_waits_has_no_run_to_tell_of() -> None:
    waiting = replace(
        ONE, image=None, annotations=(), provenance=replace(ONE.provenance, algorithm=None)
    )
    assert kinds(bundle(waiting)) == ["Patient", "ImagingStudy"]


def test_a_study_has_all_of_its_series_in_their_order() -> None:
    second = IndexedSeries(series_uid="1.2.9", number=2, instance_count=40, shows_structures=True)
    third = IndexedSeries(series_uid="1.2.8", modality="PT", number=10, instance_count=5)
    annotated = attributed(SeriesNumber=3.0)
    study = resource(bundle(annotated, third, second), "ImagingStudy")
    assert [series["uid"] for series in study["series"]] == ["1.2.9", "1.2.3", "1.2.8"]
    # Of how many there are besides, the index knows nothing.
    assert study.keys().isdisjoint({"numberOfSeries", "numberOfInstances"})
    assert [m["coding"][0]["code"] for m in study["modality"]] == ["CT", "PT"]
    assert ["bodySite" in series for series in study["series"]] == [True, True, False]


def test_a_series_began_on_no_day_but_its_own_and_is_measured_as_of_some_day_at_least() -> None:
    dated = attributed(StudyDate="2026-01-01")
    (series,) = resource(bundle(dated), "ImagingStudy")["series"]
    assert "started" not in series
    assert {one["effectiveDateTime"] for one in observations(dated, SITE)} == {"2026-01-01"}
    both = attributed(StudyDate="2026-01-01", SeriesDate="2026-01-02")
    (series,) = resource(bundle(both), "ImagingStudy")["series"]
    assert series["started"] == "2026-01-02"
    assert {one["effectiveDateTime"] for one in observations(both, SITE)} == {"2026-01-02"}


@pytest.mark.parametrize("number", [-1.0, 2.5, 1e12, math.nan, "three"])
def test_a_series_number_that_fhir_cannot_say_is_left_out(number: str | float) -> None:
    study = resource(bundle(attributed(SeriesNumber=number)), "ImagingStudy")
    assert "number" not in study["series"][0]


@pytest.mark.parametrize(
    ("date", "started"), [("2020-05-31", "2020-05-31"), ("31.5.2020", None), ("2020-13-01", None)]
)
def test_a_study_began_on_its_day_if_that_is_known(date: str, started: str | None) -> None:
    assert resource(bundle(attributed(StudyDate=date)), "ImagingStudy").get("started") == started


def test_a_patient_is_a_pseudonym_and_nothing_else() -> None:
    patient = resource(bundle(), "Patient")
    assert patient["identifier"] == [
        {
            "use": "secondary",
            "system": "https://pacs.example/fhir/sid/patient-pseudonym",
            "value": "pseudonym",
        }
    ]
    assert set(patient) == {"resourceType", "id", "meta", "identifier", "active"}
    assert patient["id"].startswith("p-")


def test_an_unknown_patient_is_one_for_each_study() -> None:
    unknown = replace(ONE, series=replace(ONE.series, patient=""))
    sibling = replace(unknown, series=replace(unknown.series, series_uid="1.2.4"))
    other = replace(unknown, series=replace(unknown.series, study_uid="1.5"))
    ids = [resource(bundle(one), "Patient")["id"] for one in (unknown, sibling, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("uid", ["1.2.a", "12", "", "1." + "2" * 64])
def test_a_uid_that_fhir_cannot_take_is_refused(uid: str) -> None:
    with pytest.raises(Unsuitable, match="UID"):
        bundle(replace(ONE, series=replace(ONE.series, series_uid=uid)))


def test_by_conditions_the_server_gives_the_ids() -> None:
    made = bundle(mode="conditional")
    assert [entry["request"]["method"] for entry in made["entry"]] == [
        "POST",
        "POST",
        "PUT",
        "PUT",
        "PUT",
    ]
    full = {entry["fullUrl"] for entry in made["entry"]}
    assert len(full) == 5
    assert all(url.startswith("urn:uuid:") for url in full)
    for entry in made["entry"]:
        assert set(references(entry["resource"])) <= full


def test_a_condition_is_safe_in_a_url() -> None:
    made = bundle(mode="conditional")
    conditions = [e["request"].get("ifNoneExist") or e["request"]["url"] for e in made["entry"]]
    assert conditions[0] == (
        "identifier=https%3A%2F%2Fpacs.example%2Ffhir%2Fsid%2Fpatient-pseudonym%7Cpseudonym"
    )
    assert not any("|" in one or " " in one for one in conditions)


def test_by_conditions_the_other_series_of_a_study_are_referred_to_by_their_identifier() -> None:
    other = IndexedSeries(series_uid="1.2.9", number=1, shows_structures=True)
    study = resource(bundle(ONE, other, mode="conditional"), "ImagingStudy")
    sibling, own = (series["bodySite"]["reference"]["reference"] for series in study["series"])
    assert sibling.startswith("BodyStructure?identifier=")
    assert sibling.endswith("%7C1.2.9")
    assert own.startswith("urn:uuid:")


def test_every_number_can_be_an_observation() -> None:
    found = list(observations(replace(ONE, annotations=(LIVER, SPLEEN)), SITE))
    assert [one["code"]["coding"][0]["code"] for one in found] == ["118565006", "112031"] * 2
    assert len({one["id"] for one in found}) == 4
    entries = [
        {
            "fullUrl": f"https://pacs.example/fhir/Observation/{one['id']}",
            "resource": one,
            "request": {"method": "PUT", "url": f"Observation/{one['id']}"},
        }
        for one in found
    ]
    made = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    Bundle.model_validate_json(json.dumps(made, allow_nan=False))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    attributes=st.dictionaries(
        st.sampled_from(["StudyDate", "SeriesDate", "SeriesNumber"]),
        TEXTS | st.floats() | st.integers(),
    ),
    patient=TEXTS,
    modality=st.sampled_from(["CT", "MR", "PT", ""]),
    count=st.none() | st.integers(0, 10_000),
)
def test_whatever_a_header_says_the_bundle_is_valid_and_holds_no_free_text(
    attributes: dict[str, Any], patient: str, modality: str, count: int | None
) -> None:
    series = replace(
        ONE.series,
        attributes={**attributes, "StudyDescription": "said of Doe^John"},
        patient=patient,
        modality=modality,
        instance_count=count,
    )
    made = bundle(replace(ONE, series=series))
    assert "Doe^John" not in json.dumps(made)
    assert "StudyDescription" not in json.dumps(made)
