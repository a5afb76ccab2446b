"""What a FHIR server was sent of each study, so that the next series can say the rest again."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured
from tomodex.formats.fhir import IndexedSeries, Study, indexed_series, study_of

#: Studies that share a lock wait for each other without need; of four at once few do.
LOCKS = 256

SCHEMA = """
create table if not exists sent (
    series_uid text primary key,
    study_uid  text not null,
    study      text not null,    -- JSON of `Study`
    entry      text not null,    -- JSON of `IndexedSeries`
    told       text not null     -- JSON list of `told_of` all of its transactions
) strict, without rowid;
create index if not exists sent_study on sent (study_uid);
"""


class Memory:
    """The series of each study that a server has, in a file of `state`; without, in memory."""

    def __init__(self, url: str, state: Path | None) -> None:
        self._locks: Path | None = None
        if state is None:
            self._db = apsw.Connection(":memory:")
        else:
            name = sha256(url.encode()).hexdigest()[:16]
            self._locks = state / f"fhir-{name}.locks"
            with self._named():
                self._locks.mkdir(exist_ok=True)
                self._db = apsw.Connection(str(state / f"fhir-{name}.db"))
                self._db.set_busy_timeout(10_000)
        with self._named():
            self._db.execute(SCHEMA)

    @contextmanager
    def alone_with(self, study_uid: str) -> Iterator[None]:
        """Whoever else sends a series of this study waits, in this process and in others.

        What is sent of a study is all that was sent before and one series more; of two that send
        at once each would leave out the other's.
        """
        if self._locks is None:
            yield
            return
        slot = int(sha256(study_uid.encode()).hexdigest(), 16) % LOCKS
        with self._named():
            held = (self._locks / f"{slot:02x}").open("ab")
        with held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def study(self, study_uid: str) -> dict[str, IndexedSeries]:
        """The series of a study that were sent, by their UIDs."""
        sql = "select series_uid, entry from sent where study_uid = ?"
        with self._named():
            rows: list[Any] = self._db.execute(sql, (study_uid,)).fetchall()
        return {uid: IndexedSeries(**json.loads(entry)) for uid, entry in rows}

    def series(self, series_uid: str) -> tuple[Study, list[str]] | None:
        """The study of a series that was sent, and what was told of it; None if it was not."""
        sql = "select study, told from sent where series_uid = ?"
        with self._named():
            rows: list[Any] = self._db.execute(sql, (series_uid,)).fetchall()
        return next(((Study(**json.loads(s)), json.loads(told)) for s, told in rows), None)

    def remember(self, annotated: AnnotatedSeries, told: Sequence[str]) -> None:
        """Keep what was sent of a series, and where the server has what was told of it."""
        row = (
            annotated.series.series_uid,
            annotated.series.study_uid,
            json.dumps(asdict(study_of(annotated))),
            json.dumps(asdict(indexed_series(annotated))),
            json.dumps(list(dict.fromkeys(told))),
        )
        with self._named():
            self._db.execute("insert or replace into sent values (?, ?, ?, ?, ?)", row)

    def forget(self, series_uid: str) -> None:
        """The server has this series no longer."""
        with self._named():
            self._db.execute("delete from sent where series_uid = ?", (series_uid,))

    def close(self) -> None:
        """Give back what it holds open."""
        self._db.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, OSError) as wrong:
            raise Misconfigured(f"cannot use what was sent to FHIR: {wrong}") from wrong
