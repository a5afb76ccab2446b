"""What of the queue in Kafka needs no broker: its records, its view, its names, its URL."""

from __future__ import annotations

import json
import logging
import random
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

import apsw
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.queue import annotated, ct, listed, new
from tests.test_queues_sqlite import Clock
from tomodex.errors import Misconfigured, Unavailable
from tomodex.kafka_door import SAME_S, Seldom
from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.cluster import Cluster, QueueOptions
from tomodex.queues.kafka.crew import Crew, is_member
from tomodex.queues.kafka.feed import group_of
from tomodex.queues.kafka.outbox import Fenced, Outbox, within
from tomodex.queues.kafka.press import task_key
from tomodex.queues.kafka.queue import view_file
from tomodex.queues.kafka.records import (
    Audit,
    Nothing,
    Record,
    Standing,
    Wanted,
    Work,
    key_of,
    parse,
    place_of,
    share_of,
    value_of,
)
from tomodex.queues.kafka.topics import names_of, retry_place
from tomodex.queues.kafka.view import View

Message = tuple[int, bytes, bytes | None]

URL = "kafka://broker:9092/tomodex"


def wanted(uid: str = "1.2", version: int = 1, **more: object) -> Wanted:
    facts: dict[str, object] = {
        "source": "folder:///archive",
        "fingerprint": "a",
        "series": json.dumps(asdict(ct(uid))),
        "study_date": "2021-03-04",
        "void": 0,
        "id": int(uid.rpartition(".")[2]),
        "share": 0,
        "at": version,
        **more,
    }
    return Wanted(series_uid=uid, configuration="default", version=version, **facts)


def work(uid: str = "1.2", version: int = 1, **more: object) -> Work:
    facts: dict[str, object] = {
        "status": "completed",
        "due_ms": 0,
        "attempt": 1,
        "token": 7,
        "worker": "w",
        "reason": "",
        "sentence": "",
        "updated_ms": 5,
        "share": 0,
        "at": version,
        **more,
    }
    return Work(series_uid=uid, configuration="default", version=version, **facts)


def standing(uid: str = "1.2", version: int = 1, sequence: int = 1, **more: object) -> Standing:
    facts: dict[str, object] = {
        "document": True,
        "listed": False,
        "settled_ms": 5,
        **more,
    }
    return Standing(
        series_uid=uid, configuration="default", version=version, sequence=sequence, **facts
    )


def messages(*records: Record | Nothing) -> list[Message]:
    return [
        (n, one.key, None) if isinstance(one, Nothing) else (n, key_of(one), value_of(one))
        for n, one in enumerate(records)
    ]


def compacted(log: Sequence[Message], keep: int) -> list[Message]:
    """What a broker may have left of a log whose first messages it has compacted."""
    last = {key: offset for offset, key, _ in log}
    return [one for one in log if one[0] >= keep or last[one[1]] == one[0]]


def view_of(log: Sequence[Message]) -> View:
    view = View(None, QueueOptions())
    view.apply(log, len(log))
    return view


def seen(view: View) -> dict[str, object]:
    """All that anybody can ask of a view, as far as it is the same on every machine."""
    uids = [f"1.{n}" for n in range(4)]
    return {
        "count": dict(view.count()),
        "states": [view.states(uid) for uid in uids],
        "feed": list(view.standing(0, 100)),
        "reasons": dict(view.reasons()),
        "held": list(view.held()),
        "audit": [one.sentence for one in view.audit()],
        "known": sorted(view.known("folder:///archive")),
        "rows": [view.row(uid, "default") for uid in uids],
    }


# Records


