"""The SQLite file of the queue: its tables, how it is opened, and what its errors mean to us."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import apsw

from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.locks import open_lock
from tomodex.probe import Probe, probe_room

#: Older ones can corrupt a WAL file that two processes checkpoint at once (sqlite.org/wal.html).
OLDEST_SQLITE = (3, 51, 3)

#: A look at the pages takes no longer; a file of many GB is then looked at in part.
PROBE_S = 5.0

#: "TOMO", so that `file` and we can tell our files from those of other programs.
APPLICATION_ID = 0x544F4D4F

#: How often to look whether a lock is free.
POLL_S = 0.02

#: Step n takes the file from version n to n + 1; a step that was released is never changed.
SCHEMA: tuple[str, ...] = (
    """
create table task (
    id            integer primary key,
    series_uid    text    not null,
    configuration text    not null,
    source        text    not null,
    fingerprint   text    not null,
    series        text    not null,              -- JSON of `Series`
    lane          integer not null,              -- place in `Lane`, 0 is the most urgent
    study_date    text    not null,              -- YYYY-MM-DD
    status        text    not null,
    due_ms        integer not null default 0,    -- ready: not before; in-progress: lease ends
    attempt       integer not null default 0,
    token         integer not null default 0,    -- of the last lease; 0: nobody may settle it
    worker        text    not null default '',
    reason        text    not null default '',
    sentence      text    not null default '',
    updated_ms    integer not null,
    unique (series_uid, configuration)
) strict;
create index task_waiting on task (lane, study_date, id) where status = 'ready' and due_ms = 0;
create index task_due on task (status, due_ms) where due_ms > 0;
create index task_updated on task (status, updated_ms);
create index task_reason on task (status, reason, updated_ms)
    where status in ('rejected', 'failed');

create table result (
    sequence      integer primary key autoincrement,   -- never given twice
    series_uid    text    not null,
    configuration text    not null,
    document      blob,                          -- zlib of JSON of `AnnotatedSeries`; null: gone
    settled_ms    integer not null,
    unique (series_uid, configuration)
) strict;

create table consumer (
    name     text    primary key,
    sequence integer not null
) strict, without rowid;

create table aside (
    series_uid text    not null,
    consumer   text    not null,
    sequence   integer not null,
    sentence   text    not null,
    primary key (series_uid, consumer)
) strict, without rowid;
create index aside_consumer on aside (consumer, sequence);

create table counter (name text primary key, value integer not null) strict, without rowid;
insert into counter values ('lease', 0);

-- Kept by triggers, so that counting takes no longer with more tasks.
create table tally (
    lane   integer not null,
    status text    not null,
    tasks  integer not null default 0,
    primary key (lane, status)
) strict, without rowid;
insert into tally (lane, status)
    select lane.column1, status.column1
    from (values (0), (1), (2), (3)) as lane,
         (values ('ready'), ('in-progress'), ('completed'), ('rejected'), ('failed')) as status;
create trigger task_added after insert on task begin
    update tally set tasks = tasks + 1 where lane = new.lane and status = new.status;
end;
create trigger task_moved after update of lane, status on task
    when old.lane <> new.lane or old.status <> new.status begin
    update tally set tasks = tasks - 1 where lane = old.lane and status = old.status;
    update tally set tasks = tasks + 1 where lane = new.lane and status = new.status;
end;
create trigger task_removed after delete on task begin
    update tally set tasks = tasks - 1 where lane = old.lane and status = old.status;
end;
""",
    """
create table source (id integer primary key, url text not null unique) strict;
alter table task add column source_id integer not null default 0;
drop trigger task_added;
drop trigger task_moved;
drop trigger task_removed;
drop index task_waiting;
-- All sources of the series that more than one of them has listed.
create table elsewhere (
    series_uid text    not null,
    source_id  integer not null,
    primary key (series_uid, source_id)
) strict, without rowid;
create index elsewhere_source on elsewhere (source_id);
-- Lanes that nothing is handed out of, and those that the newest goes out of first.
create table held (
    lane      integer not null,
    source_id integer not null,
    primary key (lane, source_id)
) strict, without rowid;
create table newest_first (
    lane      integer not null,
    source_id integer not null,
    primary key (lane, source_id)
) strict, without rowid;
alter table result add column listed integer not null default 0;   -- 1: nobody has worked on it
-- Only ever added to.
create table audit (
    sequence   integer primary key autoincrement,
    at_ms      integer not null,
    event      text    not null,
    series_uid text    not null,
    source     text    not null,
    sentence   text    not null
) strict;
create index audit_series on audit (series_uid);
create trigger audit_is_not_changed before update on audit begin
    select raise(abort, 'the audit is only added to');
