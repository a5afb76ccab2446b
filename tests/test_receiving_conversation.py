"""What is said on an association: read within bounds, and answered."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from pynetdicom.dimse_messages import C_ECHO_RQ, C_ECHO_RSP, C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF

from tomodex.receiving import conversation as module
from tomodex.receiving.command import Command, answer_to, read_command
from tomodex.receiving.conversation import (
    Context,
    Conversation,
    Ended,
    NotDicom,
    Pushed,
    Released,
)

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
CONTEXTS = {
    1: Context(sop_class=CT, syntax=IMPLICIT),
    3: Context(sop_class=VERIFICATION, syntax=IMPLICIT),
}
RELEASE = struct.pack(">BBLL", 5, 0, 4, 0)
ABORT = struct.pack(">BBLL", 7, 0, 4, 0)


class Peer:
    """Somebody who pushes to us over a socket of this process."""

    def __init__(self) -> None:
        self.socket, ours = socket.socketpair()
        self.conversation = Conversation(ours, CONTEXTS)
        self.pushed: list[tuple[Pushed, bytes]] = []
        self.ended: Exception | None = None
        self.status = 0
        self._thread = threading.Thread(target=self._converse, args=(ours,))
        self._thread.start()

    def _converse(self, ours: socket.socket) -> None:
        try:
            self.conversation.answer_all(self._take)
        except (Ended, NotDicom) as end:
            self.ended = end
        ours.close()

    def _take(self, pushed: Pushed) -> int:
        self.pushed.append((pushed, b"".join(bytes(piece) for piece in pushed.pieces)))
        return self.status

    def end(self) -> Exception | None:
        """How the conversation ended."""
        self._thread.join(10)
        self.socket.close()
        return self.ended

    def answer(self) -> tuple[int, bytes]:
        """Type and content of the PDU that we are sent."""
        kind, _, length = struct.unpack(">BBL", self.socket.recv(6, socket.MSG_WAITALL))
        return kind, self.socket.recv(length, socket.MSG_WAITALL)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.socket.close()
    made.end()


def pdu(*items: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF PDU of items: context ID, control byte, fragment."""
    encoded = b"".join(struct.pack(">LBB", len(f) + 2, c, h) + f for c, h, f in items)
    return struct.pack(">BBL", 4, 0, len(encoded)) + encoded


def store_request(data: bytes, sop_class: str = CT) -> C_STORE:
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, "1.2.3"
    request.DataSet = BytesIO(data)
    return request


def encoded(message, primitive, context_id: int, most: int) -> bytes:
    """A request as pynetdicom sends it, in PDUs of so many bytes at most."""
    made = message()
    made.primitive_to_message(primitive)
    pdus = []
    for data in made.encode_msg(context_id, most):
        one = P_DATA_TF()
        one.from_primitive(data)
        pdus.append(one.encode())
    return b"".join(pdus)


@pytest.mark.parametrize("most", [128, 16378, 131072, 0])
def test_a_data_set_comes_whole_in_pdus_of_any_size(peer, most):
    data = os.urandom(300_000)
    sending = threading.Thread(
        target=peer.socket.sendall,
        args=(encoded(C_STORE_RQ, store_request(data), 1, most or 2**19),),
    )
    sending.start()
    kind, content = peer.answer()
    sending.join()
    assert kind == 4
    ((pushed, taken),) = peer.pushed
    assert (pushed.sop_class, pushed.sop_instance, pushed.syntax) == (CT, "1.2.3", IMPLICIT)
    assert taken == data
    answer = decode(BytesIO(content[6:]), True, True)
    assert (answer.CommandField, answer.Status) == (0x8001, 0)
    assert (answer.MessageIDBeingRespondedTo, answer.AffectedSOPInstanceUID) == (7, "1.2.3")


def test_several_fragments_may_come_in_one_pdu_and_byte_by_byte(peer):
    sent = encoded(C_STORE_RQ, store_request(b"data"), 1, 2**14)
    command, data = sent[12 : -len(b"data") - 12], b"data"
    at_once = pdu((1, 1, command[:9]), (1, 3, command[9:]), (1, 0, data[:1]), (1, 2, data[1:]))
    for byte in at_once:
        peer.socket.send(bytes([byte]))
    peer.answer()
    assert [taken for _, taken in peer.pushed] == [b"data"]


def test_an_echo_is_answered(peer):
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 5, VERIFICATION
    peer.socket.sendall(encoded(C_ECHO_RQ, request, 3, 2**14))
    _, content = peer.answer()
    answer = decode(BytesIO(content[6:]), True, True)
    assert (answer.CommandField, answer.Status, content[4]) == (0x8030, 0, 3)


def test_a_refusal_is_answered_after_the_data_set_that_nobody_wants(peer):
    peer.socket.sendall(encoded(C_STORE_RQ, store_request(b"data", VERIFICATION), 1, 2**14))
    _, content = peer.answer()
    assert decode(BytesIO(content[6:]), True, True).Status == 0x0122
    assert peer.pushed == []
    peer.status = 0xA700
    peer.socket.sendall(encoded(C_STORE_RQ, store_request(b"data"), 1, 2**14))
    _, content = peer.answer()
    assert decode(BytesIO(content[6:]), True, True).Status == 0xA700


def test_a_release_is_answered_and_ends_it(peer):
    peer.socket.sendall(RELEASE)
    assert peer.answer() == (6, bytes(4))
    assert isinstance(peer.end(), Released)


