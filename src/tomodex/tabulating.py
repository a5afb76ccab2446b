"""Writes all results, as the feed has them now, as three tables in Parquet.

series.parquet        a row for each series, newest study first
annotations.parquet   a row for each structure in a series, those of one structure together
structures.parquet    a row for each structure of the terminology
manifest.json         rows, bytes and SHA-256 of each, columns, versions; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tomodex.annotation import SCHEMA_VERSION, AnnotatedSeries
from tomodex.errors import Unavailable
from tomodex.formats.rows import (
    ANNOTATIONS,
    SERIES,
    STRUCTURES,
    TABLES_VERSION,
    annotation_rows,
    series_row,
    structure_row,
)
from tomodex.parquet import Column, Value, Workbench, workbench
from tomodex.pipeline import software_versions
from tomodex.queues import Queue, Result
from tomodex.sources import Progress
from tomodex.terminology import Terminology

#: Results read from the feed at a time.
BATCH = 500

TABLES: Mapping[str, Sequence[Column]] = {
    "series": SERIES,
    "annotations": ANNOTATIONS,
    "structures": STRUCTURES,
}

_SEQUENCE = Column(name="sequence", type="bigint", meaning="in the feed")
_UID = Column(name="SeriesInstanceUID", type="text", meaning="")

#: Of a series that was indexed with several configurations, or withdrawn, the last word counts.
_STANDS = 'sequence in (select max(sequence) from word group by "SeriesInstanceUID")'

#: In the order that they are read fastest in.
_SELECTS = {
    "series": f"""select * exclude (sequence) from series where {_STANDS}
        order by "StudyDate" desc nulls last, "SeriesInstanceUID" """,
    "annotations": f"""select * exclude (sequence) from annotations where {_STANDS}
        order by structure, sequence""",
    "structures": "select * from structures order by structure",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One file that was written."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All that was written, and of what."""

    made: str  #: RFC 3339 with offset: the results are those of this moment
    versions: Mapping[str, str]  #: of software and terminology, by name
    tables: tuple[Table, ...]

    def document(self) -> dict[str, object]:
        """The manifest's JSON."""
        described = {
            name: [asdict(column) for column in columns] for name, columns in TABLES.items()
        }
        return {
            "tables_version": TABLES_VERSION,
            "annotated_series_schema": SCHEMA_VERSION,
            "made": self.made,
            "versions": dict(self.versions),
            "tables": [{**asdict(one), "columns": described[one.name]} for one in self.tables],
        }


def export_parquet(
    queue: Queue,
    folder: Path,
    terminology: Terminology,
    progress: Progress,
    without: Callable[[AnnotatedSeries], bool] = lambda annotated: False,
) -> Tables:
    """Write every result that stands into `folder`, which is made; all files, or none.

    Memory does not grow with the archive. Results `without` whom it is to be are left out.

    Raises:
        Unavailable: the queue does not answer, or the folder cannot be written.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {**software_versions(), "terminology": terminology.version}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(dir=folder, prefix=".parquet-") as scratch:
            fresh = Path(scratch)
            with workbench(fresh) as bench:
                _fill(bench, queue, terminology, progress, without)
                tables = tuple(_write(bench, fresh, name, made) for name in TABLES)
            written = Tables(made=made, versions=versions, tables=tables)
            manifest = fresh / "manifest.json"
            manifest.touch(0o600)
            manifest.write_text(f"{json.dumps(written.document(), indent=1)}\n")
            # From here on the folder is incomplete until its manifest is there again.
            (folder / "manifest.json").unlink(missing_ok=True)
            for name in (*(f"{table}.parquet" for table in TABLES), "manifest.json"):
                (fresh / name).replace(folder / name)
    except OSError as refused:
        raise Unavailable(f"cannot write to {folder}: {refused.strerror}") from refused
    return written


def _fill(
    bench: Workbench,
    queue: Queue,
    terminology: Terminology,
    progress: Progress,
    without: Callable[[AnnotatedSeries], bool],
) -> None:
    bench.create("word", (_UID, _SEQUENCE))
    bench.create("series", (*SERIES, _SEQUENCE))
    bench.create("annotations", (*ANNOTATIONS, _SEQUENCE))
    bench.create("structures", STRUCTURES)
    rows = [structure_row(structure) for structure in terminology.structures.values()]
    bench.add("structures", STRUCTURES, rows)
    total, done = sum(n for (_, status), n in queue.count().items() if status == "completed"), 0
    for batch in _feed(queue):
        _add(bench, batch, without)
        done += sum(result.annotated is not None for result in batch)
        progress(done, max(total, done))


def _feed(queue: Queue) -> Iterator[Sequence[Result]]:
    after = 0
    while batch := queue.results(after, BATCH):
        after = batch[-1].sequence
        yield batch


def _add(
    bench: Workbench, batch: Collection[Result], without: Callable[[AnnotatedSeries], bool]
) -> None:
    words = [(result.series_uid, result.sequence) for result in batch]
    standing = [
        (one.annotated, one.sequence)
        for one in batch
        if one.annotated is not None and not without(one.annotated)
    ]
    series: list[Sequence[Value]] = [(*series_row(one), number) for one, number in standing]
    annotations: list[Sequence[Value]] = [
        (*row, number) for one, number in standing for row in annotation_rows(one)
    ]
    bench.add("word", (_UID, _SEQUENCE), words)
    bench.add("series", (*SERIES, _SEQUENCE), series)
    bench.add("annotations", (*ANNOTATIONS, _SEQUENCE), annotations)


def _write(bench: Workbench, folder: Path, name: str, made: str) -> Table:
    file = folder / f"{name}.parquet"
    facts = {"table": name, "tables_version": TABLES_VERSION, "made": made}
    rows = bench.write(_SELECTS[name], file, facts)
    file.chmod(0o600)
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Table(name=name, rows=rows, bytes=file.stat().st_size, sha256=digest)
