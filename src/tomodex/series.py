"""A series as an archive describes it, before any pixel is read."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from tomodex.instance import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One DICOM series: the unit we queue, index and find again."""

    series_uid: str  #: Series Instance UID (0020,000E), or one derived from the rest: `2.25.`
    study_uid: str  #: Study Instance UID (0020,000D), or one derived from the rest: `2.25.`
    patient: str  #: keyed pseudonym of the patient, never an identifier
    modality: str  #: (0008,0060)
    sop_classes: tuple[str, ...] = ()  #: those of its instances, sorted
    instance_count: int | None = None  #: None where the archive does not say
    fingerprint: str = ""  #: changes when instances, or DICOM SEG objects that refer to them, come
    #: or go; "" where the archive cannot say
    segmentations: int = 0  #: DICOM SEG objects of the archive that refer to the series
    attributes: Mapping[str, str | float] = field(default_factory=dict)  #: by DICOM keyword


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A series as `Source.find` lists it, with its headers where the archive shows them."""

    series: Series
    instances: tuple[Instance, ...] = ()  #: empty: the archive lists series, not instances


def series_from(
    instances: Sequence[Instance],
    sizes: Sequence[int],
    *,
    series_uid: str,
    study_uid: str,
    segmentation_uids: Sequence[str] = (),
) -> Series:
    """What the headers of a series say of it together; `sizes` are those of their files, bytes.

    `segmentation_uids` are SOP Instance UIDs of the DICOM SEG objects that refer to it.

    Where headers differ, the most frequent text counts, and the median of the numbers: tube
    current changes from slice to slice.
    """
    return Series(
        series_uid=series_uid,
        study_uid=study_uid,
        patient=_most_frequent(instance.patient for instance in instances),
        modality=_most_frequent(instance.modality for instance in instances),
        sop_classes=tuple(sorted({i.sop_class for i in instances if i.sop_class})),
        instance_count=len(instances),
        fingerprint=_fingerprint(instances, sizes, segmentation_uids),
        segmentations=len(segmentation_uids),
        attributes=_common([instance.attributes for instance in instances]),
    )


def derived_uids(instance: Instance, folder: str) -> tuple[str, str]:
    """Series and study UID, made up where the header has none, always the same ones.

    Instances belong together when they lie in one `folder` (its path within the archive) and
    agree in all that tells series apart. UIDs are made from a UUID (PS3.5 B.2).
    """
    first = next(iter(instance.frames), None)
    orientation = [round(x, 3) for x in first.orientation or ()] if first else []
    study_uid = instance.study_uid or _uid(
        "study", instance.series_uid or folder, instance.attributes.get("StudyDate")
    )
    series_uid = instance.series_uid or _uid(
        "series",
        folder,
        study_uid,
        instance.frame_of_reference_uid,
        instance.modality,
        instance.attributes.get("SeriesNumber"),
        instance.rows,
        instance.columns,
        orientation,
        *filter(None, [instance.series_text]),
    )
    return series_uid, study_uid


def _uid(*parts: object) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, repr(parts)).int}"


#: Drawn once; another one would give every series without UID a new name.
_NAMESPACE = uuid.UUID("0b3c5d4e-9a57-4f0e-8a63-5f0d4a1c7e21")


def _fingerprint(
    instances: Iterable[Instance], sizes: Iterable[int], segmentation_uids: Iterable[str]
) -> str:
    """A hash that stays while the same instances are there, wherever and in whatever order.

    The size tells when pixels are replaced, the position tells slices apart whose UIDs are equal.
    """
    lines = {
        f"{instance.sop_uid} {size} {[frame.position_mm for frame in instance.frames[:1]]}"
        for instance, size in zip(instances, sizes, strict=True)
    }
    text = "\n".join([*sorted(lines), *sorted(segmentation_uids)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _common(all_attributes: Sequence[Mapping[str, str | float]]) -> dict[str, str | float]:
    keywords = dict.fromkeys(keyword for one in all_attributes for keyword in one)
    common: dict[str, str | float] = {}
    for keyword in keywords:
        values = [one[keyword] for one in all_attributes if keyword in one]
        numbers = [value for value in values if not isinstance(value, str)]
        common[keyword] = median_low(numbers) if numbers else _most_frequent(map(str, values))
    return common


def _most_frequent(texts: Iterable[str]) -> str:
    """The text that is there most often and not empty; of several, the first in the alphabet."""
    counts = Counter(text for text in texts if text)
    return min(counts, key=lambda text: (-counts[text], text), default="")
