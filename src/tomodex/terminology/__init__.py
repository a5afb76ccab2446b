"""What structures are called and coded: names, synonyms, SNOMED CT, RadLex, groups and order.

The tables are data, reviewed as data, with their sources; see `docs/reference/terminology.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from tomodex.terminology import tables
from tomodex.terminology.codes import SCHEMES, Codes, ForeignCode
from tomodex.terminology.structure import (
    RADLEX_SIDES,
    SNOMED_SIDES,
    Edge,
    Group,
    Laterality,
    Level,
    Range,
    Structure,
)
from tomodex.terminology.vocabulary import Synonym, Term, Vocabulary, stem

__all__ = [
    "RADLEX_SIDES",
    "SNOMED_SIDES",
    "Edge",
    "Group",
    "Laterality",
    "Level",
    "Range",
    "Structure",
    "Synonym",
    "Term",
    "Terminology",
    "load_terminology",
    "read_terminology",
]

#: Vertebrae and pairs of ribs from head to foot; L6 is a rare variant and in no run.
_RUNS = (
    tuple(
        f"vertebrae_{region}{n}"
        for region, last in (("C", 7), ("T", 12), ("L", 5), ("S", 1))
        for n in range(1, last + 1)
    ),
    tuple(f"rib_{n}" for n in range(1, 13)),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Terminology:
    """All structures, and how people speak of them."""

    version: str  #: goes into provenance; a change re-annotates without any inference
    structures: Mapping[str, Structure]  #: by name
    groups: Mapping[str, Group] = field(default_factory=dict)  #: by name
    edges: tuple[Edge, ...] = ()
    synonyms: tuple[Synonym, ...] = ()
    srt: Mapping[str, str] = field(default_factory=dict)  #: SNOMED-RT -> SNOMED CT code
    foreign_codes: tuple[ForeignCode, ...] = ()
    order: Mapping[str, Level] = field(default_factory=dict)  #: by name of the structure
    ranges: tuple[Range, ...] = ()

    def resolve(self, text: str) -> tuple[str, ...]:
        """Names of the structures that `text` means, any one of them; () if it means nothing.

        Text is a name, a synonym (English, German), a group, or a code ("sct:64033007",
        "rid:RID205"), without regard to case, spaces and underscores. A structure that goes by
        several names in different tasks resolves to all of them.
        """
        scheme, colon, code = text.partition(":")
        if colon and scheme.strip().casefold() in SCHEMES:
            return self._codes.meaning(scheme.strip(), code)
        return self._vocabulary.meaning(text)

    def span(self, first: str, last: str) -> tuple[str, ...]:
        """Names of a run of vertebrae or ribs, such as T12 to L5; () if they make no run.

        From head to foot, whichever end is named first; ribs of both sides if neither has one.
        """
        ends = (self.resolve(first), self.resolve(last))
        sides = {side for names in ends if (side := self._side(names))}
        bases = {_unsided(names) for names in ends}
        for run in _RUNS:
            if len(sides) < 2 and bases <= set(run):
                places = sorted(run.index(base) for base in bases)
                names = (self.resolve(name) for name in run[places[0] : places[-1] + 1])
                return tuple(
                    n
                    for both in names
                    for n in both
                    if not sides or self.structures[n].laterality in sides
                )
        return ()

    def suggest(self, text: str, limit: int = 5) -> Sequence[str]:
        """What was probably meant by a text that resolves to nothing."""
        return self._vocabulary.suggest(text, limit)

    def completions(self, prefix: str, limit: int = 10) -> Sequence[Term]:
        """What a person who has typed `prefix` may want, and which structures that means."""
        return self._vocabulary.complete(prefix, limit)

    def find_code(
        self, scheme: str, code: str, laterality: Laterality = "", region: str = ""
    ) -> Structure | None:
        """The structure that a coded DICOM segment means, by code and side.

        `scheme` is DICOM's: SCT, SRT, FMA, RADLEX or UBERON. A finding (Cyst) needs the code of
        its anatomic region too. None where the code says less than a structure, such as "Artery".
        """
        return self._codes.find(scheme, code, laterality, region)

    def find_group_code(self, scheme: str, code: str) -> tuple[str, ...]:
        """Names of all structures that a code stands for: a group, or either side of a pair."""
        return self._codes.meaning(scheme, code)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Names of the groups that contain a structure: it is found by each of them."""
        return self._ancestors.get(name, ())

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.structures, self.groups, self.synonyms)

    @cached_property
    def _codes(self) -> Codes:
        return Codes(self.structures, self.groups, self.srt, self.foreign_codes)

    @cached_property
    def _ancestors(self) -> Mapping[str, tuple[str, ...]]:
        above: dict[str, tuple[str, ...]] = {}
        for group in self.groups.values():
            for name in group.members:
                above[name] = (*above.get(name, ()), group.name)
        return above

    def _side(self, names: Sequence[str]) -> Laterality:
        """The side that all of them have; "" where there is none."""
        sides = {self.structures[name].laterality for name in names}
        return sides.pop() if len(sides) == 1 else ""


def _unsided(names: Sequence[str]) -> str:
    """The one name that is left without sides: "rib_3" for both; "" for anything else."""
    bases = {stem(name) for name in names}
    return bases.pop() if len(bases) == 1 else ""


@cache
def load_terminology() -> Terminology:
    """Read the packaged tables; the second call is free."""
    return read_terminology(Path(__file__).parent)


def read_terminology(folder: Path) -> Terminology:
    """Read the tables in `folder`."""
    texts = tables.read_texts(folder)
    rows = tables.read_rows(texts)
    structures = tables.structures(rows["structures"])
    edges = tables.edges(rows["edges"])
    return Terminology(
        version=tables.read_version(folder, texts),
        structures=structures,
        groups=tables.groups(rows["groups"], edges, structures),
        edges=edges,
        synonyms=tables.synonyms(rows["synonyms"], rows["numbered"]),
        srt={row["srt_code"]: row["snomed_code"] for row in rows["srt"]},
        foreign_codes=tables.foreign_codes(rows["foreign_codes"]),
        order=tables.order(rows["order"]),
        ranges=tables.ranges(rows["ranges"]),
    )
