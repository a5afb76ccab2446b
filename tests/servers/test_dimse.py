"""Real archives over DIMSE: Orthanc and dcmqrscp, with series of phantoms and of real scanners."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from tests.phantoms import write_ball_series
from tests.servers.dcmqrscp import Dcmqrscp, running_dcmqrscp
from tests.servers.orthanc import Orthanc, running_orthanc
from tests.test_instance import as_bytes, ct_slice
from tomodex.errors import Suspended, Unavailable, Unsuitable
from tomodex.instance import read_instance
from tomodex.selection import load_rules, select
from tomodex.series import Listing
from tomodex.sources import Source, open_source
from tomodex.volume import load_volume

pytestmark = pytest.mark.server

Archive = Orthanc | Dcmqrscp
LABEL_MAPS = b"1.2.840.10008.5.1.4.1.1.66.7"
WAYS = ("retrieve=get", "retrieve=move")


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    """pynetdicom leaves the socket of a connection that was refused to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def pseudonym(identifier: str) -> str:
    return hashlib.sha256(identifier.encode()).hexdigest()


def open_archive(archive: Archive, tmp_path: Path, options: str = "") -> Source:
    """The archive as a source that knows one port to be sent to."""
    url = f"dimse://TOMODEX@127.0.0.1:{archive.dicom_port}/{archive.aet}"
    port = f"move_port={archive.move_port}&move_address=127.0.0.1"
    return open_source(f"{url}?{port}&{options}", pseudonymize=pseudonym, state=tmp_path / "state")


def open_folder(folder: Path, tmp_path: Path) -> Source:
    return open_source(
        f"folder://{folder}", pseudonymize=pseudonym, state=tmp_path / "folder-state"
    )


def hash_of_volume(source: Source, listing: Listing, into: Path) -> str:
    """SHA-256 of the HU of a series, or why it makes no volume."""
    into.mkdir(parents=True, exist_ok=True)
    files = source.retrieve(listing.series, into)
    instances = tuple(one for one in (read_instance(f, pseudonym) for f in files) if one)
    chosen = select(Listing(series=listing.series, instances=instances), load_rules())
    if chosen.geometry is None:
        return chosen.reason
    try:
        volume = load_volume(chosen.instances, chosen.geometry)
    except Unsuitable as unsuitable:
        return unsuitable.reason
    return hashlib.sha256(volume.voxels.tobytes()).hexdigest()


def hashes(source: Source, tmp_path: Path) -> dict[str, str]:
    return {
        one.series.series_uid: hash_of_volume(source, one, tmp_path / one.series.series_uid)
        for one in source.find()
    }


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    """A folder of two phantom series."""
    folder = tmp_path / "phantoms"
    for n in range(2):
        (folder / str(n)).mkdir(parents=True)
        write_ball_series(folder / str(n), radius_mm=8.0 + n)
    return folder


@pytest.fixture
def real() -> Path:
    """Real CT series that a PACS takes: DICOM files with UIDs, uncompressed."""
    if "TOMODEX_REAL_DATA" not in os.environ:
        pytest.skip("TOMODEX_REAL_DATA names no folder")
    return Path(os.environ["TOMODEX_REAL_DATA"])


