"""In the place of the IMPETUS CT Indexer, with topics that live in memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.annotated import ONE
from tomodex import bridging
from tomodex.access import Asker
from tomodex.bridging import Bridging
from tomodex.bridging.env import read_env, settings_of_env
from tomodex.bridging.memory import KEEP_S, Memory, Task
from tomodex.bridging.topics import Answer
from tomodex.doors import Bridge
from tomodex.errors import BadQuery, Misconfigured, Unavailable, Unsuitable
from tomodex.mask_orders import Order, make_next, place_order
from tomodex.places import bridged_destination
from tomodex.queues import Failed, NewTask, Outcome, Queue, Rejected
from tomodex.segmenting import Delivered
from tomodex.settings import Settings, load_settings
from tomodex.wiring import operations_of, queue_of

MPI = "123456789"


@dataclass
class Message:
    """A message, as confluent-kafka has it."""

    text: bytes
    number: int = 0
    of: str = "impetus.ct-indexer.index"

    def value(self) -> bytes:
        return self.text

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.number

    def timestamp(self) -> tuple[int, int]:
        return (1, 1_790_000_000_000)


@dataclass
class Topics:
    """What is to be taken, and what was sent."""

    coming: list[Message] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    sent: list[Answer] = field(default_factory=list)
    confirmed: list[Message] = field(default_factory=list)
    last: int = 0
    elsewhere: set[int] = field(default_factory=set)  #: offsets that another bridge has now
    dies: str = ""  #: "before" or "after" the next answers are with Kafka

    def take(self, most: int) -> list[Message]:
        self.asked.append(most)
        taken, self.coming = self.coming[:most], self.coming[most:]
        return taken

    def holds(self, message: Message) -> bool:
        return message.number not in self.elsewhere

    def confirm(self, messages: Sequence[Message]) -> None:
        self.confirmed += messages

    def send(self, answers: Sequence[Answer], number: int) -> None:
        dies, self.dies = self.dies, ""
        if dies == "before":
            raise Unavailable("Kafka does not take answers")
        self.sent += answers
        self.last = number
        if dies:
            raise Unavailable("Kafka does not say whether it took answers")

    def last_sent(self) -> int:
        return self.last


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
    yield opened(settings, topics, queue, memory)
    memory.close()


def opened(settings: Settings, topics: Topics, queue: Queue, memory: Memory) -> Bridging:
    operations = operations_of(settings)
    return Bridging(settings, topics, queue, operations, memory)  # type: ignore[arg-type]


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
    assert len(topics.confirmed) == 1
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
    ],
)
def test_a_task_that_cannot_be_taken_is_refused_at_once(
    bridge: Bridging, queue: Queue, topics: Topics, text: bytes, said: str
):
    topics.coming = [Message(text)]
    look(bridge)
    (answer,) = topics.sent
    assert said in answer.value["error"]
    assert len(topics.confirmed) == 1
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
    topics.dies = "before"
    with pytest.raises(Unavailable):
        look(bridge)
    assert not topics.sent
    look(bridge)
    look(bridge)
    assert len(topics.sent) == 1


def test_answers_that_kafka_took_without_saying_so_are_not_given_again(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, ONE)
    topics.dies = "after"
    with pytest.raises(Unavailable):
        look(bridge)
    look(bridge)
    look(bridge)
    assert len(topics.sent) == 1


@pytest.mark.parametrize("dies", ["before", "after"])
def test_a_bridge_that_is_killed_between_an_answer_and_its_note_answers_once(
    settings: Settings, queue: Queue, topics: Topics, dies: str
):
    memory = Memory(settings.data / "bridge.db")
    bridge = opened(settings, topics, queue, memory)
    topics.coming = [Message(b"no task", 1), Message(task(), 2), Message(b"none either", 3)]
    topics.dies = dies
    with pytest.raises(Unavailable):
        look(bridge)
    memory.close()
    again = Memory(settings.data / "bridge.db")
    anew = opened(settings, topics, queue, again)
    look(anew)
    settle(queue, ONE)
    look(anew)
    again.close()
    assert [answer.value.get("message", "found") for answer in topics.sent] == [
        "no task",
        "none either",
        "found",
    ]


def test_a_message_that_comes_again_after_its_answer_is_not_answered_again(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task())]
    look(bridge)
    settle(queue, ONE)
    look(bridge)
    topics.coming = [Message(task())]
    look(bridge)
    look(bridge)
    assert len(topics.sent) == 1
    assert len(topics.confirmed) == 2


def test_what_the_queue_could_not_take_is_taken_before_anything_else(
    settings: Settings, queue: Queue, topics: Topics, monkeypatch: pytest.MonkeyPatch
):
    memory = Memory(settings.data / "bridge.db")
    bridge = opened(settings, topics, queue, memory)
    put = queue.put
    refusals = [Unavailable("the queue is locked")]

    def reluctant(tasks: Sequence[NewTask]) -> int:
        if tasks[0].series.series_uid == "1.2.2" and refusals:
            raise refusals.pop()
        return put(tasks)

    monkeypatch.setattr(bridge, "_queue", SimpleNamespace(put=reluctant, states=queue.states))
    topics.coming = [Message(task(f"1.2.{n}"), n) for n in range(1, 4)]
    with pytest.raises(Unavailable):
        look(bridge)
    assert [one.number for one in topics.confirmed] == [1]
    look(bridge)
    assert [one.number for one in topics.confirmed] == [1, 2, 3]
    assert queue.count() == {("daily", "ready"): 3}
    memory.close()


def test_what_another_bridge_has_by_now_is_left_to_it(
    bridge: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task("1.2.1"), 1), Message(task("1.2.2"), 2)]
    topics.elsewhere = {1}
    look(bridge)
    assert [one.number for one in topics.confirmed] == [2]
    assert queue.count() == {("daily", "ready"): 1}


def test_what_is_no_task_is_given_back_no_longer_than_kafka_takes(bridge: Bridging, topics: Topics):
    topics.coming = [Message(b'{"identification": "' + b"x" * 900_000 + b'"}')]
    look(bridge)
    assert len(json.dumps(topics.sent[0].value)) < 20_000


# The segmentation mode

MASKS = {"s3-output": {"s3-bucket": "masks", "s3-path": "of/1.2.3"}}
MASK_TASKS, MASK_RESULTS = "impetus.ct-indexer.segmentation", "masks-made"


@pytest.fixture
def masking(settings: Settings, queue: Queue, topics: Topics) -> Iterator[Bridging]:
    memory = Memory(settings.data / "bridge.db")
    yield opened(with_masks(settings), topics, queue, memory)
    memory.close()


def with_masks(settings: Settings, **more: str) -> Settings:
    door = Bridge(servers="b", mask_tasks=MASK_TASKS, mask_results=MASK_RESULTS, **more)
    destinations = {"masks": "s3://masks?endpoint=http://127.0.0.1:9"}
    return settings.model_copy(update={"bridge": door, "destinations": destinations})


def mask_message(number: int = 0, **changed: object) -> Message:
    return Message(task(**{**MASKS, **changed}), number, MASK_TASKS)


def made(settings: Settings, error: Exception | None = None) -> Order:
    """What the process that makes masks was given."""
    seen: list[Order] = []

    def make(order: Order, at: datetime) -> Delivered:
        seen.append(order)
        if error:
            raise error
        places = ("s3://masks/of/1.2.3/liver.nii.gz", "s3://masks/of/1.2.3/statistics.json")
        uid = order.series
        return Delivered(
            series_uid=uid, structures=("liver",), missing=(), places=places,
            algorithm="phantom", loading_s=1.5, total_s=61.5,
        )  # fmt: skip

    assert make_next(operations_of(settings), make)
    return seen[0]


def test_masks_are_made_and_answered_with_the_names_of_their_files(
    masking: Bridging, settings: Settings, queue: Queue, topics: Topics
):
    topics.coming = [mask_message()]
    look(masking)
    assert not topics.sent
    assert not queue.count()
    order = made(settings)
    assert (order.to, order.source) == ("s3://masks/of/1.2.3", "s3://landing/1.2.3.zip")
    look(masking)
    look(masking)
    (answer,) = topics.sent
    assert (answer.topic, answer.key) == (MASK_RESULTS, "1.2.3")
    assert answer.value["files"] == ["liver.nii.gz", "statistics.json"]
    assert answer.value["identification"]["mpi"] == MPI
    assert answer.value["s3-output"] == MASKS["s3-output"]


def test_masks_that_cannot_be_made_are_an_error(
    masking: Bridging, settings: Settings, topics: Topics
):
    topics.coming = [mask_message()]
    look(masking)
    made(settings, Unsuitable("few_slices", "has 2 slices"))
    look(masking)
    (answer,) = topics.sent
    assert answer.topic == "medicsh.datalake.json.impax.ct-indexer.error"
    assert answer.value["error"] == "{'type': 'Segmentation', 'message': 'has 2 slices'}"
    assert answer.value["message"]["s3-output"] == MASKS["s3-output"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"s3-output": {"s3-bucket": "elsewhere", "s3-path": "a"}}, "no configured destination"),
        ({"s3-output": {"s3-bucket": "masks", "s3-path": "a/../../b"}}, "no configured dest"),
        ({"s3-output": None}, "s3-output"),
        ({"s3-input": {"s3-bucket": "elsewhere", "s3-path": "a.zip"}}, "not a configured source"),
    ],
)
def test_masks_of_nowhere_or_for_nowhere_are_refused_at_once(
    masking: Bridging, settings: Settings, topics: Topics, changed: dict[str, object], said: str
):
    topics.coming = [mask_message(**changed)]
    look(masking)
    assert said in topics.sent[0].value["error"]
    assert not operations_of(settings).newest()


def test_any_bucket_takes_masks_where_the_store_says_so_and_over_http_none(
    settings: Settings, queue: Queue, topics: Topics
):
    store = "s3:?endpoint=http://127.0.0.1:9&layout=archives"
    open_to_all = with_masks(settings, store=store)
    memory = Memory(settings.data / "bridge.db")
    elsewhere = {"s3-output": {"s3-bucket": "elsewhere", "s3-path": "a"}}
    topics.coming = [mask_message(**elsewhere)]
    look(opened(open_to_all, topics, queue, memory))
    memory.close()
    assert not topics.sent
    order = made(settings)
    assert order.to == "s3://elsewhere/a"
    researcher = Asker(name="ada", roles=frozenset({"researcher"}))
    with pytest.raises(BadQuery, match="no configured destination"):
        place_order(open_to_all, order, researcher)
    assert "endpoint=http" in bridged_destination(open_to_all, order.to)


def test_the_same_task_of_masks_twice_is_one_order(
    masking: Bridging, settings: Settings, topics: Topics
):
    topics.coming = [mask_message(), mask_message()]
    look(masking)
    assert len(operations_of(settings).newest()) == 1


def test_an_order_that_was_erased_is_answered_too(
    masking: Bridging, settings: Settings, topics: Topics
):
    topics.coming = [mask_message()]
    look(masking)
    operations_of(settings).forget(["1.2.3"])
    look(masking)
    assert "Withdrawn" in topics.sent[0].value["error"]


def test_a_task_to_be_indexed_is_indexed_whatever_output_it_names(
    masking: Bridging, queue: Queue, topics: Topics
):
    topics.coming = [Message(task(**MASKS))]
    look(masking)
    assert queue.count() == {("daily", "ready"): 1}


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
    memory.add(Task(place="tasks 0 0", series_uid="1.2.3", message=json.loads(task())))
    name = memory.instance
    memory.close()
    again = Memory(tmp_path / "bridge.db")
    assert [one.series_uid for one in again.waiting()] == ["1.2.3"]
    assert again.instance == name
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
    assert "region=eu-central-1" in door.store
    assert "very secret" not in repr(settings)


def test_the_old_env_file_of_the_segmentation_mode_is_understood():
    given = {
        "MODUS": "segmentation",
        "BOOTSTRAP_SERVER": "b",
        "INCOMING_INDEX_TOPIC_NAME": "not this",
        "OUTGOING_SEGMENTATION_TOPIC_NAME": "site.masks",
    }
    door = load_settings(**settings_of_env(given)).bridge
    assert (door.tasks, door.mask_tasks) == ("", "impetus.ct-indexer.segmentation")
    assert (door.mask_results, door.group) == ("site.masks", "ct-indexer-segmentation-grp-0")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"MODUS": "both", "BOOTSTRAP_SERVER": "b"}, "index, segmentation"),
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
    bridge = opened(open_to_all, topics, queue, memory)
    topics.coming = [Message(task(bucket="elsewhere"))]
    look(bridge)
    assert not topics.sent
    assert queue.is_due()
    memory.close()


def test_what_a_task_said_of_a_patient_is_gone_when_it_is_answered(tmp_path):
    memory = Memory(tmp_path / "bridge.db")
    said = {"identification": {"mpi": "987654321"}}
    memory.add(Task(place="topic 0 1", series_uid="1.2.3", message=said))
    (waiting,) = memory.waiting()
    memory.end(memory.begin([waiting.id]))
    memory.close()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"987654321" not in left
    assert b"topic 0 1" in left


def test_an_answered_message_is_known_for_a_week(tmp_path):
    clock = [0.0]
    memory = Memory(tmp_path / "bridge.db", now=lambda: clock[0])
    memory.add(Task(place="topic 0 1", message=""))
    memory.end(memory.begin([1]))
    for clock[0], known in ((KEEP_S - 1, True), (KEEP_S + 1, False)):
        memory.end(memory.begin([]))
        assert memory.is_answered("topic 0 1") == known
    memory.close()
