"""What our profiles say of each element, in a form that takes microseconds to check.

A kind takes a value, and raises `Wrong` if it is none of it. Profiles and kinds cannot drift apart:
every bundle of the tests passes both, every broken one of tests/fhir_mutants.py fails one at least.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache
from typing import Any

import orjson

from tomodex.formats.fhir import naming
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import MODALITIES, MOST, SIDES, is_uid
from tomodex.measurement import SIDES as AXES

Kind = Callable[[Any], None]

#: Of each kind; all structures of all models are some hundreds.
REMEMBERED = 4096

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.\-]*:[^\s<>\"{}|\\^`]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Wrong(Exception):
    """An element is not as its kind wants it; its place is known when it has come up to the top."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.place = ""

    def below(self, name: str) -> Wrong:
        """The same, one level further up."""
        dot = "." if self.place and not self.place.startswith("[") else ""
        self.place = f"{name}{dot}{self.place}"
        return self


def text(value: Any) -> None:
    """FHIR's string: not empty, no blank ends, no control characters."""
    if type(value) is not str or not value:
        raise Wrong("is no text")
    if not value.isprintable() and _CONTROL.search(value):
        raise Wrong("has control characters")
    if value.strip() != value:
        raise Wrong("begins or ends with a space")


def identity(value: Any) -> None:
    """FHIR's id."""
    if type(value) is not str or not _ID.fullmatch(value):
        raise Wrong("is no id")


def url(value: Any) -> None:
    """An absolute URI."""
    if type(value) is not str or not _URL.fullmatch(value):
        raise Wrong("is no absolute URI")


def uid(value: Any) -> None:
    """A DICOM UID."""
    if type(value) is not str or not is_uid(value):
        raise Wrong("is no UID")


def whole(value: Any) -> None:
    """FHIR's unsignedInt."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise Wrong("is no whole number that FHIR takes")


def number(value: Any) -> None:
    """FHIR's decimal: it has neither NaN nor infinity."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Wrong("is no number")


def positive(value: Any) -> None:
    """A number above zero."""
    number(value)
    if value <= 0:
        raise Wrong("is not above zero")


def truth(value: Any) -> None:
    """FHIR's boolean."""
    if type(value) is not bool:
        raise Wrong("is neither true nor false")


def day(value: Any) -> None:
    """A date without a time."""
    try:
        if date.fromisoformat(value).isoformat() == value:
            return
    except (ValueError, TypeError):
        pass
    raise Wrong("is no date")


def moment(value: Any) -> None:
    """FHIR's instant: a time to the second at least, with its offset from UTC."""
    try:
        if (
            "T" in value
            and len(value) >= 20
            and datetime.fromisoformat(value).utcoffset() is not None
        ):
            return
    except (ValueError, TypeError):
        pass
    raise Wrong("is no time with an offset")


def one_of(*values: str) -> Kind:
    """One of these words."""
    known = frozenset(values)

    def check(value: Any) -> None:
        if type(value) is not str or value not in known:
            raise Wrong("is none of the words that it may be")

    return check


def several(kind: Kind, most: int | None = None) -> Kind:
    """A list of at least one."""

    def check(value: Any) -> None:
        if type(value) is not list or not value or (most and len(value) > most):
            raise Wrong("is no list of as many as it has to be")
        for place, one in enumerate(value):
            try:
                kind(one)
            except Wrong as wrong:
                raise wrong.below(f"[{place}]") from None

    return check


