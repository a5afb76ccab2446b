"""Results in a topic of a real broker."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.contracts.queue import annotated, ct, new, settle_next
from tests.servers.kafka import running_kafka
from tests.servers.ports import free_port
from tomodex.annotation import AnnotatedSeries, from_json
from tomodex.delivery import deliver, take_again
from tomodex.errors import Misconfigured, Unavailable
from tomodex.queues.sqlite import SqliteQueue
from tomodex.sinks import open_sink

pytestmark = pytest.mark.server

Message = tuple[str, AnnotatedSeries | None]


def make_topic(broker: str, **config: str) -> str:
    name = f"series-{uuid4().hex[:8]}"
    topic = NewTopic(name, num_partitions=3, config={"cleanup.policy": "compact", **config})
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([topic])[name].result(60)
    return name


@pytest.fixture
def topic(broker: str) -> str:
    return make_topic(broker)


def read(broker: str, topic: str) -> list[Message]:
    """All messages of a topic, those of a key in their order."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([topic])
    found: list[Message] = []
    ended = 0
    while ended < 3:
        message = consumer.poll(30)
        assert message is not None, "the topic cannot be read"
        if message.error() is not None:
            ended += 1
            continue
        value, key = message.value(), message.key()
        found.append((key.decode(), from_json(value) if value else None))
    consumer.close()
    return found


def last_words(broker: str, topic: str) -> Mapping[str, AnnotatedSeries | None]:
    return dict(read(broker, topic))


def test_each_series_has_its_result_under_its_uid(broker: str, topic: str) -> None:
    results = [annotated(ct(f"1.2.{n}"), structures=3) for n in range(30)]
    with closing(open_sink(f"kafka://{broker}/{topic}")) as sink:
        sink.write(results)
        sink.write(results[:1])
        sink.erase(["1.2.3"])
    found = read(broker, topic)
    assert len(found) == 32
    assert dict(found) == {one.series.series_uid: one for one in results} | {"1.2.3": None}


def test_the_feed_and_the_topic_say_the_same(broker: str, topic: str) -> None:
    queue, url = SqliteQueue("sqlite:"), f"kafka://{broker}/{topic}"
    with closing(open_sink(url)) as sink:
        queue.put([new(f"1.2.{n}") for n in range(40)])
        for _ in range(40):
            settle_next(queue)
        assert deliver(queue, url, sink, batch=15) == 40
        queue.withdraw("1.2.7")
        queue.put([new("1.2.8", fingerprint="b")])
        settle_next(queue, annotated(ct("1.2.8"), liver_ml=2.0))
        assert deliver(queue, url, sink) == 2
    feed = {result.series_uid: result.annotated for result in queue.results(0, 99)}
    assert last_words(broker, topic) == feed
    assert feed["1.2.7"] is None


def test_a_result_that_is_too_large_is_set_aside_and_taken_once_it_may_be(broker: str) -> None:
    """Whoever refuses it: our own option, or the topic."""
    topic = make_topic(broker, **{"max.message.bytes": "6000"})
    url = f"kafka://{broker}/{topic}?compression=none"
    queue = SqliteQueue("sqlite:")
    queue.put([new(f"1.2.{n}") for n in range(24)])
    for n in range(24):
        settle_next(queue, annotated(ct(f"1.2.{n}"), structures={5: 60, 9: 20}.get(n, 1)))
    with closing(open_sink(f"{url}&message_bytes=20000")) as sink:
        deliver(queue, url, sink)
    assert [aside.series_uid for aside in queue.asides(url)] == ["1.2.9", "1.2.5"]
    assert "message_bytes allows" in queue.asides(url)[1].sentence
    assert "max.message.bytes of the topic" in queue.asides(url)[0].sentence
    assert set(last_words(broker, topic)) == {f"1.2.{n}" for n in range(24)} - {"1.2.5", "1.2.9"}
    with closing(open_sink(url.replace("none", "zstd"))) as sink:
        assert take_again(queue, url, sink) == (2, [])
    assert set(last_words(broker, topic)) == {f"1.2.{n}" for n in range(24)}


def test_a_topic_that_is_not_there_is_not_made_but_said(broker: str) -> None:
    name = f"nowhere-{uuid4().hex[:8]}"
    with closing(open_sink(f"kafka://{broker}/{name}")) as sink:
        with pytest.raises(Misconfigured, match=f"has no topic {name}"):
            sink.write([annotated(ct("1.2.3"))])
        (probe,) = sink.probe()
    assert (probe.verdict, name in probe.sentence) == ("wrong", True)
    assert name not in AdminClient({"bootstrap.servers": broker}).list_topics(timeout=30).topics


def test_doctor_learns_whether_the_topic_keeps_what_it_should(broker: str, topic: str) -> None:
    deleting = make_topic(broker, **{"cleanup.policy": "delete"})
    for name, verdict in ((topic, "ok"), (deleting, "doubtful")):
        with closing(open_sink(f"kafka://{broker}/{name}")) as sink:
            (probe,) = sink.probe()
        assert (probe.verdict, "has 3 partitions" in probe.sentence) == (verdict, True)


def test_keys_go_to_the_partitions_that_java_has_them_in(broker: str, topic: str) -> None:
    """As murmur2 has it; the numbers are those of Java's own DefaultPartitioner."""
    with closing(open_sink(f"kafka://{broker}/{topic}")) as sink:
        sink.write([annotated(ct(uid)) for uid in ("21", "foobar")])
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "x"})
    counts = [consumer.get_watermark_offsets(TopicPartition(topic, n), 30)[1] for n in range(3)]
    consumer.close()
    expected = [0, 0, 0]
    for hashed in (-973932308, -790332482):  # org.apache.kafka.common.utils.UtilsTest
        expected[(hashed & 0x7FFFFFFF) % 3] += 1
    assert counts == expected


def test_nothing_is_confirmed_while_the_broker_is_away(tmp_path: Path) -> None:
    port = free_port()
    queue = SqliteQueue("sqlite:")
    queue.put([new("1.2.1"), new("1.2.2"), new("1.2.3")])
    settle_next(queue)
    with running_kafka(tmp_path / "kafka", port) as broker:
        topic = make_topic(broker)
        url = f"kafka://{broker}/{topic}"
        sink = open_sink(f"{url}?timeout_s=3")
        assert deliver(queue, url, sink) == 1
    settle_next(queue)
    settle_next(queue)
    with pytest.raises(Unavailable):
        deliver(queue, url, sink)
    assert queue.cursor(url) == 1
    with running_kafka(tmp_path / "kafka", port) as broker:
        assert deliver(queue, url, sink) == 2
        sink.close()
        assert set(last_words(broker, topic)) == {"1.2.1", "1.2.2", "1.2.3"}
