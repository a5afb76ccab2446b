"""Rows into Parquet files, in memory that does not grow with them.

DuckDB writes them: rows go into tables of a file beside, and from there, all at once, into Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt

from tomodex.errors import Unavailable

#: What is kept in memory; the rest of the tables waits in the file.
MEMORY = "512MB"

#: DuckDB keeps one group of rows for each thread in memory while it writes.
THREADS = 2

Type = Literal["text", "double", "bigint", "boolean", "date", "timestamptz"]

#: A value of any column; None: not known.
Value = str | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    type: Type
    meaning: str  #: for people, with its unit


class Workbench:
    """Tables that are filled, then written as Parquet."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self.db = db

    def create(self, table: str, columns: Sequence[Column]) -> None:
        """Make an empty table."""
        names = ", ".join(f'"{column.name}" {column.type}' for column in columns)
        self.db.execute(f'create table "{table}" ({names})')

    def add(self, table: str, columns: Sequence[Column], rows: Sequence[Sequence[Value]]) -> None:
        """Append rows, each with a value for each column; dates and times as text."""
        if not rows:
            return
        batch = {
            column.name: _array(column.type, values)
            for column, values in zip(columns, zip(*rows, strict=True), strict=True)
        }
        # A date that is none, such as 30 February in a header, is not known.
        names = ", ".join(f'try_cast("{column.name}" as {column.type})' for column in columns)
        self.db.register("batch", batch)
        self.db.execute(f'insert into "{table}" select {names} from batch')
        self.db.unregister("batch")

    def write(self, select: str, file: Path, facts: Mapping[str, object]) -> int:
        """Write what a SELECT gives; `facts` go into the file's metadata, as JSON, under `tomodex`.

        Returns how many rows that were.
        """
        # ASCII, so that whatever was typed in a search can stand in a statement.
        metadata = _quoted(json.dumps(facts))
        how = f"format parquet, compression zstd, kv_metadata {{tomodex: {metadata}}}"
        ((count,),) = self.db.execute(f"copy ({select}) to {_quoted(str(file))} ({how})").fetchall()
        return int(count)


@contextmanager
def workbench(folder: Path) -> Iterator[Workbench]:
    """Empty tables, in a hidden folder inside `folder` as long as they are needed.

    Raises:
        Unavailable: the disk is full, or the folder cannot be written.
    """
    try:
        with TemporaryDirectory(dir=folder, prefix=".tomodex-") as scratch:
            db = duckdb.connect(Path(scratch) / "rows.duckdb", config=_config(scratch))
            try:
                yield Workbench(db)
            finally:
                db.close()
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as refused:
        raise Unavailable(f"cannot write to {folder}: {_first_line(refused)}") from refused


def _config(scratch: str) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "memory_limit": MEMORY,
        "threads": str(THREADS),
        "temp_directory": scratch,
        "preserve_insertion_order": "true",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }


def _array(type_: Type, values: Sequence[Value]) -> npt.NDArray[np.generic]:
    if type_ in ("double", "bigint"):
        return np.array([np.nan if v is None else v for v in values], np.float64)
    # A lone surrogate, from a wrong character set, has no UTF-8.
    return np.array(
        [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in values],
        np.object_,
    )


def _quoted(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
