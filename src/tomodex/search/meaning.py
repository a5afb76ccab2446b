"""What the parts of a search mean: which structures, which attributes, which numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from tomodex.search.bounds import (
    HU_UNITS,
    UNITS,
    VOLUME_UNITS,
    Bounds,
    Phrase,
    date_interval,
    is_number,
    number_interval,
)
from tomodex.search.complaint import Complaint
from tomodex.search.everyday import ends_of, keyword_of, sex_of, value_of
from tomodex.search.mention import Member, Mention, bounds_of, branches_of, mention_of, phrase_of
from tomodex.search.query import (
    Above,
    And,
    Below,
    Between,
    Has,
    Interval,
    Not,
    Or,
    Shows,
    Term,
)
from tomodex.search.searchable import ASKABLE
from tomodex.search.writing import written

if TYPE_CHECKING:
    from lark import Token, Tree

    from tomodex.terminology import Terminology

State = Literal["any", "complete", "cut"]
Match = Literal["any", "all"]

STATES: dict[str, State] = {
    "whole": "complete",
    "complete": "complete",
    "vollständig": "complete",
    "cut": "cut",
    "angeschnitten": "cut",
    "visible": "any",
}
MEASURES = {"volume": VOLUME_UNITS, "mean": HU_UNITS}

_KEYWORDS = {keyword.casefold(): keyword for keyword in ASKABLE}


class Meaning:
    """Turns the syntax tree of a search into terms, with the names of one terminology."""

    def __init__(self, terminology: Terminology) -> None:
        self._terminology = terminology

    def of(self, tree: Tree[Token]) -> Term | None:
        """The term that a whole search means; None for an empty one.

        Raises:
            Complaint: a name, keyword, number or date means nothing.
        """
        branches = branches_of(tree)
        return self._all(branches) if branches else None

    def _term(self, tree: Tree[Token]) -> Term:
        match tree.data:
            case "disjunction":
                return Or(terms=tuple(map(self._term, branches_of(tree))))
            case "conjunction":
                return self._all(branches_of(tree))
            case "opposite":
                return Not(term=self._term(branches_of(tree)[0]))
            case "compared":
                return self._compared(tree)
            case "one_of":
                return self._one_of(tree)
        return self._about_structures(str(tree.data), [mention_of(b) for b in branches_of(tree)])

    def _all(self, branches: Sequence[Tree[Token]]) -> Term:
        """All of them; "women 40-60" adds its two terms to the others."""
        parts: list[Term] = []
        for branch in branches:
            match self._term(branch):
                case And(terms=terms) if branch.data == "single":
                    parts += terms
                case term:
                    parts.append(term)
        return And(terms=tuple(parts)) if len(parts) > 1 else parts[0]

    def _about_structures(self, kind: str, mentions: Sequence[Mention]) -> Term:
        match kind:
            case "single":
                return self._single(mentions[0])
            case "covers":
                return self._covers(mentions[0])
        subject, landmarks = self._shows(mentions[0]), [self._landmark(m) for m in mentions[1:]]
        match kind:
            case "between":
                return Between(subject=subject, one=landmarks[0], other=landmarks[1])
            case "above":
                return Above(subject=subject, landmark=landmarks[0])
        return Below(subject=subject, landmark=landmarks[0])

    def _single(self, mention: Mention) -> Term:
        member = mention.members[0]
        if mention.bare and sex_of(member.first.words[0]):
            return _people(member)
        if mention.bare and (ranged := _ranged(member)):
            return _has(*ranged)
        return self._shows(mention)

    def _covers(self, mention: Mention) -> Shows:
        if mention.states or mention.quantifier:
            raise Complaint(
                "'covers' takes structures alone: it means all of them, complete",
                mention.start,
                mention.end,
            )
        return self._named(mention, "all", "complete")

    def _landmark(self, mention: Mention) -> Shows:
        shows = self._shows(mention)
        if shows.match == "all" and len(shows.structures) > 1:
            raise Complaint(
                "a landmark is one place: a structure, a group or 'any ...'",
                mention.start,
                mention.end,
            )
        return shows

    def _shows(self, mention: Mention) -> Shows:
        return self._named(mention, _match(mention), _state(mention.states))

    def _named(self, mention: Mention, match: Match, state: State) -> Shows:
        names = sorted({name for member in mention.members for name in self._names(member, match)})
        return Shows(
            structures=tuple(names),
            match=match if len(names) > 1 else "any",
            completeness=state,
            volume_ml=_measured(mention, "volume"),
            mean_hu=_measured(mention, "mean"),
            asked=_asked(mention, match) if len(names) > 1 else "",
        )

    def _names(self, member: Member, match: Match) -> tuple[str, ...]:
        if member.last:
            names = self._run(member.first, member.last)
        else:
            names = self._terminology.resolve(member.first.text) or self._unknown(member.first)
        return self._of_one_task(names) if match == "all" else names

    def _of_one_task(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that TotalSegmentator's task "total" has, if any: no series shows two tasks' all.

        All of the lung is its five lobes, and not also the left lung that the MR task has.
        """
        structures = self._terminology.structures
        total = tuple(name for name in names if structures[name].total_class is not None)
        return total or names

    def _run(self, first: Phrase, last: Phrase) -> tuple[str, ...]:
        span = self._terminology.span
        # "rib 3..7" is short for "rib 3..rib 7".
        spelled = " ".join((*first.words[:-1], last.text))
        names = span(first.text, last.text) or span(first.text, spelled)
        if names:
            return names
        if is_number(last.text):
            self._unnamed_number(first, last)
        for end in (first, last):
            if not self._terminology.resolve(end.text):
                self._unknown(end)
        sentence = "only vertebrae and ribs have an order to run through"
        raise Complaint(sentence, first.start, last.end, (f"all ({first.text}, {last.text})",))

    def _unnamed_number(self, first: Phrase, last: Phrase) -> NoReturn:
        """Complain of "liver 20..60 HU" and of "PatentAge 40..60"."""
        name, low = " ".join(first.words[:-1]), first.words[-1]
        if self._terminology.resolve(name):
            offers = tuple(f"{name} {measure} {low}..{last.text}" for measure in MEASURES)
            raise Complaint("a range of what?", first.start, last.end, offers)
        raise Complaint(
            f"no attribute is called {name!r}", first.start, first.end, _close_keywords(name)
        )

    def _unknown(self, phrase: Phrase) -> NoReturn:
        for length in range(len(phrase.words), 0, -1):
            if keyword := keyword_of(" ".join(phrase.words[:length])):
                _no_comparison(keyword, phrase, " ".join(phrase.words[length:]))
        raise Complaint(
            f"no structure is called {phrase.text!r}",
            phrase.start,
            phrase.end,
            self._offers(phrase),
        )

    def _offers(self, phrase: Phrase) -> tuple[str, ...]:
        """What was probably meant by a name that is none, best first."""
        resolve, words = self._terminology.resolve, phrase.words
        halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
        parted = [f"{one} and {other}" for one, other in halves if resolve(one) and resolve(other)]
        ends = phrase.text.split("-")
        run = len(ends) == 2 and self._terminology.span(ends[0], ends[1])
        runs = ["..".join(ends)] if run else []
        close = self._terminology.suggest(phrase.text, 3)
        return tuple(dict.fromkeys([*runs, *parted, *close, *_close_keywords(phrase.text)]))[:4]

    def _compared(self, tree: Tree[Token]) -> Term:
        words, signed = branches_of(tree)
        phrase, bounds = phrase_of(words), bounds_of(signed)
        keyword = keyword_of(phrase.text)
        if not keyword:
            self._no_attribute(phrase, bounds)
        return _has(keyword, bounds)

    def _one_of(self, tree: Tree[Token]) -> Term:
        words, *values = map(phrase_of, branches_of(tree))
        keyword = keyword_of(words.text)
        if not keyword:
            self._no_attribute(words, Bounds(sign="=", low=values[0], high=None))
        if ASKABLE[keyword] == "text":
            return Has(keyword=keyword, values=tuple(_text_value(keyword, v) for v in values))
        terms = tuple(_has(keyword, Bounds(sign="=", low=v, high=None)) for v in values)
        return Or(terms=terms) if len(terms) > 1 else terms[0]

    def _no_attribute(self, phrase: Phrase, bounds: Bounds) -> NoReturn:
        """Complain of "liver > 1500 ml" and of "SliceThicknes <= 1.5"."""
        comparison = f"{bounds.sign} {bounds.low.text}"
        if self._terminology.resolve(phrase.text):
            offers = tuple(f"{phrase.text} {measure} {comparison}" for measure in MEASURES)
            raise Complaint(f"what of {phrase.text!r}?", phrase.start, bounds.end, offers)
        raise Complaint(
            f"no attribute is called {phrase.text!r}",
            phrase.start,
            phrase.end,
            _close_keywords(phrase.text),
        )


