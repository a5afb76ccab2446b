"""A real FHIR R5 server, HAPI's, holds what we send it, and answers as our own index does."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.annotated import ONE
from tests.servers.fhir import GUIDE, FhirServer
from tomodex.annotation import AnnotatedSeries, annotate
from tomodex.formats.fhir import Naming
from tomodex.formats.fhir.bulk import write_bulk
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.search import parse
from tomodex.sinks.fhir import FhirSink
from tomodex.terminology import load_terminology

pytestmark = pytest.mark.server

OURS = Naming()
SNOMED = "http://snomed.info/sct"
TERMS = load_terminology()
STRUCTURES = ("sacrum", "heart", "vertebrae_L1", "spleen", "liver", "rib_left_3", "rib_right_4")
CODES = {name: TERMS.structures[name].snomed for name in STRUCTURES}

MODES = pytest.mark.parametrize("mode", ["put", "conditional"])


def series(number: int) -> AnnotatedSeries:
    """One of an archive: two to a study, four to a patient; some show nothing."""
    draw = random.Random(number)
    shown = [name for name in STRUCTURES if draw.random() < 0.5] if number % 7 else []
    measurement = ONE.annotations[0].measurement
    found = {name: replace(measurement, volume_ml=draw.uniform(100, 900)) for name in shown}
    algorithm = ONE.provenance.algorithm
    assert algorithm is not None
    return replace(
        ONE,
        series=replace(
            ONE.series,
            series_uid=f"1.2.3.{number + 1}",
            study_uid=f"1.2.4.{number // 2 + 1}",
            patient=f"{number // 4:032x}",
            modality="MR" if number % 6 in (4, 5) else "CT",
            attributes={"StudyDate": f"202{number // 2 % 6}-03-0{number // 2 % 9 + 1}"},
        ),
        annotations=annotate(found, TERMS),
        provenance=replace(
            ONE.provenance, algorithm=replace(algorithm, version="1.0" if number < 10 else "2.0")
        ),
    )


def indexed_anew(annotated: AnnotatedSeries) -> AnnotatedSeries:
    """The same series a year later, with another volume of everything."""
    return replace(
        annotated,
        annotations=tuple(
            replace(one, measurement=replace(one.measurement, volume_ml=77.0))
            for one in annotated.annotations
        ),
        provenance=replace(annotated.provenance, finished="2027-11-23T10:00:03+01:00"),
    )


def send(
    server: FhirServer, mode: str, archive: Sequence[AnnotatedSeries], more: str = ""
) -> FhirSink:
    sink = FhirSink(f"fhir+{server.url}?mode={mode}&tries=1{more}")
    sink.write(archive)
    return sink


def counts(server: FhirServer) -> dict[str, int]:
    kinds = ("Patient", "Device", "BodyStructure", "ImagingStudy", "Provenance")
    return {kind: server.count(kind) for kind in kinds}


def formula(archive: Sequence[AnnotatedSeries], runs: int = 1) -> dict[str, int]:
    """How many resources there are of an archive whose every series was indexed so often."""
    algorithms = {str(one.provenance.algorithm) for one in archive}
    return {
        "Patient": len({one.series.patient for one in archive}),
        "Device": len(algorithms),
        "BodyStructure": sum(bool(one.annotations) for one in archive),
        "ImagingStudy": len({one.series.study_uid for one in archive}),
        "Provenance": runs * len(archive),
    }


@MODES
def test_nothing_is_doubled_by_sending_it_twice(fhir_server: FhirServer, mode: str) -> None:
    archive = [series(number) for number in range(12)]
    send(fhir_server, mode, archive)
    assert counts(fhir_server) == formula(archive)
    send(fhir_server, mode, archive)
    assert counts(fhir_server) == formula(archive)


@MODES
def test_a_new_run_makes_a_new_version_and_one_more_provenance(
    fhir_server: FhirServer, mode: str
) -> None:
    archive = [series(1), series(2)]
    sink = send(fhir_server, mode, archive)
    sink.write([indexed_anew(archive[0])])
    assert counts(fhir_server) == {**formula(archive), "Provenance": 3}
    (found,) = fhir_server.found(f"BodyStructure?identifier={annotation_of(archive[0])}")
    history = fhir_server.get(f"BodyStructure/{found['id']}/_history")["entry"]
    volumes = [volume_of(entry["resource"]) for entry in history]
    assert len(volumes) == 2
    assert volumes[0] == 77_000.0 != volumes[1]


@MODES
def test_a_series_that_is_gone_is_found_no_more(fhir_server: FhirServer, mode: str) -> None:
    archive = [series(number) for number in (2, 3, 4)]
    sink = send(fhir_server, mode, archive)
    sink.write([indexed_anew(archive[0])])
    sink.erase([archive[0].series.series_uid, archive[2].series.series_uid])
    left = fhir_server.found("ImagingStudy")
    assert [one["uid"] for study in left for one in study["series"]] == ["1.2.3.4"]
    assert counts(fhir_server) == {**formula(archive[1:2]), "Patient": 2}


@MODES
def test_a_series_that_shows_nothing_in_a_new_run_is_found_no_more(
    fhir_server: FhirServer, mode: str
) -> None:
    one = series(2)
    sink = send(fhir_server, mode, [one, series(3)])
    assert fhir_server.found(f"BodyStructure?identifier={annotation_of(one)}")
    empty = replace(indexed_anew(one), annotations=())
    sink.write([empty])
    assert fhir_server.found(f"BodyStructure?identifier={annotation_of(one)}") == []
    assert counts(fhir_server) == formula([empty, series(3)])


@MODES
def test_observations_come_and_go_with_what_they_were_measured_in(
    fhir_server: FhirServer, mode: str
) -> None:
    one = series(2)
    sink = send(fhir_server, mode, [one, one], "&observations=yes")
    assert fhir_server.count("Observation") == 2 * len(one.annotations) > 2
    sink.write([replace(indexed_anew(one), annotations=one.annotations[:1])])
    assert fhir_server.count("Observation") == 2
    sink.erase([one.series.series_uid])
    assert fhir_server.count("Observation") == fhir_server.count("ImagingStudy") == 0


@MODES
def test_workers_that_send_one_study_at_once_leave_all_of_its_series(
    fhir_server: FhirServer, mode: str, tmp_path: Path
) -> None:
    many = [
        replace(one, series=replace(one.series, study_uid="1.2.4.1", patient="0" * 32))
        for one in map(series, range(8))
    ]

    def send_one(annotated: AnnotatedSeries) -> None:
        url = f"fhir+{fhir_server.url}?mode={mode}"
        with closing(FhirSink(url, tmp_path)) as sink:
            sink.write([annotated])

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(send_one, many))
    (study,) = fhir_server.found("ImagingStudy")
    assert {one["uid"] for one in study["series"]} == {one.series.series_uid for one in many}
    assert counts(fhir_server) == formula(many)


def test_bulk_files_are_loaded_in_the_order_of_their_manifest(
    fhir_server: FhirServer, tmp_path: Path
) -> None:
    archive = [series(number) for number in range(12)]
    now = "2026-11-23T00:00:00Z"
    manifest = write_bulk(archive, tmp_path, OURS, shards=2, transaction_time=now)
    for file in manifest.output:
        # The server refuses a reference to what it does not have yet.
        for line in gzip.decompress((tmp_path / str(file["url"])).read_bytes()).splitlines():
            fhir_server.put(json.loads(line))
    assert counts(fhir_server) == formula(archive)
    sent_after = send(fhir_server, "put", archive)
    sent_after.close()
    assert counts(fhir_server) == formula(archive)


def test_a_researchers_searches_find_what_our_index_finds(fhir_server: FhirServer) -> None:
    """The queries of the how-to page, one by one."""
    for file in GUIDE.glob("SearchParameter-*.json"):
        fhir_server.put(json.loads(file.read_text()))
    wait_for_parameter(fhir_server, "structure-volume")
    archive = [series(number) for number in range(24)]
    send(fhir_server, "put", archive)
    index = DuckDBIndex("duckdb:")
    index.write(archive)
    ask, labels = Answers(fhir_server, index), OURS.labels

    same = ask.series(f"included_structure={labels}|sacrum", "sacrum")
    assert same == ask.series(f"included_structure={SNOMED}|{CODES['sacrum']}", "sct:54735007")
    ask.studies(
        f"body-structure.included_structure={SNOMED}|{CODES['sacrum']}"
        "&modality=http://dicom.nema.org/resources/ontology/DCM|CT&started=ge2022-01-01",
        "sacrum and StudyDate >= 2022-01-01",
        lambda one: "CT" in {s.series.modality for s in archive if s.series.study_uid == one},
    )
    both = "&".join(f"included_structure={SNOMED}|{CODES[n]}" for n in ("heart", "vertebrae_L1"))
    together = ask.series(both, "heart and L1")
    assert fhir_server.get(f"BodyStructure?{both}&_summary=count")["total"] == len(together)
    ask.series(f"included_structure={labels}|rib_left_3,{labels}|rib_right_4", "any rib")
    ask.series(
        f"structure-volume={SNOMED}|{CODES['spleen']}$gt500000|http://unitsofmeasure.org|mm3",
        "spleen volume > 500 ml",
    )

    one = archive[1]
    ask.is_series(f"identifier={annotation_of(one)}", [one])
    ask.is_study(f"series={one.series.series_uid}", [one])
    ask.is_study(f"identifier=urn:dicom:uid|urn:oid:{one.series.study_uid}", [one])
    ask.is_series(
        f"patient.identifier={OURS.patients}|{one.series.patient}",
        [s for s in archive if s.series.patient == one.series.patient and s.annotations],
    )
    old = [s for s in archive if s.provenance.algorithm and s.provenance.algorithm.version == "1.0"]
    (device,) = fhir_server.found("Device?version=1.0")
    shown = [s for s in old if s.annotations]
    ask.is_series(f"_has:Provenance:target:agent=Device/{device['id']}", shown)
    runs = fhir_server.found("Provenance?agent:Device.version=1.0")
    assert len(runs) == len(old)
    showing = {s.series.study_uid for s in archive if s.annotations}
    empty = [s for s in archive if s.series.study_uid not in showing]
    ask.is_study("body-structure:missing=true", empty)


class Answers:
    """What a server and our index say to the same question."""

    def __init__(self, server: FhirServer, index: DuckDBIndex) -> None:
        self._server = server
        self._index = index

    def series(self, search: str, words: str) -> set[str]:
        """The series that both find."""
        theirs, ours = self._series(search), {uid for uid, _ in self._ours(words)}
        assert theirs == ours, words
        assert ours
        return theirs

    def studies(self, search: str, words: str, wanted: Any) -> None:
        """Both find the same studies."""
        ours = {study for _, study in self._ours(words) if wanted(study)}
        assert self._studies(search) == ours, words
        assert ours

    def is_series(self, search: str, those: Iterable[AnnotatedSeries]) -> None:
        """The server finds those series."""
        assert self._series(search) == {one.series.series_uid for one in those}, search

    def is_study(self, search: str, those: Iterable[AnnotatedSeries]) -> None:
        """The server finds the studies of those series."""
        assert self._studies(search) == {one.series.study_uid for one in those}, search

    def _series(self, search: str) -> set[str]:
        found = self._server.found(f"BodyStructure?{search}&_count=10")
        return {one["identifier"][0]["value"] for one in found}

    def _studies(self, search: str) -> set[str]:
        found = self._server.found(f"ImagingStudy?{search}")
        return {one["identifier"][0]["value"].removeprefix("urn:oid:") for one in found}

    def _ours(self, words: str) -> Iterator[tuple[str, str]]:
        for hit in self._index.search(parse(words, TERMS), limit=1000).hits:
            yield hit.series_uid, hit.study_uid


def annotation_of(annotated: AnnotatedSeries) -> str:
    """The identifier of a series' BodyStructure, as a search has it."""
    return f"{OURS.identifiers('series-annotation')}|{annotated.series.series_uid}"


def volume_of(body_structure: dict[str, Any]) -> float:
    """The volume of its first structure, mm3."""
    parts = body_structure["includedStructure"][0]["extension"][0]["extension"]
    return next(float(p["valueQuantity"]["value"]) for p in parts if p["url"] == "volume")


def wait_for_parameter(server: FhirServer, name: str) -> None:
    """Return when the server knows a search parameter that it was given; it looks now and then."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        answer = requests.get(f"{server.url}/BodyStructure?{name}:missing=true", timeout=60)
        if answer.ok:
            return
        time.sleep(1)
    raise AssertionError(f"the server does not know {name}: {answer.text[:2000]}")
