"""The image of an index that is up to date, or as of the last batch while somebody writes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from weakref import finalize, ref

from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes.duckdb.resident.block import Block
from tomodex.indexes.duckdb.resident.image import (
    Image,
    Lost,
    image_of,
    in_one,
    is_late,
    measured,
    rebased,
    renewed,
)
from tomodex.indexes.duckdb.resident.matching import AskTheFile
from tomodex.indexes.duckdb.resident.reading import Whole, expected_bytes
from tomodex.indexes.duckdb.store import FileStore, Stamp

log = logging.getLogger(__name__)

#: Seconds between two looks at the file.
LOOK_S = 0.05

#: Seconds until a file that could not be read, or that is too large, is tried again.
AGAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """An image, and the state of the file that it was found equal to."""

    image: Image
    stamp: Stamp | None  #: None: look again


class Keeper:
    """Keeps the image of one file, as far as it fits into so much memory."""

    def __init__(self, store: FileStore, most_bytes: int) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._now: Now | None = None
        self._renewing = threading.Lock()
        self._closed = threading.Event()
        thread = threading.Thread(target=_keep, args=(ref(self), self._closed), daemon=True)
        self._end = finalize(self, _end, self._closed, thread)
        thread.start()

    def image(self) -> Image:
        """The image as the last batch left the index, or the one before if somebody writes now.

        Raises:
            AskTheFile: there is none, or none yet.
        """
        now = self._now
        if now is None:
            raise AskTheFile
        if now.stamp is not None and now.stamp == self._store.stamp():
            return now.image
        now = self._renew()
        if now is None:
            raise AskTheFile
        return now.image

    def close(self) -> None:
        self._end()
        self._now = None

    def _renew(self) -> Now | None:
        """Take in what was written, unless somebody is writing."""
        with self._renewing:
            now, stamp = self._now, self._store.stamp()
            if now is None or now.stamp == stamp is not None:
                return now
            try:
                with self._store.reading_now() as db:
                    image = renewed(now.image, db)
            except Unavailable:
                return now
            except (Lost, Misconfigured):
                self._now = None
                return None
            self._now = Now(image=image, stamp=stamp)
            return self._now

    def look(self) -> float:
        """Take in what there is to take in; return after how many seconds to look again."""
        try:
            self._look()
        except Unavailable:
            return LOOK_S
        except (Lost, AskTheFile):
            self._now = None
        except Misconfigured as error:
            self._now = None
            log.warning("index_not_in_memory", extra={"sentence": str(error)})
            return AGAIN_S
        return LOOK_S

    def _look(self) -> None:
        if self._now is None:
            self._load()
            return
        image = self.image()
        if is_late(image):
            self._join(image)

    def _load(self) -> None:
        """Read everything; what is measured comes later, as it is most.

        Raises:
            Misconfigured: it does not fit into the memory that is allowed.
        """
        begin = time.monotonic()
        with self._store.reading() as db:
            series_bytes, measured_bytes = expected_bytes(db)
        if series_bytes > self._most_bytes:
            raise Misconfigured(
                f"the index would take {series_bytes / 1e9:.1f} GB of memory, and may take "
                f"{self._most_bytes / 1e9:.1f} (its option `resident`), so the file answers"
            )
        whole = Whole(self._store, self._closed)
        block = whole.read()
        stamp = self._store.stamp()
        with self._store.reading() as db:
            image = image_of(db, whole.head, block)
        self._now = Now(image=image, stamp=stamp)
        if series_bytes + measured_bytes <= self._most_bytes:
            self._measure(whole, block)
        facts = {"seconds": round(time.monotonic() - begin, 1), "bytes": image.nbytes}
        log.info("index_in_memory", extra={**facts, "series": len(block)})

    def _measure(self, whole: Whole, block: Block) -> None:
        measures = whole.measures(block)
        # What was written while they were read is to be known as well.
        with self._store.reading() as db, self._renewing:
            now, stamp = self._now, self._store.stamp()
            if now is not None:
                self._now = Now(image=measured(renewed(now.image, db), measures), stamp=stamp)

    def _join(self, then: Image) -> None:
        """Make the two blocks one; until then there is what both take and what the one takes."""
        if 2 * then.nbytes > self._most_bytes:
            raise Lost
        block = in_one(then)
        with self._renewing:
            if self._now is not None:
                image = rebased(self._now.image, then, block)
                self._now = Now(image=image, stamp=self._now.stamp)


def _keep(kept: ref[Keeper], closed: threading.Event) -> None:
    """Have it look at its file again and again, as long as anybody uses it."""
    pause_s = LOOK_S
    while not closed.wait(pause_s):
        keeper = kept()
        if keeper is None:
            return
        pause_s = keeper.look()
        del keeper


def _end(closed: threading.Event, thread: threading.Thread) -> None:
    closed.set()
    # The last to let go of it may be its own thread.
    if thread is not threading.current_thread():
        thread.join()
