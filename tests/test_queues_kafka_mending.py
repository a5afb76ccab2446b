"""What two transactions of the queue in Kafka leave behind, in every order of their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import permutations

import pytest

from tests.contracts.queue import annotated, ct, listed, new
from tests.test_queues_kafka import Message, compacted, messages, standing, wanted, work
from tests.test_queues_sqlite import Clock
from tomodex.annotation import to_json
from tomodex.errors import Misconfigured
from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.cluster import QueueOptions
from tomodex.queues.kafka.mending import mend
from tomodex.queues.kafka.outbox import Letter
from tomodex.queues.kafka.press import Press, result_key
from tomodex.queues.kafka.records import FORMAT, Nothing, Record, key_of, value_of
from tomodex.queues.kafka.topics import names_of
from tomodex.queues.kafka.view import View

NAMES = names_of("t")
UID = "1.2"
OURS = result_key(UID, "default")

Act = Callable[[View], object]


class Topics:
    """The topics of a queue without a broker; what is sent is in them at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.said: dict[str, list[tuple[bytes, bytes | None]]] = {n: [] for n in NAMES.all}
        self.view = View(None, QueueOptions(), now=self.clock)
        self.press = Press(NAMES, [1] * len(NAMES.tickets), self.document)

    def document(self, sequence: int) -> bytes:
        value = self.said[NAMES.results][sequence - 1][1]
        assert value is not None
        return value

    def send(self, letters: Sequence[Letter]) -> Sequence[int]:
        for one in letters:
            self.said[one.topic].append((one.key, one.value))
        ends = {name: len(said) for name, said in self.said.items()}
        places = []
        for one in reversed(letters):
            ends[one.topic] -= 1
            places.append(ends[one.topic])
        return places[::-1]

    @property
    def log(self) -> list[Message]:
        return [(n, key, value) for n, (key, value) in enumerate(self.said[NAMES.states])]

    def catch_up(self) -> None:
        self.clock.now_s += 1
        self.view.apply(self.log, len(self.log))

    def tried(self, act: Act) -> Changes:
        with self.view.trying() as changes:
            mend(self.view, changes, NAMES)
            act(self.view)
        return changes

    def decide(self, act: Act) -> Changes:
        changes = self.tried(act)
        if changes:
            self.press.publish(self, changes)  # type: ignore[arg-type]  # it sends
        self.catch_up()
        return changes

    def tell(self, *records: Record | Nothing) -> None:
        self.send(self.press.letters(records))

    def last(self, key: bytes = OURS) -> bytes | None:
        """What a reader of the topic of results alone has in the end."""
        return dict(self.said[NAMES.results]).get(key)


class Steps:
    """Sends in turns: as one decides, each `send` waits until it is let on."""

    def __init__(self, topics: Topics, changes: Changes) -> None:
        self._topics = topics
        self._sent: list[Sequence[Letter]] = []
        self._steps = self._publish(changes)

    def _publish(self, changes: Changes) -> Iterator[None]:
        # Offsets are known once a batch is sent, so the second batch is made only then.
        first: list[Sequence[Letter]] = []

        class Stop(Exception):
            """The first batch is known."""

        class Recorder:
            def __init__(self, offsets: Sequence[int] | None) -> None:
                self.offsets = offsets

            def send(self, letters: Sequence[Letter]) -> Sequence[int]:
                if self.offsets is None:
                    first.append(letters)
                    raise Stop
                offsets, self.offsets = self.offsets, []
                first.append(letters)
                return offsets

        with suppress(Stop):
            self._topics.press.publish(Recorder(None), changes)  # type: ignore[arg-type]
        offsets = self._topics.send(first[0])
        yield
        self._topics.press.publish(Recorder(offsets), changes)  # type: ignore[arg-type]
        self._topics.send(first[-1])
        yield

    def step(self) -> None:
        next(self._steps)


def begun(configurations: Sequence[str], before: str) -> Topics:
    """A task that somebody works on, and what was said of the series before."""
    topics = Topics()
    tasks = [new(UID, configuration=name) for name in configurations]
    if before == "listed":
        tasks = [replace(task, listed=listed(task.series)) for task in tasks[:1]] + tasks[1:]
    topics.decide(lambda view: view.put(tasks))
    if before == "indexed":
        settle(topics, "default")
        topics.decide(lambda view: view.renew([UID]))
    if len(configurations) > 1:
        settle(topics, "fine")
    return topics


def settle(topics: Topics, configuration: str) -> None:
    for step in settling(topics, configuration):
        step()
    topics.catch_up()


def settling(topics: Topics, configuration: str = "default") -> tuple[Callable[[], None], ...]:
    """The two batches of a worker who settles what it holds now."""
    row = topics.view.row(UID, configuration)
    assert row is not None
    offsets: list[int] = []

    def result() -> None:
        document = to_json(annotated(ct(UID)))
        key = result_key(UID, configuration)
        offsets.extend(topics.send([Letter(topic=NAMES.results, key=key, value=document)]))

    def states() -> None:
        done = replace(work(UID, row.version, token=row.taken + 1), configuration=configuration)
        stands = standing(UID, row.version, offsets[0] + 1)
        topics.tell(done, replace(stands, configuration=configuration))

    return result, states


DECISIONS: dict[str, Act] = {
    "withdrawn": lambda view: view.withdraw(UID),
    "excluded": lambda view: view.exclude(UID, "opted_out", "does not want it"),
    "rejected": lambda view: view.put([new(UID, fingerprint="b", reason="4d")]),
}

