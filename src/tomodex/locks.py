"""A lock that one process holds, and that the system frees however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from tomodex.errors import Misconfigured, Unavailable


@contextmanager
def locked(folder: Path, name: str, taken: str) -> Iterator[None]:
    """Hold the lock called `name` in a folder.

    Raises:
        Unavailable: another process holds it; `taken` says so.
    """
    # Never removed: two processes could then each hold a lock of that name.
    file = folder / f"{sha256(name.encode()).hexdigest()[:12]}.lock"
    try:
        held = open_lock(file)
    except OSError as refused:
        raise Misconfigured(f"cannot make {file}: {refused.strerror}") from refused
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise Unavailable(taken) from busy
        yield


def open_lock(file: Path) -> IO[bytes]:
    """A file to lock, made for its owner alone; it is never written to."""
    return os.fdopen(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600), "rb")


def is_locked(folder: Path, name: str) -> bool:
    """Whether a process holds that lock now."""
    try:
        with locked(folder, name, ""):
            return False
    except Unavailable:
        return True
