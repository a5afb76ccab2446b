"""Questions to a PACS, many on one association, from several threads at once."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

from pydicom.dataset import Dataset

from tomodex.errors import Suspended, Unavailable
from tomodex.sources.dimse.association import Found, Line
from tomodex.sources.gate import POLL_S

log = logging.getLogger(__name__)

#: After so many questions, or so long, an association gives its place to who else waits at the
#: gate, and leaves them the time to notice.
QUESTIONS = 200
LONGEST_S = 10.0
COURTESY_S = 2 * POLL_S


class Asker:
    """Keeps an association for each thread that asks, for a while.

    Args:
        open_line: an association that has passed the gate.
        pause_s: between the begins of two questions on one association.
    """

    def __init__(
        self, open_line: Callable[[], AbstractContextManager[Line]], pause_s: float
    ) -> None:
        self._open_line = open_line
        self._pause_s = pause_s
        self._mine = threading.local()
        self._all: list[_Open] = []
        self._lock = threading.Lock()

    def ask(self, keys: Dataset, most: int) -> Found:
        """C-FIND; an association that the PACS has closed meanwhile is opened once more.

        Raises:
            Suspended: the PACS is not to be asked now.
            Unavailable: it did not answer.
        """
        opened = self._opened()
        was_used = opened.questions > 0
        try:
            return self._find(opened, keys, most)
        except Suspended:
            raise
        except Unavailable:
            if not was_used:
                raise
        return self._find(self._opened(), keys, most)

    def close(self) -> None:
        """End all associations; those who ask later open new ones."""
        with self._lock:
            for opened in self._all:
                opened.close()
            self._all.clear()

    def _find(self, opened: _Open, keys: Dataset, most: int) -> Found:
        opened.wait_turn(self._pause_s)
        try:
            found = opened.line.find(keys, most)
        except BaseException:
            self._drop(opened, failed=True)
            raise
        if found.status is None:
            self._drop(opened, failed=False)
        return found

    def _opened(self) -> _Open:
        opened: _Open | None = getattr(self._mine, "opened", None)
        if opened is not None and opened.is_closed:
            opened = None
        if opened is not None and opened.is_old():
            self._drop(opened, failed=False)
            time.sleep(COURTESY_S)
            opened = None
        if opened is None:
            opened = self._mine.opened = _Open(self._open_line)
            with self._lock:
                self._all.append(opened)
        return opened

    def _drop(self, opened: _Open, *, failed: bool) -> None:
        self._mine.opened = None
        with self._lock, suppress(ValueError):
            self._all.remove(opened)
        # The gate counts what went wrong on the association, so it must see it.
        opened.fail() if failed else opened.close()


class _Open:
    """An association and its age."""

    def __init__(self, open_line: Callable[[], AbstractContextManager[Line]]) -> None:
        self._stack = ExitStack()
        self.line = self._stack.enter_context(open_line())
        self._born = time.monotonic()
        self._last = 0.0
        self.questions = 0
        self.is_closed = False

    def is_old(self) -> bool:
        return self.questions >= QUESTIONS or time.monotonic() - self._born > LONGEST_S

    def wait_turn(self, pause_s: float) -> None:
        self.questions += 1
        time.sleep(max(0.0, self._last + pause_s - time.monotonic()))
        self._last = time.monotonic()

    def close(self) -> None:
        self.is_closed = True
        self._stack.close()

    def fail(self) -> None:
        """Close it because of the exception that is being raised."""
        self.is_closed = True
        self._stack.__exit__(*sys.exc_info())