end;
create trigger audit_is_not_removed before delete on audit begin
    select raise(abort, 'the audit is only added to');
end;

drop table tally;
create table tally (
    status    text    not null,
    lane      integer not null,
    source_id integer not null,
    tasks     integer not null,
    primary key (status, lane, source_id)
) strict, without rowid;
insert into source (url) select distinct source from task;
update task set source_id = (select id from source where url = task.source);
alter table task drop column source;
-- By source, so that those of an archive which is left alone are passed over at once.
create index task_waiting on task (lane, source_id, study_date, id)
    where status = 'ready' and due_ms = 0;
create index task_date on task (source_id, study_date);
insert into tally select status, lane, source_id, count(*) from task group by 1, 2, 3;
create trigger task_added after insert on task begin
    insert into tally values (new.status, new.lane, new.source_id, 1)
        on conflict do update set tasks = tasks + 1;
end;
create trigger task_moved after update of status, lane, source_id on task
    when old.status <> new.status or old.lane <> new.lane or old.source_id <> new.source_id begin
    update tally set tasks = tasks - 1
        where status = old.status and lane = old.lane and source_id = old.source_id;
    insert into tally values (new.status, new.lane, new.source_id, 1)
        on conflict do update set tasks = tasks + 1;
end;
create trigger task_removed after delete on task begin
    update tally set tasks = tasks - 1
        where status = old.status and lane = old.lane and source_id = old.source_id;
end;
""",
    """
-- Keyed hashes of who is not to be indexed.
create table barred (
    mark text primary key,
    why  text not null
) strict, without rowid;
-- Erasures that have begun; what is named there is erased with them.
create table erasure (
    id       text    primary key,
    begun_ms integer not null,
    request  text    not null            -- JSON
) strict;
insert into counter values ('barred', 0);   -- grows with each change
create trigger barred_added after insert on barred begin
    update counter set value = value + 1 where name = 'barred';
end;
create trigger barred_changed after update on barred begin
    update counter set value = value + 1 where name = 'barred';
end;
create trigger barred_removed after delete on barred begin
    update counter set value = value + 1 where name = 'barred';
end;
""",
    """
-- How far a copy of another queue into this one has come, while one is made.
create table copied (
    one    integer primary key check (one = 1),
    origin text    not null,
    part   text    not null,
    after  integer not null
) strict;
""",
)


def open_file(file: str, busy_s: float) -> apsw.Connection:
    """Open the file, made or brought up to date if need be; "" is one in memory.

    Raises:
        Misconfigured: SQLite is too old, or the file is not ours, damaged or newer than we are.
        Unavailable: another process holds it for longer than `busy_s`.
    """
    check_sqlite(apsw.sqlite_lib_version())
    if file:
        _make(Path(file))
    with named_errors(file):
        db = apsw.Connection(file or ":memory:")
        db.set_busy_timeout(round(busy_s * 1000))
        _check_ours(db, file)
        _use_wal(db, file, busy_s)
        db.pragma("synchronous", "normal")
        db.pragma("wal_autocheckpoint", 4000)
        db.pragma("cache_size", -65536)
        _migrate(db, file)
    return db


def check_sqlite(version: str) -> None:
    """Refuse an SQLite that could damage the file."""
    if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise Misconfigured(
            f"SQLite {version} can corrupt a file that several processes write; "
            f"the queue needs {oldest} or newer: pip install --upgrade apsw"
        )


def _make(file: Path) -> None:
    """Make the file for its owner only: it holds pseudonyms and UIDs. SQLite's own follow it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as refused:
        raise Misconfigured(f"cannot make the queue's file {file}: {refused.strerror}") from refused


def _check_ours(db: apsw.Connection, file: str) -> None:
    ((tables,),) = db.execute("select count(*) from sqlite_schema")
    if tables and db.pragma("application_id") != APPLICATION_ID:
        raise Misconfigured(f"{file} belongs to another program; name another file for the queue")


