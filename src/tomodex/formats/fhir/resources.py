"""The five resources of an annotated series, as plain dicts that are ready for JSON.

An element that nothing is known of is left out: FHIR has no empty strings, nulls or NaN.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, lru_cache
from typing import Any

from tomodex.annotation import AnnotatedSeries, Annotation, Coding
from tomodex.formats.fhir import naming
from tomodex.formats.fhir.naming import Naming, element_id

Resource = dict[str, Any]

#: The modalities that are segmented (DICOM CID 33), and what a mean of their voxels is measured in.
MODALITIES: Mapping[str, str] = {
    "CT": "Computed Tomography",
    "MR": "Magnetic Resonance",
    "PT": "Positron emission tomography",
    "NM": "Nuclear Medicine",
}
HOUNSFIELD = ("HU", "[hnsf'U]")
ARBITRARY = ("arb. unit", "[arb'U]")

SIDES: Mapping[str, tuple[str, str]] = {
    "left": ("7771000", "Left"),
    "right": ("24028007", "Right"),
}

#: FHIR's unsignedInt.
MOST = 2**31 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedSeries:
    """What an ImagingStudy says of one of its series; small enough to keep for each of millions."""

    series_uid: str
    modality: str = "CT"
    number: int | None = None  #: Series Number (0020,0011)
    instance_count: int | None = None
    started: str = ""  #: a FHIR date; "" where none is known
    shows_structures: bool = False  #: so that there is a BodyStructure of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What an ImagingStudy says besides its series."""

    study_uid: str
    patient: str  #: pseudonym; "" where the patient is not known
    started: str = ""  #: a FHIR date; "" where none is known


def study_of(annotated: AnnotatedSeries) -> Study:
    """The study that a series belongs to."""
    series = annotated.series
    started = _date(series.attributes.get("StudyDate"))
    return Study(study_uid=series.study_uid, patient=series.patient, started=started)


def indexed_series(annotated: AnnotatedSeries) -> IndexedSeries:
    """What the ImagingStudy will say of a series."""
    series, attributes = annotated.series, annotated.series.attributes
    number = attributes.get("SeriesNumber")
    whole = isinstance(number, int | float) and float(number).is_integer() and 0 <= number <= MOST
    return IndexedSeries(
        series_uid=series.series_uid,
        modality=series.modality or "CT",
        number=int(number)
        if whole and not isinstance(number, str) and number is not None
        else None,
        instance_count=series.instance_count,
        started=_date(attributes.get("SeriesDate")),
        shows_structures=bool(annotated.annotations),
    )


def acquired(annotated: AnnotatedSeries) -> str:
    """The day that a series is of, or else its study, as a FHIR date; "" where none is known."""
    attributes = annotated.series.attributes
    return _date(attributes.get("SeriesDate")) or _date(attributes.get("StudyDate"))


def patient(annotated: AnnotatedSeries, naming_: Naming) -> Resource:
    """The patient, by a pseudonym alone; of a series without one, whoever this study shows."""
    study = study_of(annotated)
    system, value = patient_identifier(study, naming_)
    return {
        "resourceType": "Patient",
        "id": patient_id(study, naming_),
        "meta": {
            "profile": [naming_.profile("tomodex-patient")],
            "security": [_code(naming.OBSERVATION_VALUE, "PSEUDED", "pseudonymized")],
        },
        "identifier": [{"use": "secondary", "system": system, "value": value}],
        "active": True,
    }


def patient_id(study: Study, naming_: Naming) -> str:
    """The id of the Patient whom a study shows."""
    return naming_.id_of("Patient", *patient_identifier(study, naming_))


def patient_identifier(study: Study, naming_: Naming) -> tuple[str, str]:
    """System and value that a patient is known by; of an unknown one, those of the study."""
    if study.patient:
        return naming_.patients, study.patient
    return naming_.identifiers("unknown-patient-of-study"), study.study_uid


def imaging_study(study: Study, indexed: Sequence[IndexedSeries], naming_: Naming) -> Resource:
    """A study with all of its series that are indexed."""
    ordered = sorted(indexed, key=lambda s: (s.number is None, s.number or 0, s.series_uid))
    modalities = sorted({series.modality for series in ordered})
    return {
        "resourceType": "ImagingStudy",
        "id": study_id(study.study_uid, naming_),
        "meta": {"profile": [naming_.profile("tomodex-imaging-study")]},
        "identifier": [
            {
                "use": "official",
                "type": {"coding": [_code(naming.DCM, "110180", "Study Instance UID")]},
                "system": naming.DICOM_UID,
                "value": f"urn:oid:{study.study_uid}",
            }
        ],
        "status": "available",
        "modality": [{"coding": [_modality(modality)]} for modality in modalities],
        "subject": {"reference": f"Patient/{patient_id(study, naming_)}"},
        **({"started": study.started} if study.started else {}),
        # How many series and instances the study has, the index cannot say: it has the wanted ones.
        "series": [_series(series, naming_) for series in ordered],
    }


