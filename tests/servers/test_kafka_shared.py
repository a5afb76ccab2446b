"""What machines have in common on a real Kafka: who is out, and what nobody wants any more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from confluent_kafka import Producer
from starlette.testclient import TestClient

from tests.contracts.queue import HOUR, annotated, ct, feed, new, settle_next
from tests.phantoms import write_ball_series
from tests.servers.test_kafka_queue import last_values, read_all
from tests.servers.test_kafka_queue import url as url
from tests.test_copying import copy, fill, sqlite, told
from tests.test_queues_sqlite import Clock
from tomodex import copying, erasing, wiring
from tomodex.access import OWNER
from tomodex.daily import desk_of, list_window
from tomodex.delivery import deliver
from tomodex.errors import Misconfigured, Unavailable
from tomodex.exclusions import refusal_of
from tomodex.queues import Erasure, Queue
from tomodex.queues.kafka.cluster import Cluster
from tomodex.queues.kafka.outbox import Fenced, Letter, Outbox
from tomodex.queues.kafka.queue import KafkaQueue
from tomodex.queues.kafka.records import FORMAT
from tomodex.receiving import steward_of
from tomodex.search import Query
from tomodex.settings import Settings, load_settings
from tomodex.sources.spool_folder import Spool
from tomodex.web.app import make_app

pytestmark = pytest.mark.server

JANE, JOHN = "a" * 32, "b" * 32


def machine(folder: Path, url: str, archive: Path) -> Settings:
    """A data folder of its own, with the site's key and queue."""
    return load_settings(
        data=folder,
        queue=url,
        pseudonym_key_file=archive.parent / "pseudonym.key",
        sources={"archive": str(archive)},
        receive={"quiet_s": 0.01},
        segmenters=("phantom:",),
    )


@pytest.fixture
def machines(url: str, tmp_path: Path) -> tuple[Settings, Settings]:
    (tmp_path / "archive").mkdir()
    one, other = (machine(tmp_path / name, url, tmp_path / "archive") for name in ("1", "2"))
    return one, other


def indexed(settings: Settings, queue: Queue) -> set[str]:
    """What the index of a machine has once all is delivered."""
    with closing(wiring.index_of(settings)) as index:
        deliver(queue, settings.index_url + settings.data.name, index)
        return {hit.series_uid for hit in index.search(Query(text="", term=None)).hits}


def of(patient: str, uid: str) -> Any:
    return replace(new(uid), series=replace(ct(uid), patient=patient))


def test_who_is_erased_on_one_machine_is_out_on_all(machines, tmp_path, monkeypatch):
    one, other = machines
    uid = write_ball_series(tmp_path / "archive")
    with closing(wiring.queue_of(other)) as there:
        found = list_window(desk_of(other), wiring.source_of(other, "archive"), "daily", None, 100)
        assert found.new == 1
        (state,) = there.states(uid)
        settle_next(there)
        assert indexed(other, there) == {uid}

        taken = erasing.erase(one, OWNER, pseudonyms=[state.series.patient], reason="asked")

        assert taken == erasing.Taken(patients=1, series=1)
        # Listed, pushed and ordered there: all of it is refused.
        again = list_window(desk_of(other), wiring.source_of(other, "archive"), "daily", None, 100)
        assert again.new == 0
        spool = Spool(other.data / "spool")
        for file in sorted((tmp_path / "archive").rglob("*.dcm")):
            _, arrived = spool.arrive()
            arrived.write_bytes(file.read_bytes())
            spool.keep(arrived, uid, file.stem)
        steward_of(other).put_whole()
        assert there.states(uid) == []
        assert refusal_of(there, state.series) == "erased"
        with TestClient(make_app(other), base_url="http://127.0.0.1") as client:
            order = {"source": "archive", "series_uid": uid}
            (answer,) = client.post("/v1/tasks", json=order).json()["tasks"]
        assert (answer["status"], answer["reason"]) == ("rejected", "erased")
        assert there.lease("w", HOUR) is None
        # What lies on its disk is erased there too, once; and its audit log says so.
        monkeypatch.setattr(erasing, "LOOK_S", 0.1)
        end = time.monotonic() + 30
        with erasing.erasing_beside(other):
            while there.erasures() and time.monotonic() < end:
                time.sleep(0.1)
        assert indexed(other, there) == set()
        assert [entry.act for entry in wiring.audit_of(other).entries()] == ["erase"]
        assert erasing.resume(other) == erasing.NOTHING


