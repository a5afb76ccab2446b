"""Who is not to be indexed, and what is being erased: in the tables of the queue itself.

So that it holds wherever the queue is used, on each machine of a cluster too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import apsw

from tomodex.queues import Erasure
from tomodex.queues.sqlite_tables import Tables

#: Whoever was erased stays so, whatever they want besides.
BAR = """
insert into barred values (?, ?) on conflict (mark) do update set why = excluded.why
where barred.why <> 'erased' and excluded.why <> barred.why
"""

ALL = "select mark, why from barred"


class Barred(Tables):
    """The part of a queue in SQLite tables that remembers who is kept out."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}
        self._marks_of = -1  #: which change of them this is

    def bar(self, marks: Mapping[str, str]) -> int:
        with self._writing_durably() as db:
            counted = self._changes_of_marks(db)
            db.executemany(BAR, list(marks.items()))
            return self._changes_of_marks(db) - counted

    def unbar(self, marks: Collection[str], why: str) -> int:
        with self._writing_durably() as db:
            counted = self._changes_of_marks(db)
            sql = "delete from barred where mark = ? and why = ?"
            db.executemany(sql, [(mark, why) for mark in marks])
            return self._changes_of_marks(db) - counted

    @staticmethod
    def _changes_of_marks(db: apsw.Connection) -> int:
        number: int = db.execute("select value from counter where name = 'barred'").get
        return number

    def barred(self) -> Mapping[str, str]:
        ((change,),) = self._read("select value from counter where name = 'barred'", ())
        if change != self._marks_of:
            # In this order: marks that come in between are read once more the next time.
            self._marks = {str(mark): str(why) for mark, why in self._read(ALL, ())}
            self._marks_of = change
        return self._marks

    def begin_erasure(self, erasure: Erasure) -> None:
        with self._writing_durably() as db:
            sql = "insert or ignore into erasure values (?, ?, ?)"
            db.execute(sql, (erasure.id, self._now_ms(), erasure.request))

    def erasures(self) -> Sequence[Erasure]:
        rows = self._read("select id, request from erasure order by begun_ms, id", ())
        return [Erasure(id=str(number), request=str(request)) for number, request in rows]

    def end_erasure(self, erasure: Erasure) -> None:
        with self._writing_durably() as db:
            # What is deleted is overwritten, here and in the journal: it names series and patients.
            db.pragma("secure_delete", "on")
            db.execute("delete from erasure where id = ?", (erasure.id,))
        self._read("pragma wal_checkpoint(truncate)", ())
