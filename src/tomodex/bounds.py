"""What one series may take of time and memory, and the end of a process that takes more.

A library that hangs listens to nobody, and one that fills the memory takes others with it: all that
helps is to end its process. Whoever started it starts another.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_stack

log = logging.getLogger(__name__)

#: Where the limits of a control group stand, version 2 and 1.
CONTAINER = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

#: A worker may take this share of the machine's memory, or of what its container is given.
SHARE = 0.8

#: However many workers there are, each may take so much: 2,000 slices at 3 mm need half of it.
LEAST_BYTES = 4 * 2**30

#: How often time and memory are looked at. A process can fill 0.5 GB meanwhile.
POLL_S = 0.2

#: What cannot even be told that it is over time is ended by the kernel so much later.
GRACE_S = 30.0

#: Exit code of a process that took too much.
TOO_MUCH = 75

#: Is told how many seconds a series may take from now on, and what it is that has this size.
Expect = Callable[[float, str], None]

#: Is told the reason, `deadline` or `memory`, and a sentence.
GiveUp = Callable[[str, str], None]


def ignore(seconds: float, what: str) -> None:
    """Where nothing is watched."""


class Bounds:
    """Ends this process if what it works on takes too long, or too much memory.

    Args:
        least_s: seconds that everything may take: a model is loaded, a disk wakes up.
        factor: of what is expected so many times may pass besides; 0: any time.
        max_bytes: of memory that is this process's alone; 0: any.
    """

    def __init__(self, least_s: float, factor: float, max_bytes: int) -> None:
        self._least_s, self._factor, self._max_bytes = least_s, factor, max_bytes
        self._attempt = 1
        self._end, self._sentence = float("inf"), ""

    def expect(self, seconds: float, what: str) -> None:
        """Allow a multiple of so many seconds from now on, as that is the size of `what`.

        The second attempt may take twice as long, and so on: a machine can be busy.
        """
        if not self._factor:
            return
        allowed = (self._least_s + self._factor * seconds) * self._attempt
        self._sentence = f"took longer than the {allowed:.0f} s that {what} may take"
        self._end = time.monotonic() + allowed
        # Its default is to end the process, and no library can be too busy to let it.
        signal.setitimer(signal.ITIMER_REAL, allowed + GRACE_S)

    @contextmanager
    def watched(self, attempt: int, give_up: GiveUp) -> Iterator[None]:
        """Watch what is done inside; if that is too much, call `give_up` and end the process."""
        self._attempt, self._end = attempt, float("inf")
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done, give_up), daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch.join()

    def _watch(self, done: threading.Event, give_up: GiveUp) -> None:
        while not done.wait(POLL_S):
            if time.monotonic() > self._end:
                _end_process("deadline", self._sentence, give_up)
            if self._max_bytes and (found := memory_bytes()) > self._max_bytes:
                sentence = f"took {found / 2**30:.1f} GiB of memory; {self._max_bytes / 2**30:.1f}"
                _end_process("memory", f"{sentence} are allowed", give_up)


def memory_bytes() -> int:
    """Memory that this process alone has; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def allowed_bytes(memory_gib: float, workers: int) -> int:
    """What one of so many workers may take: `memory_gib`, or if that is 0 its share of all.

    A share of less than 4 GiB is raised to that, as not all workers need most at once.
    """
    if memory_gib:
        return int(memory_gib * 2**30)
    usable = SHARE * min(_machine_bytes(), *_container_bytes())
    return int(min(usable, max(usable / workers, LEAST_BYTES)))


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_bytes() -> list[int]:
    """Limits of the control group, at least one number."""
    said = [_read(file) for file in CONTAINER]
    return [int(number) for number in said if number.isdigit()] or [sys.maxsize]


def _read(file: Path) -> str:
    """What a file says; "" where it is not there, or a hardened container may not look."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _end_process(reason: str, sentence: str, give_up: GiveUp) -> None:
    log.error("ended", extra={"reason": reason, "sentence": sentence, "at": _where()})
    try:
        give_up(reason, sentence)
    finally:
        os._exit(TOO_MUCH)


def _where() -> str:
    """What the main thread is at: places in the code, the innermost first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    places = [(f.f_code, line) for f, line in walk_stack(frame)] if frame else []
    return " < ".join(f"{Path(c.co_filename).name}:{n} {c.co_name}" for c, n in places[:5])