def test_who_opts_out_on_one_machine_is_out_on_all(machines):
    one, other = machines
    with closing(wiring.queue_of(other)) as there:
        there.put([of(JANE, "1.1"), of(JOHN, "1.2"), of("", "1.3")])
        blind = there.lease("w", HOUR)
        while blind.series.patient:
            there.settle(blind, annotated(blind.series))
            blind = there.lease("w", HOUR)
        assert erasing.opt_out(one, OWNER, [JANE], "consent register").patients == 1
        there.settle(blind, annotated(replace(blind.series, patient=JANE)))
        there.put([of(JANE, "1.4")])
        states = {uid: there.states(uid)[0].reason for uid in ("1.1", "1.2", "1.3", "1.4")}
        assert states == {"1.1": "opted_out", "1.2": "", "1.3": "opted_out", "1.4": "opted_out"}
        while task := there.lease("w", HOUR):
            there.settle(task, annotated(task.series))
        assert {r.series_uid for r in there.results(0, 9) if r.annotated} == {"1.2"}
        assert erasing.opt_in(one, OWNER, [JANE], "changed her mind") == 1
        assert {t.series.series_uid for t in leased(there)} == {"1.1", "1.3", "1.4"}


def test_what_is_to_be_erased_is_kept_for_every_machine_and_not_for_ever(url, tmp_path):
    clock = Clock()
    with ExitStack() as opened:
        one, other = (
            opened.enter_context(closing(KafkaQueue(url, tmp_path / name, now=clock)))
            for name in ("1", "2")
        )
        erasure = Erasure(id="e", request='{"series":["1.1"]}')
        one.begin_erasure(erasure)
        one.end_erasure(erasure)
        assert (one.erasures(), other.erasures()) == ([], [erasure])
        clock.move(timedelta(days=31))
        assert other.erasures() == []
        parts = urlsplit(url)
        log = read_all(parts.netloc, f"{parts.path.strip('/')}.states")
        last = {message.key(): message.value() for message in log}
        assert last[b'["erasure","e"]'] is None


def leased(queue: Queue) -> Iterator[Any]:
    while task := queue.lease("w", HOUR):
        yield task


# What comes at the same time


@pytest.mark.parametrize("first", ["decision", "worker"])
def test_a_result_that_is_settled_while_it_is_withdrawn_is_a_tombstone_for_all(url, first):
    """In the two orders that Kafka allows: each begins before it can see the other."""
    with closing(KafkaQueue(url)) as works, closing(KafkaQueue(url)) as decides:
        works.put([new("1.1")])
        task = works.lease("w", HOUR)
        seen: list[int] = []

        def settle(*arguments: Any) -> None:
            works.settle(task, annotated(task.series))
            seen.extend(result.sequence for result in works.results(0, 9))

        if first == "worker":
            before(decides._desk._press, "publish", settle)
            decides.withdraw("1.1")
        else:
            before(works._hands, "_write_outcome", lambda *_: decides.withdraw("1.1"))
            settle()
        assert last_values(works, url)[b'["1.1","default"]'] is None
        assert feed(decides) == [("1.1", None)]
        (tombstone,) = decides.results(0, 9)
        # Who was told of the document, is told after it that it does not stand.
        assert all(tombstone.sequence > sequence for sequence in seen[: first == "worker"])
        newest = decides.newest()
        for queue in (works, decides):
            queue._desk.mend()
        assert decides.newest() == newest


def before(thing: Any, name: str, act: Any) -> None:
    """Do something once, when this is called next."""
    then = getattr(thing, name)

    def both(*arguments: Any, **more: Any) -> Any:
        setattr(thing, name, then)
        act(*arguments)
        return then(*arguments, **more)

    setattr(thing, name, both)


