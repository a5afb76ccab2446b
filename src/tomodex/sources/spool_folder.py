"""The folder in which pushed series lie until they are indexed.

    series/UID/      instances of one series, each called by its SOP Instance UID
    incoming/        what is arriving; of no worth after a crash
    leaving/         what is being removed
    spool.db         which series were put into the queue, and what they held

What an instance is kept as is on disk, whole and under its name, before `keep` returns. So whatever
was answered with success is found here again after a crash, and nothing else has to be remembered
to find it: a series whose folder changed since it was put is one that has to be put.
"""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from threading import Lock
from typing import Literal, NamedTuple

import apsw
import orjson

from tomodex.errors import Misconfigured, Unavailable

Kept = Literal["new", "same", "replaced"]

#: PS3.5 9.1, and nothing that could be a path: no lone or doubled dots.
UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
LONGEST_UID = 64

SUFFIX = ".dcm"

#: Bytes of what is remembered of each instance: one of 10^19 series with 1,000 has two alike.
DIGEST_BYTES = 8

#: Series whose folders are known to be on disk, so that the folder above is not synced again.
MOST_DURABLE = 100_000

SCHEMA = """
create table if not exists series (
    series_uid    text    primary key,
    changed_ns    integer not null,   -- of its folder, when it was looked at
    instances     blob    not null,   -- digests of the SOP Instance UIDs that were put, ever
    content       text    not null,   -- fingerprint of the instances that were put last
    segmentations text    not null    -- JSON list: SOP Instance UIDs of those that were put with it
) strict, without rowid;
-- Which series speak of which: `image` is a series, or 'sop:' and an instance of it.
create table if not exists reference (
    image text not null,
    by    text not null,
    primary key (image, by)
) strict, without rowid;
"""


class Folder(NamedTuple):
    """The folder of one series, as it is now."""

    series_uid: str
    changed_ns: int  #: when an instance last came or was replaced, since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a series held when it was looked at last, whether or not it still lies here."""

    changed_ns: int
    instances: frozenset[bytes]  #: `digest` of each SOP Instance UID that was ever put
    content: str
    segmentations: frozenset[str]


def is_uid(text: str) -> bool:
    """Whether this is a UID, and so safe as the name of a file or folder."""
    return len(text) <= LONGEST_UID and UID.fullmatch(text) is not None


def digest(sop_uid: str) -> bytes:
    """What is remembered of an instance that has left."""
    return hashlib.blake2b(sop_uid.encode(), digest_size=DIGEST_BYTES).digest()