#: Of the decision d and the worker w, the two batches of each in every order.
ORDERS = sorted({"".join(one) for one in permutations("ddww")})


@pytest.mark.parametrize("before", ["nothing", "listed", "indexed"])
@pytest.mark.parametrize("configurations", [("default",), ("default", "fine")], ids=len)
@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_result_that_nobody_wants_ends_as_a_tombstone_for_every_reader(
    order, decision, configurations, before
):
    topics = begun(configurations, before)
    decided = Steps(topics, topics.tried(DECISIONS[decision]))
    worked = iter(settling(topics))
    for who in order:
        if who == "d":
            decided.step()
        else:
            next(worked)()
    topics.catch_up()

    made = len(topics.said[NAMES.results])
    rounds = 0
    while topics.view.is_astray():
        topics.decide(lambda view: None)
        rounds += 1
        assert rounds < 2
    assert topics.last() is None
    others = topics.said[NAMES.results]
    place = max(n for n, (key, value) in enumerate(others) if key == OURS and value)
    stands = {uid: sequence for sequence, uid, _ in topics.view.standing(0, 100)}
    # Who reads the feed from anywhere on, is told after the document that it does not stand.
    assert stands[UID] > place + 1
    left = {document for _, _, document in topics.view.standing(0, 100)}
    assert left == ({True} if "fine" in configurations and decision == "rejected" else {False})
    assert len(others) - made <= 2
    assert not topics.decide(lambda view: None)


@pytest.mark.parametrize("order", ORDERS)
def test_who_comes_later_mends_the_same_whatever_compaction_took(order):
    topics = begun(["default"], "nothing")
    decided = Steps(topics, topics.tried(DECISIONS["withdrawn"]))
    worked = iter(settling(topics))
    for who in order:
        decided.step() if who == "d" else next(worked)()
    topics.catch_up()
    for keep in range(len(topics.log) + 1):
        late = View(None, QueueOptions(), now=topics.clock)
        late.apply(compacted(topics.log, keep), len(topics.log))
        assert late.strays(9) == topics.view.strays(9)
        assert late.standing(0, 9) == topics.view.standing(0, 9)


def test_what_is_said_of_a_series_that_was_forgotten_is_removed_again():
    topics = begun(["default"], "nothing")
    worked = settling(topics)
    keys = [Nothing(kind, (UID, "default")) for kind in ("task", "work", "result")]
    topics.tell(*keys)
    for step in worked:
        step()
    topics.catch_up()
    assert topics.last() is not None
    assert topics.view.is_astray()
    changes = topics.decide(lambda view: None)
    assert changes.forgotten == [(NAMES.results, 0, OURS)]
    assert topics.last() is None
    assert dict(topics.said[NAMES.states])[key_of(work(UID))] is None
    assert not topics.view.is_astray()


# What others put there


STRANGE = [
    (b"{", b"{}", "key is no JSON"),
    (b'["strange","1.2"]', b'{"format":1}', "key says nothing"),
    (b'["task","1.2","default"]', b"no JSON", "value is no JSON"),
    (b'["task","1.2","default"]', b'{"format":0}', "no format"),
    (b'["task","1.2","default"]', b'{"format":1,"lane":"Jane Doe"}', "record of its kind"),
]


def test_what_is_no_record_is_laid_with_the_dead_once_with_the_reason():
    topics = Topics()
    topics.said[NAMES.states] += [(key, value) for key, value, _ in STRANGE]
    topics.tell(wanted())
    topics.catch_up()
    other = View(None, QueueOptions(), now=topics.clock)
    other.apply(topics.log, len(topics.log))
    changes = topics.decide(lambda view: None)
    assert [one.at for one in changes.strange] == [0, 1, 2, 3, 4]
    letters = [topics.press.strange_letter(one) for one in changes.strange]
    for letter, (_, _, said) in zip(letters, STRANGE, strict=True):
        reason, sentence = letter.headers
        assert reason == ("reason", "not_understood")
        assert said in sentence[1]
        assert "Jane" not in sentence[1]
    assert [key for key, _ in topics.said[NAMES.dead]] == [
        f'["t.states","{n}"]'.encode() for n in range(5)
    ]
    # Another machine that had seen it too, and one that comes later, do not say it again.
    late = View(None, QueueOptions(), now=topics.clock)
    for view in (other, late):
        view.apply(topics.log, len(topics.log))
        assert not view.is_astray()
    assert not topics.decide(lambda view: None)
    assert len(topics.view.states("1.2")) == 1


def test_a_record_of_a_newer_tomodex_stops_an_older_one_before_it_misses_anything():
    newer = value_of(wanted()).replace(b'"format":%d' % FORMAT, b'"format":%d' % (FORMAT + 1))
    for key in (key_of(wanted("1.3")), b'["what-we-do-not-know","1.3"]'):
        view = View(None, QueueOptions())
        log = [*messages(wanted()), (1, key, newer), (2, *messages(wanted("1.4"))[0][1:])]
        with pytest.raises(Misconfigured, match="update Tomodex"):
            view.apply(log, 3)
        # Once it is up to date, it goes on where it was.
        assert view.next_offset() == 0
        view.apply([log[0], log[2]], 3)
        assert len(view.states("1.4")) == 1


def test_records_of_an_older_tomodex_are_read():
    older = value_of(standing()).replace(b'"format":%d' % FORMAT, b'"format":1')
    older = older.replace(b',"said":true', b"")
    assert b"said" not in older
    view = View(None, QueueOptions())
    view.apply([*messages(wanted()), (1, key_of(standing()), older)], 2)
    assert view.standing(0, 9) == [(1, "1.2", True)]