def record(required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Kind:
    """An object with all of these, perhaps some of those, and nothing else."""
    known = {**required, **(optional or {})}

    def check(value: Any) -> None:
        if type(value) is not dict or not value:
            raise Wrong("is no object")
        for name in required:
            if name not in value:
                raise Wrong("is missing").below(name)
        for name, part in value.items():
            kind = known.get(name)
            if kind is None:
                raise Wrong("is not known").below(name)
            try:
                kind(part)
            except Wrong as wrong:
                raise wrong.below(name) from None

    return check


def coding(system: str, *codes: str) -> Kind:
    """One of these codes of a system; any, if none is given."""
    known = frozenset(codes)
    one = record(
        {"system": one_of(system), "code": one_of(*codes) if codes else text}, {"display": text}
    )

    def check(value: Any) -> None:
        # Two thirds of all elements are codings; this is what they are if nothing is wrong.
        if type(value) is dict and len(value) == 3 and value.get("system") == system:
            code, display = value.get("code"), value.get("display")
            if type(code) is str and (code in known or not known) and type(display) is str:
                text(code)
                text(display)
                return
        one(value)

    return check


def seen_before(kind: Kind) -> Kind:
    """The same, remembering what was right: an archive names the same few hundred things always."""
    right: set[bytes] = set()

    def check(value: Any) -> None:
        try:
            text_of_it = orjson.dumps(value)
        except TypeError:
            raise Wrong("is nothing that JSON can say") from None
        if text_of_it in right:
            return
        kind(value)
        if len(right) < REMEMBERED:
            right.add(text_of_it)

    return check


def told_by(name: str, kinds: Mapping[str, Kind], otherwise: Kind) -> Kind:
    """The one of these kinds that the element `name` tells."""

    def check(value: Any) -> None:
        told = value.get(name) if type(value) is dict else None
        (kinds.get(told, otherwise) if type(told) is str else otherwise)(value)

    return check


def concept(system: str, *codes: str) -> Kind:
    """One code, as a CodeableConcept."""
    return record({"coding": several(coding(system, *codes), most=1)}, {"text": text})


def quantity(value: Kind, *codes: str) -> Kind:
    """A number with one of these UCUM units."""
    required = {"value": value, "system": one_of(naming.UCUM), "code": one_of(*codes)}
    return record(required, {"unit": text})


def identifier(system: Kind) -> Kind:
    """A value in a system."""
    return record(
        {"system": system, "value": text},
        {"use": one_of("usual", "official", "temp", "secondary", "old"), "type": _UID_TYPE},
    )


_UID_TYPE = concept(naming.DCM, "110180")
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
        {"type": _UID_TYPE, "system": one_of(naming.DICOM_UID), "value": _urn_of_uid},
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
            "numberOfSeries": whole,
            "series": several(series),
        },
        {"started": day, "numberOfInstances": whole},
    )


def _urn_of_uid(value: Any) -> None:
    if type(value) is not str or not value.startswith("urn:oid:") or not is_uid(value[8:]):
        raise Wrong("is no UID as urn:oid:")


def _structure(ours: Naming) -> Kind:
    """SNOMED CT and RadLex as far as they have it, then our own name, always."""
    own = coding(ours.labels)
    theirs = {system: coding(system) for system in (naming.SNOMED, naming.RADLEX)}
    each = several(told_by("system", theirs, own), most=3)

    def codings(value: Any) -> None:
        each(value)
        systems = [one["system"] for one in value]
        if len(set(systems)) != len(systems) or ours.labels not in systems:
            raise Wrong("does not have our own name once, and each system at most once")

    return seen_before(record({"coding": codings}, {"text": text}))


def _body_structure(ours: Naming) -> Kind:
    volume = record({"url": one_of("volume"), "valueQuantity": quantity(positive, "mm3")})
    units = quantity(number, "[hnsf'U]", "[arb'U]")
    mean = record({"url": one_of("meanIntensity"), "valueQuantity": units})
    cut = record(
        {"url": one_of("cut"), "valueCode": one_of(*(side for axis in AXES for side in axis))}
    )
    parts = {"meanIntensity": mean, "cut": cut}
    each = several(told_by("url", parts, volume), most=8)

    def measured(value: Any) -> None:
        each(value)
        names = [one["url"] for one in value]
        if names.count("volume") != 1 or names.count("meanIntensity") > 1:
            raise Wrong("does not have one volume and at most one mean")

    measurement = record({"url": one_of(ours.measurement), "extension": measured})
    side = seen_before(concept(naming.SNOMED, *(code for code, _ in SIDES.values())))
    structure = record(
        {"structure": _structure(ours)},
        {"extension": several(measurement, most=1), "laterality": side},
    )
    annotation = identifier(one_of(ours.identifiers("series-annotation")))
    return _resource(
        "BodyStructure",
        ours.profile("tomodex-body-structure"),
        {
            "identifier": several(annotation, most=1),
            "active": truth,
            "includedStructure": several(structure),
            "patient": _REFERENCE,
        },
        {"description": text},
    )


def _device(ours: Naming) -> Kind:
    name = record({"value": text, "type": one_of("registered-name")}, {"display": truth})
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
            "bodySite": _structure(ours),
            "device": _REFERENCE,
        },
        {"effectiveDateTime": day, "method": concept(naming.SNOMED, "373098007")},
    )
