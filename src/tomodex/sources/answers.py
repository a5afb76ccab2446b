"""What an archive over a network answers of the series of one study, as listings.

Such an archive lists series, not instances. All that is known of a DICOM SEG object then is which
study it is in: it may refer to any other series there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tomodex.instance import Instance
from tomodex.series import Listing, Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One series, as an archive answers a query."""

    #: What C-FIND or QIDO-RS say of study and series, read as if it were a header
    instance: Instance
    count: int | None  #: Number of Series Related Instances (0020,1209); None: not said


def listings_of(study: Sequence[Answer]) -> Iterator[Listing]:
    """A listing of each series of a study; `study` is all that the archive has of it."""
    stored = sorted(
        (answer.instance.series_uid, 1 if answer.count is None else answer.count)
        for answer in study
        if answer.instance.modality == "SEG"
    )
    for answer in study:
        mine = [] if answer.instance.modality == "SEG" else stored
        yield Listing(
            series=Series(
                series_uid=answer.instance.series_uid,
                study_uid=answer.instance.study_uid,
                patient=answer.instance.patient,
                modality=answer.instance.modality,
                instance_count=answer.count,
                fingerprint=_fingerprint(answer.count, mine),
                segmentations=sum(count for _, count in mine),
                attributes=answer.instance.attributes,
            )
        )


def _fingerprint(count: int | None, segmentations: Sequence[tuple[str, int]]) -> str:
    """A hash of how many instances there are, and of which DICOM SEG series stand beside them."""
    if count is None:
        return ""
    text = "\n".join([str(count), *(f"{uid} {n}" for uid, n in segmentations)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
