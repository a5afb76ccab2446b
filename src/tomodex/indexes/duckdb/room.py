"""Who of this process is in a file: any number of readers, or one writer.

Locks of files are between processes, and closing a file drops those of all its process. So what
happens inside one process is settled here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol
from weakref import WeakSet


class Guest(Protocol):
    """Somebody who keeps the file open between two searches."""

    def leave(self) -> None:
        """Close it."""


class Room:
    """One file, for all who use it in this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._guests: WeakSet[Guest] = WeakSet()
        self._readers = 0
        self._taken = False

    def enter(self, is_wanted: Callable[[], bool]) -> bool:
        """Count as a reader, unless somebody writes or wants to."""
        with self._changed:
            if self._taken or is_wanted():
                return False
            self._readers += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self._readers -= 1
            self._changed.notify_all()

    def is_read(self) -> bool:
        return self._readers > 0

    def remember(self, guest: Guest) -> None:
        """This guest keeps the file open from now on."""
        with self._changed:
            self._guests.add(guest)

    def when_empty(self, act: Callable[[], None]) -> None:
        """Do this while no reader can come in, if none is in."""
        with self._changed:
            if not self._readers:
                act()

    @contextmanager
    def alone(self, wait_s: float, late: Callable[[], Exception]) -> Iterator[None]:
        """All readers are out, the file is closed, and nobody comes in."""
        with self._changed:
            if not self._changed.wait_for(lambda: not (self._readers or self._taken), wait_s):
                raise late()
            self._taken = True
            for guest in list(self._guests):
                guest.leave()
            self._guests.clear()
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


@cache
def room_of(path: Path) -> Room:
    """The room of a file."""
    return Room()
