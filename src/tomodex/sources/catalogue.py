"""What a folder holds, remembered: one SQLite file per folder.

It knows the header of every file by (path, size, time of change), so that a folder that did not
change is listed again without opening a file, and so that another process finds the files of a
series. It holds paths and pseudonyms, no identifiers and no free text that a site did not ask for;
it can be deleted at any time, and is then made again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import apsw
import orjson

from tomodex.errors import Elsewhere, Misconfigured, Unavailable
from tomodex.instance import SEGMENTATIONS, Instance

if TYPE_CHECKING:
    from pydantic import TypeAdapter

BUSY_MS = 60_000

#: After so long a worker looks again whether its data folder has listed an archive.
NOT_LISTED = timedelta(minutes=5)

#: Goes up when the reader reads something else or the tables change; the catalogue is then made
#: again.
VERSION = 3

_TABLES = ("meta", "folder", "file", "shared", "instance", "reference", "skipped")

_SCHEMA = """
create table meta (key text primary key, value text not null) strict;
create table folder (id integer primary key, path blob not null unique) strict;
create table file (
    id integer primary key,
    folder integer not null references folder on delete cascade,
    name blob not null,
    size integer not null,
    mtime_ns integer not null,
    unique (folder, name)
) strict;
-- What most instances of a series have in common, once.
create table shared (id integer primary key, record text not null unique) strict;
create table instance (
    file integer not null references file on delete cascade,
    member integer not null,        -- its number within an archive, or -1
    name text not null,             -- its name within an archive, or ''
    size integer not null,
    series_uid text not null,       -- derived where the header has none
    study_uid text not null,        -- the same
    patient text not null,          -- pseudonym
    sop_uid text not null,
    sop_class text not null,
    shared integer not null references shared,
    own text not null,
    primary key (file, member)
) strict, without rowid;
create index instance_series on instance (series_uid);
create index instance_sop on instance (sop_uid) where sop_uid <> '';
create table reference (
    file integer not null references file on delete cascade,
    member integer not null,
    series_uid text not null,       -- one of the two, the other is ''
    sop_uid text not null
) strict;
create index reference_file on reference (file, member);
create index reference_series on reference (series_uid) where series_uid <> '';
create index reference_sop on reference (sop_uid) where sop_uid <> '';
create table skipped (
    file integer not null references file on delete cascade,
    member integer not null,
    name text not null,
    reason text not null,
    sentence text not null,
    primary key (file, member)
) strict, without rowid;
create index skipped_reason on skipped (reason);
"""

_FILE = """
select file.id from file join folder on folder.id = file.folder
where folder.path = ? and name = ? and size = ? and mtime_ns = ?
"""

_OF_SERIES = """
select folder.path, file.name, i.file, i.member, i.name, i.size, i.study_uid, i.patient,
       i.sop_uid, i.sop_class, shared.record, i.own
from instance i join file on file.id = i.file join folder on folder.id = file.folder
join shared on shared.id = i.shared
where i.series_uid = ?
order by folder.path, file.name, i.member
"""

_SEGMENTATIONS_OF = f"""
select folder.path, file.name, i.member, i.sop_uid
from instance i join file on file.id = i.file join folder on folder.id = file.folder
where i.sop_class in ({", ".join(f"'{uid}'" for uid in sorted(SEGMENTATIONS))})
and (i.file, i.member) in (
    select file, member from reference where series_uid = :uid
    union
    select reference.file, reference.member from instance image
    join reference on reference.sop_uid = image.sop_uid
    where image.series_uid = :uid and image.sop_uid <> '' and reference.sop_uid <> '')