def files_below(folder: Path) -> list[Path]:
    """Every DICOM file in it, but label maps: these servers are older, and cannot send them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        file
        for file in files
        if b"DICM" in (head := file.read_bytes()[:1000]) and LABEL_MAPS not in head
    ]


@contextmanager
def running(name: str, tmp_path: Path) -> Iterator[Archive]:
    if name == "orthanc":
        with running_orthanc(tmp_path / name) as orthanc:
            yield orthanc
    else:
        with running_dcmqrscp(tmp_path / name) as dcmqrscp:
            yield dcmqrscp


@pytest.mark.parametrize("name", ["orthanc", "dcmqrscp"])
def test_phantoms_are_the_same_volumes_on_every_way(
    name: str, phantoms: Path, tmp_path: Path
) -> None:
    expected = hashes(open_folder(phantoms, tmp_path), tmp_path / "a")
    assert len(expected) == 2
    with running(name, tmp_path) as archive:
        archive.store(files_below(phantoms))
        for way in WAYS:
            source = open_archive(archive, tmp_path, way)
            assert hashes(source, tmp_path / f"{name}-{way}") == expected


#: Real series that an archive takes; a folder of a kind each. The last is compressed.
REAL = (
    "ct_body/kits-00072-arterial-overlap",
    "ct_head/philips-head-5mm",
    "localizer/siemens-topograms-juno",
    "nonaxial/acrin-flt-coronal",
    "multiframe/nema-enhanced-ct-perfusion",
    "seg_in_pacs/dcmqi-ct3slice-liver-seg",
    "tilt/d2n-gantrytilt-4",
    "charset/japanese-charset-tilted-j2k",
)


@pytest.mark.parametrize("part", REAL)
def test_real_series_are_the_same_volumes_on_every_way(
    part: str, real: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    orthanc.store(files_below(real / part))
    (tmp_path / "archive").mkdir()
    for number, content in enumerate(orthanc.files()):
        (tmp_path / "archive" / f"{number}.dcm").write_bytes(content)
    expected = hashes(open_folder(tmp_path / "archive", tmp_path), tmp_path / "a")
    assert expected
    for way in WAYS:
        assert hashes(open_archive(orthanc, tmp_path, way), tmp_path / way) == expected


def test_what_is_stored_compressed_arrives_as_it_is_stored(
    real: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    orthanc.store(files_below(real / "charset/japanese-charset-tilted-j2k"))
    for way in WAYS:
        source = open_archive(orthanc, tmp_path, way)
        syntaxes = {
            instance.transfer_syntax
            for listing in source.find()
            for file in source.retrieve(listing.series, tmp_path / way)
            if (instance := read_instance(file, pseudonym))
        }
        assert syntaxes == {JPEG2000Lossless, ExplicitVRLittleEndian}


def test_the_pseudonym_of_a_patient_is_the_one_that_the_folder_gives(
    orthanc: Orthanc, real: Path, tmp_path: Path
) -> None:
    folder = real / "charset/japanese-charset-tilted-j2k"
    orthanc.store(files_below(folder))
    listed = {one.series.patient for one in open_archive(orthanc, tmp_path).find()}
    assert listed == {one.series.patient for one in open_folder(folder, tmp_path).find()}


def test_a_segmentation_in_the_archive_is_retrieved_with_its_series(
    orthanc: Orthanc, real: Path, tmp_path: Path
) -> None:
    orthanc.store(files_below(real / "seg_in_pacs/dcmqi-ct3slice-liver-seg"))
    source = open_archive(orthanc, tmp_path)
    (listing,) = [one for one in source.find() if one.series.segmentations]
    files = source.retrieve_segmentations(listing.series, tmp_path)
    assert listing.series.segmentations == len(files) == 2
    segmentations = [one for one in (read_instance(file, pseudonym) for file in files) if one]
    assert [one.modality for one in segmentations] == ["SEG", "SEG"]
    assert all(listing.series.series_uid in one.references for one in segmentations)


# --- an archive that caps its answers -----------------------------------------------------------


def test_an_orthanc_that_caps_its_answers_is_listed_wholly(tmp_path: Path) -> None:
    files: list[Path] = []
    for n in range(30):
        ds = ct_slice(
            StudyInstanceUID=f"1.2.{n}",
            SeriesInstanceUID=f"1.2.{n}.1",
            SOPInstanceUID=f"1.2.{n}.1.1",
            PatientID=f"P{n}",
            StudyDate=f"202606{1 + n // 12:02}",
            StudyTime=f"{n % 12 + 8:02}0000",
        )
        files.append(tmp_path / f"{n}.dcm")
        files[-1].write_bytes(as_bytes(ds))
    with running_orthanc(tmp_path / "orthanc", LimitFindResults=7) as archive:
        archive.store(files)
        source = open_archive(archive, tmp_path)
        found = [one.series.series_uid for one in source.find()]
        assert sorted(found) == sorted(f"1.2.{n}.1" for n in range(30))
        probes = {one.subject: one for one in source.probe()}
        assert "7 answers at once" in probes["answer limit"].sentence


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_archive_that_is_killed_in_the_middle_of_a_transfer_is_unavailable(
    way: str, orthanc: Orthanc, tmp_path: Path
) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    write_ball_series(folder, shape=(300, 160, 160))
    orthanc.store(files_below(folder))
    source = open_archive(orthanc, tmp_path, f"{way}&answer_s=20")
    (listing,) = source.find()
    watching = threading.Thread(target=kill_after_some, args=(orthanc, tmp_path / "instances"))
    watching.start()
    with pytest.raises(Unavailable, match="did not answer to the end"):
        source.retrieve(listing.series, tmp_path)
    watching.join()


def kill_after_some(archive: Orthanc, folder: Path) -> None:
    """Kill it when the first instances have arrived."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if folder.is_dir() and len(list(folder.iterdir())) >= 5:
            break
        time.sleep(0.005)
    archive.kill()


def test_an_archive_that_is_frozen_is_given_up_and_left_alone(
    orthanc: Orthanc, phantoms: Path, tmp_path: Path
) -> None:
    orthanc.store(files_below(phantoms))
    source = open_archive(orthanc, tmp_path, "connect_s=1&answer_s=1")
    assert len(list(source.find())) == 2
    orthanc.freeze()
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                list(source.find())
        with pytest.raises(Suspended):
            list(source.find())
    finally:
        orthanc.thaw()


def test_an_archive_that_refuses_the_association_is_unavailable(tmp_path: Path) -> None:
    archive = running_dcmqrscp(tmp_path / "dcmqrscp", "--refuse")
    with archive as running, pytest.raises(Unavailable, match="refuses the association"):
        list(open_archive(running, tmp_path).find())


def test_a_destination_that_orthanc_does_not_know_is_named(
    orthanc: Orthanc, phantoms: Path, tmp_path: Path
) -> None:
    orthanc.store(files_below(phantoms))
    source = open_archive(orthanc, tmp_path, "retrieve=move&move_aet=STRANGER")
    listing = next(iter(source.find()))
    with pytest.raises(Unavailable, match=r"answers C-MOVE"):
        source.retrieve(listing.series, tmp_path)


def test_half_a_series_is_unavailable(tmp_path: Path, phantoms: Path) -> None:
    with running_dcmqrscp(tmp_path / "dcmqrscp") as archive:
        archive.store(files_below(phantoms / "0"))
        source = open_archive(archive, tmp_path)
        (listing,) = source.find()
        lost = files_below(archive.folder / "storage")
        [file for file in lost if file.name != "index.dat"][3].unlink()
        with pytest.raises(Unavailable, match=r"sent 19 of the 20 instances"):
            source.retrieve(listing.series, tmp_path)


def test_doctor_knows_orthanc_and_dcmqrscp(tmp_path: Path) -> None:
    for name, implementation in (("orthanc", "ORTHANC"), ("dcmqrscp", "OFFIS")):
        with running(name, tmp_path) as archive:
            probes = {one.subject: one for one in open_archive(archive, tmp_path).probe()}
        assert {one.verdict for one in probes.values()} == {"ok"}
        assert implementation in probes["C-ECHO"].sentence.upper()
