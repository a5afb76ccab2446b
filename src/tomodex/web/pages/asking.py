"""What a question speaks of: its structures, and stretches of the body between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tomodex.search import Above, And, Below, Between, Or, Shows, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What must be in an image, not what must be missing."""

    #: Names of structures, in their order; what is looked for before what it is near to.
    structures: tuple[str, ...] = ()
    framed: tuple[str, ...] = ()  #: those of them that are looked for themselves
    stretches: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()  #: between any of each


NOTHING = Asked()


def asked_of(term: Term | None) -> Asked:
    """What a question speaks of."""
    leaves = tuple(_leaves(term)) if term else ()
    framed = [name for leaf in leaves if isinstance(leaf, Shows) for name in leaf.structures]
    return Asked(
        structures=tuple(dict.fromkeys(name for leaf in leaves for name in _names(leaf))),
        framed=tuple(dict.fromkeys(framed)),
        stretches=tuple(
            (frozenset(leaf.one.structures), frozenset(leaf.other.structures))
            for leaf in leaves
            if isinstance(leaf, Between)
        ),
    )


def _leaves(term: Term) -> Iterator[Shows | Between | Above | Below]:
    match term:
        case And(terms=terms) | Or(terms=terms):
            for one in terms:
                yield from _leaves(one)
        case Shows() | Between() | Above() | Below():
            yield term


def _names(leaf: Shows | Between | Above | Below) -> tuple[str, ...]:
    match leaf:
        case Shows():
            return leaf.structures
        case Between():
            landmarks = (*leaf.one.structures, *leaf.other.structures)
            return (*leaf.subject.structures, *landmarks)
        case Above() | Below():
            return (*leaf.subject.structures, *leaf.landmark.structures)