order by folder.path, file.name, i.member
"""

_REFERENCED = """
select distinct image.series_uid from reference
join instance image on image.sop_uid = reference.sop_uid
where reference.file = ? and reference.member = ? and reference.sop_uid <> ''
order by image.series_uid
"""


class Place(NamedTuple):
    """Where an instance lies."""

    path: Path  #: within the folder
    member: int  #: number within the archive at `path`, or -1


class File(NamedTuple):
    """A file as the directory shows it."""

    folder: bytes  #: path within the root, in the file system's encoding; b"" for the root
    name: bytes
    size: int
    mtime_ns: int


class Found(NamedTuple):
    """An instance, ready to be remembered. Made by reading processes, so it is small and plain."""

    member: int
    name: str
    size: int
    series_uid: str
    study_uid: str
    patient: str  #: the identifier: it is replaced by its pseudonym before anything is kept
    sop_uid: str
    sop_class: str
    references: tuple[str, ...]
    referenced_sop_uids: tuple[str, ...]
    shared: bytes
    own: bytes


class Skipped(NamedTuple):
    """A file or member that holds no instance, and why."""

    member: int
    name: str
    reason: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """An instance as the catalogue knows it."""

    place: Place
    size: int
    study_uid: str  #: derived where the header has none
    instance: Instance  #: without description: free text is not kept


# --- records ------------------------------------------------------------------------------------

#: What differs from slice to slice; the rest is the same in most of a series and is kept once.
_OWN = ("acquisition_number", "frames", "pixel_data")
_COLUMNS = ("path", "patient", "sop_uid", "sop_class", "description")
_SHARED = tuple(f.name for f in fields(Instance) if f.name not in (*_OWN, *_COLUMNS, "attributes"))


def pack(instance: Instance) -> tuple[bytes, bytes]:
    """The shared and the own part of an instance, as JSON."""
    numbers = {k: v for k, v in instance.attributes.items() if not isinstance(v, str)}
    texts = {k: v for k, v in instance.attributes.items() if isinstance(v, str)}
    shared = {name: getattr(instance, name) for name in _SHARED}
    own = {name: getattr(instance, name) for name in _OWN}
    return (
        orjson.dumps({**shared, "texts": texts}, option=orjson.OPT_SORT_KEYS),
        orjson.dumps({**own, "numbers": numbers}, option=orjson.OPT_SORT_KEYS),
    )


def _unpack(shared: str, own: str, **columns: str) -> Instance:
    record = {**orjson.loads(shared), **orjson.loads(own), **columns}
    record["attributes"] = {**record.pop("texts"), **record.pop("numbers")}
    return _adapter().validate_python(record)


@cache
def _adapter() -> TypeAdapter[Instance]:
    from pydantic import TypeAdapter

    return TypeAdapter(Instance)


# --- the catalogue ------------------------------------------------------------------------------


class Catalogue:
    """The catalogue of the folder `root`, in the file `path`."""

    def __init__(self, path: Path, root: Path, pseudonymize: Callable[[str], str]) -> None:
        self._root = root
        # Paths can hold names of patients: nobody but the owner may read them.
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._path = path
        self._db = apsw.Connection(str(path))
        self._db.set_busy_timeout(BUSY_MS)
        for pragma in ("synchronous = normal", "foreign_keys = on"):
            self._db.execute(f"pragma {pragma}")
        self._pseudonymize = lru_cache(maxsize=100_000)(pseudonymize)
        if self._db.pragma("user_version") != VERSION:
            self._bring_up_to_date()

    def _bring_up_to_date(self) -> None:
        with self.alone():
            self._db.execute("pragma journal_mode = wal")
            # Another process may have been faster.
            if self._db.pragma("user_version") != VERSION:
                with self._transaction():
                    self._make()

    def _make(self) -> None:
        for table in reversed(_TABLES):
            self._db.execute(f"drop table if exists {table}")
        self._db.execute(_SCHEMA)
        self._db.execute(f"pragma user_version = {VERSION}")

    # --- taking in ------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that takes in; waits for another to be done.

        Of two at once, each would forget as gone what the other has just read.
        """
        with _locked(self._path):
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write all that is done in here, or nothing."""
        # apsw's own `with db` hides a full disk, after which SQLite has rolled back by itself.
        try:
            self._db.execute("begin immediate")
            yield
            self._db.execute("commit")
        finally:
            if self._db.in_transaction:
                self._db.execute("rollback")

    def begin(self, settings: str) -> None:
        """Start a listing; what was read with other `settings` is forgotten."""
        with self._transaction():
            row = self._db.execute("select value from meta where key = 'settings'").fetchone()
            if row is not None and row[0] != settings:
                self._make()
            self._db.execute("insert or replace into meta values ('settings', ?)", (settings,))
        self._db.execute("create temp table if not exists seen (file integer primary key)")
        self._db.execute("delete from seen")

    def knows(self, file: File) -> bool:
        """Whether the file is remembered as it is; if so, it stays."""
        row = self._db.execute(_FILE, file).fetchone()
        if row is None:
            return False
        self._db.execute("insert or ignore into seen values (?)", row)
        return True

    def keep_below(self, folder: bytes) -> None:
        """Let everything in and below a folder that cannot be listed now stay."""
        sql = """insert or ignore into seen select file.id from file
                 join folder on folder.id = file.folder
                 where path = ?1 or substr(path, 1, length(?2)) = ?2"""
        self._db.execute(sql, (folder, folder + b"/"))

    def remember(self, read: Iterable[tuple[File, Iterable[Found | Skipped]]]) -> None:
        """Take in files that were read, in one transaction."""
        with self._transaction():
            for file, contents in read:
                number = self._put_file(file)
                for one in contents:
                    if isinstance(one, Found):
                        self._put_instance(number, one)
                    else:
                        self._db.execute("insert into skipped values (?,?,?,?,?)", (number, *one))

    def _put_file(self, file: File) -> int:
        self._db.execute("insert or ignore into folder (path) values (?)", (file.folder,))
        (folder,) = self._one("select id from folder where path = ?", file.folder)
        self._db.execute("delete from file where folder = ? and name = ?", (folder, file.name))
        self._db.execute(
            "insert into file (folder, name, size, mtime_ns) values (?,?,?,?)",
            (folder, file.name, file.size, file.mtime_ns),
        )
        number = self._db.last_insert_rowid()
        self._db.execute("insert or ignore into seen values (?)", (number,))
        return number

    def _put_instance(self, file: int, found: Found) -> None:
        shared = found.shared.decode()
        self._db.execute("insert or ignore into shared (record) values (?)", (shared,))
        (shared_id,) = self._one("select id from shared where record = ?", shared)
        self._db.execute(
            "insert into instance values (?,?,?,?,?,?,?,?,?,?,?)",
            (
                file,
                found.member,
                found.name,
                found.size,
                found.series_uid,
                found.study_uid,
                self._pseudonymize(found.patient),
                found.sop_uid,
                found.sop_class,
                shared_id,
                found.own.decode(),
            ),
        )
        sql = "insert into reference values (?,?,?,?)"
        for series_uid in found.references:
            self._db.execute(sql, (file, found.member, series_uid, ""))
        for sop_uid in found.referenced_sop_uids:
            self._db.execute(sql, (file, found.member, "", sop_uid))

    def end(self) -> None:
        """Finish a listing: files that were not seen in it are gone."""
        with self._transaction():
            self._db.execute("delete from file where id not in (select file from seen)")
            if self._db.changes():
                sql = "delete from folder where id not in (select folder from file)"
                self._db.execute(sql)
                sql = "delete from shared where id not in (select shared from instance)"
                self._db.execute(sql)
            self._db.execute("delete from seen")

    # --- giving out -----------------------------------------------------------------------------

    def series_uids(self) -> Iterator[str]:
        """Every series, one after the other; no transaction is open in between."""
        sql = "select min(series_uid) from instance where series_uid > ?"
        (uid,) = self._one(sql, "")
        while uid is not None:
            yield str(uid)
            (uid,) = self._one(sql, uid)

    def is_empty(self) -> bool:
        """Whether nothing was ever listed into it, or there was nothing."""
        ((filled,),) = self._db.execute("select exists (select 1 from file)").fetchall()
        return not filled

    def instances(self, series_uid: str) -> list[Remembered]:
        """The instances of a series by path; empty if it is not known."""
        return [self._remembered(*row) for row in self._db.execute(_OF_SERIES, (series_uid,))]

    def _remembered(
        self,
        folder: bytes,
        name: bytes,
        file: int,
        member: int,
        member_name: str,
        size: int,
        study_uid: str,
        patient: str,
        sop_uid: str,
        sop_class: str,
        shared: str,
        own: str,
    ) -> Remembered:
        place = Place(_path(folder, name), member)
        path = str(self._root / place.path)
        instance = _unpack(
            shared,
            own,
            path=f"{path}!{member_name}" if member >= 0 else path,
            patient=patient,
            sop_uid=sop_uid,
            sop_class=sop_class,
        )
        return Remembered(place, size, study_uid, self._resolved(instance, file, member))

    def _resolved(self, instance: Instance, file: int, member: int) -> Instance:
        """Name the series that an instance refers to by its images only."""
        if instance.references or not instance.referenced_sop_uids:
            return instance
        uids = tuple(row[0] for row in self._db.execute(_REFERENCED, (file, member)))
        return replace(instance, references=uids)

    def segmentations(self, series_uid: str) -> list[tuple[Place, str]]:
        """The DICOM SEG instances that refer to a series, each with its SOP Instance UID."""
        rows = self._db.execute(_SEGMENTATIONS_OF, {"uid": series_uid})
        return [(Place(_path(folder, name), member), uid) for folder, name, member, uid in rows]

    def count(self) -> int:
        """How many files are known."""
        (files,) = self._one("select count(*) from file")
        return int(files) if isinstance(files, int) else 0

    def skipped(self) -> Mapping[str, int]:
        """How many files and members hold no instance, by reason."""
        sql = "select reason, count(*) from skipped group by reason order by reason"
        return dict(self._db.execute(sql))

    def skipped_files(self, reason: str) -> Iterator[tuple[str, str]]:
        """Path and sentence of what was skipped for one reason."""
        sql = """select folder.path, file.name, skipped.name, skipped.sentence
                 from skipped join file on file.id = skipped.file
                 join folder on folder.id = file.folder
                 where reason = ? order by folder.path, file.name, skipped.member"""
        for folder, name, member_name, sentence in self._db.execute(sql, (reason,)):
            path = str(self._root / _path(folder, name))
            yield (f"{path}!{member_name}" if member_name else path), sentence

    def _one(self, sql: str, *values: apsw.SQLiteValue) -> tuple[apsw.SQLiteValue, ...]:
        row = self._db.execute(sql, values).fetchone()
        return tuple(row) if row is not None else (None,)


def series_in(file: Path, patient: str) -> list[str]:
    """The series of a patient, by pseudonym, in a catalogue that another may use."""
    with named_errors(), closing(apsw.Connection(str(file))) as db:
        db.set_busy_timeout(BUSY_MS)
        sql = "select distinct series_uid from instance where patient = ?"
        return [str(uid) for (uid,) in db.execute(sql, (patient,))]


def forget_series(file: Path, series_uids: Iterable[str]) -> None:
    """Take series out of a catalogue; their files stay known, and are not read again."""
    with named_errors(), _locked(file), closing(apsw.Connection(str(file))) as db:
        db.set_busy_timeout(BUSY_MS)
        db.pragma("secure_delete", "on")
        with db:
            uids = [(uid,) for uid in series_uids]
            db.executemany("delete from instance where series_uid = ?", uids)
            db.execute("delete from shared where id not in (select shared from instance)")
        db.execute("pragma wal_checkpoint(truncate)")


def require_listed(catalogue: Catalogue, url: str) -> None:
    """See to it that this data folder has ever listed an archive.

    Raises:
        Elsewhere: it has not, so its series are for the workers of the data folder that has.
    """
    if catalogue.is_empty():
        raise Elsewhere(
            f"{url} was never listed from this data folder; `tomodex discover` lists it",
            source=url,
            until=datetime.now(UTC) + NOT_LISTED,
        )


@contextmanager
def named_errors() -> Iterator[None]:
    """Name SQLite's errors after what the catcher does; its bugs and ours stay what they are."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as busy:
        raise Unavailable("another process holds the folder's catalogue for too long") from busy
    except apsw.FullError as full:
        raise Unavailable("there is no room for the folder's catalogue: the disk is full") from full
    except apsw.IOError as failed:
        raise Unavailable(f"the folder's catalogue cannot be read or written: {failed}") from failed
    except (apsw.CorruptError, apsw.NotADBError) as damaged:
        raise Misconfigured(
            "the folder's catalogue is damaged; delete folder-*.db in the data folder, which costs "
            "no more than reading the files again"
        ) from damaged
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError, PermissionError) as no:
        raise Misconfigured(f"the folder's catalogue cannot be written: {no}") from no


@contextmanager
def _locked(catalogue: Path) -> Iterator[None]:
    """Hold the lock of a catalogue; waits for another to be done."""
    lock = os.open(f"{catalogue}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _path(folder: bytes, name: bytes) -> Path:
    return Path(os.fsdecode(folder), os.fsdecode(name))
