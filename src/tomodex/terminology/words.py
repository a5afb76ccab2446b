"""How what a person types is compared: without case, order of the side, umlauts and plural."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from tomodex.terminology.structure import Laterality

#: No name of a structure is half as long; what is longer means nothing.
MAX_LENGTH = 200

_SIDES: dict[str, Laterality] = {
    **dict.fromkeys(("left", "links", "lt", "li"), "left"),
    **dict.fromkeys(("right", "rechts", "rt", "re"), "right"),
    **{
        stem + end: "left"
        for stem in ("link", "linksseitig")
        for end in ("e", "er", "es", "en", "em")
    },
    **{
        stem + end: "right"
        for stem in ("recht", "rechtsseitig")
        for end in ("e", "er", "es", "en", "em")
    },
}
_ORDINALS = (
    ("first", "erst"), ("second", "zweit"), ("third", "dritt"), ("fourth", "viert"),
    ("fifth", "funft"), ("sixth", "sechst"), ("seventh", "siebt"), ("eighth", "acht"),
    ("ninth", "neunt"), ("tenth", "zehnt"), ("eleventh", "elft"), ("twelfth", "zwolft"),
)  # fmt: skip
_NUMBERS = {
    word: str(n)
    for n, (english, german) in enumerate(_ORDINALS, start=1)
    for word in (english, *(german + end for end in ("e", "er", "es", "en", "em")))
}
_SILENT = frozenset(("of", "the", "sided", "der", "des", "den", "dem", "die", "das"))
_TOKEN = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b|([^\W\d_]+|\d+)")


class Words(NamedTuple):
    """A text reduced to what tells it apart."""

    base: str  #: its words without the side, in their order; "" where nothing is left
    side: Laterality


def fold(text: str) -> Words:
    """Reduce `text`: "Linke Nieren", "NIERE, links" and "niere_links" become the same.

    Words and numbers part ("LWK1" is "LWK 1"), ordinals become numbers ("1st", "erste", "1." are
    "1"), umlauts lose their dots or their e, and an English plural its s.
    """
    if len(text) > MAX_LENGTH:
        return Words("", "")
    tokens = [m[1] for m in _TOKEN.finditer(_plain(text)) if m[1]]
    sides = {_SIDES[token] for token in tokens if token in _SIDES}
    if len(sides) > 1:
        return Words("", "")
    base = " ".join(_singular(t) for t in tokens if t not in _SIDES and t not in _SILENT)
    return Words(base, sides.pop() if sides else "")


def _plain(text: str) -> str:
    """Lower-case letters without accents; "ä" and "ae" both become "a"."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in letters if not unicodedata.combining(c))
    return re.sub(r"(?<=[aou])e", "", bare)


def _singular(token: str) -> str:
    if token in _NUMBERS:
        return _NUMBERS[token]
    if len(token) > 4 and token.endswith("ies"):
        return token[:-3] + "y"
    if len(token) > 3 and token.endswith("s") and not token.endswith(("ss", "us", "is")):
        return token[:-1]
    return token