def test_a_record_comes_back_as_it_was():
    for record in (wanted(), work(instances=12), standing(), Nothing("task", ("1.2", "fine"))):
        ((_, key, value),) = messages(record)
        assert parse(key, value) == record


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"{}"),
        (b"", b"{}"),
        (b"\xff\xfe", b"{}"),
        (b'"task"', b"{}"),
        (b'["task","1.2"]', b"{}"),
        (b'["task",1,2]', b"{}"),
        (b'["strange","1.2"]', b"{}"),
        (b'["task","1.2","default"]', b"no JSON"),
        (b'["task","1.2","default"]', b"[]"),
        (b'["task","1.2","default"]', b'{"format":1}'),
        (b'["task","1.2","default"]', b'{"format":"2"}'),
        (key_of(wanted()), value_of(wanted()).replace(b'"lane":0', b'"lane":"daily"')),
        (key_of(wanted()), value_of(wanted()).replace(b'"ready"', b'"done"')),
    ],
)
def test_what_is_no_record_is_passed_over(key, value):
    with pytest.raises(ValueError):  # noqa: PT011 - of pydantic, orjson or us
        parse(key, value)
    view = View(None, QueueOptions())
    view.apply([(0, key, value), *[(1, *m[1:]) for m in messages(wanted())]], 2)
    assert [one.at for one in view.strange(9)] == [0]
    assert view.next_offset() == 2
    assert len(view.states("1.2")) == 1


def test_a_partition_of_a_topic_is_one_number():
    assert [place_of(share_of(place, n)) for place, n in [(0, 0), (6, 9999)]] == [(0, 0), (6, 9999)]


# The view


def test_work_on_another_version_says_nothing():
    view = view_of(messages(wanted(version=2), work(version=1)))
    assert view.states("1.2")[0].status == "ready"


def test_a_result_of_what_is_void_is_a_tombstone():
    before = messages(wanted(version=1), standing(version=1))
    after = messages(wanted(version=1), wanted(version=2, gone=True, void=1), standing(version=1))
    assert view_of(before).standing(0, 9) == [(1, "1.2", True)]
    assert view_of(after).standing(0, 9) == [(1, "1.2", False)]


def test_of_a_series_that_was_forgotten_a_late_result_is_not_seen():
    kinds = ("task", "work", "result")
    gone = [Nothing(kind, ("1.2", "default")) for kind in kinds]
    view = view_of(messages(wanted(), standing(), *gone, standing(sequence=3)))
    assert view.standing(0, 9) == []
    assert view.states("1.2") == []


def test_what_was_read_before_is_not_read_again():
    view = view_of(messages(wanted(), work()))
    view.apply(messages(wanted(version=9)), 1)
    assert view.states("1.2")[0].status == "completed"
    assert view.next_offset() == 2


def test_the_processes_of_a_machine_read_the_log_once(tmp_path: Path):
    first, second = (View(tmp_path / "view.db", QueueOptions()) for _ in range(2))
    with closing(first), closing(second):
        first.apply(messages(wanted()), 1)
        assert second.next_offset() == 1
        assert len(second.states("1.2")) == 1
        audit = Audit(number="a", at_ms=1, event="kept", series_uid="1", source="", sentence="")
        for view in (first, second):
            view.apply([(1, key_of(audit), value_of(audit))], 2)
        assert len(first.audit()) == 1


def test_only_the_owner_can_read_the_file(tmp_path: Path):
    with closing(View(tmp_path / "view.db", QueueOptions())):
        assert (tmp_path / "view.db").stat().st_mode & 0o777 == 0o600