def _use_wal(db: apsw.Connection, file: str, busy_s: float) -> None:
    """Let readers and a writer work side by side; the file remembers it."""
    end = time.monotonic() + busy_s
    # SQLite does not wait by itself here, and other processes may be opening the new file too.
    while True:
        try:
            mode = db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_S)
        else:
            break
    if file and mode != "wal":
        raise Misconfigured(f"{file}: this file system cannot hold a queue; use a local disk")


def _migrate(db: apsw.Connection, file: str) -> None:
    """Bring the tables to the newest version, in one transaction."""
    if _version(db, file) == len(SCHEMA):
        return
    with transaction(db):
        # Again, as another process may have been faster.
        for step in SCHEMA[_version(db, file) :]:
            db.execute(step)
        db.pragma("user_version", len(SCHEMA))
        db.pragma("application_id", APPLICATION_ID)


def _version(db: apsw.Connection, file: str) -> int:
    version: int = db.pragma("user_version")
    if version > len(SCHEMA):
        raise Misconfigured(
            f"{file} is of version {version}, this Tomodex knows up to {len(SCHEMA)}; "
            "use the Tomodex that wrote it, or a newer one"
        )
    return version


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """Write all that is done in here, or nothing."""
    # apsw's own `with db` keeps all other threads waiting while it waits (measured, 3.54.1), the
    # one that renews a lease among them.
    try:
        db.execute("begin immediate")
        yield
        db.execute("commit")
    finally:
        if db.in_transaction:
            db.execute("rollback")


@contextmanager
def named_errors(file: str) -> Iterator[None]:
    """Name SQLite's errors after what the catcher does; its bugs and ours stay what they are."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as busy:
        raise Unavailable(f"{file}: another process holds the queue for too long") from busy
    except apsw.FullError as full:
        raise Unavailable(f"{file}: the disk is full; nothing was stored") from full
    except apsw.IOError as failed:
        raise Unavailable(f"{file}: the disk failed: {failed}") from failed
    except (apsw.CorruptError, apsw.NotADBError) as damaged:
        raise Misconfigured(
            f"{file} is damaged or no SQLite file: {damaged}; restore it from a backup, "
            "or index into a new one"
        ) from damaged
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as refused:
        raise Misconfigured(f"{file} cannot be written: {refused}") from refused


@contextmanager
def lock_file(file: str, name: str, busy_s: float) -> Iterator[None]:
    """Hold the lock of that name beside the file, which the system frees however we end.

    Raises:
        Unavailable: another process holds it for longer than `busy_s`.
    """
    # Never removed: two processes could then each hold a lock of that name.
    path = Path(f"{file}-{sha256(name.encode()).hexdigest()[:12]}.lock")
    try:
        held = open_lock(path)
    except OSError as refused:
        raise Misconfigured(f"cannot make {path}: {refused.strerror}") from refused
    with held:
        _wait_for(held.fileno(), name, busy_s)
        yield


def _wait_for(descriptor: int, name: str, busy_s: float) -> None:
    end = time.monotonic() + busy_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            if time.monotonic() > end:
                raise Unavailable(f"another process is delivering to {name}") from busy
            time.sleep(POLL_S)
        else:
            return


def probe_file(file: str) -> Iterator[Probe]:
    """Look whether the file is whole and has room to grow; "" is one in memory."""
    yield Probe(subject="SQLite", verdict="ok", sentence=f"version {apsw.sqlite_lib_version()}")
    if not file:
        return
    try:
        with named_errors(file), closing(apsw.Connection(file)) as db:
            yield _probe_pages(db, file)
    except TomodexError as error:
        advice = "see that this user may write to the folder, or restore the file from a backup"
        yield Probe(subject="queue file", verdict="wrong", sentence=str(error), advice=advice)
    yield probe_room(Path(file).parent)


def _probe_pages(db: apsw.Connection, file: str) -> Probe:
    """A quick look through the file's pages, as far as it gets in some seconds."""
    end = time.monotonic() + PROBE_S
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    size_mb = Path(file).stat().st_size / 1e6
    try:
        found = str(db.pragma("quick_check"))
    except apsw.InterruptError:
        found = "ok"
    if found != "ok":
        return Probe(
            subject="queue file",
            verdict="wrong",
            sentence=f"{file}: {found}",
            advice="stop everything that uses it and restore it from a backup",
        )
    return Probe(subject="queue file", verdict="ok", sentence=f"whole, {size_mb:,.0f} MB")
