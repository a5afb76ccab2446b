"""Lists of series to retrieve, as files: what was asked, how much that is, and every UID.

    csv      facts in lines that begin with #, then a table
    json     facts, then an object for each series
    parquet  a table; facts in its metadata, under the key `tomodex`
    uids     study and series UID, a tab between them, a line for each series: for scripts

Whatever its length, only a small part of a list is in memory. Its last words are how many series
it has and a SHA-256 of their UIDs, so that a list that was cut off on its way is noticed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tomodex.errors import BadQuery, Unavailable
from tomodex.instance import Kind
from tomodex.parquet import Column, Type, Value, workbench
from tomodex.search import SEARCHABLE, Hit, Sample

log = logging.getLogger(__name__)

Format = Literal["csv", "json", "parquet", "uids"]

MEDIA_TYPES: Mapping[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "uids": "text/plain; charset=utf-8",
}

#: What a file is called after its dot, and the format that it has.
ENDINGS: Mapping[str, Format] = {"csv": "csv", "json": "json", "parquet": "parquet", "txt": "uids"}

#: Changes when a reader of the old one would misread the new one.
VERSION = "1.0"

#: What stands in every list, before the attributes that were asked for.
UIDS = ("SeriesInstanceUID", "StudyInstanceUID", "patient")

#: Attributes of a list unless others were asked for.
USUAL = ("Modality", "StudyDate", "slice_count", "size_bytes")

#: A spreadsheet takes a cell that begins with one of these for a formula, also with full-width
#: signs (OWASP, CSV injection); # would begin a line of facts.
_FORMULA = re.compile(r"[=+\-@\t\r\n#\uff1d\uff0b\uff0d\uff20]")

#: What ends a line for some readers; and what ends a cell inside a line of facts, where the next
#: cell would be a formula, or swallow the lines below as a text in quotes.
_ENDS = re.compile(r'[\x7f-\x9f\u2028\u2029]|[,;|](?=\s*["=+\-@\uff1d\uff0b\uff0d\uff20])')

_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)

#: Of a file that is sent.
CHUNK_BYTES = 1 << 18

_TYPES: Mapping[Kind, Type] = {"text": "text", "number": "double", "date": "date"}

Rows = Iterable[Sequence[Hit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a list is of."""

    query: str  #: as it was typed
    patients: int
    studies: int
    series: int
    made: str  #: RFC 3339 with offset
    versions: Mapping[str, str]  #: of software and terminology, by name
    size_bytes: int | None = None  #: of all pixels, not compressed; None: not known
    sample: Sample | None = None  #: None: all of them
    cohort: str = ""  #: ID of the saved cohort; "": of what was found just now
    sort: str = "newest"  #: the order of the series; of a saved cohort "SeriesInstanceUID"
    removed: int = 0  #: series that left the saved cohort since: erased, or opted out
    manifest_version: str = VERSION


def write_manifest(
    kind: Format, manifest: Manifest, rows: Rows, keywords: Sequence[str] = USUAL
) -> Iterator[bytes]:
    """The file, in pieces; `keywords` are those of `SEARCHABLE` that it has of each series."""
    match kind:
        case "csv":
            return _csv(manifest, rows, keywords)
        case "json":
            return _json(manifest, rows, keywords)
        case "parquet":
            return _parquet(manifest, rows, keywords)
    return _uids(rows)


def format_of(file: Path) -> Format:
    """The format that a file's ending says.

    Raises:
        BadQuery: it says none.
    """
    ending = file.suffix.lower().lstrip(".")
    if ending not in ENDINGS:
        known = ", ".join(f".{one}" for one in ENDINGS)
        raise BadQuery(f"{file.name} should end with one of {known}, which says the format")
    return ENDINGS[ending]


