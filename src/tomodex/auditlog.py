"""Who asked what, and what became known to them: a log that cannot be changed unnoticed.

Lines of JSON, each with the hash of the one before. Whoever changes, removes or adds a line within
it breaks the chain. Whoever cuts off its end, or writes all of it anew, does not; so the newest
hash, the head, is kept somewhere else now and then, and verified against.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import orjson

from tomodex.access import Asker
from tomodex.errors import Misconfigured, Unavailable

Act = Literal[
    "count",  # numbers of a query
    "query",  # series of a query
    "export",  # a file of series
    "save",  # a cohort was kept
    "delete",  # a saved cohort was forgotten
    "sql",
    "segment",  # masks were made
    "identify",  # whose a pseudonym is
    "erase",
    "opt-out",
    "opt-in",
    "login",
    "logout",
    "refused",  # something that the asker may not
    "repaired",  # the end of the log was not written whole, and was taken off
]

#: What the first entry follows.
BEGIN = "0" * 64

#: Characters of a text that are kept; no question is longer.
MOST_TEXT = 100_000

#: DICOM UIDs, of which all that are in use have some parts, or begin with 2.25 (PS3.5 B.2).
UID = re.compile(r"(?<![\w.])(?:2\.25\.\d{6,}|[0-2](?:\.\d+){4,})")

#: Octets that are read at a time to find the last line.
BLOCK = 65_536

Fact = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One act of one asker."""

    number: int  #: from 1
    at: str  #: RFC 3339, UTC
    who: str
    roles: tuple[str, ...]
    act: str
    text: str  #: the query, or the reason that was given
    facts: Mapping[str, Fact]  #: how much it was, the SHA-256 of an export; no patient
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a log is as it was written."""

    entries: int  #: that are whole, from the first one on
    head: str  #: the hash of the last of them
    broken: str = ""  #: what is wrong with the next one; "": nothing
    head_found: bool = True  #: the head that was kept elsewhere is one of them


class Audit(Protocol):
    """Remembers acts."""

    def write(self, asker: Asker, act: Act, text: str = "", **facts: Fact) -> None:
        """Remember an act, safely.

        Raises:
            Unavailable: it cannot be remembered, so what was asked for is not to be done.
        """


class AuditLog:
    """`audit.jsonl` in the data folder; any number of processes and threads write it.

    As no line can be changed, none names a series: an erasure would not reach it.

    Args:
        file: the log.
        mark: what a UID is called in it; always the same for the same.
    """

    def __init__(self, file: Path, mark: Callable[[str], str] = str) -> None:
        self._file = file
        self._mark = mark

    def marked(self, text: str) -> str:
        """A text as it stands in the log: with marks in the place of UIDs."""
        return UID.sub(lambda found: f"uid:{self._mark(found[0])}", text)

    def write(self, asker: Asker, act: Act, text: str = "", **facts: Fact) -> None:
        said = self.marked(text[:MOST_TEXT])
        shown = {k: self.marked(v) if isinstance(v, str) else v for k, v in facts.items()}
        with self._held() as log:
            torn = _cut_torn_end(log)
            if torn:
                _append(log, asker, "repaired", "", {"octets": torn})
            _append(log, asker, act, said, shown)
            log.flush()
            os.fsync(log.fileno())

    def entries(self) -> Iterator[Entry]:
        """All of them, oldest first, sound or not; what is no entry is left out."""
        for line in self._lines():
            entry = _entry(line)
            if entry:
                yield entry

    def verify(self, head: str = "") -> Verdict:
        """Follow the chain; `head` is a hash that was kept elsewhere."""
        previous, number, found = BEGIN, 0, head in ("", BEGIN)
        for line in self._lines():
            wrong = _wrong(line, previous, number + 1)
            if wrong:
                return Verdict(entries=number, head=previous, broken=wrong, head_found=found)
            previous, number = str(orjson.loads(line)["hash"]), number + 1
            found = found or previous == head
        return Verdict(entries=number, head=previous, head_found=found)

    def _lines(self) -> Iterator[bytes]:
        if not self._file.exists():
            return
        try:
            with self._file.open("rb") as log:
                yield from log
        except OSError as refused:
            raise Misconfigured(f"cannot read {self._file}: {refused.strerror}") from refused

    @contextmanager
    def _held(self) -> Iterator[BinaryIO]:
        try:
            descriptor = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as log:
                fcntl.flock(log, fcntl.LOCK_EX)
                yield log
        except OSError as refused:
            raise Unavailable(
                f"the audit log {self._file} cannot be written: {refused.strerror}; nothing is "
                "answered without it"
            ) from refused


class NoAudit:
    """Remembers nothing: for tests, and for questions that the product asks itself."""

    def write(self, asker: Asker, act: Act, text: str = "", **facts: Fact) -> None:
        pass


def _append(log: BinaryIO, asker: Asker, act: Act, text: str, facts: Mapping[str, Fact]) -> None:
    last = _entry(_last_line(log))
    content = {
        "number": last.number + 1 if last else 1,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": asker.name,
        "roles": sorted(asker.roles),
        "act": act,
        # Half a character has no UTF-8.
        "text": text.encode(errors="replace").decode(),
        "facts": dict(facts),
        "previous": last.hash if last else BEGIN,
    }
    log.seek(0, os.SEEK_END)
    log.write(_canonical({**content, "hash": _hash(content)}) + b"\n")


def _canonical(content: Mapping[str, object]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _hash(content: Mapping[str, object]) -> str:
    """Of an entry without its own, which has that of the one before."""
    return sha256(_canonical(content)).hexdigest()


def _wrong(line: bytes, previous: str, number: int) -> str:
    """Why a line is not the next entry; "" if it is."""
    try:
        content = orjson.loads(line)
        claimed = content.pop("hash")
        if _canonical({**content, "hash": claimed}) + b"\n" != line or claimed != _hash(content):
            return f"entry {number} was changed"
        if (content["number"], content["previous"]) != (number, previous):
            return f"entry {number} does not follow the one before it"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"entry {number} is no entry"
    return ""


def _entry(line: bytes) -> Entry | None:
    try:
        content = orjson.loads(line)
        return Entry(
            number=int(content["number"]),
            at=str(content["at"]),
            who=str(content["who"]),
            roles=tuple(map(str, content["roles"])),
            act=str(content["act"]),
            text=str(content["text"]),
            facts=dict(content["facts"]),
            hash=str(content["hash"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _cut_torn_end(log: BinaryIO) -> int:
    """Take off a line that was not written whole, as its act was not done; how long it was."""
    end = log.seek(0, os.SEEK_END)
    whole = end - len(_after_last_break(log, end))
    if whole < end:
        log.truncate(whole)
    return end - whole


def _after_last_break(log: BinaryIO, end: int) -> bytes:
    """What stands between the last line break before `end` and `end`."""
    found, start = b"", end
    while start > 0:
        length = min(BLOCK, start)
        start -= length
        log.seek(start)
        block = log.read(length)
        _, broken, after = block.rpartition(b"\n")
        found = after + found
        if broken:
            break
    return found


def _last_line(log: BinaryIO) -> bytes:
    end = log.seek(0, os.SEEK_END)
    return _after_last_break(log, max(0, end - 1))
