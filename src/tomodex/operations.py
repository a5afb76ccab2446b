"""What somebody asked for that takes long: remembered until it is done, whoever is killed.

One small SQLite file in the data folder. Whoever works on an operation holds it on a lease and says
how far it has come; one whose worker died is taken up by another.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import apsw

from tomodex.private_file import PrivateFile

#: The names FHIR's Task.status has for these.
Status = Literal["ready", "in-progress", "completed", "failed"]

#: How often one is taken up: who works on it may be what it kills.
MOST_ATTEMPTS = 3

#: Errors that are kept of one operation, and characters of each.
MOST_ERRORS = 100
LONGEST_ERROR = 500

SCHEMA = """
create table if not exists operation (
    id       text    primary key,
    kind     text    not null,
    asker    text    not null,
    request  text    not null,
    key      text    not null,               -- the same one again is the same operation
    status   text    not null default 'ready',
    done     integer not null default 0,
    total    integer,
    result   text    not null default '{}',  -- JSON
    errors   text    not null default '[]',  -- JSON
    attempt  integer not null default 0,
    token    text    not null default '',    -- of the last lease
    due_s    real    not null default 0,     -- in-progress: the lease ends
    created_s real   not null,
    updated_s real   not null,
    unique (kind, asker, key)
) strict;
create index if not exists operation_status on operation (status, kind, created_s);
"""

#: The oldest of some kinds that nobody works on.
NEXT = """
select id from operation where kind in (select value from json_each(?))
    and (status = 'ready' or (status = 'in-progress' and due_s < ?))
order by created_s, id limit 1
"""

FIELDS = """id, kind, asker, request, status, done, total, result, errors, attempt, token,
    created_s, updated_s"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that takes long, and how far it has come."""

    id: str  #: cannot be guessed
    kind: str  #: such as "segment": who takes it up
    asker: str  #: name of who asked for it
    request: str  #: what was asked, as its kind writes it; JSON
    status: Status
    done: int  #: of `total`
    total: int | None  #: None: not known yet
    result: Mapping[str, str]  #: what came of it, such as where it lies; {} until it is completed
    errors: tuple[str, ...]  #: what went wrong, for a person; also of one that is completed
    attempt: int  #: how often it was taken up
    created: str  #: RFC 3339
    updated: str  #: RFC 3339
    token: str = ""  #: of the lease, for who holds it


class Operations:
    """`operations.db` in the data folder; any number of processes use it at once."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._kept = PrivateFile(file, SCHEMA)
        self._now = now

    def put(self, kind: str, request: str, asker: str, key: str = "") -> Operation:
        """Remember what somebody asks for; with a key that they used before, it is that one."""
        made, now = uuid.uuid4().hex, self._now()
        facts = (made, kind, asker, request, key or made, now, now)
        with self._kept.writing() as db:
            db.execute(
                """insert into operation (id, kind, asker, request, key, created_s, updated_s)
                values (?, ?, ?, ?, ?, ?, ?) on conflict do nothing""",
                facts,
            )
            sql = f"select {FIELDS} from operation where kind = ? and asker = ? and key = ?"
            (row,) = db.execute(sql, (kind, asker, key or made)).fetchall()
        return _operation(row)

    def find(self, id: str) -> Operation | None:
        """The operation with this id; None: there is none."""
        rows = self._kept.read(f"select {FIELDS} from operation where id = ?", (id,))
        return _operation(rows[0]) if rows else None

    def newest(self, asker: str = "", limit: int = 100) -> list[Operation]:
        """Operations of one asker, or of any, newest first."""
        sql = f"""select {FIELDS} from operation where ?1 in ('', asker)
            order by created_s desc, id limit ?2"""
        return [_operation(row) for row in self._kept.read(sql, (asker, limit))]

    def forget(self, series_uids: Collection[str]) -> None:
        """Have nothing of what was asked for about these series any more."""
        sql = "delete from operation where instr(request, ?) or instr(result, ?)"
        with self._kept.writing() as db:
            db.executemany(sql, [(f'"{uid}"', f'"{uid}"') for uid in series_uids])

    def lease(self, kinds: Collection[str], lease_s: float) -> Operation | None:
        """Take up the oldest of these kinds that nobody works on; None: there is none.

        One that was taken up too often is failed instead.
        """
        now = self._now()
        with self._kept.writing() as db:
            while rows := db.execute(NEXT, (json.dumps(sorted(kinds)), now)).fetchall():
                sql = """update operation set token = ?, due_s = ?, updated_s = ?,
                    attempt = attempt + 1, status = iif(attempt < ?, 'in-progress', 'failed')
                    where id = ?"""
                ((id,),) = rows
                db.execute(sql, (uuid.uuid4().hex, now + lease_s, now, MOST_ATTEMPTS, id))
                ((row),) = db.execute(f"select {FIELDS} from operation where id = ?", (id,))
                taken = _operation(row)
                if taken.status == "in-progress":
                    return taken
                _add_error(db, taken, f"given up: it did not end in {MOST_ATTEMPTS} attempts")
        return None

    def report(self, held: Operation, done: int, total: int | None, lease_s: float) -> bool:
        """Say how far it has come, and hold it longer; False if it belongs to somebody else."""
        return self._change(
            held, "done = ?, total = ?, due_s = ?", done, total, self._until(lease_s)
        )

    def complain(self, held: Operation, sentence: str) -> None:
        """Remember that a part of it went wrong; the rest goes on."""
        with self._kept.writing() as db:
            _add_error(db, held, sentence)

    def finish(self, held: Operation, result: Mapping[str, str]) -> bool:
        """It is done; False if it belongs to somebody else by now."""
        return self._change(held, "status = 'completed', result = ?", json.dumps(dict(result)))

    def fail(self, held: Operation, sentence: str) -> bool:
        """It cannot be done; False if it belongs to somebody else by now."""
        self.complain(held, sentence)
        return self._change(held, "status = 'failed'")

    def give_back(self, held: Operation) -> bool:
        """Let it be taken up again, and do not count the attempt."""
        return self._change(held, "status = 'ready', attempt = attempt - 1")

    def _until(self, lease_s: float) -> float:
        return self._now() + lease_s

    def _change(self, held: Operation, what: str, *facts: object) -> bool:
        sql = f"""update operation set {what}, updated_s = ?
            where id = ? and token = ? and status = 'in-progress'"""
        with self._kept.writing() as db:
            db.execute(sql, (*facts, self._now(), held.id, held.token))
            return db.changes() == 1


def _add_error(db: apsw.Connection, held: Operation, sentence: str) -> None:
    sql = """update operation set errors = json_insert(errors, '$[#]', ?)
        where id = ? and token = ? and json_array_length(errors) < ?"""
    db.execute(sql, (sentence[:LONGEST_ERROR], held.id, held.token, MOST_ERRORS))


def _operation(row: tuple[Any, ...]) -> Operation:
    (id, kind, asker, request, status, done, total, result, errors, attempt, token, *times) = row
    created, updated = (
        datetime.fromtimestamp(s, UTC).isoformat("T", "milliseconds") for s in times
    )
    return Operation(
        id=id,
        kind=kind,
        asker=asker,
        request=request,
        status=status,
        done=done,
        total=total,
        result=json.loads(result),
        errors=tuple(json.loads(errors)),
        attempt=attempt,
        created=created,
        updated=updated,
        token=token,
    )
