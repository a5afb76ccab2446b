"""Manifests as others read them: whole, exact, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.errors import BadQuery, Unavailable
from tomodex.manifests import MEDIA_TYPES, USUAL, Format, Manifest, format_of, keep, write_manifest
from tomodex.search import Hit

MANIFEST = Manifest(
    query="liver complete, women 40-60",
    patients=2,
    studies=2,
    series=3,
    made="2026-11-23T12:00:00+00:00",
    versions={"tomodex": "0.1.0", "terminology": "2026-11-23"},
    size_bytes=157_286_400,
)
HITS = [
    Hit(
        series_uid=f"1.2.{n}",
        study_uid=f"1.{n // 2}",
        patient="" if n == 2 else "pseudonym",
        attributes={"Modality": "CT", "StudyDate": "2026-02-28", "slice_count": 300.0},
    )
    for n in range(3)
]
ROWS = [["1.2.0", "1.0", "pseudonym"], ["1.2.1", "1.0", "pseudonym"], ["1.2.2", "1.1", None]]
SHA256 = hashlib.sha256(b"1.2.0\n1.2.1\n1.2.2\n").hexdigest()
FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def written(kind: Format, *batches: Sequence[Hit], **how: Any) -> bytes:
    return b"".join(write_manifest(kind, how.pop("manifest", MANIFEST), batches, **how))


#: As lines of a table have them: a name has no name in it.
FLAT = {
    **{name: value for name, value in asdict(MANIFEST).items() if name != "versions"},
    **{f"versions.{name}": version for name, version in MANIFEST.versions.items()},
}


def facts(text: str) -> dict[str, object]:
    lines = [line for line in text.splitlines() if line.startswith("# ")]
    return {line[2:].partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines}


def table(text: str) -> list[list[str]]:
    return list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))


def test_a_csv_says_what_was_asked_then_every_series_then_that_it_is_whole():
    text = written("csv", HITS[:2], HITS[2:]).decode()
    assert facts(text) == {**FLAT, "rows": 3, "sha256": SHA256}
    heading, *rows = table(text)
    assert heading == ["SeriesInstanceUID", "StudyInstanceUID", "patient", *USUAL]
    assert rows == [
        [*(value or "" for value in row), "CT", "2026-02-28", "300", ""] for row in ROWS
    ]
    assert text.endswith(f'# rows: 3\n# sha256: "{SHA256}"\n')


def test_pandas_reads_the_csv():
    hits = [replace(HITS[0], attributes={"ConvolutionKernel": "B30#f, sharp"}), *HITS[1:]]
    text = written("csv", hits, keywords=["ConvolutionKernel"]).decode()
    frame = pd.read_csv(io.StringIO(text), comment="#", dtype=str)
    assert list(frame["SeriesInstanceUID"]) == ["1.2.0", "1.2.1", "1.2.2"]
    assert frame["ConvolutionKernel"][0] == "B30#f, sharp"


def test_a_json_says_the_same():
    document = json.loads(written("json", HITS[:2], [], HITS[2:]))
    assert document["manifest"] == asdict(MANIFEST)
    assert (document["rows"], document["sha256"]) == (3, SHA256)
    assert [list(series.values())[:3] for series in document["series"]] == ROWS
    assert document["series"][0]["slice_count"] == 300


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_an_empty_list_is_a_list(kind, tmp_path):
    content = written(kind)
    if kind == "json":
        assert (json.loads(content)["series"], json.loads(content)["rows"]) == ([], 0)
    elif kind == "csv":
        assert len(table(content.decode())) == 1
    else:
        assert pq.read_table(io.BytesIO(content)).num_rows == 0


def test_a_parquet_is_read_by_others_with_types_and_facts(tmp_path):
    file = tmp_path / "manifest.parquet"
    file.write_bytes(written("parquet", HITS[:2], HITS[2:]))
    read = pq.read_table(file)
    assert json.loads(read.schema.metadata[b"tomodex"]) == {
        **asdict(MANIFEST),
        "rows": 3,
        "sha256": SHA256,
    }
    rows = duckdb.sql(f"select * from '{file}'")
    assert [str(type_) for type_ in rows.types] == ["VARCHAR"] * 4 + ["DATE", "DOUBLE", "DOUBLE"]
    assert [list(row[:3]) for row in rows.fetchall()] == ROWS
    assert read.column("StudyDate")[0].as_py().isoformat() == "2026-02-28"
    assert read.column("size_bytes")[0].as_py() is None


def test_for_scripts_there_is_a_line_for_each_series_and_nothing_else():
    evil = replace(HITS[0], series_uid="1.2;reboot")
    assert written("uids", [*HITS, evil]) == b"1.0\t1.2.0\n1.0\t1.2.1\n1.1\t1.2.2\n"


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
EVIL = st.sampled_from(
    ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '"', "#", ";=1", "|=1", "\uff1d1"]
)


@given(values=st.lists(TEXT | EVIL, min_size=1, max_size=4), query=st.lists(TEXT | EVIL))
def test_no_cell_of_a_csv_is_a_formula_wherever_cells_end(values, query):
    hits = [replace(HITS[0], attributes={"Manufacturer": value}) for value in values]
    asked = replace(MANIFEST, query=",".join(query))
    text = written("csv", hits, manifest=asked, keywords=["Manufacturer"]).decode()
    for delimiter in ",;|":
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if delimiter == "," or cells[0].startswith("# "):
                assert [cell for cell in cells if FORMULA.match(cell.lstrip(" "))] == []


@given(query=TEXT | EVIL | st.just("a\ud800b"))
def test_the_question_comes_back_as_it_was_typed(query):
    asked = replace(MANIFEST, query=query)
    text = written("csv", manifest=asked).decode()
    assert facts(text)["query"] == query.encode(errors="replace").decode()
    assert json.loads(written("json", manifest=asked))["manifest"]["query"] == query


@pytest.mark.parametrize("kind", ["csv", "json", "uids"])
def test_what_was_found_is_sent_before_more_is_read(kind):
    read: list[int] = []

    def rows() -> Iterator[list[Hit]]:
        for n in range(3):
            read.append(n)
            yield [HITS[n]]

    pieces = write_manifest(kind, MANIFEST, rows())
    assert any(b"1.2.0" in piece for piece in pieces)
    assert read == [0]


def test_a_reader_who_leaves_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tomodex.manifests.CHUNK_BYTES", 10)
    pieces = write_manifest("parquet", MANIFEST, [HITS])
    next(pieces)
    assert list(tmp_path.iterdir()) != []
    pieces.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Unavailable("the index is busy")

    file = tmp_path / "livers.csv"
    keep(write_manifest("csv", MANIFEST, [HITS]), file)
    whole = file.read_bytes()
    with pytest.raises(Unavailable, match="busy"):
        keep(broken(), file)
    assert (list(tmp_path.iterdir()), file.read_bytes()) == ([file], whole)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(Unavailable, match="cannot write"):
        keep([b""], tmp_path / "nowhere" / "livers.csv")


def test_the_ending_of_a_file_says_its_format():
    assert [format_of(Path(f"x.{e}")) for e in ("csv", "JSON", "parquet", "txt")] == [
        "csv",
        "json",
        "parquet",
        "uids",
    ]
    with pytest.raises(BadQuery, match=r"livers\.xlsx should end with one of \.csv"):
        format_of(Path("livers.xlsx"))


def test_every_format_has_a_media_type():
    assert sorted(MEDIA_TYPES) == sorted(get_args(Format))