def keep(content: Iterable[bytes], file: Path) -> None:
    """Write a file whole, or not at all; for its owner only, as it has UIDs and pseudonyms.

    Raises:
        Unavailable: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as out:
            out.writelines(content)
        partial.replace(file)
    except OSError as refused:
        raise Unavailable(f"cannot write {file}: {refused.strerror}") from refused
    finally:
        partial.unlink(missing_ok=True)


class _Tally:
    """Counts series as they pass, and hashes their UIDs, each with a newline after it."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def watch(self, rows: Rows) -> Iterator[Sequence[Hit]]:
        for batch in rows:
            self.rows += len(batch)
            self._hash.update("".join(f"{hit.series_uid}\n" for hit in batch).encode())
            yield batch

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _csv(manifest: Manifest, rows: Rows, keywords: Sequence[str]) -> Iterator[bytes]:
    for name, value in _flat(asdict(manifest)):
        yield _fact(name, value)
    yield _table([[*UIDS, *keywords]])
    tally = _Tally()
    for batch in tally.watch(rows):
        yield _table([[_safe(v) for v in values_of(hit, keywords)] for hit in batch])
    yield _fact("rows", tally.rows)
    yield _fact("sha256", tally.sha256)


def _flat(facts: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            # One a line: a comma between them would end a cell.
            yield from ((f"{name}.{part}", one) for part, one in value.items())
        else:
            yield name, value


def _fact(name: str, value: object) -> bytes:
    """A line of facts, the value in JSON, in which no cell of a spreadsheet is a formula."""
    text = json.dumps(value, ensure_ascii=False)
    harmless = _ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"# {name}: {harmless}\n".encode(errors="replace")


def _table(rows: Iterable[Sequence[Value]]) -> bytes:
    # Text is always in quotes: a reader that takes # for a comment leaves what is in them.
    lines = io.StringIO()
    csv.writer(lines, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode(errors="replace")


def _safe(value: Value) -> Value:
    """What no spreadsheet takes for a formula; None is an empty cell."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _json(manifest: Manifest, rows: Rows, keywords: Sequence[str]) -> Iterator[bytes]:
    yield f'{{"manifest": {json.dumps(asdict(manifest))},\n"series": ['.encode()
    tally, columns, begin = _Tally(), (*UIDS, *keywords), "\n"
    for batch in tally.watch(rows):
        lines = [
            json.dumps(dict(zip(columns, values_of(hit, keywords), strict=True))) for hit in batch
        ]
        if lines:
            yield (begin + ",\n".join(lines)).encode()
            begin = ",\n"
    yield f'\n],\n"rows": {tally.rows}, "sha256": "{tally.sha256}"}}\n'.encode()


def _uids(rows: Rows) -> Iterator[bytes]:
    for batch in rows:
        # They end up in command lines.
        pairs = [(h.study_uid, h.series_uid) for h in batch]
        good = [pair for pair in pairs if all(map(_UID.fullmatch, pair))]
        if len(good) < len(pairs):
            log.warning("left_out", extra={"series": len(pairs) - len(good), "reason": "no UID"})
        yield "".join(f"{study}\t{series}\n" for study, series in good).encode()


def _parquet(manifest: Manifest, rows: Rows, keywords: Sequence[str]) -> Iterator[bytes]:
    columns = [*(_column(name, "text") for name in UIDS), *map(_searchable, keywords)]
    with TemporaryDirectory(prefix="tomodex-") as folder:
        file, tally = Path(folder) / "manifest.parquet", _Tally()
        with workbench(Path(folder)) as bench:
            bench.create("series", columns)
            for batch in tally.watch(rows):
                bench.add("series", columns, [values_of(hit, keywords) for hit in batch])
            facts = {**asdict(manifest), "rows": tally.rows, "sha256": tally.sha256}
            bench.write("select * from series", file, facts)
        with file.open("rb") as written:
            while chunk := written.read(CHUNK_BYTES):
                yield chunk


def _searchable(keyword: str) -> Column:
    return _column(keyword, _TYPES[SEARCHABLE[keyword]])


def _column(name: str, type_: Type) -> Column:
    return Column(name=name, type=type_, meaning="")


def values_of(hit: Hit, keywords: Sequence[str]) -> list[Value]:
    """The row of a series: its UIDs and patient, then these attributes; None: not known."""
    known = (hit.attributes.get(keyword) for keyword in keywords)
    return [hit.series_uid, hit.study_uid, hit.patient or None, *map(_whole, known)]


def _whole(value: str | float | None) -> Value:
    # The index has all numbers as floating point; 512.0 rows look like a measurement.
    return int(value) if isinstance(value, float) and value.is_integer() else value
