"""What things are called: systems, canonical URLs, and ids.

Ids are made from what they stand for, so that a repeat writes the same resource again, whichever
worker, machine or year it comes from. HAPI takes no ids of digits alone; none of these can be.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from functools import lru_cache

SNOMED = "http://snomed.info/sct"
RADLEX = "http://radlex.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
UCUM = "http://unitsofmeasure.org"
MDC = "urn:iso:std:iso:11073:10101"
DICOM_UID = "urn:dicom:uid"
OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
DATA_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
AGENT_TYPE = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
DEVICE_CATEGORY = "http://hl7.org/fhir/device-category"
TARGET_ELEMENT = "http://hl7.org/fhir/StructureDefinition/targetElement"

#: Drawn once; another one would give every resource a new id.
_NAMESPACE = uuid.UUID("5f0c9f0a-0a0b-4d5e-8f5c-6d1a2b7f4e90")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Where a site's own names begin."""

    base: str = "https://fhir.example.org/tomodex"  #: canonical base of profiles and code systems
    patient_system: str = ""  #: system of the patient pseudonyms; "" is one below `base`

    @property
    def labels(self) -> str:
        """Code system of our names of structures, such as kidney_left."""
        return f"{self.base}/CodeSystem/structure"

    @property
    def sides(self) -> str:
        """Code system of the faces of an image."""
        return f"{self.base}/CodeSystem/image-side"

    @property
    def parameters(self) -> str:
        """Code system of what a run was set to."""
        return f"{self.base}/CodeSystem/indexer-parameter"

    @property
    def measurement(self) -> str:
        """The extension that holds a structure's numbers."""
        return f"{self.base}/StructureDefinition/structure-measurement"

    @property
    def patients(self) -> str:
        """System of the patients' pseudonyms."""
        return self.patient_system or self.identifiers("patient-pseudonym")

    def profile(self, name: str) -> str:
        """Canonical URL of a profile."""
        return f"{self.base}/StructureDefinition/{name}"

    def identifiers(self, name: str) -> str:
        """System of identifiers that we give."""
        return f"{self.base}/sid/{name}"

    def id_of(self, kind: str, *parts: str) -> str:
        """The id of a resource of type `kind`, made from what tells it from others."""
        text = "|".join((self.base, kind, *parts))
        return _hashed(text) if kind == "Patient" else _uuid(text)


# A pseudonym is a keyed hash already, so nobody without the key can guess back.
def _hashed(text: str) -> str:
    return f"p-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


# The resources of a series ask for each other's ids.
@lru_cache(maxsize=64)
def _uuid(text: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, text))


def element_id(uid: str) -> str:
    """The id of a series within its ImagingStudy, for Provenance to point at."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]
