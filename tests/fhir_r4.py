"""How the decision on R4 would be made: our R5 transaction as R4. A prototype; it is not shipped.

What goes where, and why: docs/reference/fhir-r4.md, whose table its tests read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tomodex.formats.fhir import Naming
from tomodex.formats.fhir.bundle import put_entry

Resource = dict[str, Any]

ORDER = ("Patient", "Device", "ImagingStudy", "Observation", "Provenance")

#: What R4 has in the place of R5's BodyStructure with many structures.
SHOWN = "structures-shown"
FINDING_SITE = {
    "system": "http://snomed.info/sct",
    "code": "363698007",
    "display": "Finding site",
}


def as_r4(bundle: Resource, naming: Naming) -> Resource:
    """The R4 transaction with the same ids, as many resources and the same requests."""
    made = [_made(entry["resource"], bundle, naming) for entry in bundle["entry"]]
    # An Observation refers to its ImagingStudy; in R5 it is the other way round.
    made.sort(key=lambda one: ORDER.index(one["resourceType"]))
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [put_entry(one, naming) for one in made],
    }


def _made(resource: Resource, bundle: Resource, naming: Naming) -> Resource:
    match resource["resourceType"]:
        case "Patient":
            return _kept(resource, "identifier", "active")
        case "Device":
            return _device(resource)
        case "ImagingStudy":
            return _imaging_study(resource)
        case "BodyStructure":
            return _structures_shown(resource, bundle, naming)
        case _:
            return _provenance(resource)


def _kept(resource: Resource, *names: str) -> Resource:
    """These elements, which are the same in both; profiles are R5's."""
    meta = {k: v for k, v in resource.get("meta", {}).items() if k != "profile"}
    kept = {name: resource[name] for name in ("resourceType", "id", *names) if name in resource}
    return {**kept, **({"meta": meta} if meta else {})}


def _device(resource: Resource) -> Resource:
    name = {"name": resource["displayName"], "type": "user-friendly-name"}
    settings = [
        {"type": one["type"], "valueCode": [{"text": one["valueString"]}]}
        for one in resource.get("property", ())
    ]
    return {
        **_kept(resource, "identifier", "status", "version"),
        "deviceName": [name],
        "type": resource["category"][0],
        "property": settings,
    }


def _imaging_study(resource: Resource) -> Resource:
    series = [
        {
            **{
                name: one[name]
                for name in ("id", "uid", "number", "numberOfInstances", "started")
                if name in one
            },
            "modality": one["modality"]["coding"][0],
        }
        for one in resource["series"]
    ]
    return {
        **_kept(
            resource,
            "identifier",
            "status",
            "subject",
            "started",
        ),
        "modality": [one["coding"][0] for one in resource["modality"]],
        "series": series,
    }


def _structures_shown(resource: Resource, bundle: Resource, naming: Naming) -> Resource:
    """One Observation for a series, with a component for each structure."""
    others = [entry["resource"] for entry in bundle["entry"]]
    study = next(one for one in others if one["resourceType"] == "ImagingStudy")
    run = next(one for one in others if one["resourceType"] == "Provenance")
    uid = resource["identifier"][0]["value"]
    code = {"system": f"{naming.base}/CodeSystem/finding", "code": SHOWN}
    return {
        **_kept(resource, "identifier"),
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [code], "text": resource["description"]},
        "subject": resource["patient"],
        "focus": [{"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}}],
        "derivedFrom": [{"reference": f"ImagingStudy/{study['id']}"}],
        "issued": run["recorded"],
        "device": run["agent"][0]["who"],
        "component": [
            {
                "code": {"coding": [FINDING_SITE]},
                "valueCodeableConcept": _with_side(one),
                **_cut(one),
            }
            for one in resource["includedStructure"]
        ],
    }


def _with_side(structure: Resource) -> Resource:
    side = structure.get("laterality", {}).get("coding", [])
    concept: Resource = structure["structure"]
    return {**concept, "coding": [*concept["coding"], *side]}


def _cut(structure: Resource) -> Resource:
    """What R4's component can say of a mask that the image's end has cut."""
    parts = structure["extension"][0]["extension"]
    if not any(one["url"] == "cut" for one in parts):
        return {}
    return {"interpretation": [{"text": "cut by the end of the image"}]}


def _provenance(resource: Resource) -> Resource:
    kept = ("occurredPeriod", "recorded", "activity", "agent")
    study = {"reference": resource["entity"][0]["what"]["reference"]}
    targets = [
        {"reference": one["reference"].replace("BodyStructure/", "Observation/")}
        for one in resource["target"]
    ]
    return {
        **_kept(resource, *kept),
        "target": targets,
        "entity": [{"role": "source", "what": study}],
    }


def elements(resource: Resource) -> Iterator[str]:
    """`Type.element` of all that a resource says; of series and structures one level deeper."""
    kind = resource["resourceType"]
    deeper = ("series", "includedStructure", "component")
    for name, value in resource.items():
        if name in deeper:
            yield from {f"{kind}.{name}.{inner}" for one in value for inner in one}
        elif name not in ("resourceType", "id"):
            yield f"{kind}.{name}"
