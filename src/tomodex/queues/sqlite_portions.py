"""All that is in a queue, portion by portion, so that it can be copied into another.

A row begins with its place, which grows: what was taken in up to a place is remembered with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from tomodex.queues import PARTS, Cells, Copied, Part
from tomodex.queues.sqlite_tables import Tables

#: What is in hand is given back, and what waits for its next attempt is due.
TASKS = """
select id, series_uid, configuration, (select url from source where source.id = source_id),
    fingerprint, series, lane, study_date, iif(status = 'in-progress', 'ready', status), reason,
    sentence, max(0, attempt - (status = 'in-progress')), updated_ms
from task where id > :after order by id limit :limit
"""

#: Of what has no number of its own the place is how many come before.
_NUMBERED = """
select * from (select row_number() over (order by {order}) as place, {cells} from {tables})
where place > :after order by place limit :limit
"""

#: Sources by their URL, and entries of the feed by whose they are: numbers are each queue's own.
SELECT: Mapping[Part, str] = {
    "task": TASKS,
    "elsewhere": _NUMBERED.format(
        order="series_uid, url",
        cells="series_uid, url",
        tables="elsewhere join source on source.id = source_id",
    ),
    "held": _NUMBERED.format(
        order="lane, url", cells="lane, url", tables="held join source on source.id = source_id"
    ),
    "newest_first": _NUMBERED.format(
        order="lane, url",
        cells="lane, url",
        tables="newest_first join source on source.id = source_id",
    ),
    "result": """
select sequence, series_uid, configuration, document, listed, settled_ms from result
where sequence > :after order by sequence limit :limit
""",
    "aside": _NUMBERED.format(
        order="aside.series_uid, consumer",
        cells="aside.series_uid, consumer, configuration, sentence",
        tables="aside join result using (sequence)",
    ),
    "audit": """
select sequence, at_ms, event, series_uid, source, sentence from audit
where sequence > :after order by sequence limit :limit
""",
    "barred": _NUMBERED.format(order="mark", cells="mark, why", tables="barred"),
    "erasure": _NUMBERED.format(order="id", cells="id, begun_ms, request", tables="erasure"),
}

INSERT: Mapping[Part, str] = {
    "task": """
insert into task (id, series_uid, configuration, source_id, fingerprint, series, lane, study_date,
    status, reason, sentence, attempt, updated_ms)
values (?, ?, ?, (select id from source where url = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?)
""",
    "elsewhere": """
insert into elsewhere select ?2, id from source where url = ?3 and ?1
""",
    "held": "insert into held select ?2, id from source where url = ?3 and ?1",
    "newest_first": "insert into newest_first select ?2, id from source where url = ?3 and ?1",
    "result": """
insert into result (sequence, series_uid, configuration, document, listed, settled_ms)
values (?, ?, ?, ?, ?, ?)
""",
    "aside": """
insert into aside (series_uid, consumer, sequence, sentence)
select ?2, ?3, sequence, ?5 from result where (series_uid, configuration) = (?2, ?4) and ?1
""",
    "audit": """
insert into audit (sequence, at_ms, event, series_uid, source, sentence) values (?, ?, ?, ?, ?, ?)
""",
    "barred": "insert into barred select ?2, ?3 where ?1",
    "erasure": "insert into erasure select ?2, ?3, ?4 where ?1",
}

#: Which cell of a result is its document: zlib of its JSON, or None.
DOCUMENT = 3

#: Which cell of these is the URL of a source.
URL: Mapping[Part, int] = {"task": 3, "elsewhere": 2, "held": 2, "newest_first": 2}


class Portions(Tables):
    """The part of a queue in SQLite tables that copies them."""

    def sizes(self) -> Mapping[Part, int]:
        return {part: int(self._read(f"select count(*) from {part}", ())[0][0]) for part in PARTS}

    def portion(self, part: Part, after: int, limit: int) -> Sequence[Cells]:
        return self._read(SELECT[part], {"after": after, "limit": limit})

    def copied(self) -> Copied | None:
        rows = self._read("select origin, part, after from copied", ())
        return Copied(*rows[0]) if rows else None

    def take_in(self, copied: Copied, rows: Sequence[Cells]) -> None:
        with self._writing_durably() as db:
            self._insert(db, copied.part, rows)
            db.execute("insert or replace into copied values (1, ?, ?, ?)", copied)

    def end_copy(self) -> None:
        with self._writing_durably() as db:
            db.execute("delete from copied")

    def _insert(self, db: apsw.Connection, part: Part, rows: Sequence[Cells]) -> None:
        if part in URL:
            for url in {str(row[URL[part]]) for row in rows}:
                self._source_id(db, url)
        db.executemany(INSERT[part], rows)

    def rank(self, sequence: int) -> int:
        return int(self._read("select count(*) from result where sequence <= ?", (sequence,))[0][0])

    def at_rank(self, rank: int) -> int:
        sql = "select sequence from result order by sequence limit 1 offset ?"
        rows: list[tuple[Any, ...]] = self._read(sql, (rank - 1,)) if rank > 0 else []
        return int(rows[0][0]) if rows else 0