def study_id(study_uid: str, naming_: Naming) -> str:
    """The id of the ImagingStudy of a study."""
    return naming_.id_of("ImagingStudy", study_uid)


def _series(series: IndexedSeries, naming_: Naming) -> Resource:
    reference = f"BodyStructure/{body_structure_id(series.series_uid, naming_)}"
    return {
        "id": element_id(series.series_uid),
        "uid": series.series_uid,
        **({"number": series.number} if series.number is not None else {}),
        "modality": {"coding": [_modality(series.modality)]},
        **({"numberOfInstances": series.instance_count} if series.instance_count else {}),
        **(
            {"bodySite": {"reference": {"reference": reference}}} if series.shows_structures else {}
        ),
        **({"started": series.started} if series.started else {}),
    }


def body_structure(annotated: AnnotatedSeries, naming_: Naming) -> Resource | None:
    """Everything that was found in a series; None where nothing was (it has to include some)."""
    if not annotated.annotations:
        return None
    unit = HOUNSFIELD if annotated.series.modality in ("CT", "") else ARBITRARY
    return {
        "resourceType": "BodyStructure",
        "id": body_structure_id(annotated.series.series_uid, naming_),
        "meta": {
            "profile": [naming_.profile("tomodex-body-structure")],
            "security": [asserted_by_ai()],
        },
        "identifier": [
            {
                "system": naming_.identifiers("series-annotation"),
                "value": annotated.series.series_uid,
            }
        ],
        "active": True,
        "includedStructure": [_structure(one, unit, naming_) for one in annotated.annotations],
        "description": "Structures found by automatic segmentation in one imaging series",
        "patient": {"reference": f"Patient/{patient_id(study_of(annotated), naming_)}"},
    }


def body_structure_id(series_uid: str, naming_: Naming) -> str:
    """The id of the BodyStructure of a series."""
    return naming_.id_of("BodyStructure", series_uid)


def asserted_by_ai() -> Resource:
    """The security label of what no person has seen."""
    return _code(naming.OBSERVATION_VALUE, "AIAST", "Artificial Intelligence asserted")


def _structure(annotation: Annotation, unit: tuple[str, str], naming_: Naming) -> Resource:
    found = annotation.measurement
    volume = quantity(found.volume_ml * 1000, "mm3", "mm3")
    parts: list[Resource] = [{"url": "volume", "valueQuantity": volume}]
    # The mean of nothing, or of pixels that were NaN, is left out.
    if math.isfinite(found.mean_hu):
        parts.append({"url": "meanIntensity", "valueQuantity": quantity(found.mean_hu, *unit)})
    parts += [{"url": "cut", "valueCode": side} for side in found.cut]
    return {
        "extension": [{"url": naming_.measurement, "extension": parts}],
        "structure": concept(annotation, naming_),
        **_laterality(annotation.laterality),
    }


@cache
def _laterality(side: str) -> Resource:
    coded = SIDES.get(side)
    return {"laterality": {"coding": [_code(naming.SNOMED, *coded)]}} if coded else {}


def concept(annotation: Annotation, naming_: Naming) -> Resource:
    """A structure in SNOMED CT and RadLex as far as they have it, and by our own exact name."""
    return _concept(annotation.structure, annotation.codings, naming_.labels)


# Of the structures of an archive each is named millions of times; nobody may change what is shared.
@lru_cache(maxsize=4096)
def _concept(structure: str, codings: tuple[Coding, ...], labels: str) -> Resource:
    display = structure.replace("_", " ")
    label = _code(labels, structure, display)
    return {"coding": [*map(_coding, codings), label], "text": display}


def quantity(value: float, unit: str, code: str) -> Resource:
    """A number with its UCUM unit, to a tenth."""
    return {"value": round(float(value), 1), "unit": unit, "system": naming.UCUM, "code": code}


