"""Questions with a part more or less: what a click on a value or on a structure asks then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tomodex.search import And, Has, Interval, Or, Query, Shows, Term, format
from tomodex.terminology import Terminology


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as the parts that it demands together."""

    parts: tuple[Term, ...]  #: () asks for everything

    @property
    def text(self) -> str:
        """The same in the search language."""
        if not self.parts:
            return ""
        term = And(terms=self.parts) if len(self.parts) > 1 else self.parts[0]
        return format(Query(text="", term=term))

    def without(self, unwanted: Callable[[Term], bool]) -> Question:
        """The question without some of its parts."""
        return Question(parts=tuple(part for part in self.parts if not unwanted(part)))

    def plus(self, *more: Term) -> Question:
        """The question that demands more."""
        return Question(parts=(*self.parts, *more))

    def swapped(self, old: Term, new: Term | None) -> Question:
        """The question with one part changed in its place; None: without it."""
        found = (new if part is old else part for part in self.parts)
        return Question(parts=tuple(part for part in found if part is not None))


def question_of(query: Query) -> Question:
    """The parts of a query."""
    return Question(parts=tuple(_flat(query.term)) if query.term else ())


def _flat(term: Term) -> Iterator[Term]:
    if not isinstance(term, And):
        yield term
        return
    for part in term.terms:
        yield from _flat(part)


def is_about(term: Term, keyword: str) -> bool:
    """Whether a term speaks of this attribute alone."""
    match term:
        case Has():
            return term.keyword == keyword
        case And(terms=terms) | Or(terms=terms):
            return all(is_about(one, keyword) for one in terms)
    return False


def chosen_values(question: Question, keyword: str) -> frozenset[str]:
    """Values of an attribute one of which the question demands, in small letters."""
    return frozenset(
        value.casefold()
        for part in question.parts
        if isinstance(part, Has) and part.keyword == keyword
        for value in part.values
    )


def with_values(question: Question, keyword: str, values: Sequence[str]) -> Question:
    """The question that demands one of these values, whatever it did before; () any."""
    rest = question.without(lambda part: is_about(part, keyword))
    return rest.plus(Has(keyword=keyword, values=tuple(values))) if values else rest


def demands(question: Question, keyword: str, inside: Interval) -> bool:
    """Whether the question speaks of an attribute, and all numbers of an interval fit it."""
    parts = [part for part in question.parts if is_about(part, keyword)]
    return bool(parts) and all(_lets_in(part, inside) for part in parts)


def with_intervals(question: Question, keyword: str, intervals: Iterable[Interval]) -> Question:
    """The question that demands a number in one of these intervals; () any."""
    rest = question.without(lambda part: is_about(part, keyword))
    terms = tuple(Has(keyword=keyword, interval=interval) for interval in intervals)
    if not terms:
        return rest
    return rest.plus(Or(terms=terms) if len(terms) > 1 else terms[0])


def _lets_in(term: Term, inside: Interval) -> bool:
    match term:
        case And(terms=terms):
            return all(_lets_in(one, inside) for one in terms)
        case Or(terms=terms):
            return any(_lets_in(one, inside) for one in terms)
        case Has(interval=Interval() as interval):
            return _holds(interval, inside)
    return False


def _holds(outer: Interval, inner: Interval) -> bool:
    """Whether everything of one interval is in another."""
    return _reaches(outer.low, outer.low_open, inner.low, inner.low_open, -1) and _reaches(
        outer.high, outer.high_open, inner.high, inner.high_open, 1
    )


def _reaches(
    outer: float | str | None,
    outer_open: bool,
    inner: float | str | None,
    inner_open: bool,
    direction: int,
) -> bool:
    """Whether one end of an interval lies at or beyond the same end of another."""
    if outer is None:
        return True
    if inner is None:
        return False
    if outer == inner:
        return not outer_open or inner_open
    beyond = str(outer) > str(inner) if isinstance(outer, str) else outer > float(inner)
    return beyond == (direction > 0)


def shows_of(name: str, terminology: Terminology) -> Shows:
    """The term that asks for a structure by its name, as it is read."""
    names = tuple(sorted(terminology.resolve(name)))
    return Shows(structures=names, asked=name if len(names) > 1 else "")


def asked_part(question: Question, shows: Shows) -> Shows | None:
    """The part that asks for just these structures, however whole; None: none does."""
    for part in question.parts:
        if isinstance(part, Shows) and _is_plain(part) and part.structures == shows.structures:
            return part
    return None


def with_state(shows: Shows, state: str) -> Shows:
    """The same, as whole as asked: "any", "complete", "cut"."""
    match state:
        case "complete":
            return replace(shows, completeness="complete")
        case "cut":
            return replace(shows, completeness="cut")
    return replace(shows, completeness="any")


def _is_plain(shows: Shows) -> bool:
    return shows.volume_ml is None and shows.mean_hu is None
