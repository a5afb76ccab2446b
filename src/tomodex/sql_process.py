"""The process that answers one SELECT: it locks itself in before it looks at the statement.

Reads a task as JSON from stdin and writes one line of JSON to stdout, and nothing else anywhere:
the system lets it write no file, gives it so much memory, and ends it when its time is over.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import duckdb
import orjson

from tomodex.formats.rows import STRUCTURES, structure_row
from tomodex.indexes.duckdb.schema import VERSION
from tomodex.indexes.duckdb.views import ANNOTATIONS_VIEW, SERIES_VIEW, WORDS
from tomodex.parquet import Workbench
from tomodex.terminology import load_terminology

#: Rows that are taken at a time.
BATCH = 200

#: Of a statement's own complaint; it may repeat all of it.
LONGEST_SENTENCE = 500

#: Address space beside the memory that DuckDB may use: code, and the stacks of threads.
BESIDE_MB = 1536

#: Seconds between two tries to open what somebody writes.
PAUSE_S = 0.05

#: Seconds after its time is over that a statement has to notice; then the system ends it.
GRACE_S = 1.0


class Refused(Exception):
    """What the parent is told instead of an answer."""

    def __init__(self, error: str, sentence: str) -> None:
        super().__init__(sentence)
        self.error = error
        self.sentence = sentence


def main() -> None:
    """Answer what stdin asks."""
    task = orjson.loads(sys.stdin.buffer.read())
    _bound(task["memory_mb"])
    try:
        db = open_tables(task["file"], task["wait_s"], task["memory_mb"], task["threads"])
        _end_after(db, task["seconds"])
        said = answer(db, task["statement"], task["rows"], task["bytes"])
    except Refused as refused:
        said = {"error": refused.error, "sentence": refused.sentence}
    sys.stdout.buffer.write(orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS))
    sys.stdout.buffer.flush()
    # Whatever threads still do, and whatever they hold: it ends here.
    os._exit(0)


def _bound(memory_mb: int) -> None:
    """Write no file, dump no core, take no more address space than this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    space = (memory_mb + BESIDE_MB) << 20
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def open_tables(
    file: str, wait_s: float, memory_mb: int, threads: int
) -> duckdb.DuckDBPyConnection:
    """The tables, in an engine that reaches nothing else and that cannot be changed."""
    db = duckdb.connect(
        config={
            "memory_limit": f"{memory_mb}MB",
            "threads": threads,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_unsigned_extensions": False,
        }
    )
    db.execute("set enable_progress_bar = false")
    _attach(db, file, wait_s)
    for statement in (WORDS, SERIES_VIEW, ANNOTATIONS_VIEW):
        db.execute(statement)
    bench = Workbench(db)
    bench.create("structures", STRUCTURES)
    known = load_terminology().structures.values()
    bench.add("structures", STRUCTURES, [structure_row(structure) for structure in known])
    db.execute("set enable_external_access = false")
    db.execute("set disabled_filesystems = 'LocalFileSystem'")
    db.execute("set lock_configuration = true")
    return db


def _attach(db: duckdb.DuckDBPyConnection, file: str, wait_s: float) -> None:
    literal = file.replace("'", "''")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            db.execute(f"attach '{literal}' as tomodex (read_only)")
            break
        except duckdb.Error as error:
            if "Could not set lock" not in str(error):
                raise Refused("index", "the index cannot be opened") from error
            if time.monotonic() > deadline:
                raise Refused("busy", "the index is being written; ask again") from error
        time.sleep(PAUSE_S)
    try:
        row = db.execute("select value from tomodex.meta where key = 'version'").fetchone()
    except duckdb.Error as error:
        raise Refused("index", "the index is damaged, or is none") from error
    if row != (VERSION,):
        raise Refused("index", "the index was made by another version of Tomodex")


def _end_after(db: duckdb.DuckDBPyConnection, seconds: float) -> None:
    """Interrupt the statement when its time is over, and end the process if that does not help."""
    timer = threading.Timer(seconds, db.interrupt)
    timer.daemon = True
    timer.start()
    # It comes from the system, so also within a single function of DuckDB.
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_S)


def answer(
    db: duckdb.DuckDBPyConnection, statement: str, most_rows: int, most_bytes: int
) -> dict[str, object]:
    """What the statement finds, as JSON has it.

    Raises:
        Refused: it is no single SELECT, is wrong, or takes too much.
    """
    try:
        db.execute(_single_select(db, statement))
        description = db.description or []
        rows, truncated = _rows(db, most_rows, most_bytes)
    except (duckdb.InterruptException, duckdb.OutOfMemoryException, MemoryError) as error:
        raise Refused("much", "") from error
    except duckdb.Error as error:
        raise Refused("statement", _complaint(error)) from error
    return {
        "columns": [str(column[0]) for column in description],
        "types": [str(column[1]) for column in description],
        "rows": rows,
        "truncated": truncated,
    }


def _single_select(db: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    """The statement, as DuckDB's own parser reads it.

    Raises:
        Refused: there are several, or it is anything but a SELECT.
    """
    statements = db.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise Refused("statement", "one SELECT is answered, and nothing else")
    return statements[0]


def _rows(
    db: duckdb.DuckDBPyConnection, most: int, most_bytes: int
) -> tuple[list[orjson.Fragment], bool]:
    """Rows as JSON, up to so many and so large; whether there are more."""
    rows: list[orjson.Fragment] = []
    size = 0
    for row in _fetched(db):
        line = orjson.dumps([_plain(value) for value in row], option=orjson.OPT_NON_STR_KEYS)
        size += len(line)
        if len(rows) == most or size > most_bytes:
            return rows, True
        rows.append(orjson.Fragment(line))
    return rows, False


def _fetched(db: duckdb.DuckDBPyConnection) -> Iterator[tuple[object, ...]]:
    while batch := db.fetchmany(BATCH):
        yield from batch


def _plain(value: object) -> object:
    """A value as JSON can say it."""
    match value:
        case bool() | float() | str() | None:
            return value
        case int():
            # More digits than readers of JSON keep.
            return value if abs(value) < 2**53 else str(value)
        case Decimal():
            return float(value)
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
    return str(value)


def _complaint(error: duckdb.Error) -> str:
    """What DuckDB says of a statement, without the drawing below it."""
    return str(error).partition("\n\n")[0].strip()[:LONGEST_SENTENCE]


if __name__ == "__main__":
    main()
