"""What is said on an association once it is established: instances and echoes in, answers out.

pynetdicom negotiates associations, and from then on it is read here, in the one thread that also
writes the instance: data go from the socket through one buffer into the file, and are never held.
It takes a third of the processor time of pynetdicom's two threads and their messages, which hold
each data set whole (measured by bench/receive.py). A peer that does not wait for answers waits all
the same, since nothing is read while it is answered.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RD
from socket import socket as Socket
from threading import Event
from typing import NamedTuple

from tomodex.receiving.command import C_CANCEL, C_ECHO, C_STORE, Command, answer_to, read_command

#: The largest P-DATA PDU we ask for; DCMTK sends 128 KiB at most, dcm4che what it is allowed.
PDU_BYTES = 256 * 2**10

#: The largest PDU we read: an A-ASSOCIATE-RQ with 128 contexts of 40 syntaxes has 350 kB.
MOST_PDU_BYTES = 2**20

#: A command set has some 200 bytes.
MOST_COMMAND_BYTES = 2**16

#: Seconds without a request after which an association is ended.
IDLE_S = 300.0

#: A peer that is silent for so long within a PDU is gone.
SILENCE_S = 60.0

#: The longest that one PDU may take, however slowly it trickles.
PDU_S = 120.0

#: Answers of ours: all is well, and a SOP class that was not agreed on (PS3.7 C.5.6).
SUCCESS, CLASS_NOT_SUPPORTED = 0x0000, 0x0122

#: Types of PDU (PS3.8 9.3).
_P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 4, 5, 6, 7

_RELEASED = struct.pack(">BBLL", _RELEASE_RP, 0, 4, 0)

#: By the service user, and by the service provider for an unexpected PDU (PS3.8 9.3.8).
_ABORTED = struct.pack(">BBL4B", _ABORT, 0, 4, 0, 0, 0, 0)
_NOT_DICOM = struct.pack(">BBL4B", _ABORT, 0, 4, 0, 0, 2, 2)


class Ended(Exception):
    """The association is over, and nothing more can be said on it."""


class NotDicom(Exception):
    """What a peer sent is not what may be said on an association now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A presentation context that was agreed on."""

    sop_class: str
    syntax: str  #: transfer syntax


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One instance that a peer pushes (C-STORE)."""

    sop_class: str  #: as the command names it; the data set may say something else
    sop_instance: str
    syntax: str  #: transfer syntax of the data set
    pieces: Iterator[memoryview]  #: the data set; each piece is overwritten by the next


#: Keeps an instance, and returns what to answer; it need not read all of the pieces. What comes
#: out of the pieces (`Ended`, `NotDicom`) it lets pass.
Take = Callable[[Pushed], int]


class _Fragment(NamedTuple):
    """Part of a message, whose bytes come next (PS3.8 9.3.5.1, E.2)."""

    context_id: int
    is_command: bool
    is_last: bool
    length: int  #: bytes


class Conversation:
    """One association that is established.

    Args:
        contexts: what was agreed on, by presentation context ID.
    """

    def __init__(self, socket: Socket, contexts: Mapping[int, Context]) -> None:
        self._socket = socket
        self._contexts = contexts
        self._incoming = _Incoming(socket)
        self._fragments = self._incoming.fragments()

    def answer_all(self, take: Take) -> None:
        """Answer one request after another until the association is over.

        Raises:
            Ended: it was released, or the peer is gone or silent.
            NotDicom: the peer sent what makes no sense.
        """
        try:
            while True:
                context_id, command = self._command()
                self._answer(context_id, command, take)
        except NotDicom:
            self._say_last(_NOT_DICOM)
            raise
        except Released:
            self._say_last(_RELEASED)
            raise
        except Ended:
            self._say_last(_ABORTED)
            raise

    def end(self) -> None:
        """Have it end soon, from another thread."""
        self._incoming.ending.set()
        with suppress(OSError):  # who waits for bytes is woken
            Socket.shutdown(self._socket, SHUT_RD)

    def _answer(self, context_id: int, command: Command, take: Take) -> None:
        context = self._contexts.get(context_id)
        if context is None:
            raise NotDicom("a presentation context that was not agreed on")
        if command.field == C_CANCEL:  # of what we answer at once
            return
        if command.field not in (C_STORE, C_ECHO):
            raise NotDicom(f"a command 0x{command.field:04X} that was not agreed on")
        pieces = self._data_set(context_id) if command.has_data_set else iter(())
        status = _status(command, context, pieces, take)
        for _ in pieces:  # what was not needed; the peer does not hear us before
            pass
        self._say(context_id, answer_to(command, status))

    # --- reading --------------------------------------------------------------------------------

    def _command(self) -> tuple[int, Command]:
        """The next command, and the presentation context that it is of."""
        encoded = bytearray()
        context_id, is_last = 0, False
        while not is_last:
            fragment = next(self._fragments)
            if not fragment.is_command or (encoded and fragment.context_id != context_id):
                raise NotDicom("a data set without a command")
            if len(encoded) + fragment.length > MOST_COMMAND_BYTES:
                raise NotDicom("a command set is too long")
            for piece in self._incoming.pieces(fragment.length):
                encoded += piece
            context_id, is_last = fragment.context_id, fragment.is_last
        try:
            return context_id, read_command(bytes(encoded))
        except ValueError as bad:
            raise NotDicom(str(bad)) from bad

    def _data_set(self, context_id: int) -> Iterator[memoryview]:
        is_last = False
        while not is_last:
            fragment = next(self._fragments)
            if fragment.is_command or fragment.context_id != context_id:
                raise NotDicom("a command within a data set")
            yield from self._incoming.pieces(fragment.length)
            is_last = fragment.is_last

    # --- writing --------------------------------------------------------------------------------

    def _say(self, context_id: int, command_set: bytes) -> None:
        """Send a command set, as its only and last fragment."""
        item = struct.pack(">LBB", len(command_set) + 2, context_id, 3)
        pdu = struct.pack(">BBL", _P_DATA, 0, len(item) + len(command_set))
        try:
            self._socket.sendall(pdu + item + command_set)
        except OSError as failed:
            raise Ended("the peer does not take an answer") from failed

    def _say_last(self, pdu: bytes) -> None:
        with suppress(OSError):
            self._socket.sendall(pdu)


