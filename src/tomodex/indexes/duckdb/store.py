"""Where the tables lie: a file that processes take turns with, or memory.

DuckDB lets one process open a file to write, or any number to read. So it is opened for each
search and each batch, and whoever comes at the wrong moment waits. Writers also hold a lock file
beside it, because the file itself is replaced when it is put in order.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol, TextIO

import duckdb

from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes.duckdb.schema import IN_ORDER, VERSION, create_tables

#: Seconds between two tries to open what somebody else holds.
PAUSE_S = 0.02

#: DuckDB's own words for a file that another process has open.
_TAKEN = "Could not set lock"

#: The same for a disk that is full.
_FULL = ("No space left", "Could not write", "quota exceeded")

_DAMAGED = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)


class Store(Protocol):
    """Somewhere to keep the tables."""

    def reading(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """The tables, to search."""

    def writing(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """The tables, to change in one transaction, which an error rolls back."""

    def tidy(self) -> None:
        """Put all rows in the order that searches read them fastest in."""

    def clear(self) -> None:
        """Make the tables anew, whatever is there now."""

    def close(self) -> None:
        """Give back what it holds open."""


class MemoryStore:
    """Tables that live as long as their process, and that are never large."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._lock = threading.RLock()
        self.clear()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock:
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock, _transaction(self._db):
            yield self._db

    def tidy(self) -> None:
        pass

    def clear(self) -> None:
        with self._lock:
            self._db = _engine(self._options, ())
            create_tables(self._db)

    def close(self) -> None:
        self._db.close()


