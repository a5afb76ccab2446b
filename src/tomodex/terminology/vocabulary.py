"""The words that people have for structures and groups, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from tomodex.terminology.structure import Group, Laterality, Structure
from tomodex.terminology.words import Words, fold

Language = Literal["en", "de", ""]

_SIDE_IN_GERMAN: Mapping[Laterality, str] = {"left": "links", "right": "rechts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Synonym:
    """What people also say for a structure, a group, or both sides of a pair."""

    text: str
    language: Language
    target: str  #: name of a structure or group, or of a pair without its side ("masseter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One wording, and the structures that it means: any one of them."""

    text: str
    language: Language  #: "" for a name of our own
    names: tuple[str, ...]
    paired: bool  #: it may be asked for with a side
    words: Words


class Vocabulary:
    """All wordings; an exact one wins over one with its side taken apart."""

    def __init__(
        self,
        structures: Mapping[str, Structure],
        groups: Mapping[str, Group],
        synonyms: Iterable[Synonym],
    ) -> None:
        self._structures = structures
        self.terms = tuple(_terms(structures, groups, synonyms))
        self._meanings: dict[Words, Term] = {}
        for term in self.terms:
            known = self._meanings.get(term.words)
            # A group that has the name of a structure contains it, and is what is meant.
            if known is None or len(term.names) > len(known.names):
                self._meanings[term.words] = term
        #: Wordings by their words without a side, those that have none first.
        self._by_base: dict[str, list[Term]] = {}
        for term in sorted(self.terms, key=lambda term: term.words.side):
            if term.language:
                self._by_base.setdefault(term.words.base, []).append(term)

    def meaning(self, text: str) -> tuple[str, ...]:
        """Names of the structures that `text` means; () if it means nothing."""
        return self._meaning(fold(text))

    def suggest(self, text: str, limit: int) -> Sequence[str]:
        """Wordings that are spelled like `text`, nearest first, with the side that it has."""
        words = fold(text)
        near = get_close_matches(words.base, self._by_base, n=4 * limit, cutoff=0.6)
        terms = (term for base in near for term in self._by_base[base])
        return [term.text for term in self._distinct(terms, words.side)][:limit]

    def complete(self, prefix: str, limit: int) -> Sequence[Term]:
        """Terms that begin with `prefix`, then those with a word that does; shortest first."""
        words, raw = fold(prefix), prefix.strip().casefold()
        found = [term for term in self.terms if _place(term, words, raw) < 2]
        found.sort(key=lambda term: _place(term, words, raw))
        said = list(self._distinct(found, words.side))
        said.sort(key=lambda t: (_place(t, words, raw), self._is_rare(t), len(t.text)))
        return said[:limit]

    def _distinct(self, terms: Iterable[Term], side: Laterality) -> Iterator[Term]:
        """The terms as they are said with that side, one for each meaning and language."""
        seen: set[tuple[Language, tuple[str, ...]]] = set()
        for term in terms:
            text = self._said(term, side)
            names = self.meaning(text)
            if names and (term.language, names) not in seen:
                seen.add((term.language, names))
                yield replace(term, text=text, names=names)

    def _is_rare(self, term: Term) -> bool:
        return all(self._structures[name].total_class is None for name in term.names)

    def _meaning(self, words: Words) -> tuple[str, ...]:
        exact = self._meanings.get(words)
        if exact:
            return exact.names
        if not words.side:
            sides = [self._meanings.get(Words(words.base, side)) for side in _SIDE_IN_GERMAN]
            return tuple(name for term in sides if term for name in term.names)
        either = self._meanings.get(Words(words.base, ""))
        if not either or not either.paired:
            return ()
        return tuple(n for n in either.names if self._structures[n].laterality == words.side)

    def _said(self, term: Term, side: Laterality) -> str:
        """The wording of `term` for that side."""
        text = term.text
        if term.language == "en" and text[1:2].islower():
            text = text[0].lower() + text[1:]
        if not side or term.words.side == side:
            return text
        return f"{text} {_SIDE_IN_GERMAN[side]}" if term.language == "de" else f"{side} {text}"


def _place(term: Term, words: Words, raw: str) -> int:
    """0 if the term begins so, 1 if one of its words does, 2 if neither."""
    if not term.language:
        # A name of our own is for those who type one.
        return 0 if "_" in raw and term.text.startswith(raw) else 2
    base = term.words.base
    if raw and (
        term.text.casefold().startswith(raw) or (words.base and base.startswith(words.base))
    ):
        return 0
    return 1 if words.base and f" {words.base}" in base else 2


def _terms(
    structures: Mapping[str, Structure], groups: Mapping[str, Group], synonyms: Iterable[Synonym]
) -> Iterator[Term]:
    """Every term, with the words it is compared by; our own names come first."""
    meant = targets(structures, groups)
    for text, language, target in _wordings(structures, groups, synonyms):
        names, paired = meant[target]
        yield Term(text=text, language=language, names=names, paired=paired, words=fold(text))


def _wordings(
    structures: Mapping[str, Structure], groups: Mapping[str, Group], synonyms: Iterable[Synonym]
) -> Iterator[tuple[str, Language, str]]:
    """(text, language, target) of every wording."""
    for s in structures.values():
        yield s.name, "", s.name
        yield from ((text, "en", s.name) for text in _parts(s.display))
        yield from ((text, "de", s.name) for text in _parts(s.display_de))
    for g in groups.values():
        yield g.name, "", g.name
        yield from ((text, "en", g.name) for text in _parts(g.display))
    for synonym in synonyms:
        yield synonym.text, synonym.language, synonym.target


def _parts(display: str) -> list[str]:
    """The wordings in a display: without what is in brackets, each side of a slash, and all."""
    bare = re.sub(r"\s*\([^)]*\)", "", display)
    return list(dict.fromkeys((*bare.split(" / "), display)))


def targets(
    structures: Mapping[str, Structure], groups: Mapping[str, Group]
) -> Mapping[str, tuple[tuple[str, ...], bool]]:
    """What each name means: (names of structures, has it a left and a right)."""
    pairs: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}
    for s in structures.values():
        alike.setdefault(s.same_as or s.name, []).append(s.name)
        if s.laterality:
            pairs.setdefault(stem(s.name), []).append(s.name)
    return {
        **{name: (tuple(names), True) for name, names in pairs.items()},
        **{g.name: (g.members, g.paired) for g in groups.values()},
        **{s.name: (tuple(alike[s.same_as or s.name]), False) for s in structures.values()},
    }


def stem(name: str) -> str:
    """The name of a pair: "rib_1" for "rib_left_1"."""
    return "_".join(part for part in name.split("_") if part not in ("left", "right"))