def _no_comparison(keyword: str, phrase: Phrase, rest: str) -> NoReturn:
    offers = (f"{keyword} = {rest or '...'}", f"{keyword} 1..2")
    raise Complaint(f"{keyword} is compared with what?", phrase.start, phrase.end, offers)


def _people(member: Member) -> Term:
    """ "women", "women 40..60", "Frauen Alter 40-60"."""
    sex, *rest = member.first.words
    people = Has(keyword="PatientSex", values=(sex_of(sex),))
    if not rest and not member.last:
        return people
    named = rest if keyword_of(rest[0]) == "PatientAge" else ["PatientAge", *rest]
    first = Phrase(words=tuple(named), start=member.first.start, end=member.first.end)
    ranged = _ranged(Member(first=first, last=member.last))
    if not ranged:
        sentence = f"{sex!r} takes an age, or 'and' before what comes next"
        offers = (f"{sex} 40..60", f"{sex} and {' '.join(rest)}")
        raise Complaint(sentence, member.first.start, member.end, offers)
    return And(terms=(people, _has(*ranged)))


def _ranged(member: Member) -> tuple[str, Bounds] | None:
    """The attribute and range of "PatientAge 40..60", "age 40-60"; None where it is none."""
    phrase, last = member.first, member.last
    if last is None:
        return _hyphened(phrase)
    if keyword := keyword_of(phrase.text):
        offer = f"{keyword} <= {last.text}"
        raise Complaint("the range has no lower end", phrase.start, last.end, (offer,))
    # The lower end may have a unit after it: "age 40 years..60".
    for length in range(len(phrase.words) - 1, 0, -1):
        if keyword := keyword_of(" ".join(phrase.words[:length])):
            low = Phrase(words=phrase.words[length:], start=phrase.start, end=phrase.end)
            return keyword, Bounds(sign="=", low=low, high=last)
    return None


def _hyphened(phrase: Phrase) -> tuple[str, Bounds] | None:
    """A range of numbers as people type it, "age 40-60"; 2020-02 is a month."""
    for length in range(len(phrase.words) - 1, 0, -1):
        keyword, ends = keyword_of(" ".join(phrase.words[:length])), ends_of(phrase.words[length])
        if keyword and ends and ASKABLE[keyword] == "number":
            low, high = ends
            place = {"start": phrase.start, "end": phrase.end}
            return keyword, Bounds(
                sign="=",
                low=Phrase(words=(low,), **place),
                high=Phrase(words=(high, *phrase.words[length + 1 :]), **place),
            )
    return None


def _match(mention: Mention) -> Match:
    """A run is all of its structures, a group any one of them, unless a word says otherwise."""
    if mention.quantifier:
        return "any" if mention.quantifier.lower() == "any" else "all"
    return "all" if mention.members[0].last else "any"


def _state(tokens: Sequence[Token]) -> State:
    states = {STATES[token.lower()] for token in tokens}
    if len(states) > 1:
        start, end = tokens[0].start_pos or 0, tokens[-1].end_pos or 0
        raise Complaint("a structure cannot be both", start, end)
    return states.pop() if states else "any"


def _measured(mention: Mention, measure: str) -> Interval | None:
    """The interval of all that was said of one measure; "volume > 1 volume <= 2" is one."""
    said = [(token, bounds) for token, bounds in mention.measures if token.lower() == measure]
    intervals = [_measure_interval(token, bounds) for token, bounds in said]
    if len(intervals) <= 1:
        return intervals[0] if intervals else None
    low = [i for i in intervals if i.high is None]
    high = [i for i in intervals if i.low is None]
    if len(intervals) != 2 or len(low) != 1 or len(high) != 1:
        token = said[1][0]
        start, end = token.start_pos or 0, said[-1][1].end
        raise Complaint(f"{measure} is said twice", start, end, (f"{measure} 100..200",))
    return Interval(
        low=low[0].low, low_open=low[0].low_open, high=high[0].high, high_open=high[0].high_open
    )


def _measure_interval(token: Token, bounds: Bounds) -> Interval:
    if bounds.sign == "!=":
        raise Complaint(f"{token} takes <, <=, =, >=, > or a range", bounds.start, bounds.end)
    return number_interval(str(token), bounds, MEASURES[token.lower()])


def _has(keyword: str, bounds: Bounds) -> Term:
    term = _has_positively(keyword, bounds)
    return Not(term=term) if bounds.sign == "!=" else term


def _has_positively(keyword: str, bounds: Bounds) -> Has:
    kind = ASKABLE[keyword]
    if bounds.sign in ("=", "!=") and bounds.high is None and bounds.low.words == ("*",):
        return Has(keyword=keyword, values=("*",))
    if kind == "number":
        interval = number_interval(keyword, bounds, UNITS.get(keyword, {}))
        return Has(keyword=keyword, interval=interval)
    if kind == "date":
        return Has(keyword=keyword, interval=date_interval(keyword, bounds))
    if bounds.sign not in ("=", "!=") or bounds.high:
        sentence = f"{keyword} is text, which has no order"
        raise Complaint(sentence, bounds.start, bounds.end, (f"{keyword} = {bounds.low.text}",))
    return Has(keyword=keyword, values=(_text_value(keyword, bounds.low),))


def _text_value(keyword: str, phrase: Phrase) -> str:
    if not phrase.text:
        sentence = "nothing is compared with an empty value"
        raise Complaint(sentence, phrase.start, phrase.end, (f"not {keyword} = *",))
    if len(phrase.words) > 1:
        offer = f'{keyword} = "{phrase.text}"'
        raise Complaint("a value of several words needs quotes", phrase.start, phrase.end, (offer,))
    return value_of(keyword, phrase.text)


def _close_keywords(text: str) -> tuple[str, ...]:
    asked = text.casefold().replace(" ", "")
    parts = [known for known in _KEYWORDS if len(asked) > 2 and asked in known]
    close = difflib.get_close_matches(asked, _KEYWORDS, n=3, cutoff=0.7)
    return tuple(_KEYWORDS[found] for found in dict.fromkeys([*parts[:3], *close]))


def _asked(mention: Mention, match: Match) -> str:
    """How the language writes the structures of a mention, for chips and saved searches."""
    names = ", ".join(_member_text(member) for member in mention.members)
    if mention.listed:
        return f"{match} ({names})"
    default = "all" if mention.members[0].last else "any"
    return names if match == default else f"{match} {names}"


def _member_text(member: Member) -> str:
    ends = (member.first, member.last) if member.last else (member.first,)
    return "..".join(written(end.text) for end in ends)
