"""All results as Parquet, as DuckDB, pyarrow, pandas and polars read it."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.corpus import corpus, series
from tomodex.annotation import AnnotatedSeries
from tomodex.cli import main
from tomodex.errors import Unavailable
from tomodex.formats.rows import ANNOTATIONS, SERIES, STRUCTURES
from tomodex.queues import NewTask, Queue, Result, open_queue
from tomodex.search import SEARCHABLE
from tomodex.tabulating import Tables, export_parquet
from tomodex.terminology import load_terminology

LEASE = timedelta(minutes=5)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    opened = open_queue(f"sqlite://{tmp_path / 'queue.db'}")
    yield opened
    opened.close()


def settle(
    queue: Queue, results: Iterable[AnnotatedSeries], configuration: str = "default"
) -> None:
    for one in results:
        new = NewTask(series=one.series, source="folder:///a", configuration=configuration)
        queue.put([new])
        task = queue.lease("worker", LEASE)
        assert task is not None
        assert queue.settle(task, one)


def export(queue: Queue, folder: Path, **how: object) -> Tables:
    return export_parquet(queue, folder, load_terminology(), lambda done, total: None, **how)


def test_every_reader_finds_the_same_rows(queue, tmp_path):
    settle(queue, corpus(12))
    export(queue, tmp_path / "out")
    for name, rows in {"series": 12, "annotations": 18}.items():
        file = tmp_path / "out" / f"{name}.parquet"
        assert duckdb.sql(f"select count(*) from '{file}'").fetchall() == [(rows,)]
        assert len(pd.read_parquet(file)) == rows
        assert len(pl.read_parquet(file)) == rows
        assert pq.read_metadata(file).num_rows == rows


def test_a_row_says_what_the_result_said(queue, tmp_path):
    (one,) = settled = [series(5)]
    settle(queue, settled)
    export(queue, tmp_path / "out")
    row = pq.read_table(tmp_path / "out/series.parquet").to_pylist()[0]
    assert (row["SeriesInstanceUID"], row["patient"]) == ("1.2.9.5", "pseudonym-5")
    assert (row["slice_count"], row["size_bytes"]) == (300, 300 * 512 * 512 * 2)
    assert row["StudyDate"].isoformat() == "2026-01-03"
    assert row["finished"].isoformat() == "2026-11-23T09:00:03+00:00"
    assert json.loads(row["software"]) == {"tomodex": "0.1.0"}
    assert (row["row_spacing_mm"], row["column_spacing_mm"]) == (0.75, 0.7)
    assert (row["StudyDescription"], row["model"], row["instances_left_out"]) == (None, None, 0)
    rows = pq.read_table(tmp_path / "out/annotations.parquet").to_pylist()
    liver, spleen = rows
    assert (liver["structure"], liver["volume_ml"], liver["snomed"]) == ("liver", 1505, "10200004")
    assert (liver["complete"], spleen["complete"]) == (True, True)
    assert (liver["box_min_z_mm"], liver["box_max_z_mm"]) == (1020, 1180)
    assert (liver["centroid_x_mm"], liver["sd_hu"]) == (-60, 12.25)
    assert one.annotations[0].measurement.voxel_count == liver["voxel_count"]


def test_what_is_cut_says_where(queue, tmp_path):
    settle(queue, [series(0)])
    export(queue, tmp_path / "out")
    (liver,) = pq.read_table(tmp_path / "out/annotations.parquet").to_pylist()
    assert (liver["complete"], liver["cut"]) == (False, "inferior")


def test_a_series_that_nobody_has_read_yet_has_what_its_archive_says(queue, tmp_path):
    waiting = replace(series(1), image=None, annotations=())
    settle(queue, [waiting])
    export(queue, tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out/series.parquet").to_pylist()
    assert (row["segmented"], row["slice_count"], row["oblique_deg"]) == ("waiting", None, None)


def test_the_last_word_on_a_series_counts(queue, tmp_path):
    old = replace(series(1), unmapped=("old",))
    settle(queue, [old, series(2), series(3)], configuration="first")
    settle(queue, [series(1)], configuration="second")
    queue.withdraw("1.2.9.3")
    export(queue, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/series.parquet").to_pylist()
    assert {row["SeriesInstanceUID"]: row["unmapped"] for row in rows} == {
        "1.2.9.1": None,
        "1.2.9.2": None,
    }
    annotated = pq.read_table(tmp_path / "out/annotations.parquet").to_pylist()
    assert [row["SeriesInstanceUID"] for row in annotated] == ["1.2.9.2", "1.2.9.1", "1.2.9.1"]


def test_a_tombstone_takes_back_what_another_configuration_found(tmp_path):
    class Feed:
        def count(self) -> dict[tuple[str, str], int]:
            return {}

        def results(self, after: int, limit: int) -> list[Result]:
            found = [
                Result(sequence=1, series_uid="1.2.9.1", annotated=series(1)),
                Result(sequence=2, series_uid="1.2.9.2", annotated=series(2)),
                Result(sequence=3, series_uid="1.2.9.1", annotated=None),
            ]
            return found[after:]

    written = export(Feed(), tmp_path / "out")
    assert {table.name: table.rows for table in written.tables[:2]} == {
        "series": 1,
        "annotations": 1,
    }


def test_a_patient_who_is_left_out_is_in_no_table(queue, tmp_path):
    settle(queue, corpus(14))
    export(queue, tmp_path / "out", without=lambda one: one.series.patient == "pseudonym-3")
    rows = pq.read_table(tmp_path / "out/series.parquet").to_pylist()
    assert (len(rows), "pseudonym-3" in [row["patient"] for row in rows]) == (12, False)
    annotated = pq.read_table(tmp_path / "out/annotations.parquet").column("SeriesInstanceUID")
    assert "1.2.9.3" not in annotated.to_pylist()


def test_rows_lie_in_the_order_they_are_read_fastest_in(queue, tmp_path):
    settle(queue, corpus(12))
    export(queue, tmp_path / "out")
    dates = pq.read_table(tmp_path / "out/series.parquet").column("StudyDate").to_pylist()
    names = pq.read_table(tmp_path / "out/annotations.parquet").column("structure").to_pylist()
    assert (dates, names) == (sorted(dates, reverse=True), sorted(names))


def test_the_manifest_describes_every_file_and_column(queue, tmp_path):
    settle(queue, corpus(3))
    written = export(queue, tmp_path / "out")
    document = json.loads((tmp_path / "out/manifest.json").read_text())
    assert document == written.document()
    assert stat.S_IMODE((tmp_path / "out/manifest.json").stat().st_mode) == 0o600
    for table in document["tables"]:
        file = tmp_path / "out" / f"{table['name']}.parquet"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == table["sha256"]
        assert (file.stat().st_size, stat.S_IMODE(file.stat().st_mode)) == (table["bytes"], 0o600)
        schema = pq.read_schema(file)
        assert schema.names == [column["name"] for column in table["columns"]]
        assert json.loads(schema.metadata[b"tomodex"])["made"] == document["made"]
    assert document["versions"]["terminology"] == load_terminology().version
    assert len(pd.read_parquet(tmp_path / "out/structures.parquet")) == len(
        load_terminology().structures
    )


def test_every_column_is_documented():
    page = (Path(__file__).parents[1] / "docs/reference/parquet.md").read_text()
    derived = [c.name for c in (*SERIES, *ANNOTATIONS, *STRUCTURES) if c.name not in SEARCHABLE]
    assert [name for name in derived if f"`{name}`" not in page] == []


def test_an_export_that_breaks_off_leaves_the_old_one(queue, tmp_path):
    settle(queue, corpus(3))
    export(queue, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    class Broken:
        count = staticmethod(queue.count)

        def results(self, after: int, limit: int) -> list[Result]:
            if after:
                raise Unavailable("the queue does not answer")
            return list(queue.results(after, 2))

    with pytest.raises(Unavailable, match="does not answer"):
        export(Broken(), tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_a_folder_that_cannot_be_made_is_said(queue, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot write to"):
        export(queue, tmp_path / "file" / "out")


def test_an_archive_of_which_nothing_is_known_makes_empty_tables(queue, tmp_path):
    written = export(queue, tmp_path / "out")
    assert [table.rows for table in written.tables][:2] == [0, 0]
    assert pd.read_parquet(tmp_path / "out/series.parquet").empty


def test_the_command_writes_them_and_says_how_many(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tomodex-data").mkdir()
    queue = open_queue(f"sqlite://{tmp_path / 'tomodex-data' / 'tomodex.db'}")
    settle(queue, corpus(3))
    queue.close()
    monkeypatch.setattr("sys.argv", ["tomodex", "export", "parquet", "out"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:3]] == [
        ["series.parquet", "3"],
        ["annotations.parquet", "4"],
    ]
    assert (tmp_path / "out" / "manifest.json").is_file()
