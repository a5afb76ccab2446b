"""The transaction that brings one series to a FHIR server.

By id ("put") the client gives every id and a repeat writes the same again; it needs nothing of the
server but update as create. By conditions ("conditional", as in the predecessor's paper) the server
gives the ids; not every server resolves references to what it has not just made itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unsuitable
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import (
    IndexedSeries,
    Resource,
    Study,
    body_structure,
    body_structure_id,
    device,
    imaging_study,
    is_uid,
    patient,
    patient_id,
    patient_identifier,
    provenance,
    study_id,
    study_of,
)

WriteMode = Literal["put", "conditional"]

#: What the conditional mode creates once and then leaves as it is.
SHARED = ("Patient", "Device")


def transaction(
    annotated: AnnotatedSeries,
    study: Sequence[IndexedSeries],
    naming: Naming,
    mode: WriteMode = "put",
    more: Iterable[Resource] = (),
) -> Resource:
    """A Bundle of two to five resources: a series that is not segmented yet has no run to tell of.

    Args:
        study: every indexed series of the same study, this one included.
        more: resources that refer to these, such as `observations`.

    Raises:
        Unsuitable: a UID is none that FHIR takes.
    """
    resources = [*resources_of(annotated, study, naming), *more]
    if mode == "put":
        entries = [put_entry(one, naming) for one in resources]
    else:
        links = _siblings(study, naming) | {
            _address(one): f"urn:uuid:{_uuid(one, naming)}" for one in resources
        }
        entries = [_conditional(one, links) for one in resources]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def withdrawal(
    study: Study,
    series_uid: str,
    rest: Sequence[IndexedSeries],
    made: Sequence[str],
    naming: Naming,
    mode: WriteMode = "put",
) -> Resource:
    """The transaction that takes a series out of its study, and what was said of it away.

    Args:
        rest: the other indexed series of the study; without any, the ImagingStudy goes too.
        made: what `told_of` says of every transaction of the series, which would point at nothing.
    """
    gone = list(made)
    if mode == "put":
        gone.append(f"BodyStructure/{body_structure_id(series_uid, naming)}")
    else:
        system = naming.identifiers("series-annotation")
        gone.append(f"BodyStructure?{_condition_of(system, series_uid)}")
    entries: list[Resource] = []
    if rest:
        left = imaging_study(study, rest, naming)
        entries.append(
            put_entry(left, naming) if mode == "put" else _alone(left, study, rest, naming)
        )
    elif mode == "put":
        gone.insert(0, f"ImagingStudy/{study_id(study.study_uid, naming)}")
    else:
        system, value = "urn:dicom:uid", f"urn:oid:{study.study_uid}"
        gone.insert(0, f"ImagingStudy?{_condition_of(system, value)}")
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [*map(deletion, gone), *entries],
    }


def deletion(url: str) -> Resource:
    """The part of a transaction that takes away what is at `url`, or what a condition finds."""
    return {"request": {"method": "DELETE", "url": url}}


def told_of(bundle: Resource) -> list[str]:
    """Where a server has what a transaction tells of a series: its run, and its Observations."""
    return [
        entry["request"]["url"]
        for entry in bundle["entry"]
        if entry.get("resource", {}).get("resourceType") in ("Provenance", "Observation")
    ]


def _alone(
    resource: Resource, study: Study, rest: Sequence[IndexedSeries], naming: Naming
) -> Resource:
    """An ImagingStudy without its Patient beside it, who is found by the pseudonym."""
    condition = _condition_of(*patient_identifier(study, naming))
    links = {
        **_siblings(rest, naming),
        f"Patient/{patient_id(study, naming)}": f"Patient?{condition}",
        _address(resource): f"urn:uuid:{_uuid(resource, naming)}",
    }
    return _conditional(resource, links)


def resources_of(
    annotated: AnnotatedSeries, study: Sequence[IndexedSeries], naming: Naming
) -> list[Resource]:
    """The resources of one series, each after those that it refers to.

    Raises:
        Unsuitable: a UID is none that FHIR takes.
    """
    for uid in (annotated.series.study_uid, annotated.series.series_uid):
        if not is_uid(uid):
            raise Unsuitable("not_dicom", "a series or study without a valid UID has no FHIR")
    found = body_structure(annotated, naming)
    study_of_it = imaging_study(study_of(annotated), study, naming)
    if annotated.provenance.algorithm is None:
        return [patient(annotated, naming), study_of_it]
    return [
        patient(annotated, naming),
        device(annotated, naming),
        *([found] if found else []),
        study_of_it,
        provenance(annotated, naming),
    ]


def put_entry(resource: Resource, naming: Naming) -> Resource:
    """The part of a transaction that writes a resource under the id that it has."""
    return {
        # References are relative, so they mean the server's own; this is their base in the bundle.
        "fullUrl": f"{naming.base}/{_address(resource)}",
        "resource": resource,
        "request": {"method": "PUT", "url": _address(resource)},
    }


def _siblings(study: Sequence[IndexedSeries], naming: Naming) -> dict[str, str]:
    """How to refer to the BodyStructures of a study whose ids the server gave."""
    system = naming.identifiers("series-annotation")
    return {
        f"BodyStructure/{naming.id_of('BodyStructure', one.series_uid)}": (
            f"BodyStructure?{_condition_of(system, one.series_uid)}"
        )
        for one in study
    }


def _conditional(resource: Resource, links: Mapping[str, str]) -> Resource:
    kind = resource["resourceType"]
    linked = _linked(resource, links)
    if kind == "Provenance":  # has no identifier to ask for
        request = {"method": "PUT", "url": _address(resource)}
    elif kind in SHARED:
        request = {"method": "POST", "url": kind, "ifNoneExist": _condition(resource)}
        del linked["id"]
    else:
        request = {"method": "PUT", "url": f"{kind}?{_condition(resource)}"}
        del linked["id"]
    return {"fullUrl": links[_address(resource)], "resource": linked, "request": request}


def _linked(value: Any, links: Mapping[str, str]) -> Any:
    """The same with references to what is in the transaction, or to what the server has."""
    if isinstance(value, list):
        return [_linked(one, links) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: links.get(one, one)
        if key == "reference" and isinstance(one, str)
        else _linked(one, links)
        for key, one in value.items()
    }


def _condition(resource: Resource) -> str:
    identifier = resource["identifier"][0]
    return _condition_of(identifier["system"], identifier["value"])


def _condition_of(system: str, value: str) -> str:
    return f"identifier={quote(f'{system}|{value}', safe='')}"


def _address(resource: Resource) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def _uuid(resource: Resource, naming: Naming) -> str:
    return naming.id_of("entry", resource["resourceType"], resource["id"])