class Released(Ended):
    """The peer has said that it is done."""


def _status(command: Command, context: Context, pieces: Iterator[memoryview], take: Take) -> int:
    """What is answered to a request."""
    if command.sop_class != context.sop_class:
        return CLASS_NOT_SUPPORTED
    if command.field == C_ECHO:
        return SUCCESS
    return take(
        Pushed(
            sop_class=command.sop_class,
            sop_instance=command.sop_instance,
            syntax=context.syntax,
            pieces=pieces,
        )
    )


class _Incoming:
    """What a peer sends, read ahead into one buffer, within bounds of size and time."""

    def __init__(self, socket: Socket) -> None:
        self.ending = Event()  #: nothing more is to be read
        self._socket = socket
        self._buffer = memoryview(bytearray(PDU_BYTES))
        self._start = self._end = 0  #: of what was read and not yet taken
        self._deadline_s = 0.0  #: of the PDU, by `time.monotonic`

    def fragments(self) -> Iterator[_Fragment]:
        """Fragments for ever; the bytes of each have to be taken before the next one.

        Raises:
            Ended: the peer released or aborted the association, or is gone or silent.
            NotDicom: it sent what makes no sense.
        """
        while True:
            left = self._data_pdu()
            while left:
                if left < 6:
                    raise NotDicom("a PDU ends within an item")
                length, context_id, control = struct.unpack(">LBB", self._exactly(6))
                if not 2 <= length <= left - 4:
                    raise NotDicom("an item is longer than its PDU")
                yield _Fragment(context_id, bool(control & 1), bool(control & 2), length - 2)
                left -= 4 + length

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next so many bytes, in pieces that the next call overwrites."""
        while count:
            if self._start == self._end:
                self._fill()
            size = min(count, self._end - self._start)
            self._start += size
            count -= size
            yield self._buffer[self._start - size : self._start]

    def _data_pdu(self) -> int:
        """The length of the next PDU, if it is one of data."""
        self._wait()
        kind, _, length = struct.unpack(">BBL", self._exactly(6))
        if kind == _RELEASE_RQ:
            raise Released("the peer released the association")
        if kind == _ABORT:
            raise Ended("the peer aborted the association")
        if kind != _P_DATA or length > MOST_PDU_BYTES:
            raise NotDicom("a PDU that may not come now, or is too long")
        return int(length)

    def _wait(self) -> None:
        """Wait for the next PDU to begin."""
        self._deadline_s = time.monotonic() + IDLE_S + PDU_S
        if self._start == self._end:
            self._socket.settimeout(IDLE_S)
            self._fill()
            self._socket.settimeout(SILENCE_S)
        self._deadline_s = time.monotonic() + PDU_S

    def _exactly(self, count: int) -> bytes:
        return b"".join(bytes(piece) for piece in self.pieces(count))

    def _fill(self) -> None:
        """Read what has come, at least one byte."""
        if self.ending.is_set() or time.monotonic() > self._deadline_s:
            raise Ended("no time is left")
        try:
            count = self._socket.recv_into(self._buffer)
        except OSError as failed:  # TimeoutError is one
            raise Ended("the peer is silent or gone") from failed
        if not count:
            raise Ended("the peer is gone")
        self._start, self._end = 0, count