class Author:
    """Writes a log as deciders and workers do, without Kafka."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log: list[Message] = []
        self.view = View(None, QueueOptions(), now=self.clock)
        self.sequence = 0

    def say(self, *records: Record | Nothing) -> None:
        new_ones = [(len(self.log) + n, *m[1:]) for n, m in enumerate(messages(*records))]
        self.log += new_ones
        self.view.apply(new_ones, len(self.log))
        assert not self.view.strange(1)

    def decide(self, act: object) -> None:
        with self.view.trying() as changes:
            act(self.view)  # type: ignore[operator]
        self.publish(changes)

    def publish(self, changes: Changes) -> None:
        said = []
        for one in changes.said:
            self.sequence += 1
            said.append(
                Standing(
                    series_uid=one.series_uid,
                    configuration=one.configuration,
                    version=one.version,
                    sequence=self.sequence,
                    listed=one.listed,
                    document=one.document is not None,
                    settled_ms=one.settled_ms,
                )
            )
        gone = [Nothing("result", pair) for pair in changes.unsaid]
        self.say(*changes.wanted, *gone, *said, *changes.others)

    def step(self, what: str, uid: str) -> None:
        row = self.view.row(uid, "default")
        self.clock.now_s += 1
        match what:
            case "put":
                self.decide(lambda view: view.put([new(uid, "daily")]))
            case "list":
                self.decide(lambda view: view.put([_listed(uid)]))
            case "change":
                fingerprint = str(len(self.log))
                self.decide(lambda view: view.put([new(uid, fingerprint=fingerprint)]))
            case "reject":
                fingerprint = str(len(self.log))
                task = new(uid, fingerprint=fingerprint, reason="4d")
                self.decide(lambda view: view.put([task]))
            case "withdraw" | "exclude" | "retry":
                arguments = {"withdraw": (uid,), "exclude": (uid, "x", "y"), "retry": ("rejected",)}
                self.decide(lambda view: getattr(view, what)(*arguments[what]))
            case "lease" if row and row.status == "ready":
                self._work(uid, row.version, "in-progress", row.taken + 1, row.attempt + 1)
            case "settle" if row and row.status == "in-progress":
                self.sequence += 1
                self._work(uid, row.version, "completed", row.taken, row.attempt)
                self.say(standing(uid, row.version, self.sequence))
            case "late" if row is None or not row.taken:
                # Of a version that may be no more: the worker was about to commit. Not once the
                # newer one was leased: whoever did that owns the partition, and Kafka refuses its
                # former owner.
                self.sequence += 1
                version = max(1, (row.version if row else 2) - 1)
                self._work(uid, version, "completed", 99, 1)
                self.say(standing(uid, version, self.sequence))

    def _work(self, uid: str, version: int, status: str, token: int, attempt: int) -> None:
        due = 5 if status == "in-progress" else 0
        self.say(work(uid, version, status=status, token=token, attempt=attempt, due_ms=due))


def _listed(uid: str):
    return replace(new(uid), listed=listed(ct(uid)))


STEPS = ("put", "list", "change", "reject", "withdraw", "exclude", "retry", "lease", "settle",
         "late")  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(["1.1", "1.2"])), max_size=25),
    st.randoms(use_true_random=False),
)
def test_whatever_compaction_took_every_reader_comes_to_the_same(steps, chance: random.Random):
    author = Author()
    for what, uid in steps:
        author.step(what, uid)
    left = compacted(author.log, chance.randint(0, len(author.log)))
    late = View(None, QueueOptions(), now=author.clock)
    late.apply(left, len(author.log))
    assert seen(late) == seen(author.view)


def test_what_is_tried_out_changes_nothing():
    view = View(None, QueueOptions())
    with view.trying() as changes:
        assert view.put([new("1.2"), new("1.3")]) == 2
    assert len(changes.wanted) == 2
    assert view.count() == {}
    with pytest.raises(AssertionError):
        view.put([new("1.2")])


def test_a_decision_that_changes_nothing_says_nothing():
    author = Author()
    author.step("put", "1.2")
    with author.view.trying() as changes:
        author.view.put([new("1.2", "daily")])
    assert not changes


def test_a_series_that_is_better_known_keeps_its_version():
    """Or a worker that has it would lose it."""
    author = Author()
    author.step("put", "1.2")
    author.step("lease", "1.2")
    before = author.view.row("1.2", "default")
    author.decide(lambda view: view.put([_elsewhere("1.2")]))
    assert author.view.row("1.2", "default") == before
    assert sorted(author.view.known("s3://other")) == ["1.2"]


def _elsewhere(uid: str):
    return replace(new(uid, "daily"), source="s3://other")


def test_the_first_ticket_that_is_not_done_is_the_place_of_its_partition():
    view = view_of(
        messages(wanted("1.1", at=4), wanted("1.2", at=6), wanted("1.3", at=9), work("1.1", at=4))
    )
    row = view.row("1.2", "default")
    assert row is not None
    assert view.undone(0) == 6
    assert view.undone(0, but=row.id) == 9
    assert view.undone(77) == 0
    done = view_of(messages(wanted("1.1", at=4), work("1.1", at=4)))
    assert done.undone(0) == 5


def test_a_worker_is_given_only_tasks_of_its_partitions():
    shares = {n: share_of(n % 3, n) for n in range(1, 9)}
    tasks = [wanted(f"1.{n}", share=shares[n], study_date=f"20{n:02}-01-01") for n in shares]
    view = view_of(messages(*tasks))
    found = view.next_task(frozenset({5, 7}), [], [], least_urgent=False)
    assert found is not None
    assert found.series_uid == "1.5"
    assert view.next_task(frozenset({0, 9}), [], [], least_urgent=False) is None


# Messages go out


class Fenced1st:
    """A producer whose library calls a log line while its own exception is set."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def init_transactions(self, seconds: float) -> None: ...

    def begin_transaction(self) -> None: ...

    def abort_transaction(self, seconds: float) -> None:
        self.ended.append("aborted")

    def purge(self) -> None:
        self.ended.append("thrown away")


