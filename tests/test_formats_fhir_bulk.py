"""All results as files for a bulk load."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.annotated import ONE
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unavailable
from tomodex.formats.fhir import Naming
from tomodex.formats.fhir.bulk import Manifest, write_bulk

SITE = Naming(base="https://pacs.example/fhir")


def series(count: int, per_study: int = 2, per_patient: int = 4) -> Iterator[AnnotatedSeries]:
    for n in range(count):
        one = replace(
            ONE.series,
            series_uid=f"1.2.3.{n}",
            study_uid=f"1.2.{n // per_study}",
            patient=f"{n // per_patient:032x}",
        )
        yield replace(ONE, series=one)


def bulk(folder: Path, results: Iterator[AnnotatedSeries], shards: int = 3) -> Manifest:
    return write_bulk(results, folder, SITE, shards=shards, transaction_time="2026-11-23T00:00:00Z")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"{kind}.*.ndjson.gz"))
    return [one for file in files for one in read(file)]


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def test_patients_and_devices_come_once_and_studies_have_all_their_series(tmp_path: Path) -> None:
    manifest = bulk(tmp_path, series(16))
    counts = {
        kind: manifest.count(kind)
        for kind in ("Device", "Patient", "BodyStructure", "ImagingStudy", "Provenance")
    }
    assert counts == {
        "Device": 1,
        "Patient": 4,
        "BodyStructure": 16,
        "ImagingStudy": 8,
        "Provenance": 16,
    }
    assert {len(study["series"]) for study in lines(tmp_path, "ImagingStudy")} == {2}
    assert len({study["id"] for study in lines(tmp_path, "ImagingStudy")}) == 8


def test_every_reference_is_to_something_that_was_written(tmp_path: Path) -> None:
    bulk(tmp_path, series(16))
    kinds = ("Device", "Patient", "BodyStructure", "ImagingStudy", "Provenance")
    there = {f"{kind}/{one['id']}" for kind in kinds for one in lines(tmp_path, kind)}
    text = "".join(gzip.decompress(file.read_bytes()).decode() for file in tmp_path.glob("*.gz"))
    said = {part.split('"', 1)[0] for part in text.split('"reference":"')[1:]}
    assert said
    assert said <= there


def test_the_manifest_knows_every_file_and_its_hash(tmp_path: Path) -> None:
    bulk(tmp_path, series(16))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {one["url"] for one in manifest["output"]} == {f.name for f in tmp_path.glob("*.gz")}
    for one in manifest["output"]:
        content = (tmp_path / one["url"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert one["count"] == len(gzip.decompress(content).splitlines())


def test_a_study_lies_in_one_shard(tmp_path: Path) -> None:
    bulk(tmp_path, series(64))
    assert len(list(tmp_path.glob("BodyStructure.*"))) == 3
    for file in tmp_path.glob("ImagingStudy.*"):
        studies = read(file)
        refers = {s["bodySite"]["reference"]["reference"] for one in studies for s in one["series"]}
        beside = file.with_name(file.name.replace("ImagingStudy", "BodyStructure"))
        assert refers == {f"BodyStructure/{one['id']}" for one in read(beside)}


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert bulk(first, series(8)) == bulk(second, series(8))


def test_an_export_again_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    bulk(tmp_path, series(64), shards=20)
    manifest = bulk(tmp_path, series(2), shards=1)
    assert {f.name for f in tmp_path.glob("*.gz")} == {one["url"] for one in manifest.output}


def test_a_series_that_fhir_cannot_take_is_counted(tmp_path: Path) -> None:
    wrong = replace(ONE, series=replace(ONE.series, series_uid="none"))
    manifest = bulk(tmp_path, iter([wrong, ONE]))
    assert manifest.left_out == {"not_dicom": 1}
    assert manifest.count("BodyStructure") == 1


def test_an_export_that_failed_leaves_no_manifest(tmp_path: Path) -> None:
    bulk(tmp_path, series(2))

    def broken() -> Iterator[AnnotatedSeries]:
        yield ONE
        raise Unavailable("the queue is gone")

    with pytest.raises(Unavailable):
        bulk(tmp_path, broken())
    assert not (tmp_path / "manifest.json").exists()


def test_an_export_that_was_killed_is_begun_anew_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; \n"
        "from tests.test_formats_fhir_bulk import bulk, series\n"
        "def endless():\n"
        "    for n, one in enumerate(series(10**9)):\n"
        "        if n == 500: print('ready', flush=True)\n"
        "        yield one\n"
        "bulk(Path(sys.argv[1]), endless())"
    )
    root = Path(__file__).parent.parent
    killed, fresh = tmp_path / "killed", tmp_path / "fresh"
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(killed)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
    )
    with child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    assert not (killed / "manifest.json").exists()
    assert bulk(killed, series(8)) == bulk(fresh, series(8))
    assert sorted(f.name for f in killed.iterdir()) == sorted(f.name for f in fresh.iterdir())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot write"):
        bulk(tmp_path / "file" / "folder", series(1))


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        bulk(tmp_path / str(count), series(count))
        return tracemalloc.get_traced_memory()[1]

    few = peak(100)
    tracemalloc.stop()
    many = peak(2000)
    tracemalloc.stop()
    # 1,900 resources of the smallest kind would take more than this.
    assert many < few + 500_000
