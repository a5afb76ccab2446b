"""What the log says: one kind of record for each kind of fact, by its key.

Of each key only the newest record counts; a key without value says that there is nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import orjson

from tomodex.errors import Misconfigured
from tomodex.queues import Status

# It would cost the start of every command some 0.1 s; it is imported when first needed.
if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Grows with what a reader has to know: one who knows less stops, before it decides anything
#: without it. Records of lower ones are read as they are.
FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was decided of a series and configuration; only decisions write it."""

    kind: ClassVar[str] = "task"
    keys: ClassVar[int] = 2

    series_uid: str
    configuration: str
    version: int  #: grows whenever work on the former one is no longer wanted
    void: int  #: results of work on this version and older ones do not stand
    gone: bool = False  #: withdrawn; the rest says nothing then
    id: int = 0
    source: str = ""
    fingerprint: str = ""
    series: str = ""  #: JSON of `Series`
    lane: int = 0
    study_date: str = ""
    status: Status = "ready"
    reason: str = ""
    sentence: str = ""
    attempt: int = 0
    updated_ms: int = 0
    share: int = 0  #: topic and partition of its ticket, see `share_of`
    at: int = 0  #: offset of its ticket
    patient: str = ""  #: pseudonym, where only a result has said it


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What became of a version of a task; only its worker writes it."""

    kind: ClassVar[str] = "work"
    keys: ClassVar[int] = 2

    series_uid: str
    configuration: str
    version: int
    status: Status
    due_ms: int
    attempt: int
    token: int  #: of the lease that this is about
    worker: str
    reason: str
    sentence: str
    updated_ms: int
    share: int
    at: int
    instances: int | None = None  #: how many were indexed; None: it is not known
    patient: str = ""  #: pseudonym, as far as the result says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the result of a series and configuration is in the topic of results."""

    kind: ClassVar[str] = "result"
    keys: ClassVar[int] = 2

    series_uid: str
    configuration: str
    version: int
    sequence: int  #: its offset there, and 1
    document: bool  #: False: it is a tombstone
    listed: bool  #: nobody has worked on it
    settled_ms: int
    said: bool = True  #: False: it is no entry of the feed, and only the topic has a tombstone


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """All sources that have listed a series, where there is more than one."""

    kind: ClassVar[str] = "elsewhere"
    keys: ClassVar[int] = 1

    series_uid: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A source whose tasks in a lane are not handed out."""

    kind: ClassVar[str] = "held"
    keys: ClassVar[int] = 2

    lane: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestFirst:
    """A source whose newest studies go first in a lane."""

    kind: ClassVar[str] = "newest"
    keys: ClassVar[int] = 2

    lane: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Something that was done, which is never forgotten."""

    kind: ClassVar[str] = "audit"
    keys: ClassVar[int] = 1

    number: str  #: no other has it
    at_ms: int
    event: str
    series_uid: str
    source: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A result that a consumer could not take."""

    kind: ClassVar[str] = "aside"
    keys: ClassVar[int] = 2

    consumer: str
    series_uid: str
    sequence: int
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Barred:
    """Somebody who is not to be indexed, by a keyed hash."""

    kind: ClassVar[str] = "barred"
    keys: ClassVar[int] = 1

    mark: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An erasure that is to be carried out on every machine; see `ERASURES_KEPT`."""

    kind: ClassVar[str] = "erasure"
    keys: ClassVar[int] = 1

    id: str
    begun_ms: int
    request: str  #: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is no record, and lies before an offset of the log, was laid with the dead."""

    kind: ClassVar[str] = "told"
    keys: ClassVar[int] = 0

    before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """How far a copy of another queue into this one has come."""

    kind: ClassVar[str] = "copied"
    keys: ClassVar[int] = 0

    origin: str
    part: str
    after: int


Record = (
    Wanted
    | Work
    | Standing
    | Elsewhere
    | Held
    | NewestFirst
    | Audit
    | SetAside
    | Barred
    | Begun
    | Told
    | Copying
)
KINDS = {one.kind: one for one in Record.__args__}


Kind = Literal[
    "task",
    "work",
    "result",
    "elsewhere",
    "held",
    "newest",
    "audit",
    "aside",
    "barred",
    "erasure",
    "told",
    "copied",
]


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing of this key any more."""

    kind: Kind
    parts: tuple[str, ...]

    @property
    def key(self) -> bytes:
        return orjson.dumps([self.kind, *self.parts])


def key_of(record: Record) -> bytes:
    names = [field.name for field in fields(record)][: record.keys]
    return orjson.dumps([record.kind, *(getattr(record, name) for name in names)])


def value_of(record: Record) -> bytes:
    names = [field.name for field in fields(record)][record.keys :]
    return orjson.dumps({"format": FORMAT, **{name: getattr(record, name) for name in names}})


def parse(key: bytes | None, value: bytes | None) -> Record | Nothing:
    """The record of a message.

    Raises:
        ValueError: it is none; what is said of it has no word of the message.
        Misconfigured: a newer Tomodex wrote it, which has to be understood.
    """
    parts = _parts(key)
    said = None if value is None else _said(value)
    kind, *names = parts
    if kind not in KINDS or len(names) != KINDS[kind].keys:
        raise ValueError("its key says nothing to us")
    if said is None:
        return Nothing(kind, tuple(names))  # type: ignore[arg-type]  # one of `KINDS`
    fields_of_key = [field.name for field in fields(KINDS[kind])][: len(names)]
    named = dict(zip(fields_of_key, names, strict=True))
    try:
        record: Record = _adapter(kind).validate_python({**said, **named})
    except ValueError as wrong:
        raise ValueError("its value is not what a record of its kind says") from wrong
    return record


def _parts(key: bytes | None) -> Sequence[str]:
    try:
        parts: Any = orjson.loads(key or b"null")
    except ValueError as wrong:
        raise ValueError("its key is no JSON") from wrong
    if not isinstance(parts, list) or not parts or not all(isinstance(one, str) for one in parts):
        raise ValueError("its key is no list of texts")
    return list(parts)


def _said(value: bytes) -> dict[str, object]:
    """What a record says, if we know its format."""
    try:
        said: Any = orjson.loads(value)
    except ValueError as wrong:
        raise ValueError("its value is no JSON") from wrong
    format = said.pop("format", None) if isinstance(said, dict) else None
    if type(format) is not int or format < 1:
        raise ValueError("its value names no format")
    if format > FORMAT:
        raise Misconfigured(
            f"a newer Tomodex writes to this queue, in format {format}, and this one knows up to "
            f"{FORMAT}; update Tomodex on this machine"
        )
    return dict(said)


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(KINDS[kind])


def share_of(place: int, partition: int) -> int:
    """A partition of one of `Names.tickets`, as one number."""
    return place << 16 | partition


def place_of(share: int) -> tuple[int, int]:
    """Which of `Names.tickets`, and which partition of it."""
    return share >> 16, share & 0xFFFF
