"""What structures are called and coded: names, synonyms, SNOMED CT, RadLex, groups and order.

The tables are data, reviewed as data, with their sources; see `docs/reference/terminology.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Laterality = Literal["left", "right", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """An anatomical structure that a segmenter can find."""

    name: str  #: our key, the same as TotalSegmentator's class name, such as "kidney_left"
    display: str  #: for people, such as "Left kidney"
    laterality: Laterality
    snomed: str  #: SNOMED CT code to publish, side pre-coordinated where attested
    snomed_display: str
    radlex: str  #: RadLex id; "" where there is none
    radlex_display: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminology:
    """All structures, and how people speak of them."""

    version: str  #: goes into provenance; a change re-annotates without any inference
    structures: Mapping[str, Structure]  #: by name

    def resolve(self, text: str) -> tuple[str, ...]:
        """Names of the structures that `text` means, any one of them; () if it means nothing.

        Text is a name, a synonym (English, German), a group, or a code ("sct:64033007",
        "rid:RID205"), without regard to case, spaces and underscores.
        """
        raise NotImplementedError

    def span(self, first: str, last: str) -> tuple[str, ...]:
        """Names of a run of vertebrae or ribs, such as T12 to L5; () if they make no run."""
        raise NotImplementedError

    def suggest(self, text: str, limit: int = 5) -> Sequence[str]:
        """What was probably meant by a text that resolves to nothing."""
        raise NotImplementedError

    def find_code(self, scheme: str, code: str, laterality: Laterality = "") -> Structure | None:
        """The structure that a coded DICOM segment means, by code and side."""
        raise NotImplementedError


def load_terminology() -> Terminology:
    """Read the packaged tables; the second call is free."""
    raise NotImplementedError
