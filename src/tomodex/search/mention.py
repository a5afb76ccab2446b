"""What a search says of a structure, as it was typed: names, and words about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tomodex.search.bounds import SIGNS, Bounds, Phrase

if TYPE_CHECKING:
    from lark import Token, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One name, or the first and last name of a run such as T12..L5."""

    first: Phrase
    last: Phrase | None

    @property
    def end(self) -> int:
        return (self.last or self.first).end


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A structure, or several, with everything that was said of it."""

    members: tuple[Member, ...]
    listed: bool  #: the members stood in parentheses
    quantifier: Token | None
    states: tuple[Token, ...]
    measures: tuple[tuple[Token, Bounds], ...]

    @property
    def start(self) -> int:
        return self.members[0].first.start

    @property
    def end(self) -> int:
        return self.members[-1].end

    @property
    def bare(self) -> bool:
        """Nothing but names."""
        return not (self.listed or self.quantifier or self.states or self.measures)


def mention_of(tree: Tree[Token]) -> Mention:
    """What a branch "mention" of the grammar says; articles say nothing."""
    noun, *modifiers = branches_of(tree)
    members = branches_of(noun) if noun.data == "listed" else [noun]
    return Mention(
        members=tuple(_member(member) for member in members),
        listed=noun.data == "listed",
        quantifier=next(iter(_tokens(tree, "QUANTIFIER")), None),
        states=(
            *_tokens(tree, "STATE"),
            *(t for m in modifiers if m.data == "state" for t in _tokens(m, "STATE")),
        ),
        measures=tuple(_measure(m) for m in modifiers if m.data == "measure"),
    )


def phrase_of(tree: Tree[Token]) -> Phrase:
    """The words of a branch "words" or "value", without their quotes."""
    tokens = cast("list[Token]", tree.children)
    return Phrase(
        words=tuple(_unquoted(token) for token in tokens),
        start=tokens[0].start_pos or 0,
        end=tokens[-1].end_pos or 0,
    )


def bounds_of(tree: Tree[Token]) -> Bounds:
    """The comparison of a branch "signed" or "ranged"."""
    sign = str(next(iter(_tokens(tree, "SIGN")), "="))
    low, *high = map(phrase_of, branches_of(tree))
    return Bounds(sign=SIGNS.get(sign, sign), low=low, high=high[0] if high else None)


def branches_of(tree: Tree[Token]) -> list[Tree[Token]]:
    """The parts of a part of the grammar, without its single tokens."""
    from lark import Tree

    return [child for child in tree.children if isinstance(child, Tree)]


def _tokens(tree: Tree[Token], kind: str) -> tuple[Token, ...]:
    from lark import Token

    return tuple(c for c in tree.children if isinstance(c, Token) and c.type == kind)


def _member(tree: Tree[Token]) -> Member:
    first, *last = map(phrase_of, branches_of(tree))
    return Member(first=first, last=last[0] if last else None)


def _measure(tree: Tree[Token]) -> tuple[Token, Bounds]:
    return _tokens(tree, "MEASURE")[0], bounds_of(branches_of(tree)[0])


def _unquoted(token: Token) -> str:
    if token.type != "STRING":
        return str(token)
    return token[1:-1].replace('""', '"')
