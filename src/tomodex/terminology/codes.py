"""Finding structures by the codes that others use: SNOMED CT, SNOMED-RT, RadLex, FMA, UBERON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tomodex.terminology.structure import SNOMED_SIDES, Group, Laterality, Structure

System = Literal["sct", "rid", "fma", "uberon"]

#: SNOMED CT attribute that a side is post-coordinated with.
LATERALITY = "272741003"

#: DICOM's coding scheme designators (PS3.16 section 8), and the prefixes that people type.
SCHEMES: Mapping[str, System] = {
    **dict.fromkeys(("sct", "snomed", "snomedct", "http://snomed.info/sct"), "sct"),
    **dict.fromkeys(("srt", "snm3", "99sdm"), "sct"),  # codes of SNOMED-RT, translated first
    **dict.fromkeys(("rid", "radlex", "http://radlex.org"), "rid"),
    "fma": "fma",
    **dict.fromkeys(("uberon", "ubr"), "uberon"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignCode:
    """A code that some software writes for a structure, although it means something else."""

    code: str  #: SNOMED CT
    laterality: Laterality
    name: str


class _Use(NamedTuple):
    structure: Structure
    needs_side: bool  #: the code is that of either side
    whole: bool  #: the code is that of the structure, not of a part of it or of one side


class Codes:
    """Which structures and groups a code stands for."""

    def __init__(
        self,
        structures: Mapping[str, Structure],
        groups: Mapping[str, Group],
        srt: Mapping[str, str],
        foreign: Iterable[ForeignCode],
    ) -> None:
        self._structures = structures
        self._srt = srt
        self._uses: dict[tuple[System, str], list[_Use]] = defaultdict(list)
        self._groups: dict[tuple[System, str], list[Group]] = defaultdict(list)
        self._foreign: dict[tuple[str, Laterality], str] = {}
        for s in structures.values():
            for system, code, needs_side, whole in _codes(s):
                self._uses[system, _key(system, code)].append(_Use(s, needs_side, whole))
        for g in groups.values():
            for system, code in _group_codes(g):
                self._groups[system, _key(system, code)].append(g)
        for f in foreign:
            self._foreign[f.code, f.laterality] = f.name

    def meaning(self, scheme: str, code: str) -> tuple[str, ...]:
        """Names of all structures that a code stands for, either side; a group's code is it."""
        base, _, qualifier = code.partition(f":{LATERALITY}=")
        if qualifier:
            names = self.meaning(scheme, base)
            return tuple(
                n for n in names if SNOMED_SIDES.get(self._structures[n].laterality) == qualifier
            )
        key = self._normal(scheme, code)
        if key is None:
            return ()
        groups = self._groups.get(key)
        if groups:
            return tuple(dict.fromkeys(name for g in groups for name in g.members))
        return tuple(dict.fromkeys(use.structure.name for use in self._uses.get(key, ())))

    def find(self, scheme: str, code: str, laterality: Laterality, region: str) -> Structure | None:
        """The one structure that a code, a side and (for a finding) a region stand for."""
        key = self._normal(scheme, code)
        if key is None:
            return None
        place = self._srt.get(region, region)
        uses = [
            use.structure
            for use in self._uses.get(key, ())
            if use.whole and self._fits(use, laterality, place)
        ]
        return (
            _only(uses) or self._known_mistake(key, laterality) or self._only_kind(key, laterality)
        )

    def _normal(self, scheme: str, code: str) -> tuple[System, str] | None:
        system = SCHEMES.get(scheme.casefold().replace("-", "").replace(" ", ""))
        if system is None:
            return None
        key = _key(system, self._srt.get(code.strip().upper(), code))
        return (system, key) if key else None

    def _fits(self, use: _Use, laterality: Laterality, region: str) -> bool:
        own = use.structure.laterality
        if use.structure.site_code:
            return self._is_at(use.structure, laterality, region)
        return laterality == own or (not laterality and not use.needs_side)

    def _is_at(self, finding: Structure, laterality: Laterality, region: str) -> bool:
        """Is `region`, on that side, the site of the finding?"""
        agrees = laterality in ("", finding.laterality)
        if region == finding.site_code:
            return laterality == finding.laterality if finding.site_modifier else agrees
        sites = (use.structure for use in self._uses.get(("sct", region), ()))
        return agrees and any(
            s.snomed == region
            and s.snomed_base == finding.site_code
            and s.laterality == finding.laterality
            for s in sites
        )

    def _known_mistake(self, key: tuple[System, str], laterality: Laterality) -> Structure | None:
        system, code = key
        name = self._foreign.get((code, laterality)) if system == "sct" else None
        return self._structures[name] if name else None

    def _only_kind(self, key: tuple[System, str], laterality: Laterality) -> Structure | None:
        """The one structure that is what the code of a group says, if there is but one."""
        kinds = [self._structures[n] for g in self._groups.get(key, ()) for n in g.kinds]
        return _only([s for s in kinds if s.laterality == laterality])


def _only(structures: list[Structure]) -> Structure | None:
    """The one among them, rather one of task "total"; None where there are several or none."""
    total = [s for s in structures if s.total_class is not None]
    names = {s.same_as or s.name for s in total or structures}
    if len(names) != 1:
        return None
    return next((s for s in total or structures if s.name in names), structures[0])


def _codes(s: Structure) -> Iterable[tuple[System, str, bool, bool]]:
    """(system, code, is it that of either side, is it that of the whole) for each code."""
    if s.snomed:
        yield "sct", s.snomed, bool(s.snomed_modifier), True
        if s.snomed_base != s.snomed:
            yield "sct", s.snomed_base, bool(s.laterality), True
    if s.radlex:
        # Degree 3: the structure is more than the code says.
        yield "rid", s.radlex, bool(s.radlex_modifier), s.radlex_degree != 3
    for part in s.radlex_parts:
        yield "rid", part, False, False
    if s.fma:
        yield "fma", s.fma, s.fma_unsided, True
    if s.uberon:
        yield "uberon", s.uberon, s.uberon_unsided, True


def _group_codes(g: Group) -> Iterable[tuple[System, str]]:
    codes: tuple[tuple[System, str], ...] = (
        ("sct", g.snomed),
        ("rid", g.radlex),
        ("fma", g.fma),
        ("uberon", g.uberon),
    )
    return (pair for pair in codes if pair[1])


def _key(system: System, code: str) -> str:
    """How codes are compared: "FMA:7203", "fma7203" and "7203" are the same."""
    if system == "sct":
        return re.sub(r"\s", "", code)
    return re.sub(r"\D", "", code).lstrip("0")
