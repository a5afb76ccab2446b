"""What a person who is typing a question may want next: names, codes, attributes, words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tomodex.anatomy import anatomy_of
from tomodex.chips import NAMES
from tomodex.search import SEARCHABLE
from tomodex.search.everyday import keyword_of
from tomodex.search.syntax import is_plain
from tomodex.terminology import Terminology
from tomodex.terminology.codes import SCHEMES

#: Characters before the cursor that are looked at; no name is half as long.
MOST_LOOKED_AT = 300

#: Values of an attribute that begin with a text, most frequent first.
Values = Callable[[str, str], Iterable[tuple[str, int | None]]]

#: Words after which something new begins.
_BEGIN = re.compile(
    r"""(?:^|[(,]|(?<![\w*-])(?:and|und|or|oder|not|nicht|between|zwischen|above|oberhalb|below
    |unterhalb|covers|covering|the|an?|any|all|both|every|whole|complete|cut|visible|shows
    |showing|with|to|bis)(?![\w*-])|\.\.|…)\s*""",
    re.IGNORECASE | re.VERBOSE,
)
#: Words that want something after them, so that nothing is joined there.
_BEGIN_ONLY = re.compile(
    r"(?:.*[(,=<>])?|and|und|or|oder|not|nicht|between|zwischen|above|oberhalb|below|unterhalb"
    r"|covers|covering|the|an?|any|all|both|every|shows|showing|with|to|bis|in",
    re.IGNORECASE,
)
#: An attribute, a sign, and the beginning of a value.
_COMPARED = re.compile(r"""([\w ]*\w)\s*(?:!=|==?|≠)\s*(["“„]?)([^"“”„<>=,()]*)$""")
_LISTED = re.compile(r"""([\w ]*\w)\s+in\s*\((?:[^()]*,)?\s*(["“„]?)([^"“”„<>=,()]*)$""", re.I)

#: What may follow a structure, with what it means.
AFTER_STRUCTURE: Mapping[str, str] = {
    "complete": "whole inside the image",
    "cut": "touches the border of the image",
    "volume >": "its volume, in ml",
    "mean >": "its mean, in HU",
    "and": "and also",
    "or": "or else",
    "between": "lies between two others",
    "above": "lies above another",
    "below": "lies below another",
}
AFTER_ANYTHING: Mapping[str, str] = {"and": "and also", "or": "or else"}
BEFORE_STRUCTURE: Mapping[str, str] = {
    "not": "is not so",
    "covers": "all of a run, whole",
    "any": "any one of a group",
    "all": "every one of a group",
    "whole": "whole inside the image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Something that may be typed next."""

    text: str  #: takes the place of the question's characters from `start` to `end`
    label: str  #: what it is, for a person
    kind: Literal["structure", "group", "code", "attribute", "value", "operator"]
    start: int
    end: int  #: the cursor
    count: int | None = None  #: how many series have it; None: not counted, or withheld


def complete(
    text: str, cursor: int, terminology: Terminology, values: Values, limit: int
) -> tuple[Completion, ...]:
    """What may come at the cursor, likeliest first."""
    before = text[max(0, cursor - MOST_LOOKED_AT) : cursor]
    found = _all(before, cursor, terminology, values, limit)
    return tuple(_first(found, limit))


def _all(
    before: str, cursor: int, terminology: Terminology, values: Values, limit: int
) -> Iterator[Completion]:
    compared = _compared(before, cursor, values)
    if compared is not None:
        yield from compared
        yield from _joints(before, cursor)
        return
    typed = before[_start_of_name(before) :]
    start = cursor - len(typed)
    words = typed.rstrip()
    if words and words != typed and terminology.resolve(words):
        yield from _words(AFTER_STRUCTURE, "", cursor, cursor)
        return
    if words and (opened := _after_name(words, terminology)):
        yield from _words(AFTER_STRUCTURE, opened, cursor - len(opened), cursor)
    yield from _structures(typed, start, cursor, terminology, limit)
    yield from _attributes(typed, start, cursor)
    yield from _joints(before, cursor)
    yield from _words(BEFORE_STRUCTURE, typed, start, cursor)


def _joints(before: str, cursor: int) -> Iterator[Completion]:
    """Words that join the next part to what stands before the last word."""
    words = before.split(" ")
    if len(words) > 1 and _BEGIN_ONLY.fullmatch(words[-2]) is None:
        yield from _words(AFTER_ANYTHING, words[-1], cursor - len(words[-1]), cursor)


def _first(found: Iterable[Completion], limit: int) -> Iterator[Completion]:
    seen: set[str] = set()
    for one in found:
        if len(seen) < limit and one.text not in seen:
            seen.add(one.text)
            yield one


def _start_of_name(before: str) -> int:
    return max((match.end() for match in _BEGIN.finditer(before)), default=0)


def _after_name(words: str, terminology: Terminology) -> str:
    """The last word, if those before it name a structure: "liver comp"."""
    name, _, last = words.rpartition(" ")
    return last if name and terminology.resolve(name) else ""


def _compared(before: str, cursor: int, values: Values) -> Iterator[Completion] | None:
    """Values of the attribute that stands before a sign; None where none does."""
    match = _COMPARED.search(before) or _LISTED.search(before)
    if match is None:
        return None
    keyword = _keyword(match[1])
    if SEARCHABLE.get(keyword) != "text":
        return iter(())
    typed = match[3]
    start = cursor - len(typed) - len(match[2])
    return (
        Completion(
            text=_written(value), label=keyword, kind="value", start=start, end=cursor, count=count
        )
        for value, count in values(keyword, typed.strip())
    )


def _keyword(words: str) -> str:
    """The attribute that the last of these words name; "" for none."""
    parts = words.split()[-3:]
    named = (keyword_of(" ".join(parts[place:])) for place in range(len(parts)))
    return next(filter(None, named), "")


def _structures(
    typed: str, start: int, end: int, terminology: Terminology, limit: int
) -> Iterator[Completion]:
    prefix = typed.strip()
    scheme, colon, code = prefix.partition(":")
    if colon and scheme.casefold() in SCHEMES:
        yield from _coded(scheme, code, start, end, terminology, limit)
        return
    for term in terminology.completions(prefix, limit) if prefix else ():
        one = len(term.names) == 1
        yield Completion(
            text=term.text,
            label=terminology.structures[term.names[0]].display
            if one
            else f"any of {len(term.names)} structures",
            kind="structure" if one else "group",
            start=start,
            end=end,
        )


def _coded(
    scheme: str, code: str, start: int, end: int, terminology: Terminology, limit: int
) -> Iterator[Completion]:
    asked = {"sct": "SCT", "snomed": "SCT", "rid": "RADLEX", "radlex": "RADLEX"}
    kind = asked.get(scheme.casefold(), scheme.upper())
    known = [
        (named.codes[kind], named)
        for named in anatomy_of(terminology).values()
        if named.codes.get(kind, "").casefold().startswith(code.strip().casefold())
    ]
    for value, named in sorted(known, key=lambda pair: pair[0])[:limit]:
        yield Completion(
            text=f"{scheme}:{value}", label=named.display, kind="code", start=start, end=end
        )


def _attributes(typed: str, start: int, end: int) -> Iterator[Completion]:
    prefix = typed.strip().casefold()
    if not prefix:
        return
    for keyword in SEARCHABLE:
        name = NAMES.get(keyword, keyword)
        if keyword.casefold().startswith(prefix) or name.casefold().startswith(prefix):
            yield Completion(text=keyword, label=name, kind="attribute", start=start, end=end)


def _words(words: Mapping[str, str], typed: str, start: int, end: int) -> Iterator[Completion]:
    for word, meaning in words.items():
        if word.startswith(typed.strip().casefold()):
            yield Completion(text=word, label=meaning, kind="operator", start=start, end=end)


def _written(value: str) -> str:
    """A value as the language writes it, in quotes where it is not one plain word."""
    if is_plain(value, 1):
        return value
    escaped = value.replace('"', '""')
    return f'"{escaped}"'
