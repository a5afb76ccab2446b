"""A DICOM report of every result, in a folder or an archive."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.formats.dicom_header import Subject
from tomodex.sinks import Sink, dicom, open_sink
from tomodex.sinks.dicom import DicomArchiveSink

KNOWN = Subject(study_uid="1.2", patient_id="P1", patient_name="Doe^Jane")
IMAGE = ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1")


def of(uid: str, *annotations: object) -> AnnotatedSeries:
    series = replace(ONE.series, series_uid=uid)
    return replace(ONE, series=series, annotations=annotations or ONE.annotations)


def said(ds: pydicom.Dataset) -> str:
    return ds.to_json()


# --- a folder -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Sink:
    return open_sink(f"dicom+file://{tmp_path}/reports", tmp_path)


def held(tmp_path: Path) -> dict[str, pydicom.Dataset]:
    files = (tmp_path / "reports").iterdir()
    return {one.name.removesuffix(".dcm"): pydicom.dcmread(one) for one in files}


def test_each_series_has_a_report_under_its_pseudonym(tmp_path, folder):
    folder.write([of("1.1"), of("1.2", LIVER, SPLEEN)])
    found = held(tmp_path)
    assert set(found) == {"1.1", "1.2"}
    for ds in found.values():
        assert (ds.PatientID, ds.PatientIdentityRemoved, ds.PatientSex) == ("pseudonym", "YES", "F")
        assert ds.StudyInstanceUID == "1.2"
    assert "tomodex spleen" in said(found["1.2"])
    assert "tomodex spleen" not in said(found["1.1"])


def test_the_last_result_counts_and_the_same_again_changes_no_byte(tmp_path, folder):
    folder.write([of("1.1", LIVER)])
    first = (tmp_path / "reports" / "1.1.dcm").read_bytes()
    folder.write([of("1.1", LIVER)])
    assert (tmp_path / "reports" / "1.1.dcm").read_bytes() == first
    (ds,) = held(tmp_path).values()
    finished = datetime(2026, 11, 23, 9, 0, 3, tzinfo=UTC).astimezone()  # not now
    assert (ds.ContentDate, ds.ContentTime) == (f"{finished:%Y%m%d}", f"{finished:%H%M%S}")
    folder.write([of("1.1", SPLEEN)])
    assert "tomodex liver" not in said(held(tmp_path)["1.1"])


def test_what_is_erased_or_finds_nothing_any_more_is_gone(tmp_path, folder):
    folder.write([of("1.1"), of("1.2"), of("1.3")])
    folder.erase(["1.1", "9.9"])
    folder.write([replace(of("1.2"), annotations=())])
    assert set(held(tmp_path)) == {"1.3"}


def test_a_probe_finds_nothing_wrong_with_a_folder(folder):
    assert [probe.verdict for probe in folder.probe()] == ["ok"]


# --- an archive -----------------------------------------------------------------------------------


class Archive:
    """An archive in memory."""

    url = "dimse://TOMODEX@pacs/PACS"
    only_dicom = True

    def __init__(self, *, has_series: bool) -> None:
        self.has_series = has_series
        self.silent = False
        self.kept: dict[str, pydicom.Dataset] = {}

    def known(self, study_uid: str, series_uid: str):
        return (KNOWN, [IMAGE]) if self.has_series else None

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        if self.silent:
            raise Unavailable("silent")
        for file in files:
            ds = pydicom.dcmread(file)
            self.kept[ds.SOPInstanceUID] = ds
        return [self.url for _ in files]

    def close(self) -> None:
        pass


@pytest.fixture
def archive(monkeypatch) -> Archive:
    made = Archive(has_series=True)
    made.opened = []
    monkeypatch.setattr(dicom, "open_store", lambda url, state: made.opened.append(url) or made)
    return made


def test_an_archive_gets_a_report_of_whom_it_knows(tmp_path, archive):
    sink = DicomArchiveSink("dimse://TOMODEX@pacs:104/PACS?tls=yes", tmp_path)
    sink.write([of("1.2.3")])
    sink.write([of("1.2.3")])
    (ds,) = archive.kept.values()
    assert (ds.PatientID, ds.PatientName) == ("P1", "Doe^Jane")
    assert "PatientIdentityRemoved" not in ds
    assert "pseudonym" not in said(ds)
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.1"
    assert archive.opened == ["dimse://TOMODEX@pacs:104/PACS?tls=yes"]


def test_an_archive_without_the_series_gets_no_report(tmp_path, archive):
    archive.has_series = False
    with pytest.raises(Unsuitable, match="does not have the series") as refused:
        DicomArchiveSink("dimse://TOMODEX@pacs:104/PACS", tmp_path).write([of("1.2.3")])
    assert refused.value.reason == "not_in_archive"
    assert archive.kept == {}


def test_an_archive_of_research_gets_the_pseudonym(tmp_path, archive):
    archive.has_series = False
    url = "dicomweb+https://rs.example/rs?patient=pseudonym&token=file:/run/secrets/a"
    DicomArchiveSink(url, tmp_path).write([of("1.2.3")])
    (ds,) = archive.kept.values()
    assert (ds.PatientID, ds.PatientIdentityRemoved) == ("pseudonym", "YES")
    assert archive.opened == ["dicomweb+https://rs.example/rs?token=file:/run/secrets/a"]


@pytest.mark.parametrize("query", ["patient=real", "patient=", "patient=archive&patient=pseudonym"])
def test_a_patient_that_is_neither_is_a_wrong_setting(tmp_path, archive, query):
    with pytest.raises(Misconfigured, match="archive, pseudonym"):
        DicomArchiveSink(f"dimse://TOMODEX@pacs:104/PACS?{query}", tmp_path)


def test_a_silent_archive_is_asked_later(tmp_path, archive):
    archive.silent = True
    with pytest.raises(Unavailable):
        DicomArchiveSink("dimse://TOMODEX@pacs:104/PACS", tmp_path).write([of("1.2.3")])


def test_a_series_in_which_nothing_was_found_has_no_report(tmp_path, archive):
    sink = DicomArchiveSink("dimse://TOMODEX@pacs:104/PACS", tmp_path)
    sink.write([replace(of("1.2.3"), annotations=())])
    assert archive.kept == {}


def test_what_an_archive_keeps_is_logged_to_be_deleted_there(tmp_path, archive, caplog):
    caplog.set_level(logging.WARNING)
    DicomArchiveSink("dimse://TOMODEX@pacs:104/PACS", tmp_path).erase(["1.2.3"])
    (record,) = caplog.records
    assert (record.message, record.series_uid) == ("report stays", "1.2.3")
