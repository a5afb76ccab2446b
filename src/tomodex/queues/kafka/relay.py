"""Brings tasks to workers that take them, out of partitions of workers that leave their source.

Kafka's group shares out the partitions and knows nothing of sources. So each worker says in its
client id what it leaves to others; and one that leaves anything looks whose partitions such tasks
lie in, and decides them anew, with tickets in partitions of workers that take them.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Collection, Mapping
from functools import partial
from hashlib import sha256

from tomodex.errors import Unavailable
from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.desk import Desk
from tomodex.queues.kafka.view import View

log = logging.getLogger(__name__)

#: Between two looks: a new task waits so long at most, and less the more workers look.
SOON_S = 3.0

#: The longest pause between two looks that found nothing: each asks all that wait of a source.
LATER_S = 30.0

#: Tasks that are decided anew at once.
AT_ONCE = 500

#: Begins what a client id says of the sources that are left.
WITHOUT = ".without"


class Relay:
    """What a worker does for the sources that it leaves to others."""

    def __init__(self, cluster: Cluster, view: View, desk: Desk) -> None:
        self._cluster = cluster
        self._view = view
        self._desk = desk
        self._left: frozenset[str] = frozenset()
        self._pause_s = SOON_S
        self._next_s = 0.0

    def leave(self, sources: Collection[str]) -> bool:
        """Leave these too; False if all of them were left before."""
        if self._left.issuperset(sources):
            return False
        self._left |= frozenset(sources)
        self._cluster.be_called(client_id(self._left))
        return True

    def now_and_then(self) -> None:
        """Bring to others what is stuck, if it is time."""
        if not self._left or time.monotonic() < self._next_s:
            return
        moved = 0
        try:
            moved = sum(self._pass_on(source) for source in self._view.leaves(self._left))
        except Unavailable as unavailable:
            log.warning("not passed on", extra={"sentence": str(unavailable)})
        self._pause_s = SOON_S if moved else min(LATER_S, 2 * self._pause_s)
        self._next_s = time.monotonic() + random.uniform(0.5, 1) * self._pause_s

    def _pass_on(self, source: str) -> int:
        owners = self._owners()
        theirs = sorted(number for number, name in owners.items() if takes(name, source))
        stuck = frozenset(owners).difference(theirs)
        if not theirs or not self._view.stuck(source, stuck, 1):
            return 0
        act = partial(_pass_on, source=source, stuck=stuck, towards=tuple(theirs))
        moved = self._desk.decide(act)
        log.info("passed on", extra={"source": source, "tasks": moved})
        return moved

    def _owners(self) -> Mapping[int, str]:
        """The client id of who has each partition now."""
        name = self._cluster.names.workers
        with self._cluster.named_errors():
            # Kept until the answer is there: without it there is none.
            admin = self._cluster.admin()
            answers = admin.describe_consumer_groups([name], request_timeout=PATIENCE_S)
            self._cluster.door.await_answers(admin, answers, 2 * PATIENCE_S)
            group = answers[name].result()
        return {
            place.partition: member.client_id
            for member in group.members
            for place in member.assignment.topic_partitions
        }


def _pass_on(
    view: View, changes: Changes, *, source: str, stuck: frozenset[int], towards: tuple[int, ...]
) -> int:
    changes.towards = towards
    return view.pass_on(view.stuck(source, stuck, AT_ONCE))


def client_id(left: Collection[str]) -> str:
    """What a worker is called that leaves these sources to others."""
    return f"tomodex-{socket.gethostname()}{WITHOUT}.{'.'.join(sorted(map(_mark, left)))}"


def takes(name: str, source: str) -> bool:
    """Whether who is called so takes tasks of a source."""
    _, _, left = name.partition(WITHOUT)
    return _mark(source) not in left.split(".")


def _mark(source: str) -> str:
    return sha256(source.encode()).hexdigest()[:12]
