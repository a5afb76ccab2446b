"""Where the tables lie: a file that processes take turns with, or memory.

DuckDB lets one process open a file to write, or any number to read. Two empty files beside it say
whose turn it is. A writer holds `.lock` as long as it has to do with the file, so there is one at
a time; and `.door` while it has the file to itself: who finds the door closed waits outside, and
who is inside leaves as soon as nothing is being read.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TextIO
from weakref import finalize

import duckdb

from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes.duckdb.room import room_of
from tomodex.indexes.duckdb.schema import IN_ORDER, VERSION, create_tables

#: Seconds between two tries to open what somebody else holds.
PAUSE_S = 0.01

#: Seconds that a file stays open without being read.
IDLE_S = 2.0

#: Searches of one file at a time; others wait, as all share the memory that is allowed.
AT_ONCE = 4

#: DuckDB's own words for a file that another process has open.
_TAKEN = "Could not set lock"

#: The same for a disk that is full.
_FULL = ("No space left", "Could not write", "quota exceeded")

_DAMAGED = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)


#: What a file system says of the file and of its journal: inode, size, time of the last change.
State = tuple[int, int, int]
Stamp = tuple[State | None, State | None]

#: Two changes of a file that are so near may have the same time.
TICK_NS = 50_000_000


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

    Between searches the file stays open to read, as what was read of it then need not be read
    again: opening takes 1 ms, but doubles the time of the search that follows. Whoever wants to
    write closes a door, which lets the searches that are under way end and no other begin.
    """

    def __init__(self, path: Path, options: Mapping[str, str], wait_s: float) -> None:
        self._path = path.absolute()
        self._fresh = self._path.with_name(f"{path.name}.new")
        self._wait_s = wait_s
        self._options = {**options, "temp_directory": f"{self._path}.tmp"}
        self._room = room_of(self._path)
        self._seats = threading.BoundedSemaphore(AT_ONCE)
        self._opening = threading.Lock()
        self._open = False
        self._watched = False
        self._closed = threading.Event()
        self._watchers: list[threading.Thread] = []
        finalize(self, _end, self._closed, self._watchers)
        self._db = self._start()
        if not self._path.exists():
            self._create()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The tables as the last batch left them; several searches may read them at once.

        Raises:
            Unavailable: a writer did not finish in time.
            Misconfigured: the file is damaged, or of another version.
        """
        with self._seats, self._inside(self._wait_s) as db:
            yield db

    @contextmanager
    def reading_now(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The same, for something short; raises Unavailable at once if there is a writer."""
        with self._inside(0.0) as db:
            yield db

    def stamp(self) -> Stamp | None:
        """What changes with the file; None where it changed just now, and may without showing."""
        stamp = (_state(self._path), _state(_journal(self._path)))
        latest = max((state[-1] for state in stamp if state), default=0)
        return stamp if time.time_ns() > latest + TICK_NS else None

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The tables, nobody else reading or writing; raises as `reading` does."""
        with self._held(), self._alone(), self._attached(""), _transaction(self._db):
            yield self._db

    def tidy(self) -> None:
        """Write a file in order beside this one, then replace it; searches go on meanwhile."""
        with self._held():
            # Opened to write, the file takes its journal in, which would not fit its successor.
            with self._alone(), self._attached(""):
                self._db.execute("checkpoint")
            with self._replacement():
                self._enter(self._wait_s)
                try:
                    self._db.execute(IN_ORDER)
                finally:
                    self._room.leave()

    def clear(self) -> None:
        with self._held(), self._replacement():
            pass

    def close(self) -> None:
        _end(self._closed, self._watchers)
        self._leave_if(lambda: True)
        self._db.close()

    def leave(self) -> None:
        """Close the file, as nobody reads it now and another of this process is to write it."""
        with self._opening:
            if self._open:
                self._open = False
                with self._aside() as db:
                    self._detach(db, "tomodex")

    @contextmanager
    def _inside(self, wait_s: float) -> Iterator[duckdb.DuckDBPyConnection]:
        self._enter(wait_s)
        try:
            with self._translated(), self._db.cursor() as cursor:
                cursor.execute("use tomodex")
                yield cursor
        finally:
            self._room.leave()
            self._leave_if(self._is_wanted)

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
                    self._detach(self._db, "fresh")
            with self._alone():
                self._send_out()
                # A journal is of one file; left behind, it would be read into its successor.
                _journal(self._path).unlink(missing_ok=True)
                self._fresh.replace(self._path)
        finally:
            self._discard_fresh()

    def _send_out(self) -> None:
        """Wait until nobody has the file open, who would go on reading what is no more."""
        if not self._path.exists():  # to attach it would make it, empty, and a crash leave it so
            return
        try:
            with self._attached(""):
                pass
        except Misconfigured:  # nobody can read it
            return

    def _discard_fresh(self) -> None:
        for left_over in (self._fresh, _journal(self._fresh)):
            left_over.unlink(missing_ok=True)

    def _enter(self, wait_s: float) -> None:
        """Come in to read, the file open."""
        deadline = time.monotonic() + wait_s
        while not self._room.enter(self._is_wanted):
            self._leave_if(lambda: True)
            if time.monotonic() > deadline:
                raise self._taken()
            time.sleep(PAUSE_S)
        try:
            with self._opening:
                if not self._open:
                    self._open_to_read(deadline)
        except BaseException:
            self._room.leave()
            raise

    def _open_to_read(self, deadline: float) -> None:
        with self._aside() as db:
            self._attach(db, "(read_only)", deadline)
            try:
                with self._translated():
                    self._check_version(db)
            except BaseException:
                self._detach(db, "tomodex")
                raise
        self._open = True
        self._room.remember(self)
        if not self._watched:
            self._watched = True
            self._watchers[:] = [threading.Thread(target=self._watch, daemon=True)]
            self._watchers[0].start()

    @contextmanager
    def _aside(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one reader, as the other may be putting everything in order just now."""
        with self._translated(), self._db.cursor() as db:
            yield db

    def _watch(self) -> None:
        """Close the file when somebody else wants to write it, or nobody reads it for a while."""
        idle_since = time.monotonic()
        while not (self._closed.wait(PAUSE_S) or self._has_left()):
            if self._room.is_read():
                idle_since = time.monotonic()
            elif self._is_wanted() or time.monotonic() > idle_since + IDLE_S:
                self._leave_if(lambda: True)

    def _has_left(self) -> bool:
        """Whether there is nothing to watch; whoever opens the file next has it watched again."""
        with self._opening:
            self._watched = self._open
            return not self._open

    def _leave_if(self, reason: Callable[[], bool]) -> None:
        """Close the file if nobody of this process reads it."""
        self._room.when_empty(lambda: self.leave() if self._open and reason() else None)

    def _is_wanted(self) -> bool:
        """Whether a writer of any process has closed the door."""
        try:
            with _beside(self._path, ".door").open("rb") as door:
                return not _is_locked(door.fileno(), fcntl.LOCK_SH)
        except OSError:  # nobody has ever written it
            return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody of this process is in the file, and no other process begins to read it."""
        with self._locked(".door"), self._room.alone(self._wait_s, self._taken):
            yield

    @contextmanager
    def _attached(self, how: str) -> Iterator[None]:
        self._attach(self._db, how, time.monotonic() + self._wait_s)
        with self._translated():
            try:
                self._check_version(self._db)
                self._db.execute("use tomodex")
                yield
            finally:
                self._detach(self._db, "tomodex")

    def _detach(self, db: duckdb.DuckDBPyConnection, name: str) -> None:
        try:
            db.execute("use memory")
            db.execute(f"detach {name}")
        except duckdb.Error:
            # A fatal error stops the engine for good.
            self._db.close()
            self._db = self._start()

    def _attach(self, db: duckdb.DuckDBPyConnection, how: str, deadline: float) -> None:
        while True:
            try:
                db.execute(f"attach {_literal(self._path)} as tomodex {how}")
                return
            except duckdb.Error as error:
                if _TAKEN not in str(error):
                    raise self._unusable("cannot be opened") from error
                if time.monotonic() > deadline:
                    raise self._taken() from error
            time.sleep(PAUSE_S)

    def _taken(self) -> Unavailable:
        return Unavailable(
            f"another process has held the index {self._path} for {self._wait_s:g} s"
        )

    def _held(self) -> AbstractContextManager[None]:
        """This process and thread is the only writer."""
        return self._locked(".lock")

    @contextmanager
    def _locked(self, suffix: str) -> Iterator[None]:
        """A lock file beside the file of the index is ours."""
        with self._lock_file(suffix) as file:
            deadline = time.monotonic() + self._wait_s
            while not _is_locked(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise Unavailable(f"another process writes to the index {self._path}")
                time.sleep(PAUSE_S)
            yield

    def _lock_file(self, suffix: str) -> TextIO:
        try:
            return open(_beside(self._path, suffix), "a", opener=_for_its_owner)
        except OSError as error:
            raise Misconfigured(
                f"the index {self._path} cannot be written: {error.strerror}"
            ) from error

    def _check_version(self, db: duckdb.DuckDBPyConnection) -> None:
        select = "select value from tomodex.meta where key = 'version'"
        try:
            row = db.execute(select).fetchone()
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


def _end(closed: threading.Event, watchers: Sequence[threading.Thread]) -> None:
    """Let watchers end before the engine does; they would keep it alive."""
    closed.set()
    for watcher in watchers:
        # The last to let go of the store may be its watcher.
        if watcher is not threading.current_thread():
            watcher.join()


def _is_locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
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


def _state(path: Path) -> State | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _journal(path: Path) -> Path:
    return _beside(path, ".wal")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _companions(path: Path) -> Sequence[Path]:
    """The files that DuckDB keeps beside one while it writes."""
    return [_beside(path, suffix) for suffix in (".wal", ".wal.checkpoint", ".wal.recovery")]


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _literal(path: Path) -> str:
    # Where a file lies cannot be a parameter of a statement that opens it.
    escaped = str(path).replace("'", "''")
    return f"'{escaped}'"