def test_who_is_fenced_between_two_messages_is_told_so_and_decides_anew(url):
    """Kafka's library then says of the second one only that the producer is of no use."""
    cluster = Cluster(url)
    topic = f"{urlsplit(url).path.strip('/')}.states"
    letters = [Letter(topic=topic, key=b"%d" % n, value=b"{}") for n in range(2)]
    with (
        closing(Outbox(cluster, "one", 10_000)) as one,
        closing(Outbox(cluster, "one", 10_000)) as two,
    ):
        with pytest.raises(Fenced):
            _fence_between(one, two, letters)
        with one.transaction() as transaction:
            assert transaction.send([]) == []


def _fence_between(one: Outbox, two: Outbox, letters: Sequence[Letter]) -> None:
    with one.transaction() as transaction:
        two.ready()
        transaction._produce(letters[0], lambda *told: None)
        time.sleep(2)
        transaction.send(letters[1:])


# Moved


def test_a_queue_is_copied_into_kafka_and_back(url, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "BATCH", 4)
    monkeypatch.setattr(copying, "RESULTS", 2)
    clock = Clock()
    source = fill(sqlite(now=clock))
    with closing(KafkaQueue(f"{url}&fair=0", tmp_path)) as queue:
        stop_after(queue, 6, monkeypatch)
        with pytest.raises(Unavailable, match="stopped"):
            copy(source, queue)
    with closing(KafkaQueue(f"{url}&fair=0")) as queue:
        copy(source, queue)
        assert told(queue) == told(source)
        assert not queue._view.is_astray()
        back = sqlite()
        copy(queue, back)
        assert told(back) == told(source)
        # Whoever reads the topic alone has the same.
        values = last_values(queue, url)
        assert {result.series_uid for result in source.results(0, 99) if result.annotated} == {
            orjson.loads(key)[0] for key, value in values.items() if value
        }
        clock.move(HOUR)
        # And it goes on: what waits is handed out, what comes next is the last word.
        source.release("backfill", "folder:///archive")
        queue.release("backfill", "folder:///archive")
        order = [settle_next(source).series.series_uid for _ in range(2)]
        assert [settle_next(queue).series.series_uid for _ in range(2)] == order
        assert [uid for uid, *_ in feed_of(queue)][-2:] == order
    with closing(KafkaQueue(f"{url}&fair=0", tmp_path)) as queue:
        assert feed_of(queue) == feed_of(source)
        assert queue.count() == {**source.count()}


def feed_of(queue: Queue) -> list[tuple[str, bool]]:
    return [(result.series_uid, result.annotated is None) for result in queue.results(0, 99)]


def stop_after(queue: KafkaQueue, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_in, taken = queue.take_in, []

    def take(*arguments: Any) -> None:
        if len(taken) == many:
            raise Unavailable("stopped")
        taken.append(arguments)
        take_in(*arguments)

    monkeypatch.setattr(queue, "take_in", take)


# What others put into the log


def test_what_nobody_understands_is_laid_with_the_dead_once(url, broker):
    prefix = urlsplit(url).path.strip("/")
    with ExitStack() as opened:
        queues = [opened.enter_context(closing(KafkaQueue(url))) for _ in range(3)]
        put(broker, f"{prefix}.states", [(b'["odd","1"]', b"no JSON"), (b"odd", b"{}")])
        for queue in queues:
            assert queue.count() == {}
        for number, queue in enumerate(queues):
            queue.put([new(f"1.{number}")])
        settle_next(queues[0])
        dead = read_all(broker, f"{prefix}.tasks.dead")
        said = [json.loads(message.value())["offset"] for message in dead]
        assert len(said) == len(set(said)) == 2
        assert {dict(message.headers())["reason"] for message in dead} == {b"not_understood"}


def test_a_newer_tomodex_on_the_queue_stops_this_one(url, broker):
    prefix = urlsplit(url).path.strip("/")
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1")])
        value = orjson.dumps({"format": FORMAT + 1, "what": "nobody knows here"})
        put(broker, f"{prefix}.states", [(b'["kind-of-later","1.1"]', value)])
        for ask in (queue.count, lambda: queue.put([new("1.2")]), lambda: queue.lease("w", HOUR)):
            with pytest.raises(Misconfigured, match="update Tomodex on this machine"):
                ask()


def put(broker: str, topic: str, said: Sequence[tuple[bytes, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": broker})
    for key, value in said:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0
