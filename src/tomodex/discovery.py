"""Looks through a source and puts what it finds into the queue, wanted or with the reason why not.

Looking again is cheap and does no harm: the queue leaves a series alone whose fingerprint it knows.
Looking again also tells what the archive has no longer, and that leaves the index.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from math import ceil

import numpy as np

from tomodex.annotation import AnnotatedSeries, Provenance
from tomodex.errors import Misconfigured, NotThere, Suspended, Unavailable
from tomodex.pipeline import software_versions
from tomodex.queues import Lane, NewTask, Queue
from tomodex.selection import Rules, select
from tomodex.series import Listing, Series
from tomodex.sources import Progress, Source, Window

log = logging.getLogger(__name__)

#: Tasks put in one transaction: few enough that a long listing shows up in the queue as it goes.
BATCH = 1000

#: So many series may always vanish at once: somebody tidied up.
FEW = 10

#: What may vanish of all that is known of a source or a window, unless the operator says more.
MAY_VANISH_PERCENT = 20.0


class Vanished(Misconfigured):
    """So much is gone that the archive, rather than what is in it, is to be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What one look through a source found, in series."""

    found: int = 0
    new: int = 0  #: put for the first time, or changed since
    rejected: Mapping[str, int] = field(default_factory=dict)  #: by reason, new or not
    withdrawn: int = 0  #: known before, and no longer in the archive

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
    window: Window | None = None,
    may_vanish_percent: float = MAY_VANISH_PERCENT,
) -> Discovery:
    """Put every series of `source`, or of its studies in `window`, into the queue and count them.

    What the queue knew of the source and the archive no longer lists is withdrawn.

    Raises:
        Unavailable: the archive did not answer; what was listed before is in the queue, and
            nothing was withdrawn.
        Vanished: too much is gone; everything was listed, and nothing was withdrawn.
    """
    found, new, rejected, seen = 0, 0, Counter[str](), Seen()
    for batch in _batches(source.find(progress, window)):
        tasks = [task_of(listing, source.url, rules, lane, configuration) for listing in batch]
        new += queue.put(tasks)
        found += len(batch)
        rejected.update(task.reason for task in tasks if task.reason)
        seen.add(listing.series.series_uid for listing in batch)
    gone = list(_gone(source, queue, window, seen, may_vanish_percent))
    withdrawn = sum(queue.withdraw(uid, source.url, "no longer in the archive") for uid in gone)
    facts = {"found": found, "new": new, "rejected": dict(rejected), "withdrawn": withdrawn}
    log.info("discovered", extra={"source": source.url, **facts})
    return Discovery(found=found, new=new, rejected=rejected, withdrawn=withdrawn)


def task_of(listing: Listing, source: str, rules: Rules, lane: Lane, configuration: str) -> NewTask:
    """The task for one series that `source` lists, wanted or rejected."""
    verdict = select(listing, rules)
    task = NewTask(series=listing.series, source=source, configuration=configuration, lane=lane)
    if verdict.wanted:
        return replace(task, listed=_listed(listing, task))
    judged = _judged(listing.series, rules)
    return replace(task, series=judged, reason=verdict.reason, sentence=verdict.sentence)


def _listed(listing: Listing, task: NewTask) -> AnnotatedSeries | None:
    """What to show of a series that may wait for long; None where its turn comes soon.

    A back-fill takes years. And an archive that lists no headers is one that is far away.
    """
    if listing.instances and task.lane != "backfill":
        return None
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    provenance = Provenance(
        algorithm=None,
        terminology="",
        software=software_versions(),
        source=task.source,
        configuration=task.configuration,
        started=now,
        finished=now,
    )
    return AnnotatedSeries(series=task.series, image=None, annotations=(), provenance=provenance)


def _judged(series: Series, rules: Rules) -> Series:
    """A rejected series, whose fingerprint also changes when the rules do.

    So a change of the rules judges again what they rejected, and does not index anew what is
    wanted as before.
    """
    return replace(series, fingerprint=f"{series.fingerprint}+{rules.digest[:16]}")


def _batches(listings: Iterable[Listing]) -> Iterator[list[Listing]]:
    remaining = iter(listings)
    while batch := list(islice(remaining, BATCH)):
        yield batch


# --- what is gone ---------------------------------------------------------------------------------


class Seen:
    """Which series were listed, in eight bytes for each: an archive may hold 30 million.

    Two UIDs have the same eight bytes once in 10^12 times with 30 million series; a series that is
    gone then stays until the next look.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, series_uids: Iterable[str]) -> None:
        self._hashes.extend(map(_hash, series_uids))

    def missing(self, series_uids: Iterable[str]) -> Iterator[str]:
        """Those that were not listed."""
        listed = np.sort(np.frombuffer(self._hashes, np.uint64))
        remaining = iter(series_uids)
        while batch := list(islice(remaining, BATCH)):
            hashes = np.fromiter(map(_hash, batch), np.uint64, len(batch))
            places = np.searchsorted(listed, hashes)
            there = np.append(listed, 0)[places] == hashes
            there &= places < len(listed)
            yield from (uid for uid, known in zip(batch, there, strict=True) if not known)


def _hash(series_uid: str) -> int:
    return int.from_bytes(blake2b(series_uid.encode(), digest_size=8).digest())


def _gone(
    source: Source, queue: Queue, window: Window | None, seen: Seen, may_vanish_percent: float
) -> Iterator[str]:
    """Series that a source had and that neither its listing nor itself knows any more."""
    known = _Counted(queue.known(source.url, window))
    missing = list(seen.missing(known))
    percent = 100 * len(missing) / max(known.count, 1)
    many = len(missing) > FEW or (window is None and percent == 100)
    if many and percent > may_vanish_percent:
        raise Vanished(
            f"{source.url} no longer lists {len(missing):,} of {known.count:,} series that it had. "
            "If that is right (a disk that is not mounted looks like this), let them go with "
            f"--may-vanish {ceil(percent)}"
        )
    if window is None and not lists_by_day(source):
        return iter(missing)  # a folder or bucket that was walked is all there is
    return (uid for uid in missing if not _may_be_there(source, uid))


def lists_by_day(source: Source) -> bool:
    """Whether a window costs less than a look through the whole archive, as it does with a PACS."""
    return bool(getattr(source, "lists_by_day", True))


class _Counted:
    """Counts what is taken from it."""

    def __init__(self, series_uids: Iterator[str]) -> None:
        self._series_uids = series_uids
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for uid in self._series_uids:
            self.count += 1
            yield uid


def _may_be_there(source: Source, series_uid: str) -> bool:
    """Whether the archive may have a series after all: its study may have got another date, or it
    came while the archive was listed. Only its own word that it has none counts against it.
    """
    try:
        source.describe(series_uid)
    except Suspended:
        raise
    except NotThere:
        return False
    except Unavailable as unavailable:
        facts = {"series_uid": series_uid, "sentence": str(unavailable)}
        log.warning("kept, as the archive does not say", extra=facts)
    return True
