"""Looks after the spool: puts series into the queue once whole, removes them once indexed.

Everything that it goes by lies in the spool's folder and in the queue, so it may be killed at any
moment: started again, it goes on where the last one was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from tomodex.discovery import task_of
from tomodex.queues import Lane, NewTask, Queue, TaskState
from tomodex.receiving.inquiries import Inquiries
from tomodex.selection import Rules
from tomodex.series import Listing
from tomodex.sources import Source
from tomodex.sources.spool import Seen, SpoolSource, references_of
from tomodex.sources.spool_folder import Folder, Look, Spool, digest

log = logging.getLogger(__name__)

#: Series put in one transaction, which waits for the disk once.
BATCH = 50

#: A result stands, or will never: nobody asks for the pixels again.
SETTLED = ("completed", "rejected")

NEVER = Look(changed_ns=0, instances=frozenset(), content="", segmentations=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what."""

    quiet_s: float  #: without a new instance, until a series counts as whole
    missing_s: float  #: the same where the archive says that there are more
    keep_s: float  #: from the result to the removal


@dataclass(slots=True)
class Tally:
    """What became of series since the start."""

    put: int = 0  #: into the queue, new or with more instances
    known: int = 0  #: came again, and were nothing new
    partial: int = 0  #: came again with fewer instances than were indexed: they wait for the rest
    removed: int = 0
    #: Of those known, how many stay with another source, by its URL: the first that listed them
    elsewhere: dict[str, int] = field(default_factory=dict)


