"""Why a broker lets us not in; with real brokers in servers/test_kafka_security.py."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.doors import KafkaAccess
from tomodex.kafka_greeting import NotKafka, Place, _read_mechanisms, places_of, why_refused

OPEN = KafkaAccess()
USERS = KafkaAccess(protocol="SASL_PLAINTEXT", user="tomodex", password="env:HOME")


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[Place]:
    """Somebody who does this with everyone that comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            server.settimeout(0.1)
            while not ended.is_set():
                try:
                    one, _ = server.accept()
                except TimeoutError:
                    continue
                with one:
                    talk(one)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Place("127.0.0.1", server.getsockname()[1])
        ended.set()
        thread.join()


def answering(body: bytes) -> Callable[[socket.socket], None]:
    def talk(one: socket.socket) -> None:
        one.recv(1000)
        one.sendall(struct.pack(">i", len(body)) + body)

    return talk


def handshake(error: int, *mechanisms: str) -> bytes:
    """An answer to SaslHandshake."""
    names = b"".join(struct.pack(">h", len(m)) + m.encode() for m in mechanisms)
    return struct.pack(">ihi", 1, error, len(mechanisms)) + names


@pytest.mark.parametrize(
    ("access", "error", "mechanisms", "says"),
    [
        (OPEN, 34, (), ""),
        (OPEN, 33, ("PLAIN",), "asks for a user; set `protocol` to SASL_PLAINTEXT"),
        (USERS, 34, (), "asks for no user; set `protocol` to PLAINTEXT"),
        (USERS, 0, ("SCRAM-SHA-512", "PLAIN"), ""),
        (USERS, 33, ("GSSAPI",), "SCRAM-SHA-512; it knows GSSAPI"),
    ],
    ids=["open", "wants users", "wants none", "agreed", "mechanism"],
)
def test_what_a_broker_wants_is_compared_with_how_we_come(access, error, mechanisms, says):
    with listening(answering(handshake(error, *mechanisms))) as place:
        why = why_refused([place], access)
    assert says in why
    assert bool(why) == bool(says)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">i", 2**31 - 1),
        struct.pack(">i", -1),
        struct.pack(">i", 12) + struct.pack(">ihi", 1, 0, 2**31 - 1) + b"xx",
        struct.pack(">i", 14) + struct.pack(">ihih", 1, 0, 1, 2) + b"\xff\xff",
        struct.pack(">i", 14) + struct.pack(">ihih2s", 1, 0, 1, 2, b"\x1b["),
        b"",
    ],
    ids=["http", "huge", "negative", "count", "text", "control", "nothing"],
)
def test_what_is_no_broker_is_not_said_to_refuse_us(answer):
    with listening(lambda one: one.sendall(answer)) as place:
        assert why_refused([place], USERS) == ""


@given(st.binary(max_size=100))
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    try:
        found = _read_mechanisms(answer)
    except NotKafka:
        return
    assert found is None or sum(map(len, found)) <= len(answer)


def test_one_who_says_nothing_is_not_waited_for_for_long(monkeypatch):
    monkeypatch.setattr("tomodex.kafka_greeting.PATIENCE_S", 0.2)
    with listening(lambda one: time.sleep(0.5)) as place:
        begin = time.monotonic()
        assert why_refused([place], OPEN) == ""
    assert time.monotonic() - begin < 2


def test_one_that_is_not_there_leaves_it_to_the_next():
    with listening(answering(handshake(33, "PLAIN"))) as place:
        assert "asks for a user" in why_refused([Place("127.0.0.1", 9), place], OPEN)


def test_brokers_are_named_with_and_without_port():
    assert [str(one) for one in places_of("a:9093, b,[::1]:9094,c.example:1")] == [
        "a:9093",
        "b:9092",
        "::1:9094",
        "c.example:1",
    ]
