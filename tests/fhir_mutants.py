"""A good transaction, and what becomes of it by one mistake each: who has to notice?

`HAPI` stands for its validator with our profiles, `OURS` for the check before sending, `MODELS` for
fhir.resources, which knows shapes alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.annotated import ONE
from tomodex.annotation import annotate
from tomodex.formats.fhir import Naming, indexed_series, transaction
from tomodex.terminology import load_terminology

HAPI, OURS, MODELS = "HAPI", "ours", "fhir.resources"

NAMING = Naming()
_FOUND = dict.fromkeys(("kidney_left", "spleen"), ONE.annotations[0].measurement)
SERIES = replace(ONE, annotations=annotate(_FOUND, load_terminology()))

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake."""

    name: str
    change: Callable[[Document], None]
    noticed_by: frozenset[str]

    def made(self) -> Document:
        """The good transaction with this mistake in it."""
        bundle = good()
        self.change(bundle)
        return bundle


def good() -> Document:
    """A transaction that nobody can say anything against."""
    return copy.deepcopy(transaction(SERIES, [indexed_series(SERIES)], NAMING))


def entry(bundle: Document, kind: str) -> Document:
    """The entry of a type."""
    found: Document = next(e for e in bundle["entry"] if e["resource"]["resourceType"] == kind)
    return found


def part(bundle: Document, path: str) -> tuple[Any, Any]:
    """What holds the element at `Type.name.0.name`, and the key that it has there."""
    kind, *steps = path.split(".")
    where: Any = entry(bundle, kind)["resource"]
    for step in steps[:-1]:
        where = where[int(step)] if step.isdecimal() else where[step]
    last = steps[-1]
    return where, int(last) if last.isdecimal() else last


def without(path: str) -> Callable[[Document], None]:
    """It is not there."""

    def change(bundle: Document) -> None:
        where, key = part(bundle, path)
        del where[key]

    return change


def as_(path: str, value: Any) -> Callable[[Document], None]:
    """It is something else."""

    def change(bundle: Document) -> None:
        where, key = part(bundle, path)
        where[key] = value

    return change


def pointing_at(path: str, kind: str) -> Callable[[Document], None]:
    """It points at the resource of another type."""

    def change(bundle: Document) -> None:
        where, key = part(bundle, path)
        where[key]["reference"] = entry(bundle, kind)["request"]["url"]

    return change


def in_entry(kind: str, name: str, value: Any) -> Callable[[Document], None]:
    """The entry says something else."""

    def change(bundle: Document) -> None:
        entry(bundle, kind)[name] = value

    return change


def _twice(bundle: Document) -> None:
    bundle["entry"].append(copy.deepcopy(entry(bundle, "Patient")))


def _same_structure_twice(bundle: Document) -> None:
    included = entry(bundle, "BodyStructure")["resource"]["includedStructure"]
    included.append(copy.deepcopy(included[0]))


def _no_request(bundle: Document) -> None:
    del entry(bundle, "Device")["request"]


def _unresolved(bundle: Document) -> None:
    gone = "urn:uuid:00000000-0000-4000-8000-000000000000"
    entry(bundle, "ImagingStudy")["resource"]["subject"]["reference"] = gone


def _searchset(bundle: Document) -> None:
    bundle["type"] = "searchset"


def _plain_post(bundle: Document) -> None:
    entry(bundle, "BodyStructure")["request"] = {"method": "POST", "url": "BodyStructure"}


_STRUCTURE = "BodyStructure.includedStructure.0"
_MEASURED = f"{_STRUCTURE}.extension.0.extension"
_SPLEEN_OF_ALL = {"coding": [{"system": "http://snomed.info/sct", "code": "78961009"}]}
_PERSON = [{"family": "Doe"}]


