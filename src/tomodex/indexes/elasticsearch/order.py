"""Which structure of a series ends below which, as words that are indexed with its document.

The Query DSL cannot compare two fields. So each two structures of a series of which one ends where
the other begins, or lower, become a word:

    liver<heart     the liver's upper end is at the heart's lower end, give or take the tolerance
    liver<<heart    it is further below

With these, everything that is asked about places is a matter of words, and needs no script.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tomodex.search import TOLERANCE_MM

_ROOM = np.float32(TOLERANCE_MM)

#: The field of the words.
FIELD = "below"


def words_of(ends: Mapping[str, tuple[float, float]]) -> list[str]:
    """The words of a series whose structures have these lower and upper ends, mm.

    A series with 31 structures has some 300 words, one with 117 some 5,000.
    """
    names = list(ends)
    # In single precision, as the ends are stored and the embedded index compares them.
    bottom, top = np.array(list(ends.values()), np.float32).reshape(-1, 2).T
    ends_there = top[:, np.newaxis] <= bottom + _ROOM
    ends_before = top[:, np.newaxis] < bottom - _ROOM
    return [
        f"{names[lower]}{'<<' if ends_before[lower, upper] else '<'}{names[upper]}"
        for lower, upper in np.argwhere(ends_there).tolist()
    ]


def is_below(lower: str, upper: str) -> Mapping[str, object]:
    """Clause: one structure ends where the other begins, or lower."""
    return {"terms": {FIELD: [f"{lower}<{upper}", f"{lower}<<{upper}"]}}


def lies_between(subject: str, lower: str, upper: str) -> Mapping[str, object]:
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
