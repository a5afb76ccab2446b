"""Looks through a source and puts what it finds into the queue, wanted or with the reason why not.

Looking again is cheap and does no harm: the queue leaves a series alone whose fingerprint it knows.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from tomodex.queues import Lane, NewTask, Queue
from tomodex.selection import Rules, select
from tomodex.series import Listing, Series
from tomodex.sources import Progress, Source

log = logging.getLogger(__name__)

#: Tasks put in one transaction: few enough that a long listing shows up in the queue as it goes.
BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What one look through a source found, in series."""

    found: int = 0
    new: int = 0  #: put for the first time, or changed since
    rejected: Mapping[str, int] = field(default_factory=dict)  #: by reason, new or not

    @property
    def unchanged(self) -> int:
        """Known to the queue already."""
        return self.found - self.new

    @property
    def wanted(self) -> int:
        """Not rejected, new or not."""
        return self.found - sum(self.rejected.values())


def discover(
    source: Source,
    rules: Rules,
    queue: Queue,
    *,
    lane: Lane = "on-demand",
    configuration: str = "default",
    progress: Progress | None = None,
) -> Discovery:
    """Put every series of `source` into the queue, in batches, and count them.

    Raises:
        Unavailable: the archive did not answer; what was listed before is in the queue.
    """
    found, new, rejected = 0, 0, Counter[str]()
    for batch in _batches(_tasks(source, rules, lane, configuration, progress)):
        new += queue.put(batch)
        found += len(batch)
        rejected.update(task.reason for task in batch if task.reason)
    log.info("discovered", extra={"found": found, "new": new, "rejected": dict(rejected)})
    return Discovery(found=found, new=new, rejected=rejected)


def _tasks(
    source: Source, rules: Rules, lane: Lane, configuration: str, progress: Progress | None
) -> Iterator[NewTask]:
    """A task for each series of the source, wanted or rejected."""
    for listing in source.find(progress):
        yield task_of(listing, source.url, rules, lane, configuration)


def task_of(listing: Listing, source: str, rules: Rules, lane: Lane, configuration: str) -> NewTask:
    """The task for one series of the source with that URL, wanted or rejected."""
    verdict = select(listing, rules)
    return NewTask(
        series=listing.series if verdict.wanted else _judged(listing.series, rules),
        source=source,
        configuration=configuration,
        lane=lane,
        reason="" if verdict.wanted else verdict.reason,
        sentence="" if verdict.wanted else verdict.sentence,
    )


def _judged(series: Series, rules: Rules) -> Series:
    """A rejected series, whose fingerprint also changes when the rules do.

    So a change of the rules judges again what they rejected, and does not index anew what is
    wanted as before.
    """
    return replace(series, fingerprint=f"{series.fingerprint}+{rules.digest[:16]}")


def _batches(tasks: Iterable[NewTask]) -> Iterator[list[NewTask]]:
    remaining = iter(tasks)
    while batch := list(islice(remaining, BATCH)):
        yield batch
