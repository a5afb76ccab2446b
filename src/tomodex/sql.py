"""Answers one SELECT on the index: read only, bounded, in a process of its own.

The process sees no file but the index, no network, no secret of ours; it has little memory and
little time, and the system ends it when it takes more. See `sql_process.py` for its inside.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from tomodex.errors import BadQuery, Misconfigured, Unavailable
from tomodex.registry import path_of

#: Of one answer.
MOST_ROWS = 10_000
MOST_BYTES = 16 << 20

#: Characters of a statement.
LONGEST = 20_000

#: A statement may take so long; less than writers wait for the file (`wait` of the index).
SECONDS = 8.0

#: For who writes the index.
WAIT_S = 5.0

#: What starting the process, waiting for a writer, and sending the answer may take beside.
OVERHEAD_S = 15.0

MEMORY_MB = 1024
THREADS = 2

#: The process; it takes nothing from its surroundings.
COMMAND = (sys.executable, "-I", "-m", "tomodex.sql_process")

#: One at a time: an answer may take as much memory and all threads that there are.
_busy = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the process is asked."""

    file: str
    statement: str
    rows: int
    bytes: int
    seconds: float
    wait_s: float
    memory_mb: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a statement found."""

    columns: tuple[str, ...]
    types: tuple[str, ...]  #: as DuckDB names them
    rows: tuple[tuple[object, ...], ...]  #: as JSON has them: dates as text, NaN as None
    truncated: bool  #: there are more rows than these


def ask(
    index_url: str, statement: str, seconds: float = SECONDS, memory_mb: int = MEMORY_MB
) -> Answer:
    """What one SELECT finds in the tables `series`, `annotations` and `structures`.

    Raises:
        BadQuery: it is no single SELECT, is wrong, or takes too much time or memory.
        Misconfigured: the index is no file of ours.
        Unavailable: another statement is being answered, or the index is being written.
    """
    if not index_url.startswith("duckdb:") or path_of(index_url) == Path():
        raise Misconfigured("SQL is answered by an index in a DuckDB file, and by no other")
    if len(statement) > LONGEST:
        raise BadQuery(f"a statement has at most {LONGEST:,} characters")
    task = Task(
        file=str(path_of(index_url).absolute()),
        statement=statement,
        rows=MOST_ROWS,
        bytes=MOST_BYTES,
        seconds=seconds,
        wait_s=WAIT_S,
        memory_mb=memory_mb,
        threads=THREADS,
    )
    if not _busy.acquire(blocking=False):
        raise Unavailable("another statement is being answered; one at a time")
    try:
        return _read(_run(task))
    finally:
        _busy.release()


def _run(task: Task) -> bytes:
    try:
        done = subprocess.run(
            COMMAND,
            input=orjson.dumps(task),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing of ours: neither secrets nor a home with settings in it.
            env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            timeout=task.seconds + OVERHEAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_much() from None
    # Ended by the system: by its alarm, for its memory, or it gave up itself.
    if done.returncode or not done.stdout:
        raise _too_much()
    return done.stdout


def _read(line: bytes) -> Answer:
    said = orjson.loads(line)
    if "error" in said:
        raise _error(said["error"], said["sentence"])
    return Answer(
        columns=tuple(said["columns"]),
        types=tuple(said["types"]),
        rows=tuple(map(tuple, said["rows"])),
        truncated=said["truncated"],
    )


Kind = Literal["statement", "much", "busy", "index"]


def _error(kind: Kind, sentence: str) -> Exception:
    match kind:
        case "statement":
            return BadQuery(sentence)
        case "much":
            return _too_much()
        case "busy":
            return Unavailable(sentence)
    return Misconfigured(sentence)


def _too_much() -> BadQuery:
    return BadQuery(
        "the statement takes too much time or memory; ask for less of it, or use "
        "`tomodex export parquet`"
    )