def device(annotated: AnnotatedSeries, naming_: Naming) -> Resource:
    """Software, weights and settings that made a result; another combination is another Device."""
    made = annotated.provenance
    algorithm = made.algorithm
    name = f"Tomodex with {algorithm.name}" if algorithm else "Tomodex"
    components = {
        **made.software,
        "terminology": made.terminology,
        **({algorithm.name: algorithm.version} if algorithm else {}),
        **({"weights-sha256": algorithm.weights_sha256} if algorithm else {}),
    }
    settings = {
        "configuration": made.configuration,
        **({"model": algorithm.model, **algorithm.options} if algorithm else {}),
    }
    return {
        "resourceType": "Device",
        "id": device_id(annotated, naming_),
        "meta": {"profile": [naming_.profile("tomodex-device")]},
        "identifier": [
            {
                "system": naming_.identifiers("indexer-configuration"),
                "value": configuration_hash(annotated),
            }
        ],
        "displayName": name,
        "status": "active",
        "name": [{"value": name, "type": "user-friendly-name", "display": True}],
        "category": [{"coding": [_code(naming.DEVICE_CATEGORY, "software", "Software")]}],
        "version": [_version(c, v, naming_) for c, v in _said(components)],
        "property": [_setting(key, value, naming_) for key, value in _said(settings)],
    }


def device_id(annotated: AnnotatedSeries, naming_: Naming) -> str:
    """The id of the Device that made a result."""
    return naming_.id_of("Device", configuration_hash(annotated))


def configuration_hash(annotated: AnnotatedSeries) -> str:
    """SHA-256 of everything that may change a number."""
    made = annotated.provenance
    algorithm = made.algorithm
    return _hash_of(
        tuple(sorted(made.software.items())),
        made.terminology,
        made.configuration,
        (algorithm.name, algorithm.version, algorithm.model, algorithm.weights_sha256)
        if algorithm
        else (),
        tuple(sorted(algorithm.options.items())) if algorithm else (),
    )


# Asked for several times of each series, and mostly the same for all of an archive.
@lru_cache(maxsize=64)
def _hash_of(*facts: object) -> str:
    return f"sha256-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"


def provenance(annotated: AnnotatedSeries, naming_: Naming) -> Resource:
    """Which Device looked at which series, and when; one for each run."""
    made, uid = annotated.provenance, annotated.series.series_uid
    target = (
        f"BodyStructure/{body_structure_id(annotated.series.series_uid, naming_)}"
        if annotated.annotations
        else f"ImagingStudy/{study_id(annotated.series.study_uid, naming_)}"
    )
    return {
        "resourceType": "Provenance",
        "id": naming_.id_of("Provenance", uid, configuration_hash(annotated), made.finished),
        "meta": {"profile": [naming_.profile("tomodex-provenance")]},
        "target": [{"reference": target}],
        "occurredPeriod": {"start": made.started, "end": made.finished},
        "recorded": made.finished,
        "activity": {
            "coding": [_code(naming.DATA_OPERATION, "CREATE", "create")],
            "text": "Anatomical indexing of an imaging series",
        },
        "patient": {"reference": f"Patient/{patient_id(study_of(annotated), naming_)}"},
        "agent": [
            {
                "type": {"coding": [_code(naming.AGENT_TYPE, "assembler", "Assembler")]},
                "who": {"reference": f"Device/{device_id(annotated, naming_)}"},
            }
        ],
        "entity": [
            {
                "role": "source",
                "what": {
                    "extension": [{"url": naming.TARGET_ELEMENT, "valueUri": element_id(uid)}],
                    "reference": f"ImagingStudy/{study_id(annotated.series.study_uid, naming_)}",
                },
            }
        ],
    }


def _said(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Those that say something, as FHIR writes strings: no control characters, no blank ends."""
    for key, value in facts.items():
        if text := _CONTROL.sub(" ", value).strip():
            yield key, text


def _version(component: str, value: str, naming_: Naming) -> Resource:
    return {
        "type": {"coding": [_code(naming.MDC, "531975", "Software revision")]},
        "component": {"system": naming_.identifiers("software-component"), "value": component},
        "value": value,
    }


def _setting(key: str, value: str, naming_: Naming) -> Resource:
    return {"type": {"coding": [_code(naming_.parameters, key)]}, "valueString": value}


def _code(system: str, code: str, display: str = "") -> Resource:
    return {"system": system, "code": code, **({"display": display} if display else {})}


def _coding(coding: Coding) -> Resource:
    return _code(coding.system, coding.code, coding.display)


def _modality(modality: str) -> Resource:
    return _code(naming.DCM, modality, MODALITIES.get(modality, ""))


def _date(value: object) -> str:
    """A day of a header, as FHIR writes it; "" where it is none. No time: headers give no zone."""
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        return ""


def is_uid(text: str) -> bool:
    """Whether `text` can stand where FHIR wants a DICOM UID."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None
