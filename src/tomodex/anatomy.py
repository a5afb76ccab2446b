"""The vocabulary of structures as a tree: what is part of what, by which names and codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from tomodex.terminology import Group, Structure, Terminology
from tomodex.terminology.vocabulary import stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Something that can be asked for by its name: a structure, or a group of them."""

    name: str  #: our key, such as "kidney_left", "lumbar_spine"
    kind: Literal["structure", "group", "system", "region"]
    display: str  #: for people, such as "Left kidney"
    display_de: str  #: the same in German; "" where there is none
    query: str  #: asks for it in the search language
    laterality: str  #: "left", "right", "" where it has no side
    codes: Mapping[str, str]  #: by scheme: SCT, RADLEX, FMA, UBERON
    synonyms: tuple[str, ...]  #: what people also say, English and German
    parents: tuple[str, ...]  #: names of what it is a part or a kind of, or lies in
    members: tuple[str, ...] = ()  #: names of the structures that a search for it means
    tasks: tuple[str, ...] = ()  #: TotalSegmentator tasks that find it; of a group: ()


@lru_cache(maxsize=4)
def anatomy_of(terminology: Terminology) -> Mapping[str, Named]:
    """Everything that can be asked for, by name: groups first, each in the order of the tables."""
    parents = _parents(terminology)
    said = _synonyms(terminology)
    named = (
        *(_group(group, parents, said) for group in terminology.groups.values()),
        *(_structure(one, parents, said) for one in terminology.structures.values()),
    )
    return {n.name: replace(n, members=terminology.resolve(n.query)) for n in named}


def found_by(text: str, terminology: Terminology) -> Sequence[Named]:
    """What a text means: the groups and structures that go by it; all of them for ""."""
    known = anatomy_of(terminology)
    if not text:
        return tuple(known.values())
    names = set(terminology.resolve(text))
    groups = [n for n in known.values() if n.kind != "structure" and set(n.members) == names]
    return (*groups, *(known[name] for name in terminology.structures if name in names))


def _parents(terminology: Terminology) -> Mapping[str, tuple[str, ...]]:
    """Names of what each is in: by the tables' edges, nearest first where they say so."""
    above: dict[str, list[str]] = {}
    for edge in terminology.edges:
        if edge.relation in ("is_a", "part_of", "located_in"):
            above.setdefault(edge.child, []).append(edge.parent)
    return {child: tuple(dict.fromkeys(parents)) for child, parents in above.items()}


def _synonyms(terminology: Terminology) -> Mapping[str, tuple[str, ...]]:
    said: dict[str, list[str]] = {}
    for synonym in terminology.synonyms:
        said.setdefault(synonym.target, []).append(synonym.text)
    return {target: tuple(dict.fromkeys(texts)) for target, texts in said.items()}


def _group(
    group: Group, parents: Mapping[str, tuple[str, ...]], said: Mapping[str, tuple[str, ...]]
) -> Named:
    codes = (("SCT", group.snomed), ("RADLEX", group.radlex), ("FMA", group.fma))
    return Named(
        name=group.name,
        kind="group" if group.kind == "structure" else group.kind,
        display=group.display,
        display_de="",
        query=group.name,
        laterality="",
        codes=_known((*codes, ("UBERON", group.uberon))),
        synonyms=said.get(group.name, ()),
        parents=parents.get(group.name, ()),
    )


def _structure(
    structure: Structure,
    parents: Mapping[str, tuple[str, ...]],
    said: Mapping[str, tuple[str, ...]],
) -> Named:
    pair = said.get(stem(structure.name), ()) if structure.laterality else ()
    codes = (("SCT", structure.snomed), ("RADLEX", structure.radlex), ("FMA", structure.fma))
    return Named(
        name=structure.name,
        kind="structure",
        display=structure.display,
        display_de=structure.display_de,
        query=structure.name,
        laterality=structure.laterality,
        codes=_known((*codes, ("UBERON", structure.uberon))),
        synonyms=tuple(dict.fromkeys((*said.get(structure.name, ()), *pair))),
        parents=parents.get(structure.name, ()),
        tasks=structure.tasks,
    )


def _known(codes: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    return {scheme: code.rpartition(":")[2] for scheme, code in codes if code}
