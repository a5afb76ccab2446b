"""The page of the vocabulary: what can be asked for, by which names, in how many series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tomodex.access import Asker
from tomodex.cohorts import Anatomy, Cohorts
from tomodex.terminology import Terminology
from tomodex.web.pages.refining import REGIONS

#: Structures found by what is typed, at most.
MOST_FOUND = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Structures of one region, or groups of one kind."""

    key: str
    title: str
    named: Sequence[Anatomy]
    unseen: Sequence[Anatomy] = ()  #: that no series shows


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuresPage:
    """Everything that the page shows."""

    text: str
    parts: Sequence[Part]
    found: Sequence[Anatomy]  #: by what was typed
    seen: int  #: structures that a series shows
    known: int


def structures_page(cohorts: Cohorts, asker: Asker, text: str) -> StructuresPage:
    """The page; a text finds what has it in a name, a synonym or a code."""
    everything = cohorts.anatomy(asker)
    structures = [one for one in everything if one.named.kind == "structure"]
    wanted = text.strip().casefold()
    found = [one for one in everything if wanted and wanted in _words(one)][:MOST_FOUND]
    return StructuresPage(
        text=text,
        parts=() if wanted else _parts(everything, structures, cohorts.terminology),
        found=found,
        seen=sum(bool(one.series) for one in structures),
        known=len(structures),
    )


def _parts(
    everything: Sequence[Anatomy], structures: Sequence[Anatomy], terminology: Terminology
) -> list[Part]:
    by_count = sorted(structures, key=lambda one: (-(one.series or 0), one.named.display))
    regions = {
        region: [
            one for one in by_count if terminology.structures[one.named.name].body_region == region
        ]
        for region in REGIONS
    }
    groups = [one for one in everything if one.named.kind != "structure"]
    parts = [
        Part(
            key=region.lower().replace(" ", "-"),
            title=region,
            named=[one for one in inside if one.series],
            unseen=[one for one in inside if not one.series],
        )
        for region, inside in regions.items()
        if inside
    ]
    return [*parts, Part(key="groups", title="Groups, systems and regions", named=groups)]


def _words(one: Anatomy) -> str:
    named = one.named
    words = (named.name, named.display, named.display_de, *named.synonyms, *named.codes.values())
    return "\n".join(words).casefold()


def also_called(one: Anatomy, most: int = 4) -> list[str]:
    """What else people say, German first, each wording once."""
    words = {word.casefold(): word for word in (one.named.display_de, *one.named.synonyms) if word}
    words.pop(one.named.display.casefold(), None)
    return list(words.values())[:most]
