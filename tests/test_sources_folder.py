"""A folder of DICOM files: what is found, what is remembered, and what is passed over."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import stat
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from tests.contracts.source import SourceContract, by_uid
from tests.test_instance import as_bytes, ct_slice, item
from tomodex.errors import Elsewhere, Misconfigured, NotThere, Suspended, Unavailable
from tomodex.instance import Instance, read_instance
from tomodex.sources import Window, open_source
from tomodex.sources import folder as folder_module
from tomodex.sources.folder import FolderSource

PATIENT, NAME, DESCRIPTION = "PatientNumber4711", "Doe^Jane", "Abdomen of Jane"


def pseudonym(identifier: str) -> str:
    """A pseudonym that shows that it is one."""
    return f"pseudonym-{len(identifier)}"


def open_folder(tmp_path: Path, free_text: bool = False) -> FolderSource:
    """The folder `archive`, as another process would open it."""
    source = open_source(
        f"folder://{tmp_path}/archive",
        pseudonymize=pseudonym,
        state=tmp_path / "state",
        free_text=free_text,
    )
    assert isinstance(source, FolderSource)
    return source


def slice_of(series: str, k: int, **elements: object) -> Dataset:
    """Slice `k` of a series."""
    ds = ct_slice(
        SeriesInstanceUID=series,
        SOPInstanceUID=f"{series or '1.9'}.{k}",
        ImagePositionPatient=[0, 0, 2.5 * k],
        PatientID=PATIENT,
        PatientName=NAME,
        SeriesDescription=DESCRIPTION,
        XRayTubeCurrent=100 + k,
    )
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def write(path: Path, ds: Dataset) -> Path:
    """Write a dataset where its folder may not be yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_bytes(ds))
    return path


def write_archive(root: Path) -> tuple[str, str, str]:
    """Two CT series whose files lie in each other's folders, and the SEG of the first."""
    for k in range(5):
        write(root / f"folder-{k % 2}" / f"{9 - k}.dcm", slice_of("1.2.1", k))
    for k in range(3):
        write(root / f"folder-{k % 2}" / f"b{k}", slice_of("1.2.2", k))
    seg = slice_of("1.2.3", 0, SOPClassUID=SegmentationStorage, Modality="SEG")
    seg.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.1")]
    write(root / "folder-0" / "seg.dcm", seg)
    return "1.2.1", "1.2.2", "1.2.3"


class TestFolderSource(SourceContract):
    @pytest.fixture
    def archive(self, tmp_path: Path) -> tuple[str, str, str]:
        return write_archive(tmp_path / "archive")

    def open_again(self, tmp_path: Path) -> FolderSource:
        return open_folder(tmp_path)

    def folder_of_archive(self, tmp_path: Path) -> Path:
        return tmp_path / "archive"


# --- grouping -----------------------------------------------------------------------------------


def test_series_attributes_are_those_of_most_instances(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    for k in range(5):
        kernel = "Br40" if k else "Br60"
        write(root / f"{k}.dcm", slice_of("1.2.1", k, ConvolutionKernel=kernel))
    (listing,) = open_folder(tmp_path).find()
    assert listing.series.attributes["ConvolutionKernel"] == "Br40"
    assert listing.series.attributes["XRayTubeCurrent"] == 102
    assert listing.series.study_uid == "1.2"
    assert listing.instances[0].attributes["ConvolutionKernel"] == "Br60"


def test_series_without_uid_are_told_apart_by_folder_and_keep_their_uid(tmp_path: Path) -> None:
    root, moved = tmp_path / "archive", tmp_path / "elsewhere" / "archive"
    for folder, study in (("a", ""), ("b", ""), ("c", "1.2"), ("d", "1.2")):
        for k in range(3):
            write(root / folder / f"{k}.dcm", slice_of("", k, StudyInstanceUID=study))
    first = by_uid(open_folder(tmp_path))
    assert [listing.series.instance_count for listing in first.values()] == [3, 3, 3, 3]
    assert len({listing.series.study_uid for listing in first.values()}) == 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in first)
    shutil.move(root, moved)
    assert set(by_uid(open_folder(tmp_path / "elsewhere"))) == set(first)
    assert {listing.instances[0].series_uid for listing in first.values()} == {""}


