"""Measurements as Observations, two for each structure, for those who want them as such.

Off by default: 1.7 million series would make 100 million of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tomodex.annotation import AnnotatedSeries, Annotation
from tomodex.formats.fhir import naming
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import (
    ARBITRARY,
    HOUNSFIELD,
    Resource,
    acquired,
    asserted_by_ai,
    concept,
    device_id,
    patient_id,
    quantity,
    study_id,
    study_of,
)

VOLUME = {"system": naming.SNOMED, "code": "118565006", "display": "Volume"}
ATTENUATION = {"system": naming.DCM, "code": "112031", "display": "Attenuation Coefficient"}
MEAN = {"system": naming.SNOMED, "code": "373098007", "display": "Mean"}


def observations(annotated: AnnotatedSeries, naming_: Naming) -> Iterator[Resource]:
    """The volume and the mean of every structure, as HL7's "DICOM SR to FHIR" has measurements."""
    unit = HOUNSFIELD if annotated.series.modality in ("CT", "") else ARBITRARY
    for annotation in annotated.annotations:
        found = annotation.measurement
        volume = quantity(found.volume_ml * 1000, "mm3", "mm3")
        yield _observation(annotated, annotation, VOLUME, volume, naming_)
        if math.isfinite(found.mean_hu):
            mean = _observation(
                annotated, annotation, ATTENUATION, quantity(found.mean_hu, *unit), naming_
            )
            yield {**mean, "method": {"coding": [MEAN]}}


def _observation(
    annotated: AnnotatedSeries,
    annotation: Annotation,
    code: Resource,
    value: Resource,
    naming_: Naming,
) -> Resource:
    key = (annotated.series.series_uid, annotation.structure, code["code"])
    day = acquired(annotated)
    return {
        "resourceType": "Observation",
        "id": naming_.id_of("Observation", *key),
        "meta": {
            "profile": [naming_.profile("tomodex-measurement")],
            "security": [asserted_by_ai()],
        },
        "identifier": [
            # Without a bar: HAPI does not find a value that has one, to delete it.
            {"system": naming_.identifiers("series-measurement"), "value": ":".join(key)}
        ],
        "partOf": [{"reference": f"ImagingStudy/{study_id(annotated.series.study_uid, naming_)}"}],
        "status": "final",
        "category": [
            {
                "coding": [
                    {"system": naming.OBSERVATION_CATEGORY, "code": "imaging", "display": "Imaging"}
                ]
            }
        ],
        "code": {"coding": [code]},
        "subject": {"reference": f"Patient/{patient_id(study_of(annotated), naming_)}"},
        **({"effectiveDateTime": day} if day else {}),
        "issued": annotated.provenance.finished,
        "valueQuantity": value,
        "bodySite": concept(annotation, naming_),
        "device": {"reference": f"Device/{device_id(annotated, naming_)}"},
    }
