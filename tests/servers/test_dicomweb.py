"""A real Orthanc over DICOMweb: what lies in it is indexed as what lies in a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import requests

from tests.phantoms import write_dataset
from tests.servers.orthanc import Orthanc, running_orthanc
from tests.servers.volumes import SYNTAXES, outcome, outcomes, real_files, write_phantoms
from tests.test_instance import ct_slice
from tomodex.errors import Suspended, Unavailable
from tomodex.instance import read_instance
from tomodex.selection import load_rules, select
from tomodex.sources import Source, Window, open_source
from tomodex.sources.dicomweb.source import DicomWebSource

pytestmark = pytest.mark.server


def pseudonym(identifier: str) -> str:
    return f"<{identifier}>"


def open_at(
    orthanc: Orthanc, tmp_path: Path, query: str = "", user: str = "", **context: object
) -> DicomWebSource:
    url = orthanc.dicomweb.replace("http://", f"dicomweb+http://{user}")
    source = open_source(
        f"{url}?{query}", **{"pseudonymize": pseudonym, "state": tmp_path / "state", **context}
    )
    assert isinstance(source, DicomWebSource)
    return source


@pytest.fixture
def phantoms(orthanc: Orthanc, tmp_path: Path) -> Path:
    """A folder of phantoms, which Orthanc has too."""
    write_phantoms(tmp_path / "phantoms")
    orthanc.store(sorted((tmp_path / "phantoms").iterdir()))
    return tmp_path / "phantoms"


def folder(path: Path, tmp_path: Path) -> Source:
    return open_source(f"folder://{path}", pseudonymize=pseudonym, state=tmp_path / "folder")


def test_phantoms_in_any_syntax_give_the_volumes_of_a_folder(
    orthanc: Orthanc, phantoms: Path, tmp_path: Path
) -> None:
    source = open_at(orthanc, tmp_path)
    found = outcomes(source, tmp_path / "into")
    assert found == outcomes(folder(phantoms, tmp_path), tmp_path / "of-folder")
    assert len(set(found.values())) == 1  # the hash of the same noise
    assert len(found) == len(SYNTAXES)
    into = (tmp_path / "into").rglob("*.dcm")
    syntaxes = {one.transfer_syntax for file in into if (one := read_instance(file, str))}
    assert syntaxes == set(SYNTAXES)


@pytest.mark.skipif(not real_files(), reason="TOMODEX_REAL_DATA is not set")
def test_real_series_give_the_volumes_of_a_folder(orthanc: Orthanc, tmp_path: Path) -> None:
    """Of those that Orthanc takes: it wants UIDs and a patient."""
    taken = tmp_path / "taken"
    taken.mkdir()
    with requests.Session() as session:
        for number, file in enumerate(real_files()):
            data = file.read_bytes()
            if session.post(f"{orthanc.rest}/instances", data=data, timeout=60).ok:
                (taken / f"{number}.dcm").write_bytes(data)
    source = open_at(orthanc, tmp_path)
    expected = {one.series.series_uid: one.series for one in folder(taken, tmp_path).find()}
    compared = 0
    for number, listing in enumerate(source.find()):
        theirs = expected[listing.series.series_uid]
        assert listing.series.patient == theirs.patient
        if listing.series.instance_count == theirs.instance_count:  # else UIDs come twice
            into = tmp_path / "into" / str(number)
            of_folder = outcome(folder(taken, tmp_path), theirs, into / "folder")
            assert outcome(source, listing.series, into / "orthanc") == of_folder
            compared += len(of_folder) == 64
    assert compared >= 7


def test_listings_say_what_the_headers_say(
    orthanc: Orthanc, phantoms: Path, tmp_path: Path
) -> None:
    source = open_at(orthanc, tmp_path)
    theirs = {one.series.series_uid: one for one in folder(phantoms, tmp_path).find()}
    for listing in source.find():
        other = theirs[listing.series.series_uid]
        assert listing.series.patient == other.series.patient  # with the issuer in it
        assert listing.series.instance_count == 24
        assert listing.series.attributes["StudyDate"] == "2026-05-01"
        described = source.describe(listing.series.series_uid)
        assert described.series == listing.series
        rules = load_rules(None)
        chosen, expected = select(described, rules), select(other, rules)
        assert chosen.geometry is not None
        assert expected.geometry is not None
        assert chosen.geometry.shape == expected.geometry.shape


def test_an_orthanc_that_caps_its_answers_is_never_taken_as_whole(tmp_path: Path) -> None:
    """Its LimitFindResults counts over all pages."""
    with running_orthanc(tmp_path / "capped", LimitFindResults=100) as orthanc:
        orthanc.store(one_slice_studies(tmp_path, "20260501", 70))
        orthanc.store(one_slice_studies(tmp_path, "20260502", 70))
        source = open_at(orthanc, tmp_path)
        may = Window(first=date(2026, 5, 1), last=date(2026, 5, 31))
        assert len(list(source.find(window=may))) == 140
        orthanc.store(one_slice_studies(tmp_path, "20260503", 120))
        with pytest.raises(Unavailable, match=r"2026-05-03: .* may be capped there"):
            list(source.find(window=may))


def one_slice_studies(tmp_path: Path, day: str, number: int) -> list[Path]:
    """Studies of a day with one instance each."""
    files = []
    for k in range(number):
        uid = f"1.2.{day}.{k}"
        ds = ct_slice(StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", StudyDate=day)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{uid}.1.1"
        files.append(write_dataset(tmp_path / f"{uid}.dcm", ds))
    return files


def test_a_password_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHT", "right")
    monkeypatch.setenv("WRONG", "wrong")
    settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"tomodex": "right"}}
    with running_orthanc(tmp_path / "locked", **settings) as orthanc:
        right = open_at(orthanc, tmp_path, "password=env:RIGHT", "tomodex@")
        assert list(right.find()) == []
        for query, user in (("password=env:WRONG", "tomodex@"), ("", "")):
            with pytest.raises(Unavailable, match="does not accept who we are"):
                list(open_at(orthanc, tmp_path, query, user).find())


@pytest.mark.parametrize("end", [Orthanc.kill, Orthanc.freeze], ids=["dies", "hangs"])
def test_an_orthanc_that_goes_away_in_the_middle_leaves_nothing_behind(
    orthanc: Orthanc, tmp_path: Path, end: Callable[[Orthanc], None]
) -> None:
    write_large(orthanc, tmp_path)
    source = open_at(orthanc, tmp_path, "read_s=1")
    (listing,) = source.find()
    into = tmp_path / "into" / "instances"

    def watch() -> None:
        while not any(into.glob("*.dcm")):
            time.sleep(0.001)
        end(orthanc)

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(Unavailable, match=r"broke off|fell silent|ended its answer"):
        source.retrieve(listing.series, tmp_path / "into")
    assert list(into.iterdir()) == []
    for _ in range(2):
        with pytest.raises(Unavailable):
            list(source.find())
    with pytest.raises(Suspended):
        list(source.find())


def write_large(orthanc: Orthanc, tmp_path: Path) -> None:
    """A series that takes a while to be sent."""
    files = []
    for k in range(40):
        ds = ct_slice(SOPInstanceUID=f"1.2.3.{k}", PixelData=bytes(4 * 2**20), Rows=2048)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.Columns, ds.PatientName = 1024, "x"
        files.append(write_dataset(tmp_path / f"{k}.dcm", ds))
    orthanc.store(files)


def test_doctor_finds_orthanc_well(orthanc: Orthanc, phantoms: Path, tmp_path: Path) -> None:
    found = {probe.subject: probe for probe in open_at(orthanc, tmp_path).probe()}
    assert {probe.verdict for probe in found.values()} == {"ok"}
    assert found["WADO-RS"].sentence == "instances come as they are kept"
