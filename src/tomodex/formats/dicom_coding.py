"""Our structures as DICOM codes them: a type with its side, or a finding with its site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tomodex.segmenters.dicomseg.naming import OURS
from tomodex.terminology import SNOMED_SIDES, Structure

_SIDES = {code: side.capitalize() for side, code in SNOMED_SIDES.items()}


class Coded(NamedTuple):
    """A coded entry."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedStructure:
    """A structure as PS3.3 C.8.20.4 and PS3.16 TID 1501 want it."""

    category: Coded  #: CID 7150
    kind: Coded
    kind_side: Coded | None  #: None: it has no side, or its site has it
    site: Coded | None  #: where a finding or device is; None: it is where it is
    site_side: Coded | None
    equivalent: Coded | None  #: the same in RadLex, where that has the very same


def coded(structure: Structure) -> CodedStructure:
    """The codes of a structure."""
    return CodedStructure(
        category=_snomed(structure.category_code, structure.category_display),
        kind=_kind(structure),
        kind_side=_side(structure.type_modifier),
        site=_snomed(structure.site_code, structure.site_display) if structure.site_code else None,
        site_side=_side(structure.site_modifier),
        equivalent=_radlex(structure),
    )


def _kind(structure: Structure) -> Coded:
    if structure.snomed_base:
        return _snomed(structure.snomed_base, structure.snomed_base_display)
    return Coded(structure.name, OURS, structure.display[:64])


def _snomed(value: str, display: str) -> Coded:
    """Without the kind of concept that its full name ends on."""
    return Coded(value, "SCT", display.split(" (")[0][:64])


def _side(code: str) -> Coded | None:
    return Coded(code, "SCT", _SIDES[code]) if code else None


def _radlex(structure: Structure) -> Coded | None:
    """RadLex' code, where it says exactly this, side included (ISO/TR 12300 degrees 1 and 2)."""
    if not structure.radlex or structure.radlex_modifier or structure.radlex_degree > 2:
        return None
    return Coded(structure.radlex, "RADLEX", structure.radlex_display[:64])
