"""All results as files that FHIR servers load in bulk: one resource to a line, by type and shard.

    manifest.json                  what there is, with counts and SHA-256
    BodyStructure.0003.ndjson.gz   everything of a study lies in shards of one number

Load Device, Patient, BodyStructure, ImagingStudy, then Provenance: references point backwards only.
Memory does not grow with the archive: what has to be known of it all lies in a file beside.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import apsw
import orjson

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unavailable, Unsuitable
from tomodex.formats.fhir.bundle import resources_of
from tomodex.formats.fhir.naming import Naming
from tomodex.formats.fhir.resources import (
    IndexedSeries,
    Resource,
    Study,
    imaging_study,
    indexed_series,
    study_of,
)

#: In the order that they are loaded in.
TYPES = ("Device", "Patient", "BodyStructure", "ImagingStudy", "Provenance")

#: Open files are few enough for any system: three types that are written as series come.
MOST_SHARDS = 200

#: The fastest; 40 structures of one series, 30 KB, become 1 KB all the same.
LEVEL = 1

#: What lies beside the files as long as they are written.
SCRATCH = ".tomodex-"

SCHEMA = """
create table series (study_uid text, series_uid text, study text, entry text,
    primary key (study_uid, series_uid)) strict, without rowid;
create table written (id text primary key) strict, without rowid;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was written, as FHIR's bulk data export says it."""

    transaction_time: str  #: RFC 3339 with offset: the results are those of this moment
    output: tuple[Mapping[str, object], ...] = ()  #: type, url, count, sha256 of each file
    left_out: Mapping[str, int] = field(default_factory=dict)  #: series by reason

    def document(self) -> dict[str, object]:
        """The manifest's JSON."""
        return {
            "transactionTime": self.transaction_time,
            "request": "",
            "requiresAccessToken": False,
            "output": list(self.output),
            "error": [],
            "extension": {"leftOut": dict(self.left_out)},
        }

    def count(self, kind: str) -> int:
        """How many resources of one type there are."""
        return sum(int(str(one["count"])) for one in self.output if one["type"] == kind)


def write_bulk(
    results: Iterable[AnnotatedSeries],
    folder: Path,
    naming: Naming,
    *,
    shards: int,
    transaction_time: str,
) -> Manifest:
    """Write every result into `folder`, which is made.

    A series whose UIDs FHIR cannot take is left out and counted. Patients and Devices are written
    once each. The manifest comes last: without it the folder is not complete.

    One that was killed is begun anew: a folder without its manifest is no export.

    Raises:
        Unavailable: the folder cannot be written.
    """
    count = max(1, min(shards, MOST_SHARDS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{SCRATCH}*"):  # of one that was killed; it names patients
            shutil.rmtree(left)
        with TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
            known = apsw.Connection(str(Path(scratch) / "known.db"))
            try:
                return _write(results, folder, naming, count, transaction_time, known)
            finally:
                known.close()
    except (OSError, apsw.FullError, apsw.IOError) as failed:
        raise Unavailable(f"cannot write to {folder}: {failed}") from failed


def _write(
    results: Iterable[AnnotatedSeries],
    folder: Path,
    naming: Naming,
    shards: int,
    transaction_time: str,
    known: apsw.Connection,
) -> Manifest:
    known.execute("pragma journal_mode = off; pragma synchronous = off")
    known.execute(SCHEMA)
    left_out: Counter[str] = Counter()
    with _Files(folder, shards) as files, known:
        for annotated in results:
            try:
                _add(annotated, files, known, naming)
            except Unsuitable as unsuitable:
                left_out[unsuitable.reason] += 1
        for study, indexed in _studies(known):
            files.write(imaging_study(study, indexed, naming), study.study_uid)
    manifest = Manifest(
        transaction_time=transaction_time, output=tuple(files.output()), left_out=left_out
    )
    text = json.dumps(manifest.document(), indent=1)
    fresh = folder / "manifest.json.new"
    fresh.write_text(f"{text}\n")
    fresh.replace(folder / "manifest.json")
    return manifest


def _add(annotated: AnnotatedSeries, files: _Files, known: apsw.Connection, naming: Naming) -> None:
    """Write what is complete with this series, and remember what its study is to say of it."""
    entry, study = indexed_series(annotated), study_of(annotated)
    for resource in resources_of(annotated, [entry], naming):
        kind = resource["resourceType"]
        if kind == "ImagingStudy" or (kind in TYPES[:2] and not _is_new(resource, known)):
            continue
        files.write(resource, study.study_uid)
    known.execute(
        "insert or replace into series values (?, ?, ?, ?)",
        (
            study.study_uid,
            entry.series_uid,
            json.dumps(asdict(study)),
            json.dumps(asdict(entry)),
        ),
    )


def _is_new(resource: Resource, known: apsw.Connection) -> bool:
    known.execute(
        "insert or ignore into written values (?)",
        (f"{resource['resourceType']}/{resource['id']}",),
    )
    return known.changes() > 0


def _studies(known: apsw.Connection) -> Iterator[tuple[Study, list[IndexedSeries]]]:
    rows: Iterable[Any] = known.execute(
        "select study_uid, study, entry from series order by study_uid, series_uid"
    )
    for _, one in groupby(rows, key=lambda row: row[0]):
        series = list(one)
        yield (
            Study(**json.loads(series[0][1])),
            [IndexedSeries(**json.loads(entry)) for _, _, entry in series],
        )


class _Files:
    """The files of all types and shards; each is made when something is written to it."""

    def __init__(self, folder: Path, shards: int) -> None:
        self._folder = folder
        self._shards = shards
        self._open: dict[tuple[str, int], IO[bytes]] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> _Files:
        for stale in self._folder.glob("*.ndjson.gz"):
            stale.unlink()
        (self._folder / "manifest.json").unlink(missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def write(self, resource: Resource, study_uid: str) -> None:
        key = resource["resourceType"], _shard(study_uid, self._shards)
        if key not in self._open:
            self._open[key] = self._stack.enter_context(_written(self._path(key)))
        self._open[key].write(orjson.dumps(resource, option=orjson.OPT_APPEND_NEWLINE))
        self._counts[key] += 1

    def output(self) -> Iterator[Mapping[str, object]]:
        for key in sorted(self._counts, key=lambda key: (TYPES.index(key[0]), key[1])):
            path = self._path(key)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            count = self._counts[key]
            yield {"type": key[0], "url": path.name, "count": count, "sha256": digest}

    def _path(self, key: tuple[str, int]) -> Path:
        return self._folder / f"{key[0]}.{key[1]:04}.ndjson.gz"


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    # Without a name and a time in its header, the same results make the same bytes.
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
    ):
        yield packed  # type: ignore[misc]


def _shard(study_uid: str, shards: int) -> int:
    digest = hashlib.blake2b(study_uid.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards
