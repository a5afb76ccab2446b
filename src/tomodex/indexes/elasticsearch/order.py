"""Which structure of a series ends below which, as words that are indexed with its document.

The Query DSL cannot compare two fields. So each two structures of a series of which one ends where
the other begins, or lower, become a word in one field:

    liver<heart     the liver's upper end is at the heart's lower end, give or take the tolerance
    liver<<heart    it is further below

In another field all ends stand in a line, as words one after another from foot to head. There a
server finds that any rib ends before any rib begins, between the ends of a vertebra, without every
vertebra and each two ribs being asked for:

    liver[     from here on other structures may end, for the liver to reach down to them
    liver]     the liver's upper end
    [liver     its lower end, the tolerance higher: what ends before it, ends below
    ]liver     up to here other structures may begin, for the liver to reach up to them

With these, everything that is asked about places is a matter of words, and needs no script.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from tomodex.search import TOLERANCE_MM
from tomodex.terminology import load_terminology

Clause = Mapping[str, object]

_ROOM = np.float32(TOLERANCE_MM)

#: The field of the words, and that of the line.
FIELD = "below"
LINE = "line"

#: What stands first where several things are at the same place in a line.
_FROM, _TOP, _INSIDE, _BOTTOM = range(4)


def words_of(ends: Mapping[str, tuple[float, float]]) -> list[str]:
    """The words of a series whose structures have these lower and upper ends, mm.

    A series with 31 structures has some 300 words, one with 117 some 5,000.
    """
    names = list(ends)
    bottom, top = _columns(ends)
    ends_there = top[:, np.newaxis] <= bottom + _ROOM
    ends_before = top[:, np.newaxis] < bottom - _ROOM
    words = [
        f"{names[lower]}{'<<' if ends_before[lower, upper] else '<'}{names[upper]}"
        for lower, upper in np.argwhere(ends_there).tolist()
    ]
    return [*words, *(f"~{names[place]}" for place in _loose(bottom, top))]


def line_of(ends: Mapping[str, tuple[float, float]]) -> str:
    """The line of a series whose structures have these lower and upper ends, mm.

    Of things at the same height that one comes first which need not be lower. A structure that has
    a number, such as a rib, has words of its families beside its own.
    """
    names = list(ends)
    bottom, top = _columns(ends)
    raised, lowered = bottom + _ROOM, bottom - _ROOM
    marks: list[tuple[float, int, float, int, str]] = []
    for at, name in enumerate(names):
        marks.append((lowered[at], _FROM, 0, 0, f"{name}["))
        marks.append((top[at], _TOP, 0, 0, _each(name, "{}]")))
        marks.append((raised[at], _BOTTOM, bottom[at], 0, _each(name, "[{}")))
        # By the comparison as it is made, not by one that comes to the same but for rounding.
        if (reached := bottom[lowered <= top[at]]).size:
            last = reached.max()
            marks.append((last + _ROOM, _BOTTOM, last, 1, f"]{name}"))
    for at in _loose(bottom, top):
        marks += [(end, _INSIDE, 0, 0, f"|{names[at]}|") for end in (top[at], raised[at])]
    return " ".join(mark[-1] for mark in sorted(marks))


def is_below(lower: str, upper: str) -> Clause:
    """Clause: one structure ends where the other begins, or lower."""
    return any_is_below([lower], [upper])


def any_is_below(lower: Collection[str], upper: Collection[str]) -> Clause:
    """Clause: any structure of some ends where any of others begins, or lower."""
    words = [f"{one}{sign}{other}" for one in lower for other in upper for sign in ("<", "<<")]
    return {"terms": {FIELD: words}}


def lies_between(subject: str, lower: str, upper: str) -> Clause:
    """Clause: a structure lies in the stretch between two others, or fills it.

    It fills a stretch where neither landmark ends before it begins.
    """
    inside = [is_below(lower, subject), is_below(subject, upper)]
    beyond = [f"{lower}<<{subject}", f"{subject}<<{upper}"]
    fills = {"bool": {"must_not": [{"terms": {FIELD: beyond}}]}}
    return {
        "bool": {
            "filter": [is_below(lower, upper)],
            "should": [{"bool": {"filter": inside}}, fills],
            "minimum_should_match": 1,
        }
    }


def lies_between_any(subject: str, lower: Collection[str], upper: Collection[str]) -> Clause:
    """Clause: the same of a stretch from any of some structures up to any of others.

    Words say whether it lies inside one. Where it is thinner than the tolerance, they might take it
    to lie between two that overlap; of such a structure the line says it too.
    """
    tops, bottoms = _some("{}]", lower), _some("[{}", upper)
    inside = {
        "bool": {
            "filter": [any_is_below(lower, [subject]), any_is_below([subject], upper)],
            "must_not": [{"term": {FIELD: f"~{subject}"}}],
        }
    }
    loose = _in_line([tops, _word(f"|{subject}|"), bottoms])
    fills = _in_line([_word(f"{subject}["), tops, bottoms, _word(f"]{subject}")])
    return {"bool": {"should": [inside, fills, loose], "minimum_should_match": 1}}


def _columns(
    ends: Mapping[str, tuple[float, float]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Lower and upper ends, in single precision, as they are stored and compared elsewhere too."""
    bottom, top = np.array(list(ends.values()), np.float32).reshape(-1, 2).T
    return bottom, top


def _loose(bottom: npt.NDArray[np.float32], top: npt.NDArray[np.float32]) -> list[int]:
    """Structures so thin that one ends below them and one begins above them which overlap.

    A slice that shows the edge of an organ is such a structure; few series have one.
    """
    ends_there = top[:, np.newaxis] <= bottom + _ROOM
    return [
        at
        for at in np.flatnonzero(top < bottom + _ROOM).tolist()
        if not ends_there[np.ix_(ends_there[:, at], ends_there[at])].all()
    ]


def _each(name: str, form: str) -> str:
    """The words of a structure and of its families."""
    return " ".join(form.format(one) for one in (name, *_families_of(name)))


def _families_of(name: str) -> Sequence[str]:
    """`rib_left_#` of any left rib, and `rib_#` of any rib; nothing of what has no number."""
    stem = name.rstrip("0123456789")
    kind = stem.rstrip("_").rpartition("_")[0]
    return [f"{part}#" for part in (stem, kind and f"{kind}_") if part and stem != name]


@cache
def _families() -> Mapping[str, frozenset[str]]:
    """All structures that are numbered alike, and the largest families first."""
    families: dict[str, frozenset[str]] = {}
    for name in load_terminology().structures:
        for family in _families_of(name):
            families[family] = families.get(family, frozenset()) | {name}
    return dict(sorted(families.items(), key=lambda one: -len(one[1])))


def _some(form: str, names: Collection[str]) -> Clause:
    """The word of any of these structures, where a whole family is one word."""
    left, words = set(names), []
    for family, members in _families().items():
        if members <= left:
            left -= members
            words.append(_word(form.format(family)))
    words += [_word(form.format(name)) for name in names if name in left]
    return words[0] if len(words) == 1 else {"any_of": {"intervals": words}}


def _word(word: str) -> Clause:
    return {"match": {"query": word}}


def _in_line(words: Sequence[Clause]) -> Clause:
    """Clause: these follow each other in the line."""
    return {"intervals": {LINE: {"all_of": {"ordered": True, "intervals": list(words)}}}}
