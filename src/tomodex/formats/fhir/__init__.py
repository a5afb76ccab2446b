"""An annotated series as HL7 FHIR R5: at most five resources, and the transaction that brings them.

naming.py      systems, canonical URLs and ids that are the same on every machine
resources.py   Patient, ImagingStudy, BodyStructure, Device, Provenance
observing.py   Observations, one for each number, for those who ask
bundle.py      a transaction, by id or by conditions
checking.py    whether it is what our profiles say, before it is sent
shapes.py      of each resource; including.py: of a structure; kinds.py: of a value

What is filled from where, and why: docs/reference/fhir.md.
"""

from __future__ import annotations

from tomodex.formats.fhir.bundle import WriteMode, deletion, told_of, transaction, withdrawal
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.observing import observations
from tomodex.formats.fhir.resources import (
    IndexedSeries,
    Resource,
    Study,
    body_structure,
    device,
    imaging_study,
    indexed_series,
    patient,
    provenance,
    study_of,
)

__all__ = [
    "IndexedSeries",
    "Naming",
    "Resource",
    "Study",
    "WriteMode",
    "body_structure",
    "deletion",
    "device",
    "imaging_study",
    "indexed_series",
    "observations",
    "patient",
    "provenance",
    "study_of",
    "told_of",
    "transaction",
    "withdrawal",
]