def test_what_differs_is_not_one_series_even_without_uid(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write(root / "0.dcm", slice_of("", 0))
    write(root / "1.dcm", slice_of("", 1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    write(root / "2.dcm", slice_of("", 2, Rows=6, Columns=1))
    assert len(by_uid(open_folder(tmp_path))) == 3


@pytest.mark.filterwarnings("ignore:.*for VR UI")
def test_texts_that_are_no_uids_tell_series_apart_and_are_not_shown(tmp_path: Path) -> None:
    for number, text in enumerate(("ANON_A", "ANON_B", "4a7d1ed4-14474e40", "1" * 65)):
        for k in range(2):
            write(tmp_path / "archive" / f"{number}-{k}.dcm", slice_of(text, k))
    found = by_uid(open_folder(tmp_path))
    assert [listing.series.instance_count for listing in found.values()] == [2, 2, 2, 2]
    assert all(uid.startswith("2.25.") for uid in found)
    assert "ANON" not in repr(found)


def test_duplicates_are_listed_and_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    for k in range(3):
        write(root / f"{k}.dcm", slice_of("1.2.1", k))
    source = open_folder(tmp_path)
    (before,) = source.find()
    shutil.copy(root / "0.dcm", root / "copy.dcm")
    (after,) = source.find()
    assert (before.series.instance_count, after.series.instance_count) == (3, 4)
    assert after.series.fingerprint == before.series.fingerprint


def test_a_segmentation_finds_its_series_by_images(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write_archive(root)
    seg = slice_of("1.2.4", 0, SOPClassUID=SegmentationStorage, Modality="SEG")
    source_image = item(ReferencedSOPInstanceUID="1.2.2.1")
    derivation = item(SourceImageSequence=[source_image])
    seg.PerFrameFunctionalGroupsSequence = [item(DerivationImageSequence=[derivation])]
    before = by_uid(open_folder(tmp_path))["1.2.2"].series
    path = write(root / "seg2.dcm", seg)
    source = open_folder(tmp_path)
    listings = by_uid(source)
    after = listings["1.2.2"].series
    assert (before.segmentations, after.segmentations) == (0, 1)
    assert after.fingerprint != before.fingerprint  # so that it is indexed anew
    assert listings["1.2.4"].instances[0].references == ("1.2.2",)
    assert source.retrieve_segmentations(listings["1.2.2"].series, tmp_path) == [path]


# --- what changes -------------------------------------------------------------------------------


def count_reads(monkeypatch: pytest.MonkeyPatch, at_most: int = 1_000) -> list[Path]:
    """The files whose headers are read from now on; after `at_most`, somebody presses Ctrl-C."""
    read: list[Path] = []

    def counted(path: Path, *rest: Any) -> Instance | None:
        if len(read) == at_most:
            raise KeyboardInterrupt
        read.append(path)
        return read_instance(path, *rest)

    monkeypatch.setattr(folder_module, "read_instance", counted)
    return read


def test_an_unchanged_folder_is_listed_with_one_header_a_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "archive")
    first = by_uid(open_folder(tmp_path))
    read = count_reads(monkeypatch)
    assert by_uid(open_folder(tmp_path)) == first
    assert len(read) == len(first)


def test_new_changed_and_removed_files_change_their_series_only(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write_archive(root)
    source = open_folder(tmp_path)
    prints = [fingerprints(source)]
    write(root / "new.dcm", slice_of("1.2.1", 7))
    prints.append(fingerprints(source))
    write(root / "new.dcm", slice_of("1.2.1", 8))
    prints.append(fingerprints(source))
    (root / "new.dcm").unlink()
    prints.append(fingerprints(source))
    assert len({one["1.2.1"] for one in prints}) == 3
    assert prints[3] == prints[0]
    assert {one["1.2.2"] for one in prints} == {prints[0]["1.2.2"]}
    shutil.rmtree(root / "folder-1")
    assert fingerprints(source)["1.2.2"] != prints[0]["1.2.2"]
    for file in root.rglob("b*"):
        file.unlink()
    assert set(fingerprints(source)) == {"1.2.1", "1.2.3"}


def fingerprints(source: FolderSource) -> dict[str, str]:
    return {uid: listing.series.fingerprint for uid, listing in by_uid(source).items()}


def test_a_series_whose_files_are_gone_is_unavailable(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    source = open_folder(tmp_path)
    series = by_uid(source)["1.2.1"].series
    (tmp_path / "archive" / "folder-0" / "9.dcm").unlink()
    with pytest.raises(Unavailable, match="gone since"):
        source.retrieve(series, tmp_path)


def test_a_folder_that_is_gone_is_unavailable_and_forgets_nothing(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    source = open_folder(tmp_path)
    first = by_uid(source)
    (tmp_path / "archive").rename(tmp_path / "unmounted")
    with pytest.raises(Unavailable, match="is not there"):
        list(source.find())
    assert source.describe("1.2.2").series == first["1.2.2"].series


def test_what_the_walk_could_not_list_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "archive"
    write_archive(root)
    write(root / "folder-1" / "below" / "x.dcm", slice_of("1.2.9", 0))
    write(root / "folder-10" / "x.dcm", slice_of("1.2.10", 0))
    source = open_folder(tmp_path)
    first = fingerprints(source)
    shutil.rmtree(root / "folder-10")
    listed = os.scandir

    def refused(path: bytes) -> object:
        if path.endswith(b"folder-1"):
            raise PermissionError
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    again = fingerprints(source)
    assert again == {uid: one for uid, one in first.items() if uid != "1.2.10"}
    assert source.skipped() == {"unreadable": 1}
    monkeypatch.undo()
    fingerprints(source)
    assert source.skipped() == {}


def test_an_interrupted_listing_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "archive")
    expected = fingerprints(open_folder(tmp_path))
    shutil.rmtree(tmp_path / "state")
    monkeypatch.setattr(folder_module, "TRANSACTION", 4)
    broken = count_reads(monkeypatch, at_most=6)
    with pytest.raises(KeyboardInterrupt):
        list(open_folder(tmp_path).find())
    monkeypatch.undo()
    monkeypatch.setattr(folder_module.FolderSource, "_description", lambda *_: "")
    read = count_reads(monkeypatch)
    assert fingerprints(open_folder(tmp_path)) == expected
    assert len(broken) == 6
    assert len(read) == 9 - 4


def test_two_listings_at_once_each_find_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks for what is new before the first has read it, and reads it after that."""
    write_archive(tmp_path / "archive")
    expected = fingerprints(open_folder(tmp_path))
    shutil.rmtree(tmp_path / "state")
    monkeypatch.setattr(folder_module, "TRANSACTION", 1)
    first, second = open_folder(tmp_path), open_folder(tmp_path)
    read, reads = folder_module._read, Counter[str]()
    second_looked, first_read = threading.Event(), threading.Event()
    at_once: list[Future[dict[str, str]]] = []

    def read_in_turns(*arguments: Any) -> Any:
        who = "first" if threading.current_thread() is threading.main_thread() else "second"
        reads[who] += 1
        if reads["first"] == 1 and who == "first":
            at_once.append(pool.submit(fingerprints, second))
            second_looked.wait(0.5)
        elif reads["first"] == 9 and who == "first":
            first_read.set()
            wait(at_once, timeout=1)
        elif reads["second"] == 1:
            second_looked.set()
            first_read.wait(1)
        return read(*arguments)

    monkeypatch.setattr(folder_module, "_read", read_in_turns)
    with ThreadPoolExecutor(1) as pool:
        assert fingerprints(first) == expected
    assert at_once[0].result() == expected
    assert fingerprints(second) == expected


def test_a_full_disk_is_unavailable_and_a_damaged_catalogue_says_what_helps(tmp_path: Path) -> None:
    for k in range(50):
        write(tmp_path / "archive" / str(k), slice_of(f"1.2.{k}", k))
    source = open_folder(tmp_path)
    source._catalogue._db.pragma("max_page_count", 1)  # as large as it is now
    with pytest.raises(Unavailable, match="disk is full"):
        list(source.find())
    source._catalogue._db.close()
    (catalogue,) = (tmp_path / "state").glob("folder-*.db")
    catalogue.write_bytes(b"no database" * 1000)
    with pytest.raises(Misconfigured, match="delete"):
        open_folder(tmp_path)


def test_other_settings_are_read_anew(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    without = by_uid(open_folder(tmp_path))["1.2.1"]
    with_it = by_uid(open_folder(tmp_path, free_text=True))["1.2.1"]
    assert "SeriesDescription" not in without.series.attributes
    assert with_it.series.attributes["SeriesDescription"] == DESCRIPTION
    again = by_uid(open_folder(tmp_path))["1.2.1"]
    assert again == without


# --- privacy ------------------------------------------------------------------------------------


def test_nothing_of_a_patient_is_kept_and_only_the_owner_can_read_the_rest(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    listing = by_uid(open_folder(tmp_path))["1.2.1"]
    assert listing.instances[0].description == DESCRIPTION
    for file in (tmp_path / "state").iterdir():
        kept = file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for secret in (PATIENT, NAME, DESCRIPTION):
            assert secret.encode() not in kept


# --- what is passed over ------------------------------------------------------------------------


def test_skipped_files_are_counted_by_reason(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    write_archive(root)
    (root / "readme.txt").write_text("no DICOM")
    (root / "empty").touch()
    broken = as_bytes(slice_of("1.2.1", 9, SOPClassUID="", Modality=""))
    (root / "broken.dcm").write_bytes(broken.replace(b"1.2.840.10008.5.1.4.1.1.2\0", bytes(26)))
    directory = slice_of("1.2.1", 9, SOPClassUID=MediaStorageDirectoryStorage)
    write(root / "DICOMDIR", directory)
    source = open_folder(tmp_path)
    assert len(list(source.find())) == 3
    assert source.skipped() == {"dicomdir": 1, "not_dicom": 2, "unreadable": 1}
    ((path, sentence),) = source.skipped_files("unreadable")
    assert path == str(root / "broken.dcm")
    assert "neither a SOP Class UID nor a Modality" in sentence


def test_links_are_followed_to_files_within_the_folder_only(tmp_path: Path) -> None:
    root, outside = tmp_path / "archive", tmp_path / "outside"
    write(root / "objects" / "x", slice_of("1.2.1", 0))
    write(outside / "y.dcm", slice_of("1.2.2", 0))
    (root / "inside.dcm").symlink_to(root / "objects" / "x")
    (root / "outside.dcm").symlink_to(outside / "y.dcm")
    (root / "outside").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "nowhere").symlink_to(root / "gone")
    os.mkfifo(root / "pipe")
    (listing,) = open_folder(tmp_path).find()
    assert [Path(one.path).name for one in listing.instances] == ["inside.dcm", "x"]


def test_names_in_any_encoding_are_read(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "archive")
    os.makedirs(root + b"/M\xfcller")  # noqa: PTH103  bytes
    with open(root + b"/M\xfcller/\xff.dcm", "wb") as file:  # noqa: PTH123  bytes
        file.write(as_bytes(slice_of("", 0)))
    source = open_folder(tmp_path)
    (listing,) = source.find()
    (path,) = source.retrieve(listing.series, tmp_path)
    assert path.is_file()


# --- many ---------------------------------------------------------------------------------------


def test_processes_find_what_one_process_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "archive")
    (tmp_path / "archive" / "x.txt").touch()
    alone = open_folder(tmp_path)
    expected, skipped = by_uid(alone), alone.skipped()
    shutil.rmtree(tmp_path / "state")
    monkeypatch.setattr(folder_module, "WORTH_PROCESSES", 3)
    monkeypatch.setattr(folder_module, "BATCH", 2)
    together = open_folder(tmp_path)
    assert by_uid(together) == expected
    assert together.skipped() == skipped
    assert multiprocessing.active_children() == []


def test_a_listing_holds_one_series_at_a_time(tmp_path: Path) -> None:
    template = as_bytes(slice_of("1.2.100000", 0))
    for series in range(20):
        for k in range(10):
            uid = f"1.2.{100_000 + series}"
            data = template.replace(b"1.2.100000.0", f"{uid}.{k}".encode())
            path = tmp_path / "archive" / f"{uid}-{k}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data.replace(b"1.2.100000", uid.encode()))
    source = open_folder(tmp_path)
    assert sum(1 for _ in source.find()) == 20
    tracemalloc.start()
    try:
        kept = 0
        for listing in source.find():
            kept = max(kept, len(listing.instances))
        _, peak = tracemalloc.get_traced_memory()
        everything = list(source.find())
        all_held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (kept, len(everything)) == (10, 20)
    assert peak < all_held / 2


# --- real files ---------------------------------------------------------------------------------

REAL = os.environ.get("TOMODEX_REAL_DATA")


@pytest.mark.skipif(REAL is None, reason="TOMODEX_REAL_DATA is not set")
def test_real_series_are_found_with_all_their_instances(tmp_path: Path) -> None:
    """SERIES.csv has one row for each item and series; the same series may lie in two items."""
    root = Path(str(REAL))
    table = Path(__file__).parent.parent.parent / "shared" / "data" / "SERIES.csv"
    reference = os.environ.get("TOMODEX_REAL_REFERENCE")
    table = Path(reference).parent / "SERIES.csv" if reference else table
    with table.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    expected: Counter[str] = Counter()
    for row in rows:
        if row["series_uid"][:1].isdigit():
            expected[row["series_uid"]] += int(row["n_files"])
    source = open_source(f"folder://{root}", pseudonymize=pseudonym, state=tmp_path)
    listings = by_uid(source)
    found = {uid: listing.series.instance_count for uid, listing in listings.items()}
    assert {uid: found.get(uid) for uid in expected} == expected
    (no_uid,) = [
        listing.series
        for listing in listings.values()
        if "ts-example-ct-dicom" in listing.instances[0].path
    ]
    assert no_uid.series_uid.startswith("2.25.")
    assert no_uid.instance_count == 20


def test_a_window_lists_the_studies_of_its_days(tmp_path: Path) -> None:
    for uid, day in (("1.1", "20200102"), ("1.2", "20200103"), ("1.3", "")):
        write(tmp_path / "archive" / uid, slice_of(uid, 0, StudyDate=day))
    source = open_folder(tmp_path)
    window = Window(first=date(2020, 1, 1), last=date(2020, 1, 2))
    assert [listing.series.series_uid for listing in source.find(window=window)] == ["1.1"]
    assert len(list(source.find())) == 3


def test_a_probe_tells_a_folder_from_one_that_is_not_mounted(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    source = open_folder(tmp_path)
    assert [probe.verdict for probe in source.probe()] == ["doubtful", "ok"]
    write(folder / "1", slice_of("1.1", 0))
    list(source.find())
    assert [probe.verdict for probe in source.probe()] == ["ok", "ok"]
    assert "1 files are known" in [probe.sentence for probe in source.probe()]
    folder.rename(tmp_path / "elsewhere")
    (probe,) = source.probe()
    assert (probe.verdict, probe.advice[:10]) == ("wrong", "see that i")


def test_a_series_is_not_there_once_the_folder_was_looked_through(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    source = open_folder(tmp_path)
    list(source.find())
    with pytest.raises(NotThere):
        source.describe("1.2.99")
    with pytest.raises(Unavailable) as raised:
        open_folder(tmp_path).describe("1.2.99")  # which knows it from the looks of others
    assert not isinstance(raised.value, NotThere | Suspended)


def test_series_of_a_folder_are_left_to_those_who_have_listed_it(tmp_path: Path) -> None:
    """So a worker of another data folder does not use up their attempts."""
    write_archive(tmp_path / "archive")
    source = open_folder(tmp_path)
    with pytest.raises(Elsewhere, match="never listed from this data folder") as raised:
        source.describe("1.2.99")
    assert raised.value.source == source.url
