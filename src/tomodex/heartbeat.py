"""The signs of life of processes that go on for years, and how whoever watches them reads them.

A process touches a file in the data folder while its main loop goes round. A container's health
check sees how long ago that was, without a port and without asking the process anything. What
ended as it was told to leaves no file; what was killed does.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

#: Folder of the data folder that the files lie in.
FOLDER = "health"

#: How often a file is touched, where a main loop goes round more often.
BEAT_S = 5.0

#: A main loop that has not gone round for so long is stuck: longer than any one thing that it
#: waits for, such as a search server that does not answer a batch.
STUCK_S = 600.0

State = Literal["starting", "working"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a process has said of itself, and how long ago."""

    process: str  #: such as "run", "serve"
    state: State  #: "starting" while it waits for what it cannot do without
    age_s: float  #: since it has last given a sign

    def is_well(self, within_s: float = STUCK_S) -> bool:
        """Whether its main loop goes round."""
        return self.age_s <= within_s


class Heartbeat:
    """The signs of one process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next_s = 0.0

    def say(self, state: State) -> None:
        """Give a sign, and tell what it is about."""
        said = json.dumps({"state": state}).encode()
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            opened = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(opened, "wb") as file:
                file.write(said)
        except OSError as refused:  # such as a full disk, which is no reason to stop
            self._complain(refused)

    def beat(self) -> None:
        """Give a sign if the last is some seconds old."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + BEAT_S
        try:
            os.utime(self._file)
        except OSError as refused:
            self._complain(refused)

    def end(self) -> None:
        """It ends as it was told to: nobody has to miss it."""
        with suppress(OSError):
            self._file.unlink()

    def _complain(self, refused: OSError) -> None:
        log.warning("no heartbeat", extra={"sentence": f"{self._file}: {refused.strerror}"})


#: Of this process; None: it is not one that goes on for years. One a process, as there is one log,
#: so that whatever takes long can give a sign in between.
_ours: Heartbeat | None = None


@contextmanager
def beating(data: Path, process: str) -> Iterator[None]:
    """Be known as this process, and as starting at first, until the end of the block."""
    global _ours
    _ours = Heartbeat(data / FOLDER / process)
    _ours.say("starting")
    try:
        yield
    finally:
        _ours.end()
        _ours = None


def working() -> None:
    """Say that this process has all that it needs from now on."""
    if _ours:
        _ours.say("working")


def beat() -> None:
    """Say that the main loop of this process goes round; nothing where nobody watches it."""
    if _ours:
        _ours.beat()


def signs_of(data: Path, processes: Collection[str] = ()) -> list[Sign]:
    """The signs of these processes, or of all that have begun and were not told to end.

    One that never began has none.
    """
    folder = data / FOLDER
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    signs = (_sign(file) for file in found if not processes or file.name in processes)
    return [sign for sign in signs if sign]


def facts_of(sign: Sign, within_s: float) -> dict[str, object]:
    """A sign for a program."""
    return {**asdict(sign), "well": sign.is_well(within_s)}


def _sign(file: Path) -> Sign | None:
    """What the file says; None: its process has just ended."""
    try:
        age_s = time.time() - file.stat().st_mtime
        # Empty while it is written anew, and on a full disk.
        state: State = "working" if b"working" in file.read_bytes() else "starting"
    except FileNotFoundError:
        return None
    return Sign(process=file.name, state=state, age_s=round(max(0.0, age_s), 1))