class FileStore:
    """Tables in one file, which can always be made anew from the results.

    The engine stays, the file is attached to it for as long as it is used: attaching takes 1 ms,
    starting an engine 25 ms.
    """

    def __init__(self, path: Path, options: Mapping[str, str], wait_s: float) -> None:
        self._path = path.absolute()
        self._fresh = self._path.with_name(f"{path.name}.new")
        self._wait_s = wait_s
        self._options = {**options, "temp_directory": f"{self._path}.tmp"}
        self._db = self._start()
        if not self._path.exists():
            self._create()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The tables as the last batch left them.

        Raises:
            Unavailable: a writer did not finish in time.
            Misconfigured: the file is damaged, or of another version.
        """
        with _lock_of(self._path), self._attached("(read_only)"):
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The tables, nobody else reading or writing; raises as `reading` does."""
        with self._held(), self._attached(""), _transaction(self._db):
            yield self._db

    def tidy(self) -> None:
        """Write a file in order beside this one, then replace it; searches go on meanwhile."""
        with self._held():
            # Opened to write, the file takes its journal in, which would not fit its successor.
            with self._attached(""):
                self._db.execute("checkpoint")
            with self._attached("(read_only)"), self._replacement():
                self._db.execute(IN_ORDER)

    def clear(self) -> None:
        with self._held(), self._replacement():
            pass

    def close(self) -> None:
        self._db.close()

    def _start(self) -> duckdb.DuckDBPyConnection:
        return _engine(self._options, (self._path, self._fresh))

    def _create(self) -> None:
        with self._held():
            # Another process may have been first.
            if not self._path.exists():
                with self._replacement():
                    pass

    @contextmanager
    def _replacement(self) -> Iterator[None]:
        """New, empty tables, which take the place of the file if all goes well."""
        self._discard_fresh()
        try:
            with self._translated():
                self._db.execute(f"attach {_literal(self._fresh)} as fresh")
                # It holds UIDs, dates and pseudonyms; DuckDB's journal of it is as open as others.
                self._fresh.chmod(0o600)
                try:
                    self._db.execute("use fresh")
                    create_tables(self._db)
                    yield
                    self._db.execute("checkpoint fresh")
                finally:
                    self._detach("fresh")
            # A journal is of one file; left behind, it would be read into its successor.
            _journal(self._path).unlink(missing_ok=True)
            self._fresh.replace(self._path)
        finally:
            self._discard_fresh()

    def _discard_fresh(self) -> None:
        for left_over in (self._fresh, _journal(self._fresh)):
            left_over.unlink(missing_ok=True)

    @contextmanager
    def _attached(self, how: str) -> Iterator[None]:
        self._attach(how)
        with self._translated():
            try:
                self._check_version()
                self._db.execute("use tomodex")
                yield
            finally:
                self._detach("tomodex")

    def _detach(self, name: str) -> None:
        try:
            self._db.execute("use memory")
            self._db.execute(f"detach {name}")
        except duckdb.Error:
            # A fatal error stops the engine for good.
            self._db.close()
            self._db = self._start()

    def _attach(self, how: str) -> None:
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                self._db.execute(f"attach {_literal(self._path)} as tomodex {how}")
                return
            except duckdb.Error as error:
                if _TAKEN not in str(error):
                    raise self._unusable("cannot be opened") from error
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process has held the index {self._path} for {self._wait_s:g} s"
                    ) from error
            time.sleep(PAUSE_S)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """This process and thread is the only writer, and the only reader in this process."""
        with _lock_of(self._path), self._lock_file() as file:
            deadline = time.monotonic() + self._wait_s
            while not _is_locked(file.fileno()):
                if time.monotonic() > deadline:
                    raise Unavailable(f"another process writes to the index {self._path}")
                time.sleep(PAUSE_S)
            yield

    def _lock_file(self) -> TextIO:
        try:
            return self._path.with_name(f"{self._path.name}.lock").open("a")
        except OSError as error:
            raise Misconfigured(
                f"the index {self._path} cannot be written: {error.strerror}"
            ) from error

    def _check_version(self) -> None:
        select = "select value from tomodex.meta where key = 'version'"
        try:
            row = self._db.execute(select).fetchone()
        except duckdb.CatalogException as error:
            raise self._unusable("is no index") from error
        if row != (VERSION,):
            raise self._unusable("was made by another version of Tomodex")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """DuckDB's errors as ours, without its words: they may quote a value."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise Misconfigured("the index needs more memory; see its option `memory`") from error
        except _DAMAGED as error:
            raise self._unusable("is damaged") from error
        except duckdb.IOException as error:
            if any(words in str(error) for words in _FULL):
                raise Unavailable(f"there is no room to write the index {self._path}") from error
            raise self._unusable("cannot be read") from error
        except duckdb.Error as error:
            if "Corrupt" in str(error):
                raise self._unusable("is damaged") from error
            raise

    def _unusable(self, why: str) -> Misconfigured:
        return Misconfigured(
            f"the index {self._path} {why}; `tomodex rebuild` makes it anew from the results"
        )


@contextmanager
def _transaction(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    db.begin()
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()


@cache
def _lock_of(path: Path) -> threading.RLock:
    """One lock for each file in this process: closing a file drops all locks of its process."""
    return threading.RLock()


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _engine(options: Mapping[str, str], files: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """An engine that reaches these files, and nothing else outside it."""
    known = {**options, "autoinstall_known_extensions": "false"}
    db = duckdb.connect(config={**known, "autoload_known_extensions": "false"})
    reached = [_literal(file) for path in files for file in (path, *_companions(path))]
    db.execute(f"set allowed_paths = [{', '.join(reached)}]")
    db.execute("set enable_external_access = false")
    # DuckDB draws one on stdout for whatever takes two seconds.
    db.execute("set enable_progress_bar = false")
    db.execute("set lock_configuration = true")
    return db


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _companions(path: Path) -> Sequence[Path]:
    """The files that DuckDB keeps beside one while it writes."""
    return [
        path.with_name(f"{path.name}{suffix}")
        for suffix in (".wal", ".wal.checkpoint", ".wal.recovery")
    ]


def _literal(path: Path) -> str:
    # Where a file lies cannot be a parameter of a statement that opens it.
    escaped = str(path).replace("'", "''")
    return f"'{escaped}'"