class OneProducer:
    """As much of a cluster as an outbox asks."""

    servers = "broker:9092"

    def __init__(self, producer: Fenced1st) -> None:
        self._producer = producer

    def producer(self, name: str, timeout_ms: int) -> Fenced1st:
        return self._producer

    def named_errors(self) -> ExitStack:
        return ExitStack()


def test_who_is_fenced_while_the_library_writes_a_log_line_is_told_so():
    producer = Fenced1st()
    outbox = Outbox(OneProducer(producer), "t.desk", 1000)  # type: ignore[arg-type]
    fenced = KafkaError(KafkaError._FENCED, "fenced", fatal=True)
    with pytest.raises(Fenced), outbox.transaction():
        raise SystemError("returned a result with an exception set") from KafkaException(fenced)
    assert producer.ended == ["thrown away"]
    with pytest.raises(SystemError, match="a real one"), outbox.transaction():
        raise SystemError("a real one")
    assert producer.ended == ["thrown away", "aborted"]


# Names and addresses


def test_the_topics_are_named_by_the_lanes():
    names = names_of("hospital.tomodex")
    assert names.tickets[0] == "hospital.tomodex.tasks.on-demand"
    assert names.tickets[-1] == "hospital.tomodex.tasks.retry.1h"
    assert len(set(names.all)) == 10


@pytest.mark.parametrize(("wait_s", "topic"), [(0, "1m"), (60, "1m"), (61, "10m"), (3600, "1h")])
def test_a_retry_waits_where_its_wait_fits(wait_s, topic):
    assert names_of("t").tickets[retry_place(wait_s)].endswith(f".{topic}")


def test_a_consumers_group_can_be_told_apart_and_read():
    one, other = (group_of("t", url) for url in ("fhir+https://a/fhir", "fhir+https://a/fhir?"))
    assert one.startswith("t.to.fhir-https-a-fhir.")
    assert one != other


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka:///tomodex", "without a user"),
        ("kafka://broker:9092", "PREFIX"),
        ("kafka://broker:9092/a/b", "PREFIX"),
        ("kafka://broker:9092/..", "PREFIX"),
        ("kafka://me@broker:9092/t", "without a user"),
        ("kafka://me:secret@broker:9092/t", "no place in a URL"),
        (f"{URL}?attempts=0", "attempts"),
        (f"{URL}?strange=1", "strange"),
        (f"{URL}?lanes=daily,backfill", "each once"),
        (f"{URL}?password=geheim", "a secret is named"),
    ],
)
def test_a_wrong_address_is_refused(url, said):
    with pytest.raises(Misconfigured, match=said) as refused:
        Cluster(url)
    assert "secret@" not in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_keys_of_tickets_hold_any_uid():
    assert task_key('1"2', "a/b") == b'["1\\"2","a/b"]'


def test_results_have_no_number_of_their_own(tmp_path: Path):
    """What `annotated` made is in the topic alone; the file says where."""
    with closing(View(tmp_path / "view.db", QueueOptions())) as view:
        view.apply(messages(wanted(), standing()), 2)
    with closing(apsw.Connection(str(tmp_path / "view.db"))) as db:
        assert db.execute("select document from result").get == b"@1"
    assert annotated(ct("1.2")).annotations


