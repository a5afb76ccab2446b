"""In the place of the IMPETUS CT Indexer, with topics that live in memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.annotated import ONE
from tomodex import bridging
from tomodex.bridging import Answer, Bridging, Memory, read_env, settings_of_env
from tomodex.doors import Bridge
from tomodex.errors import Misconfigured, Unavailable
from tomodex.queues import Failed, Outcome, Queue, Rejected
from tomodex.settings import Settings, load_settings
from tomodex.wiring import queue_of

MPI = "123456789"


@dataclass
class Message:
    """A message, as confluent-kafka has it."""

    text: bytes
    number: int = 0

    def value(self) -> bytes:
        return self.text

    def topic(self) -> str:
        return "tasks"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.number


@dataclass
class Topics:
    """What is to be taken, and what was sent."""

    coming: list[Message] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    sent: list[Answer] = field(default_factory=list)
    confirmed: int = 0
    silent: bool = False

    def take(self, most: int) -> list[Message]:
        self.asked.append(most)
        taken, self.coming = self.coming[:most], self.coming[most:]
        return taken

    def confirm(self) -> None:
        self.confirmed += 1

    def send(self, answers: Sequence[Answer]) -> None:
        if self.silent:
            raise Unavailable("Kafka does not take answers")
        self.sent += answers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        sources={"landing": "s3://landing?endpoint=http://127.0.0.1:9&layout=archives"},
        bridge=Bridge(servers="127.0.0.1:9"),
    )


@pytest.fixture
def queue(settings: Settings) -> Iterator[Queue]:
    queue = queue_of(settings)
    yield queue
    queue.close()


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
def bridge(settings: Settings, queue: Queue, topics: Topics) -> Iterator[Bridging]:
    memory = Memory(settings.data / "bridge.db")
    yield Bridging(settings, topics, queue, memory)  # type: ignore[arg-type]
    memory.close()


def task(series: str = "1.2.3", bucket: str = "landing", **more: object) -> bytes:
    return json.dumps(
        {
            "identification": {"mpi": MPI, "series": series, "study": "1.2"},
            "s3-input": {"s3-bucket": bucket, "s3-path": f"{series}.zip"},
            **more,
        }
    ).encode()


def settle(queue: Queue, outcome: Outcome) -> None:
    leased = queue.lease("a test", timedelta(minutes=5))
    assert leased is not None
    assert queue.settle(leased, outcome)


def look(bridge: Bridging) -> None:
    bridge._next_look_s = 0.0
    bridge.step()


def test_a_task_is_answered_when_it_is_done(bridge: Bridging, queue: Queue, topics: Topics):
    topics.coming = [Message(task())]
    look(bridge)
    assert not topics.sent
    assert topics.confirmed == 1
    settle(queue, ONE)
    look(bridge)
    (answer,) = topics.sent
    assert (answer.topic, answer.key) == ("impetus.ct-indexer.index.results", "1.2.3")
    assert answer.value["identification"]["mpi"] == MPI
    assert answer.value["s3-input"]["s3-path"] == "1.2.3.zip"


def test_an_answer_is_given_once(bridge: Bridging, queue: Queue, topics: Topics):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, ONE)
    look(bridge)
    look(bridge)
    assert len(topics.sent) == 1


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Rejected(reason="few_slices", sentence="has 2 slices"), "few_slices"),
        (Failed(sentence="a bug"), "bug"),
    ],
)
def test_what_is_not_indexed_is_an_error_with_its_reason(
    bridge: Bridging, queue: Queue, topics: Topics, outcome: Outcome, kind: str
):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, outcome)
    look(bridge)
    (answer,) = topics.sent
    assert answer.topic == "medicsh.datalake.json.impax.ct-indexer.error"
    assert answer.value["message"] == json.loads(task())
    assert f"'type': '{kind}'" in answer.value["error"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"no JSON", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b'{"identification": {}}', "identification.series"),
        (task(bucket="elsewhere"), "not a configured source"),
        (task(**{"s3-output": {"s3-bucket": "masks", "s3-path": "a"}}), "masks"),
    ],
)
def test_a_task_that_cannot_be_taken_is_refused_at_once(
    bridge: Bridging, queue: Queue, topics: Topics, text: bytes, said: str
):
    topics.coming = [Message(text)]
    look(bridge)
    (answer,) = topics.sent
    assert said in answer.value["error"]
    assert topics.confirmed == 1
    assert not queue.count()


def test_a_series_that_is_known_is_answered_from_what_is_known(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, ONE)
    look(bridge)
    topics.coming = [Message(task(), number=1)]
    look(bridge)
    look(bridge)
    assert [answer.key for answer in topics.sent] == ["1.2.3", "1.2.3"]
    assert not queue.is_due()


def test_a_message_that_comes_twice_has_one_answer(bridge: Bridging, queue: Queue, topics: Topics):
    topics.coming = [Message(task()), Message(task())]
    look(bridge)
    settle(queue, ONE)
    look(bridge)
    assert len(topics.sent) == 1


def test_answers_that_kafka_does_not_take_are_given_later(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, ONE)
    topics.silent = True
    with pytest.raises(Unavailable):
        look(bridge)
    topics.silent = False
    look(bridge)
    assert len(topics.sent) == 1


def test_a_series_that_left_the_index_is_answered_too(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task())]
    look(bridge)
    queue.withdraw("1.2.3", sentence="erased")
    look(bridge)
    assert "Withdrawn" in topics.sent[0].value["error"]


def test_what_is_only_listed_is_no_answer_yet(bridge: Bridging, queue: Queue, topics: Topics):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, replace(ONE, image=None, annotations=()))
    look(bridge)
    assert not topics.sent


def test_no_more_is_taken_than_can_wait(
    bridge: Bridging, topics: Topics, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bridging, "MOST_WAITING", 2)
    topics.coming = [Message(task(f"1.2.{n}"), n) for n in range(5)]
    look(bridge)
    look(bridge)
    assert topics.asked == [2, 0]
    assert len(topics.coming) == 3


def test_what_waits_outlives_the_process_and_is_for_its_owner_alone(tmp_path: Path):
    memory = Memory(tmp_path / "bridge.db")
    memory.add("tasks 0 0", "1.2.3", task().decode())
    memory.close()
    again = Memory(tmp_path / "bridge.db")
    assert [one.series_uid for one in again.all()] == ["1.2.3"]
    again.close()
    assert stat.S_IMODE((tmp_path / "bridge.db").stat().st_mode) == 0o600


# The predecessor's own settings

ENV = """
VERSION = 1.0.0
MODUS = "index"
BOOTSTRAP_SERVER=broker:9092
INCOMING_INDEX_TOPIC_NAME="site.tasks"
OUTGOING_INDEX_TOPIC_NAME="site.results"
INDEX_CONSUMER_GROUP="site-group"
ERROR_TOPIC_NAME="site.errors"
S3_ENDPOINT="store:9000"
S3_ACCESS_KEY="access"
S3_SECRET_KEY="very secret"
SSL_ON = False
MIN_FILES_NUMBER = 10
"""


def test_the_old_env_file_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "BOOTSTRAP_SERVER", "MODUS", "SSL_ON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.environ", {})
    (tmp_path / ".env").write_text(ENV)
    settings = load_settings(**read_env(tmp_path / ".env"))
    door = settings.bridge
    assert (door.servers, door.tasks, door.results) == (
        "broker:9092",
        "site.tasks",
        "site.results",
    )
    assert (door.group, door.errors) == ("site-group", "site.errors")
    assert "endpoint=http%3A%2F%2Fstore%3A9000" in door.store
    assert "very secret" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MODUS": "segmentation", "BOOTSTRAP_SERVER": "b"}, "tomodex segment"),
        ({}, "BOOTSTRAP_SERVER"),
    ],
)
def test_what_the_bridge_cannot_do_is_said(given: dict[str, str], said: str):
    with pytest.raises(Misconfigured, match=said):
        settings_of_env(given)


def test_any_bucket_may_be_named_where_the_store_says_so(
    settings: Settings, queue: Queue, topics: Topics
):
    store = Bridge(servers="b", store="s3:?endpoint=http://127.0.0.1:9&layout=archives")
    memory = Memory(settings.data / "bridge.db")
    open_to_all = settings.model_copy(update={"bridge": store})
    bridge = Bridging(open_to_all, topics, queue, memory)  # type: ignore[arg-type]
    topics.coming = [Message(task(bucket="elsewhere"))]
    look(bridge)
    assert not topics.sent
    assert queue.is_due()
    memory.close()


def test_what_a_task_said_of_a_patient_is_gone_when_it_is_answered(tmp_path):
    memory = Memory(tmp_path / "bridge.db")
    memory.add("topic/0/1", "1.2.3", '{"identification": {"mpi": "987654321"}}')
    (waiting,) = memory.all()
    memory.forget([waiting.id])
    memory.close()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"987654321" not in left
