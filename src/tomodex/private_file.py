"""SQLite files of the data folder that only their owner can read, and what goes wrong with them.

What is deleted from one is overwritten: nearly all of them name series or patients, also of those
who were erased.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import apsw

from tomodex.errors import Misconfigured, Unavailable

#: How long somebody else may write.
BUSY_MS = 30_000

#: What may pass by itself: another writer, a full disk.
PASSING = (apsw.BusyError, apsw.FullError, apsw.IOError)


def open_private(
    file: Path | None, schema: str, pragmas: Mapping[str, str] | None = None
) -> apsw.Connection:
    """A connection to a file with these tables, made where it is not there; None: in memory.

    Raises:
        Misconfigured: it cannot be made, or is something else.
    """
    try:
        if file:
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        db = apsw.Connection(os.fspath(file) if file else ":memory:")
        db.set_busy_timeout(BUSY_MS)
        for name, value in {"secure_delete": "on", **(pragmas or {})}.items():
            db.pragma(name, value)
        db.execute(schema)
    except PASSING as refused:
        raise Unavailable(f"cannot write {file}: {refused}") from refused
    except (apsw.Error, OSError) as wrong:
        raise Misconfigured(f"cannot use {file}: {wrong}") from wrong
    return db


@contextmanager
def transaction(db: apsw.Connection, lock: RLock, what: str) -> Iterator[apsw.Connection]:
    """Write through a connection that stays open; an error takes all of it back.

    Raises:
        Unavailable: it cannot be written now; `what` is how the sentence names it.
    """
    try:
        with lock:
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                db.execute("rollback")
                raise
    except PASSING as refused:
        raise Unavailable(f"{what} cannot be written: {refused}") from refused


class PrivateFile:
    """A file that several processes use some times a minute: opened for every use, in 0.3 ms.

    Every use raises Unavailable where it cannot be written now, and Misconfigured where it never
    can be.
    """

    def __init__(self, file: Path, schema: str, pragmas: Mapping[str, str] | None = None) -> None:
        self._file = file
        self._schema = schema
        self._pragmas = pragmas

    def read(self, sql: str, facts: Any = ()) -> list[Any]:
        """The rows that a statement finds."""
        with self.opened() as db:
            return db.execute(sql, facts).fetchall()

    @contextmanager
    def writing(self) -> Iterator[apsw.Connection]:
        """One transaction; closed without a commit, it is rolled back."""
        with self.opened() as db:
            db.execute("begin immediate")
            yield db
            db.execute("commit")

    @contextmanager
    def opened(self) -> Iterator[apsw.Connection]:
        """A connection for this one use."""
        db = open_private(self._file, self._schema, self._pragmas)
        try:
            yield db
        except PASSING as refused:
            raise Unavailable(f"cannot write {self._file}: {refused}") from refused
        except apsw.Error as wrong:
            raise Misconfigured(f"cannot use {self._file}: {wrong}") from wrong
        finally:
            db.close()
