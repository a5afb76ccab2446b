"""A series as an archive describes it, before any pixel is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tomodex.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One DICOM series: the unit we queue, index and find again."""

    series_uid: str  #: Series Instance UID (0020,000E), or one derived from the rest: `2.25.`
    study_uid: str  #: Study Instance UID (0020,000D)
    patient: str  #: keyed pseudonym of the patient, never an identifier
    modality: str  #: (0008,0060)
    sop_classes: tuple[str, ...] = ()  #: those of its instances, sorted
    instance_count: int | None = None  #: None where the archive does not say
    fingerprint: str = ""  #: changes when instances come or go; "" where the archive cannot say
    attributes: Mapping[str, str | float] = field(default_factory=dict)  #: by DICOM keyword


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A series as `Source.find` lists it, with its headers where the archive shows them."""

    series: Series
    instances: tuple[Instance, ...] = ()  #: empty: the archive lists series, not instances