def test_whoever_aborts_or_goes_within_a_data_set_leaves_nothing_taken():
    whole = encoded(C_STORE_RQ, store_request(bytes(10_000)), 1, 2**12)
    for left in (whole[:-300], whole[:-4200] + ABORT):
        peer = Peer()
        peer.socket.sendall(left)
        peer.socket.shutdown(socket.SHUT_WR)
        assert isinstance(peer.end(), Ended)
        assert peer.pushed == []


COMMAND = encoded(C_STORE_RQ, store_request(b"x"), 1, 2**14)[12:-13]


@pytest.mark.parametrize(
    "strange",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">BBL", 4, 0, 2**32 - 1),
        struct.pack(">BBL", 1, 0, 100) + bytes(100),
        pdu((1, 2, b"data without a command")),
        pdu((1, 3, COMMAND), (3, 2, b"data of another context")),
        pdu((1, 3, COMMAND), (1, 3, COMMAND)),
        pdu((9, 3, COMMAND)),
        pdu((1, 3, b"no command set")),
        pdu((1, 3, COMMAND[:-1])),
        pdu((1, 3, b"\x08\0" + COMMAND[2:])),
        struct.pack(">BBLLBB", 4, 0, 6, 4000, 1, 3),
        struct.pack(">BBLLBB", 4, 0, 6, 1, 1, 3),
        struct.pack(">BBL", 4, 0, 3) + bytes(3),
        b"".join(pdu((1, 1, bytes(60_000))) for _ in range(2)),
    ],
    ids=range(14),
)
def test_what_makes_no_sense_ends_the_association(peer, strange):
    peer.socket.sendall(strange)
    assert peer.answer() == (7, bytes([0, 0, 2, 2]))
    assert isinstance(peer.end(), NotDicom)


def test_a_command_that_was_not_agreed_on_ends_the_association(peer):
    find = COMMAND.replace(b"\0\1\2\0\0\0\1\0", b"\0\1\2\0\0\0\x20\0")
    assert find != COMMAND
    peer.socket.sendall(pdu((1, 3, find)))
    assert peer.answer()[0] == 7
    assert "0x0020" in str(peer.end())


def test_a_peer_that_trickles_is_ended(monkeypatch):
    monkeypatch.setattr(module, "PDU_S", 0.3)
    peer = Peer()
    peer.socket.send(struct.pack(">BBLLBB", 4, 0, 10_000, 9_996, 1, 1))
    end = time.monotonic() + 5
    while peer.ended is None:
        assert time.monotonic() < end
        with suppress(OSError):  # it has just been ended
            peer.socket.send(b"\0")
        time.sleep(0.01)
    assert "no time" in str(peer.end())


def test_a_peer_that_is_silent_is_ended(monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    peer = Peer()
    peer.socket.send(b"\4")
    assert peer.answer()[0] == 7
    assert "silent" in str(peer.end())


def test_an_association_without_requests_is_ended(monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    assert "silent" in str(Peer().end())


def test_a_conversation_can_be_ended_from_another_thread(peer):
    time.sleep(0.05)
    peer.conversation.end()
    assert peer.answer()[0] == 7
    assert isinstance(peer.end(), Ended)


def test_a_data_set_of_any_size_is_not_held():
    ours, theirs = socket.socketpair()
    fragment = pdu((1, 0, bytes(100_000)))

    def push() -> None:
        theirs.sendall(pdu((1, 3, COMMAND)))
        for _ in range(600):
            theirs.sendall(fragment)
        theirs.sendall(pdu((1, 2, b"end")) + RELEASE)

    sending = threading.Thread(target=push)
    sizes: list[int] = []
    tracemalloc.start()
    sending.start()
    with pytest.raises(Released):
        Conversation(ours, CONTEXTS).answer_all(lambda pushed: sizes.append(count(pushed)) or 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sending.join()
    ours.close()
    theirs.close()
    assert sizes == [600 * 100_000 + 3]
    assert peak < 2 * module.PDU_BYTES


def count(pushed: Pushed) -> int:
    return sum(len(piece) for piece in pushed.pieces)


# --- command sets -------------------------------------------------------------------------------


@given(
    message_id=st.integers(0, 65535),
    status=st.integers(0, 65535),
    instance=st.builds(generate_uid),
    field=st.sampled_from([0x0001, 0x0030]),
)
def test_an_answer_is_what_pynetdicom_would_have_written(message_id, status, instance, field):
    is_store = field == 0x0001
    expected = C_STORE() if is_store else C_ECHO()
    expected.MessageIDBeingRespondedTo = message_id
    expected.AffectedSOPClassUID = CT
    if is_store:
        expected.AffectedSOPInstanceUID = instance
    expected.Status = status
    message = C_STORE_RSP() if is_store else C_ECHO_RSP()
    message.primitive_to_message(expected)
    (sent,) = message.encode_msg(1, 0)
    command = Command(
        field=field,
        message_id=message_id,
        has_data_set=False,
        sop_class=CT,
        sop_instance=str(instance) if is_store else "",
    )
    assert answer_to(command, status) == sent.presentation_data_value_list[0][1][1:]


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: COMMAND + tail))
def test_bytes_are_a_command_or_none(encoded):
    with suppress(ValueError):
        assert 0 <= read_command(encoded).field < 2**16
