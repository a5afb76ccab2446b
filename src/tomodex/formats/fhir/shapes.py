"""What our profiles say of each element of each resource.

Profiles and kinds cannot drift apart: every bundle of the tests passes both, every broken one of
tests/fhir_mutants.py fails one at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from tomodex.formats.fhir import naming
from tomodex.formats.fhir.including import included_structures, structure_concept
from tomodex.formats.fhir.kinds import (
    UID_TYPE,
    Kind,
    Wrong,
    coding,
    concept,
    day,
    identifier,
    identity,
    moment,
    number,
    one_of,
    quantity,
    record,
    seen_before,
    several,
    text,
    told_by,
    truth,
    uid,
    whole,
)
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import MODALITIES, is_uid

_REFERENCE = record({"reference": text})
_MODALITY = concept(naming.DCM, *MODALITIES)


@cache
def shapes(ours: Naming) -> Mapping[str, Kind]:
    """The kind of each resource that a site sends."""
    return {
        "Patient": _patient(ours),
        "Device": _device(ours),
        "BodyStructure": _body_structure(ours),
        "ImagingStudy": _imaging_study(ours),
        "Provenance": _provenance(ours),
        "Observation": _observation(ours),
    }


def _resource(
    kind: str,
    profile: str,
    required: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
) -> Kind:
    meta = record(
        {"profile": several(one_of(profile), most=1)},
        {"security": several(coding(naming.OBSERVATION_VALUE, "AIAST", "PSEUDED"), most=1)},
    )
    return record(
        {"resourceType": one_of(kind), "meta": meta, **required},
        {"id": identity, **(optional or {})},
    )


def _patient(ours: Naming) -> Kind:
    unknown = ours.identifiers("unknown-patient-of-study")
    known = identifier(one_of(ours.patients, unknown))
    return _resource(
        "Patient",
        ours.profile("tomodex-patient"),
        {"identifier": several(known, most=1)},
        {"active": truth},
    )


def _imaging_study(ours: Naming) -> Kind:
    series = record(
        {"id": identity, "uid": uid, "modality": _MODALITY},
        {
            "number": whole,
            "numberOfInstances": whole,
            "bodySite": record({"reference": _REFERENCE}),
            "started": day,
        },
    )
    study_uid = record(
        {"type": UID_TYPE, "system": one_of(naming.DICOM_UID), "value": _urn_of_uid},
        {"use": one_of("official")},
    )
    return _resource(
        "ImagingStudy",
        ours.profile("tomodex-imaging-study"),
        {
            "identifier": several(study_uid, most=1),
            "status": one_of("available"),
            "modality": several(_MODALITY),
            "subject": _REFERENCE,
            "series": several(series),
        },
        {"started": day},
    )


def _urn_of_uid(value: Any) -> None:
    if type(value) is not str or not value.startswith("urn:oid:") or not is_uid(value[8:]):
        raise Wrong("is no UID as urn:oid:")


def _body_structure(ours: Naming) -> Kind:
    annotation = identifier(one_of(ours.identifiers("series-annotation")))
    return _resource(
        "BodyStructure",
        ours.profile("tomodex-body-structure"),
        {
            "identifier": several(annotation, most=1),
            "active": truth,
            "includedStructure": included_structures(ours),
            "patient": _REFERENCE,
        },
        {"description": text},
    )


def _device(ours: Naming) -> Kind:
    name = record({"value": text, "type": one_of("user-friendly-name")}, {"display": truth})
    version = record(
        {
            "type": concept(naming.MDC, "531975"),
            "component": identifier(one_of(ours.identifiers("software-component"))),
            "value": text,
        }
    )
    setting = record({"type": concept(ours.parameters), "valueString": text})
    configuration = identifier(one_of(ours.identifiers("indexer-configuration")))
    made = _resource(
        "Device",
        ours.profile("tomodex-device"),
        {
            "identifier": several(configuration, most=1),
            "displayName": text,
            "status": one_of("active"),
            "name": several(name),
            "category": several(concept(naming.DEVICE_CATEGORY, "software"), most=1),
            "version": several(version),
        },
        {"property": several(setting)},
    )
    return seen_before(made)


def _provenance(ours: Naming) -> Kind:
    element = record({"url": one_of(naming.TARGET_ELEMENT), "valueUri": text})
    what = record({"reference": text}, {"extension": several(element, most=1)})
    agent = record({"type": concept(naming.AGENT_TYPE, "assembler"), "who": _REFERENCE})
    return _resource(
        "Provenance",
        ours.profile("tomodex-provenance"),
        {
            "target": several(_REFERENCE),
            "occurredPeriod": record({"start": moment, "end": moment}),
            "recorded": moment,
            "activity": concept(naming.DATA_OPERATION, "CREATE", "UPDATE"),
            "patient": _REFERENCE,
            "agent": several(agent, most=1),
            "entity": several(record({"role": one_of("source"), "what": what}), most=1),
        },
    )


def _observation(ours: Naming) -> Kind:
    volume = coding(naming.SNOMED, "118565006")
    attenuation = coding(naming.DCM, "112031")

    code = told_by("system", {naming.SNOMED: volume}, attenuation)
    measured = identifier(one_of(ours.identifiers("series-measurement")))
    return _resource(
        "Observation",
        ours.profile("tomodex-measurement"),
        {
            "identifier": several(measured, most=1),
            "partOf": several(_REFERENCE, most=1),
            "status": one_of("final"),
            "category": several(concept(naming.OBSERVATION_CATEGORY, "imaging"), most=1),
            "code": record({"coding": several(code, most=1)}),
            "subject": _REFERENCE,
            "issued": moment,
            "valueQuantity": quantity(number, "mm3", "[hnsf'U]", "[arb'U]"),
            "bodySite": structure_concept(ours),
            "device": _REFERENCE,
        },
        {"effectiveDateTime": day, "method": concept(naming.SNOMED, "373098007")},
    )