class Steward:
    """Looks after one spool.

    Args:
        source: the spool as workers see it.
        archive: where the series come from, to ask how many instances one has; None: nobody can be
            asked.
        now: seconds since 1970; a test's own clock.
    """

    def __init__(
        self,
        spool: Spool,
        source: SpoolSource,
        queue: Queue,
        rules: Rules,
        patience: Patience,
        *,
        lane: Lane,
        configuration: str,
        archive: Source | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._source = source
        self._queue = queue
        self._rules = rules
        self._patience = patience
        self._lane = lane
        self._configuration = configuration
        self._now = now
        # Of series that lie here alone: millions may have come and gone.
        self._looked: dict[str, int | None] = {}
        self._inquiries = (
            Inquiries(archive, lambda uid: len(spool.files(uid)), patience.missing_s, now)
            if archive is not None
            else None
        )
        self.tally = Tally()

    def open_series(self) -> int:
        """How many series lie here that have not been put as they are."""
        return sum(1 for folder in self._spool.folders() if self._is_new(folder))

    # --- putting --------------------------------------------------------------------------------

    def put_whole(self) -> int:
        """Put every series that is whole by now; return how many that were.

        Raises:
            Unavailable: the queue or the spool cannot be used now; the next call does it.
        """
        quiet = [folder for folder in self._spool.folders() if self._is_quiet(folder)]
        surely = [folder for folder in quiet if self._is_surely_whole(folder)]
        # First those that need no answer: they do not wait for one either.
        self._put_all(surely)
        if self._inquiries is None:
            return len(surely)
        known = set(surely)
        asked = self._inquiries.whole(folder for folder in quiet if folder not in known)
        self._put_all(asked)
        return len(surely) + len(asked)

    def _put_all(self, whole: Sequence[Folder]) -> None:
        for start in range(0, len(whole), BATCH):
            self._put(whole[start : start + BATCH])

    def _is_new(self, folder: Folder) -> bool:
        uid = folder.series_uid
        if uid not in self._looked:
            self._looked[uid] = self._spool.looked_ns(uid)
        return self._looked[uid] != folder.changed_ns

    def _is_quiet(self, folder: Folder) -> bool:
        """Whether it is to be put, and nothing has come for a while."""
        if not self._is_new(folder):
            self._forget_inquiry(folder)
            return False
        return self._quiet_s(folder) >= self._patience.quiet_s

    def _is_surely_whole(self, folder: Folder) -> bool:
        """Whether it is put whatever an archive says."""
        return self._inquiries is None or self._quiet_s(folder) >= self._patience.missing_s

    def _quiet_s(self, folder: Folder) -> float:
        return self._now() - folder.changed_ns / 1e9

    def _forget_inquiry(self, folder: Folder) -> None:
        if self._inquiries is not None:
            self._inquiries.forget(folder.series_uid)

    def _is_confirmed(self, folder: Folder) -> bool:
        return self._inquiries is not None and self._inquiries.confirmed(folder)

    def _put(self, folders: Sequence[Folder]) -> None:
        looked = [(folder, *self._look(folder)) for folder in folders]
        tasks = [task for _, task, _ in looked if task is not None]
        new = self._queue.put(tasks) if tasks else 0
        self.tally.put += new
        self.tally.known += len(folders) - new
        if new < len(tasks):
            self._say_who_keeps(tasks)
        # Remembered after it was put: what a crash in between puts twice is known to the queue.
        for folder, _, look in looked:
            self._spool.remember(folder.series_uid, look)
            self._looked[folder.series_uid] = folder.changed_ns
            self._forget_inquiry(folder)
        self._look_again(folder.series_uid for folder, _, _ in looked)

    def _say_who_keeps(self, tasks: Iterable[NewTask]) -> None:
        """Say of series that were known which source they stay with, if it is not the spool."""
        for uid in (task.series.series_uid for task in tasks):
            state = self._state(uid)
            if state is not None and state.source != self._source.url:
                facts = {"series_uid": uid, "source": state.source, "status": state.status}
                log.info("stays", extra=facts)
                self.tally.elsewhere[state.source] = self.tally.elsewhere.get(state.source, 0) + 1

    def _look(self, folder: Folder) -> tuple[NewTask | None, Look]:
        """The task of a series, or None if it is nothing new; and what to remember of it."""
        uid = folder.series_uid
        here = frozenset(digest(file.stem) for file in self._spool.files(uid))
        before = self._spool.look_at(uid) or NEVER
        seen = self._source.see(uid)
        if seen is None:
            log.error("not readable", extra={"series_uid": uid, "instances": len(here)})
            return None, replace(before, changed_ns=folder.changed_ns)
        self._spool.refer(uid, references_of(seen.listing.instances))
        if not self._is_news(folder, here, seen, before):
            return None, replace(before, changed_ns=folder.changed_ns)
        look = Look(
            changed_ns=folder.changed_ns,
            instances=here,
            content=seen.content,
            segmentations=seen.segmentations,
        )
        return self._task(seen.listing), look

    def _task(self, listing: Listing) -> NewTask:
        url = self._source.url
        return task_of(listing, url, self._rules, self._lane, self._configuration)

    def _is_news(self, folder: Folder, here: frozenset[bytes], seen: Seen, before: Look) -> bool:
        """Whether the queue has to hear of it: not where more was indexed, and is gone."""
        if not self._state(folder.series_uid):
            return True
        fewer = not before.instances <= here and not self._is_confirmed(folder)
        if fewer and not here <= before.instances:
            known = len(before.instances | here)
            log.warning(
                "partial",
                extra={"series_uid": folder.series_uid, "instances": len(here), "known": known},
            )
            self.tally.partial += 1
        bare = seen.content == before.content and seen.segmentations < before.segmentations
        return not (fewer or bare)

    def _look_again(self, segmentations: Iterable[str]) -> None:
        """Have the series that segmentations speak of looked at once more."""
        for uid in segmentations:
            for image in self._spool.referred(uid):
                self._spool.forget(image)
                self._looked.pop(image, None)

    # --- removing -------------------------------------------------------------------------------

    def remove_settled(self) -> int:
        """Remove every series whose result has been settled for long enough; return how many.

        One that failed stays, so that it can be tried again.

        Raises:
            Unavailable: the queue or the spool cannot be used now; the next call does it.
        """
        settled = {
            folder.series_uid: folder
            for folder in self._spool.folders()
            if not self._is_new(folder) and self._is_settled(folder)
        }
        removed = 0
        for uid, folder in settled.items():
            if all(image in settled for image in self._spool.referred(uid)):
                removed += self._spool.remove(folder)
                self._looked.pop(uid, None)
        self.tally.removed += removed
        return removed

    def _is_settled(self, folder: Folder) -> bool:
        uid = folder.series_uid
        state = self._state(uid)
        if state is None:
            return self._is_withdrawn(uid)
        since_s = self._now() - datetime.fromisoformat(state.updated).timestamp()
        if state.status not in SETTLED or since_s < self._patience.keep_s:
            return False
        look = self._spool.look_at(uid) or NEVER
        return {digest(file.stem) for file in self._spool.files(uid)} <= look.instances

    def _is_withdrawn(self, uid: str) -> bool:
        """Whether the archive lost it; else the queue was made anew, and it is put again."""
        if any(audited.event == "withdrawn" for audited in self._queue.audit(uid, 1)):
            return True
        self._spool.forget(uid)
        self._looked.pop(uid, None)
        return False

    def _state(self, series_uid: str) -> TaskState | None:
        states = self._queue.states(series_uid)
        return next((s for s in states if s.configuration == self._configuration), None)
