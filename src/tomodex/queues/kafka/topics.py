"""The queue's topics: their names, how they are made and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from tomodex.errors import Misconfigured
from tomodex.queues import Lane

LANES: tuple[str, ...] = get_args(Lane)

#: Where a task waits whose archive did not answer, and the longest wait there in seconds.
RETRIES: Mapping[str, float] = {"1m": 60.0, "10m": 600.0, "1h": float("inf")}

#: The largest result that is taken, bytes of JSON; of 117 structures it is some 60,000.
MOST_BYTES = 8_000_000

#: Legal in the name of a topic; the longest of ours adds 16 characters to it.
PREFIX = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)

#: Every topic is kept for ever, the newest record of each key of it.
KEPT = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(MOST_BYTES + 100_000),
    "message.timestamp.type": "CreateTime",
    # What was confirmed is not to be lost because a broker without it comes back first.
    "unclean.leader.election.enable": "false",
}

#: Copies of each topic where nobody says how many, if there are as many brokers.
USUAL_COPIES = 3


def settings_of(copies: int) -> Mapping[str, str]:
    """How a topic of ours is made.

    What is confirmed is with two brokers before, where a third may be away meanwhile; of two copies
    one may be away, and nothing is confirmed by more than the other then.
    """
    return {**KEPT, "min.insync.replicas": "2" if copies > 2 else "1"}


@dataclass(frozen=True, slots=False, kw_only=True)
class Names:
    """What the topics, groups and transactions of one queue are called."""

    prefix: str

    @cached_property
    def tickets(self) -> Sequence[str]:
        """The topics whose partitions workers share: the lanes, and where retries wait."""
        places = [*LANES, *(f"retry.{one}" for one in RETRIES)]
        return [f"{self.prefix}.tasks.{one}" for one in places]

    @property
    def dead(self) -> str:
        return f"{self.prefix}.tasks.dead"

    @property
    def results(self) -> str:
        return f"{self.prefix}.results"

    @property
    def states(self) -> str:
        return f"{self.prefix}.states"

    @property
    def workers(self) -> str:
        """The consumer group of all workers."""
        return f"{self.prefix}.workers"

    @property
    def view(self) -> str:
        """The group of all who read the log; nobody joins it."""
        return f"{self.prefix}.view"

    @property
    def all(self) -> Sequence[str]:
        return [*self.tickets, self.dead, self.results, self.states]


def names_of(prefix: str) -> Names:
    """Raises Misconfigured: no topic can be called so."""
    if not PREFIX.fullmatch(prefix) or set(prefix) == {"."}:
        raise Misconfigured(
            "a queue in Kafka is kafka://broker:9092/PREFIX; the prefix of its topics has letters, "
            "digits, '.', '-' and '_'"
        )
    return Names(prefix=prefix)


def retry_place(wait_s: float) -> int:
    """In which of `Names.tickets` a task waits that is to be tried again after so long."""
    fitting = [n for n, longest_s in enumerate(RETRIES.values()) if wait_s <= longest_s]
    return len(LANES) + fitting[0]
