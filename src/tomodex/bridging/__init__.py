"""Stands where the IMPETUS CT Indexer stood: its tasks from Kafka, its answers back to Kafka.

A task goes into the queue like any other, or, in its segmentation mode, is an order of masks; what
came of it is said in the predecessor's words. Until then its message is remembered in the data
folder, as it has to come back as it was; it may hold a patient's number, so it is forgotten as soon
as it is answered.

env.py      its settings as ours
topics.py   its topics in Kafka
memory.py   tasks without an answer
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import orjson
from pydantic import ValidationError

from tomodex.bridging.memory import Memory, Task
from tomodex.bridging.topics import Answer, Topics
from tomodex.errors import TomodexError, Unavailable
from tomodex.formats.predecessor import error_message, masks_message, result_message
from tomodex.logs import log_to_stderr
from tomodex.mask_orders import place_bridged
from tomodex.operations import Operations
from tomodex.pipeline import software_versions
from tomodex.predecessor import mask_order_of
from tomodex.queues import Queue, TaskState
from tomodex.selection import Rules, load_rules
from tomodex.settings import Settings
from tomodex.web.orders import PredecessorOrder, as_order
from tomodex.web.problems import Refused
from tomodex.web.tasks import task_for
from tomodex.wiring import operations_of, queue_of
from tomodex.worker import Stop

log = logging.getLogger(__name__)

#: Messages that are taken at once, and that wait for an answer at most: the rest stays in Kafka.
MOST_TAKEN = 100
MOST_WAITING = 5_000

#: Characters of what is no task that are given back; a broker takes no message above 1 MB.
MOST_ECHOED = 10_000

#: How often it is looked what has become of tasks.
LOOK_S = 2.0

#: After Kafka or the queue did not answer.
REST_S = 10.0


class Bridging:
    """Takes tasks and gives answers, a step at a time."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        queue: Queue,
        operations: Operations,
        memory: Memory,
    ) -> None:
        self._settings = settings
        self._door = settings.bridge
        self._rules: Rules = load_rules(settings.rules)
        self._topics = topics
        self._queue = queue
        self._operations = operations
        self._memory = memory
        self._taken: deque[Any] = deque()
        self._next_look_s = 0.0

    def step(self) -> None:
        """Take what has come, and answer what is done.

        Raises:
            Unavailable: Kafka or the queue does not answer; nothing is lost.
        """
        if self._memory.is_open():
            self._memory.end(self._topics.last_sent())
        room = max(0, MOST_WAITING - self._memory.count())
        self._take(min(room, MOST_TAKEN))
        if time.monotonic() >= self._next_look_s:
            self._answer()
            self._next_look_s = time.monotonic() + LOOK_S

    def _take(self, most: int) -> None:
        # What the queue could not take last time comes first.
        if not self._taken:
            self._taken.extend(self._topics.take(most))
        safe = []
        try:
            while self._taken:
                if self._topics.holds(self._taken[0]):
                    self._remember(self._taken[0])
                    safe.append(self._taken[0])
                self._taken.popleft()
        finally:
            if safe:
                self._topics.confirm(safe)

    def _remember(self, message: Any) -> None:
        """Have a message's task done, or know why not; to do so again does no harm."""
        _, when_ms = message.timestamp()
        place = f"{message.topic()} {message.partition()} {message.offset()} {when_ms}"
        if self._memory.is_answered(place):
            return
        value = message.value() or b""
        order = self._order_masks if message.topic() == self._door.mask_tasks else self._order
        try:
            order(value, place)
        except ValidationError as wrong:
            self._refuse(value, place, _plain(wrong))
        except Unavailable:
            raise
        except (Refused, TomodexError) as wrong:
            self._refuse(value, place, str(wrong))

    def _order(self, value: bytes, place: str) -> None:
        """Put a task into the queue."""
        # In its index mode the predecessor does not look for an output.
        given = PredecessorOrder.model_validate_json(value).model_copy(update={"output": None})
        order = as_order(self._settings, given).model_copy(update={"lane": self._door.lane})
        task = task_for(order, self._settings, self._rules)
        # Remembered first: a task that is in the queue must have its answer.
        uid = task.series.series_uid
        self._memory.add(Task(place=place, series_uid=uid, message=orjson.loads(value)))
        self._queue.put([task])

    def _order_masks(self, value: bytes, place: str) -> None:
        """Have masks made; the same message again is the same order."""
        order = mask_order_of(value)
        placed = place_bridged(self._settings, order, place)
        self._memory.add(
            Task(
                place=place,
                series_uid=order.series,
                operation=placed.id,
                message=orjson.loads(value),
            )
        )

    def _refuse(self, value: bytes, place: str, sentence: str) -> None:
        """Have it answered that a message is no task that can be done."""
        try:
            asked = orjson.loads(value)
        except orjson.JSONDecodeError:
            asked = value.decode(errors="replace")
        if len(value) > MOST_ECHOED:
            asked = f"{value[:MOST_ECHOED].decode(errors='replace')}..."
        self._memory.add(Task(place=place, fault=("Validation", sentence), message=asked))
        self._next_look_s = 0.0

    def _answer(self) -> None:
        batch: list[Answer] = []
        for task in self._memory.waiting():
            if (answer := self._answer_to(task)) is not None:
                batch.append(answer)
            if len(batch) == MOST_TAKEN:
                self._send(batch)
                batch = []
        self._send(batch)

    def _send(self, batch: Sequence[Answer]) -> None:
        if batch:
            number = self._memory.begin([one.settles for one in batch])
            self._topics.send(batch, number)
            self._memory.end(number)

    def _answer_to(self, task: Task) -> Answer | None:
        """What there is to say of a task by now; None: nothing yet."""
        if task.fault is not None:
            return self._failure(task, *task.fault)
        if task.operation:
            return self._said_of_masks(task)
        states = self._queue.states(task.series_uid)
        ours = [s for s in states if s.configuration == self._settings.configuration]
        if not ours:  # it was withdrawn or erased
            return self._failure(task, "Withdrawn", "the series was taken out of the index")
        return self._said(task, ours[0])

    def _said(self, task: Task, state: TaskState) -> Answer | None:
        if state.status in ("rejected", "failed"):
            return self._failure(task, state.reason, state.sentence)
        if state.status != "completed":
            return None
        result = self._queue.result(task.series_uid)
        if result is None or result.annotated is None or result.annotated.image is None:
            return None
        message = result_message(result.annotated, task.message, self._door.labels, _now())
        topic, key = self._door.results, task.series_uid
        return Answer(topic=topic, key=key, value=message, settles=task.id)

    def _said_of_masks(self, task: Task) -> Answer | None:
        made = self._operations.find(task.operation)
        if made is None:
            return self._failure(task, "Withdrawn", "the series was erased")
        if made.status == "failed":
            return self._failure(task, "Segmentation", " ".join(made.errors[-1:]))
        if made.status != "completed":
            return None
        message = masks_message(made.result, software_versions(), task.message, _now())
        topic, key = self._door.mask_results, task.series_uid
        return Answer(topic=topic, key=key, value=message, settles=task.id)

    def _failure(self, task: Task, kind: str, sentence: str) -> Answer:
        message = error_message(task.message, kind, sentence, _now())
        topic, key = self._door.errors, task.series_uid
        return Answer(topic=topic, key=key, value=message, settles=task.id)


@contextmanager
def opened_bridge(settings: Settings) -> Iterator[Bridging]:
    """A bridge on these settings."""
    queue = queue_of(settings)
    memory = Memory(settings.data / "bridge.db")
    topics = Topics(settings.bridge, memory.instance)
    try:
        yield Bridging(settings, topics, queue, operations_of(settings), memory)
    finally:
        memory.close()
        queue.close()
        topics.close()


def be_bridge(settings: Settings, name: str, stop: Stop) -> None:
    """What the process beside the workers does."""
    log_to_stderr(settings.log_level, settings.log_format)
    with opened_bridge(settings) as bridge:
        while not stop():
            try:
                bridge.step()
            except Unavailable as unavailable:
                log.warning("unavailable", extra={"sentence": str(unavailable)})
                _rest(stop)


def _rest(stop: Stop, sleep: Callable[[float], None] = time.sleep) -> None:
    end = time.monotonic() + REST_S
    while time.monotonic() < end and not stop():
        sleep(0.2)


def _now() -> datetime:
    """Local time, as the predecessor's messages have it."""
    return datetime.now().astimezone()


def _plain(wrong: ValidationError) -> str:
    """What is wrong with a task, without its values."""
    faults = wrong.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in faults[:5])
