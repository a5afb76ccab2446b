"""What of the Kafka sink needs no broker; the rest is in servers/test_kafka_sink.py."""

from __future__ import annotations

import time

import pytest

from tests.contracts.queue import annotated, ct
from tomodex.errors import Misconfigured, Unavailable
from tomodex.sinks import open_sink

NOBODY = "kafka://127.0.0.1:9/series"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka:///series", "a topic is kafka://"),
        ("kafka://broker:9092/", "a topic is kafka://"),
        ("kafka://broker:9092/a/b", "a topic is kafka://"),
        ("kafka://user@broker:9092/series", "a user an option"),
        ("kafka://user:secret@broker:9092/series", "a password has no place in a URL"),
        ("kafka://broker:9092/series?password=secret", "a secret is named"),
        ("kafka://broker:9092/series?password=file:/nowhere", "cannot read the secret"),
        ("kafka://broker:9092/series?acks=0", "acks"),
        ("kafka://broker:9092/series?timeout_s=0", "timeout_s"),
    ],
)
def test_what_is_wrong_with_a_topic_is_said_without_its_secret(url, says):
    with pytest.raises(Misconfigured, match=says) as wrong:
        open_sink(url)
    assert "secret@" not in str(wrong.value)


def test_a_certificate_that_is_not_there_is_a_wrong_setting(tmp_path):
    sink = open_sink(f"{NOBODY}?protocol=SSL&ca={tmp_path}/none.pem")
    with pytest.raises(Misconfigured, match=r"ssl\.ca\.location failed"):
        sink.write([annotated(ct("1.2"))])


def test_brokers_that_do_not_answer_are_waited_for_and_not_for_ever(monkeypatch):
    monkeypatch.setattr("tomodex.sinks.kafka.LOOK_S", 1.0)
    sink = open_sink(f"{NOBODY}?user=tomodex&password=env:HOME&protocol=SASL_PLAINTEXT")
    begin = time.monotonic()
    with pytest.raises(Unavailable, match=r"Kafka at 127.0.0.1:9 does not answer"):
        sink.erase(["1.2"])
    (probe,) = sink.probe()
    assert probe.verdict == "wrong"
    assert time.monotonic() - begin < 10
    sink.close()


def test_nothing_to_send_asks_nobody():
    sink = open_sink(NOBODY)
    sink.erase([])
    sink.write([])
    sink.close()