class Spool:
    """The spool in a folder, which is made if it is not there; several processes may use it.

    Raises:
        Misconfigured: the folder cannot be made or used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._series, self.incoming = root / "series", root / "incoming"
        self._leaving = root / "leaving"
        self._making = Lock()
        self._durable: set[str] = set()
        try:
            for folder in (root, self._series, self.incoming, self._leaving):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as refused:
            raise Misconfigured(f"cannot make the spool {root}: {refused.strerror}") from refused
        with named_errors():
            self._db = _open(root / "spool.db")

    # --- arriving -------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only receiver of this spool, and clear away what a dead one left half done.

        Raises:
            Misconfigured: another receiver has it.
        """
        lock = os.open(self.root / "receiver.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as held:
                raise Misconfigured(f"another receiver uses the spool {self.root}") from held
            for folder in (self.incoming, self._leaving):
                for rest in folder.iterdir():
                    _remove(rest)
            yield
        finally:
            os.close(lock)

    def arrive(self) -> tuple[int, Path]:
        """A new file for something that is arriving: its descriptor, and where it is."""
        descriptor, name = mkstemp(dir=self.incoming, suffix=SUFFIX)
        return descriptor, Path(name)

    def keep(self, arrived: Path, series_uid: str, sop_uid: str) -> Kept:
        """Make a file, whose content is on disk, the instance of that name; it is kept for good.

        One that is there already with the same content stays as it is, so that its series counts
        as unchanged.

        Raises:
            OSError: the disk is full or broken; nothing was kept.
        """
        kept: Kept = "new"
        with self._held(series_uid, fcntl.LOCK_SH) as folder:
            target = self.folder(series_uid) / f"{sop_uid}{SUFFIX}"
            with suppress(FileNotFoundError):
                kept = "same" if filecmp.cmp(arrived, target, shallow=False) else "replaced"
            if kept == "same":
                arrived.unlink()
            else:
                arrived.rename(target)
            os.fsync(folder)
        return kept

    @contextmanager
    def _held(self, series_uid: str, how: int) -> Iterator[int]:
        """A descriptor of a series' folder that stays where it is; made if it is not there."""
        path = self.folder(series_uid)
        while True:
            self._make_durable(path)
            try:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # removed again
                continue
            try:
                fcntl.flock(folder, how)
                if _is_at(folder, path):  # and was not removed while we waited
                    yield folder
                    return
            finally:
                os.close(folder)

    def _make_durable(self, path: Path) -> None:
        """Make the folder of a series; it is found after a power cut when anybody returns."""
        with self._making:
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                if path.name in self._durable:
                    return
            _sync(self._series)
            if len(self._durable) >= MOST_DURABLE:
                self._durable.clear()
            self._durable.add(path.name)

    # --- what lies here -------------------------------------------------------------------------

    def folder(self, series_uid: str) -> Path:
        """Where the instances of a series lie, if any do."""
        if not is_uid(series_uid):
            raise Unavailable(f"the spool {self.root} holds nothing of that name: it is no UID")
        return self._series / series_uid

    def folders(self) -> Iterator[Folder]:
        """The folder of every series, in no order."""
        with os.scandir(self._series) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed since
                    yield Folder(entry.name, entry.stat().st_mtime_ns)

    def files(self, series_uid: str) -> list[Path]:
        """The instances of a series, by name; empty if none is here."""
        try:
            with os.scandir(self.folder(series_uid)) as entries:
                return sorted(Path(entry.path) for entry in entries)
        except FileNotFoundError:
            return []

    def remove(self, folder: Folder) -> bool:
        """Remove a series, unless something came for it since its folder was as given.

        Some file systems tell changes apart by 10 ms only, so that has to lie longer back.
        """
        path = self.folder(folder.series_uid)
        leaving = self._leaving / f"{folder.series_uid}@{folder.changed_ns}"
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_at(held, path) or os.fstat(held).st_mtime_ns != folder.changed_ns:
                return False
            path.rename(leaving)
        finally:
            os.close(held)
        _remove(leaving)
        return True

    # --- what was put ---------------------------------------------------------------------------

    def looked_ns(self, series_uid: str) -> int | None:
        """When a series' folder had changed last as it was looked at; None: it never was."""
        sql = "select changed_ns from series where series_uid = ?"
        with named_errors():
            changed_ns: int | None = self._db.execute(sql, (series_uid,)).get
        return changed_ns

    def look_at(self, series_uid: str) -> Look | None:
        """What was seen when a series was looked at last; None: it never was."""
        sql = (
            "select changed_ns, instances, content, segmentations from series where series_uid = ?"
        )
        with named_errors():
            row = self._db.execute(sql, (series_uid,)).fetchone()
        if row is None:
            return None
        changed_ns, instances, content, segmentations = row
        starts = range(0, len(instances), DIGEST_BYTES)
        return Look(
            changed_ns=changed_ns,
            instances=frozenset(instances[at : at + DIGEST_BYTES] for at in starts),
            content=content,
            segmentations=frozenset(orjson.loads(segmentations)),
        )

    def remember(self, series_uid: str, look: Look) -> None:
        """Remember a series as it was looked at."""
        facts = (
            series_uid,
            look.changed_ns,
            b"".join(sorted(look.instances)),
            look.content,
            orjson.dumps(sorted(look.segmentations)).decode(),
        )
        with named_errors(), self._db:
            self._db.execute("insert or replace into series values (?,?,?,?,?)", facts)

    def forget(self, series_uid: str) -> None:
        """Have a series looked at again, as if it had just come."""
        with named_errors(), self._db:
            self._db.execute("update series set changed_ns = 0 where series_uid = ?", (series_uid,))

    def erase(self, series_uids: Iterable[str]) -> None:
        """Remember nothing of these series any more."""
        rows = [(series_uid,) for series_uid in series_uids]
        with named_errors(), self._db:
            self._db.executemany("delete from series where series_uid = ?", rows)
            self._db.executemany("delete from reference where image = ?1 or by = ?1", rows)

    # --- which speak of which -------------------------------------------------------------------

    def refer(self, by: str, images: Iterable[str]) -> None:
        """Remember that the series `by` speaks of these: series, or instances as `sop:UID`."""
        rows = [(image, by) for image in images]
        with named_errors(), self._db:
            self._db.executemany("insert or ignore into reference values (?,?)", rows)

    def referring(self, images: Iterable[str]) -> list[str]:
        """The series that speak of any of these."""
        sql = "select distinct by from reference where image in (select value from json_each(?))"
        with named_errors():
            found = self._db.execute(sql, (orjson.dumps(list(images)).decode(),))
            return sorted(by for (by,) in found)

    def referred(self, by: str) -> list[str]:
        """What the series `by` speaks of: series that lie here, also by their instances."""
        with named_errors():
            rows = self._db.execute("select image from reference where by = ?", (by,)).fetchall()
        if not rows:
            return []
        images = [str(image) for (image,) in rows]
        instances = {image[4:] for image in images if image.startswith("sop:")}
        named = {image for image in images if not image.startswith("sop:")}
        here = (folder.series_uid for folder in self.folders())
        return [uid for uid in here if uid in named or self._has_any(uid, instances)]

    def _has_any(self, series_uid: str, sop_uids: Iterable[str]) -> bool:
        folder = self._series / series_uid
        return any((folder / f"{uid}{SUFFIX}").exists() for uid in sop_uids)

    def close(self) -> None:
        self._db.close()


@contextmanager
def named_errors() -> Iterator[None]:
    """Name SQLite's errors after what the catcher does."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as busy:
        raise Unavailable("another process holds spool.db for too long") from busy
    except (apsw.FullError, apsw.IOError) as failed:
        raise Unavailable("the disk of the spool is full or broken") from failed
    except (apsw.CorruptError, apsw.NotADBError) as damaged:
        raise Misconfigured(
            "spool.db is damaged; stop the receiver and delete it: what lies in the spool is then "
            "put into the queue again, which does no harm"
        ) from damaged
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as no:
        raise Misconfigured(f"spool.db cannot be used: {no}") from no


def _open(file: Path) -> apsw.Connection:
    os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    db = apsw.Connection(os.fspath(file))
    db.set_busy_timeout(30_000)
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "normal")
    db.execute(SCHEMA)
    return db


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