def as_member(generation: int, name: str) -> bytes:
    """What librdkafka says of a member of a group, as it writes it."""
    said = struct.pack("=i", generation)
    return b"CGMDv2:" + said + b"tomodex.workers\0" + name.encode() + b"\0\1"


class Says:
    """A consumer that says this of itself."""

    def __init__(self, metadata: bytes) -> None:
        self.metadata = metadata

    def consumer_group_metadata(self) -> bytes:
        return self.metadata


def test_who_has_not_joined_is_no_member():
    nowhere = {"bootstrap.servers": "127.0.0.1:1", "group.id": "t.workers", "log_level": 0}
    with closing(Consumer(nowhere)) as consumer:
        assert not is_member(consumer.consumer_group_metadata())


@pytest.mark.parametrize(
    ("generation", "name", "is_one"),
    [(3, "rdkafka-1", True), (-1, "rdkafka-1", False), (3, "", False)],
)
def test_a_member_has_a_name_and_a_generation(generation, name, is_one):
    assert is_member(as_member(generation, name)) is is_one


def test_a_member_that_is_written_in_another_way_is_not_guessed_at():
    with pytest.raises(ValueError, match="another way"):
        is_member(b"CGMDv3:\0\0\0\1")


# Kafka takes the offsets of a transaction from one who names no member, whoever has the partition:
# so it would be settled twice, by a worker that was away too long, and by the one that came after.
def test_a_worker_that_is_out_of_the_group_does_not_write_as_nobody():
    crew = Crew(Cluster(URL), lambda partitions: None, lambda partitions: None)
    former, nobody = as_member(7, "rdkafka-1"), as_member(-1, "")
    for said in (former, nobody):
        crew._remember(Says(said))
    assert crew.metadata() == former


def test_who_waits_in_vain_goes_on():
    begin = time.monotonic()
    with pytest.raises(KafkaException) as raised:
        within(0.05, lambda: time.sleep(20))
    assert time.monotonic() - begin < 10
    assert raised.value.args[0].code() == KafkaError._TIMED_OUT


def test_what_goes_wrong_in_time_is_told():
    def refuse() -> None:
        raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))

    with pytest.raises(KafkaException) as raised:
        within(10, refuse)
    assert raised.value.args[0].code() == KafkaError.ILLEGAL_GENERATION


def refused(client: int, ms: int, port: int = 9092) -> logging.LogRecord:
    """As librdkafka says that a broker is not there."""
    thread = f"FAIL [rdkafka#consumer-{client}] [thrd:b:{port}/bootstrap]:"
    said = f"{thread} b:{port}/1: Connection refused (after {ms}ms in state CONNECT)"
    return logging.LogRecord("librdkafka", logging.ERROR, "", 0, said, None, None)


def test_that_no_broker_answers_is_logged_once_a_minute():
    times = iter([0.0, 1.0, 2.0, 2.0, SAME_S + 1.0])
    lets = Seldom(lambda: next(times))
    lines = [refused(7, 0), refused(7, 3), refused(8, 0), refused(7, 0, port=9093), refused(7, 0)]
    assert [lets(line) for line in lines] == [True, False, False, True, True]


def test_what_an_older_tomodex_kept_of_a_log_is_removed_and_nothing_else(tmp_path):
    ours = view_file(tmp_path, "t", "topic")
    assert ours is not None
    others = ["kafka-1-t-another.db", "kafka-1-tt-topic.db", "tomodex.db", f"{ours.name}-wal"]
    for name in ("kafka-1-t-topic.db", "kafka-1-t-topic.db-wal", ours.name, *others):
        (tmp_path / name).touch()
    assert view_file(tmp_path, "t", "topic") == ours
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, *others}


def test_where_kafka_does_not_say_yet_who_may_be_in_a_group_a_member_waits(monkeypatch):
    def silent(*asked: object) -> None:
        raise Unavailable("no coordinator yet")

    cluster = Cluster("kafka://127.0.0.1:1/t")
    monkeypatch.setattr(cluster, "allowed_in_group", silent)
    cluster.consumer("t.workers").close()