def _mutants() -> dict[str, tuple[Callable[[Document], None], set[str]]]:
    all_three, two = {HAPI, OURS, MODELS}, {HAPI, OURS}
    return {
        "BodyStructure without a patient": (without("BodyStructure.patient"), all_three),
        "BodyStructure that includes nothing": (
            without("BodyStructure.includedStructure"),
            all_three,
        ),
        "BodyStructure without its identifier": (without("BodyStructure.identifier"), two),
        "BodyStructure without active": (without("BodyStructure.active"), two),
        "structure that is not said": (without(f"{_STRUCTURE}.structure"), all_three),
        "structure without our own name": (as_(f"{_STRUCTURE}.structure", _SPLEEN_OF_ALL), two),
        "structure of our system that we do not have": (
            as_(f"{_STRUCTURE}.structure.coding.2.code", "kidney_middle"),
            {HAPI},
        ),
        "SNOMED CT code of no structure": (
            as_(f"{_STRUCTURE}.structure.coding.0.code", "404684003"),
            {HAPI},
        ),
        "structure twice": (_same_structure_twice, two),
        "laterality of the other side": (
            as_(f"{_STRUCTURE}.laterality.coding.0.code", "24028007"),
            two,
        ),
        "laterality that is missing": (without(f"{_STRUCTURE}.laterality"), two),
        "laterality that is no side": (
            as_(f"{_STRUCTURE}.laterality.coding.0.code", "51440002"),
            two,
        ),
        "volume that is missing": (without(f"{_MEASURED}.0"), two),
        "volume of nothing": (as_(f"{_MEASURED}.0.valueQuantity.value", 0.0), two),
        "volume that is no number": (
            as_(f"{_MEASURED}.0.valueQuantity.value", math.nan),
            all_three,
        ),
        "volume in words": (as_(f"{_MEASURED}.0.valueQuantity.value", "large"), all_three),
        "volume in ml": (as_(f"{_MEASURED}.0.valueQuantity.code", "mL"), two),
        "mean in seconds": (as_(f"{_MEASURED}.1.valueQuantity.code", "s"), two),
        "cut on no side": (as_(f"{_MEASURED}.2.valueCode", "outside"), two),
        "extension that nobody defined": (
            as_(f"{_STRUCTURE}.extension.0.url", "https://other.example/extension"),
            two,
        ),
        "ImagingStudy without a subject": (without("ImagingStudy.subject"), all_three),
        "ImagingStudy without a status": (without("ImagingStudy.status"), all_three),
        "ImagingStudy of unknown status": (as_("ImagingStudy.status", "avail"), two),
        "ImagingStudy without its UID": (without("ImagingStudy.identifier"), two),
        "ImagingStudy whose UID is no urn": (
            as_("ImagingStudy.identifier.0.value", "1.2.3"),
            two,
        ),
        "ImagingStudy of no series": (as_("ImagingStudy.series", []), two),
        "ImagingStudy of a body structure": (
            pointing_at("ImagingStudy.subject", "BodyStructure"),
            two,
        ),
        "ImagingStudy that began in local time": (
            as_("ImagingStudy.started", "2026-11-23T10:00:00"),
            all_three,
        ),
        "ImagingStudy that began on no day": (as_("ImagingStudy.started", "2026-02-30"), all_three),
        "series without a UID": (without("ImagingStudy.series.0.uid"), all_three),
        "series whose UID is too long": (as_("ImagingStudy.series.0.uid", "1." + "2" * 64), two),
        "series whose UID is no UID": (as_("ImagingStudy.series.0.uid", "one"), two),
        "series without a modality": (without("ImagingStudy.series.0.modality"), all_three),
        "series of a negative number": (as_("ImagingStudy.series.0.number", -1), all_three),
        "series of an empty number": (as_("ImagingStudy.series.0.number", None), two),
        "Patient with a name": (as_("Patient.name", _PERSON), two),
        "Patient without a pseudonym": (without("Patient.identifier"), two),
        "Patient with an empty pseudonym": (as_("Patient.identifier.0.value", ""), all_three),
        "Patient with an element of no standard": (as_("Patient.mood", "good"), all_three),
        "Device of unknown status": (as_("Device.status", "on"), two),
        "Device without versions": (without("Device.version"), two),
        "Device with a setting of control characters": (
            as_("Device.property.0.valueString", "a\x0cb"),
            {HAPI, OURS},
        ),
        "Provenance without an agent": (without("Provenance.agent"), all_three),
        "Provenance of no target": (without("Provenance.target"), all_three),
        "Provenance of a patient": (pointing_at("Provenance.target.0", "Patient"), two),
        "Provenance recorded in local time": (
            as_("Provenance.recorded", "2026-11-23T10:00:00"),
            all_three,
        ),
        "Provenance whose source is a muse": (as_("Provenance.entity.0.role", "muse"), two),
        "Provenance of an unknown activity": (
            as_("Provenance.activity.coding.0.code", "GUESS"),
            two,
        ),
        "entry without a request": (_no_request, two),
        "entry whose fullUrl is a bare uuid": (
            in_entry("Patient", "fullUrl", "5f0c9f0a-0a0b-4d5e-8f5c-6d1a2b7f4e90"),
            {HAPI, OURS},
        ),
        "entry with an unknown method": (
            in_entry("Patient", "request", {"method": "WRITE", "url": "Patient/one"}),
            {HAPI, OURS},
        ),
        "entry without a url": (in_entry("Patient", "request", {"method": "PUT"}), all_three),
        "entry twice": (_twice, two),
        "entry that a repeat would double": (_plain_post, {OURS}),
        "entry whose url is of another type": (
            in_entry("Patient", "request", {"method": "PUT", "url": "Device/one"}),
            {OURS},
        ),
        "reference to an entry that is not there": (_unresolved, {OURS}),
        "transaction that is a searchset": (_searchset, two),
    }


MUTANTS = [
    Mutant(name=name, change=change, noticed_by=frozenset(by))
    for name, (change, by) in _mutants().items()
]
