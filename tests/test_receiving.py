"""Series that others push: kept before success is answered, put once whole, removed later."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, SegmentationStorage

from tests.contracts.queue import annotated
from tests.phantoms import ct_dataset, write_ball_series
from tests.pushing import EXPLICIT, IMPLICIT, associated, push, receiving, store, wait_for
from tests.test_receiving_conversation import encoded, store_request
from tomodex.doctor import examine
from tomodex.errors import Elsewhere, Misconfigured, TomodexError, Unavailable
from tomodex.instance import read_instance
from tomodex.queues import Failed, NewTask, Queue, Rejected, open_queue
from tomodex.receiving import Summary, require_guard, summary_lines, wire
from tomodex.receiving.listener import Counts, Door, listening
from tomodex.receiving.steward import Patience, Steward
from tomodex.selection import load_rules
from tomodex.series import Listing, Series
from tomodex.settings import load_settings
from tomodex.sources import open_source
from tomodex.sources import spool_folder as spool_module
from tomodex.sources.spool import SpoolSource
from tomodex.sources.spool_folder import Spool

SUCCESS, OUT_OF_RESOURCES, OTHER_CLASS, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000


def hidden(identifier: str) -> str:
    return f"pseudonym-{len(identifier)}"


def slices(folder: Path, **how: Any) -> tuple[str, list[Path]]:
    """A small CT series: its UID, and files from one end to the other."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = write_ball_series(folder, **how)
    return uid, sorted(folder.iterdir(), key=lambda f: dcmread(f).ImagePositionPatient[2])


def one_slice(**elements: object) -> Dataset:
    """One slice of CT."""
    dataset = ct_dataset(np.zeros((8, 8), np.uint16), series_uid=generate_uid())
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def segmentation_of(series_uid: str) -> Dataset:
    """As much of a DICOM SEG object as says which series it is of."""
    seg = Dataset()
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = EXPLICIT
    seg.SOPClassUID, seg.SOPInstanceUID = SegmentationStorage, generate_uid()
    seg.StudyInstanceUID, seg.SeriesInstanceUID = "1.2", generate_uid()
    seg.Modality = "SEG"
    item = Dataset()
    item.SeriesInstanceUID = series_uid
    seg.ReferencedSeriesSequence = Items([item])
    return seg


# --- the folder ---------------------------------------------------------------------------------


def keep(spool: Spool, file: Path, series_uid: str) -> str:
    """Keep a copy of a file, as the listener does."""
    descriptor, arrived = spool.arrive()
    os.close(descriptor)
    shutil.copyfile(file, arrived)
    return spool.keep(arrived, series_uid, dcmread(file, stop_before_pixels=True).SOPInstanceUID)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close()


def test_an_instance_that_comes_again_leaves_its_series_unchanged(spool, tmp_path):
    uid, files = slices(tmp_path / "ct")
    assert keep(spool, files[0], uid) == "new"
    (before,) = spool.folders()
    time.sleep(0.02)
    assert keep(spool, files[0], uid) == "same"
    assert list(spool.folders()) == [before]
    assert list(spool.incoming.iterdir()) == []


def test_an_instance_that_comes_with_another_content_replaces_the_first(spool, tmp_path):
    uid, files = slices(tmp_path / "ct")
    keep(spool, files[0], uid)
    (before,) = spool.folders()
    changed = dcmread(files[0])
    changed.StudyDescription = "corrected"
    changed.save_as(files[0])
    time.sleep(0.02)
    assert keep(spool, files[0], uid) == "replaced"
    (after,) = spool.folders()
    assert after.changed_ns > before.changed_ns
    assert dcmread(spool.files(uid)[0]).StudyDescription == "corrected"


def test_what_came_since_is_not_removed(spool, tmp_path):
    uid, files = slices(tmp_path / "ct")
    keep(spool, files[0], uid)
    (before,) = spool.folders()
    time.sleep(0.02)
    keep(spool, files[1], uid)
    assert not spool.remove(before)
    assert len(spool.files(uid)) == 2
    (now,) = spool.folders()
    assert spool.remove(now)
    assert spool.files(uid) == []


def test_instances_that_come_while_their_series_is_removed_again_and_again_are_kept(
    spool, tmp_path
):
    uid, files = slices(tmp_path / "ct", shape=(60, 4, 5))
    removed: list[str] = []
    done = threading.Event()

    def remove() -> None:
        while not done.is_set():
            for folder in spool.folders():
                if time.time_ns() - folder.changed_ns < 20_000_000:
                    continue
                names = [file.name for file in spool.files(uid)]
                if spool.remove(folder):
                    removed.extend(names)

    remover = threading.Thread(target=remove)
    remover.start()
    for number, file in enumerate(files):
        keep(spool, file, uid)
        time.sleep(0.03 * (number % 3 == 0))
    done.set()
    remover.join()
    assert removed
    left = [file.name for file in spool.files(uid)]
    assert sorted(removed + left) == sorted(f"{file.stem}.dcm" for file in files)


def test_the_folder_of_a_series_is_on_disk_before_its_first_instance_is_kept(
    spool, tmp_path, monkeypatch
):
    uid, files = slices(tmp_path / "ct")
    synced: list[str] = []
    monkeypatch.setattr(
        spool_module.os,
        "fsync",
        lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())),
    )
    keep(spool, files[0], uid)
    keep(spool, files[1], uid)
    series = spool.root / "series"
    assert synced == [str(series), str(series / uid), str(series / uid)]


@pytest.mark.parametrize("uid", ["", ".", "..", "1..2", "1.2/../3", "../1", "1.2\n", "1" * 65, "१"])
def test_what_is_no_uid_names_no_file(spool, uid):
    assert not spool_module.is_uid(uid)
    with pytest.raises(Unavailable):
        spool.folder(uid)


def test_a_second_receiver_is_refused(spool):
    with spool.alone(), pytest.raises(Misconfigured, match="another receiver"), spool.alone():
        pass


def test_a_new_receiver_clears_away_what_a_dead_one_left_half_done(spool):
    (spool.incoming / "half.dcm").write_bytes(b"half")
    (spool.root / "leaving" / "1.2@3").mkdir()
    (spool.root / "leaving" / "1.2@3" / "1.dcm").write_bytes(b"x")
    with spool.alone():
        assert [*spool.incoming.iterdir(), *(spool.root / "leaving").iterdir()] == []


# --- the steward --------------------------------------------------------------------------------


class Archive:
    """Says how many instances a series has, or that it cannot."""

    url = "dimse://TOMODEX@pacs/PACS"

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.error: TomodexError | None = None
        self.asked: list[str] = []
        self.takes: Callable[[], object] = lambda: None

    def describe(self, series_uid: str) -> Listing:
        self.asked.append(series_uid)
        self.takes()
        if self.error is not None:
            raise self.error
        series = Series(
            series_uid=series_uid,
            study_uid="1.2",
            patient="",
            modality="CT",
            instance_count=self.count,
        )
        return Listing(series=series)


class Desk:
    """A spool, its steward and the queue, at a time of our choice."""

    def __init__(self, tmp_path: Path, archive: Any = None) -> None:
        self.spool = Spool(tmp_path / "spool")
        self.queue: Queue = open_queue(f"sqlite://{tmp_path}/tomodex.db")
        self.later_s = 0.0
        self.archive = archive
        self.tmp_path = tmp_path
        self.restart()

    def restart(self) -> None:
        self.source = open_source(
            f"spool://{self.spool.root}", pseudonymize=hidden, state=self.tmp_path
        )
        assert isinstance(self.source, SpoolSource)
        self.steward = Steward(
            self.spool,
            self.source,
            self.queue,
            load_rules(None),
            Patience(quiet_s=60, missing_s=3600, keep_s=600),
            lane="daily",
            configuration="default",
            archive=self.archive,
            now=lambda: time.time() + self.later_s,
        )

    def keep(self, uid: str, files: list[Path]) -> None:
        for file in files:
            keep(self.spool, file, uid)

    def wait(self, seconds: float) -> int:
        """Let time pass, then see what is whole; how many that were."""
        self.later_s += seconds
        return self.steward.put_whole()

    def status(self, uid: str) -> str:
        states = self.queue.states(uid)
        return states[0].status if states else ""

    def settle(self, outcome: Any = None) -> None:
        """Do the task that is next."""
        task = self.queue.lease("worker", timedelta(minutes=5))
        assert task is not None
        assert self.queue.settle(task, outcome or annotated(task.series))

    def results(self) -> int:
        return len(self.queue.results(0, 100))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.spool.close()
    made.queue.close()


def test_a_series_is_put_once_nothing_has_come_for_a_while(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    assert desk.wait(30) == 0
    assert desk.steward.open_series() == 1
    assert desk.wait(31) == 1
    assert desk.steward.open_series() == 0
    (state,) = desk.queue.states(uid)
    assert (state.status, state.lane, state.source) == ("ready", "daily", desk.source.url)
    assert state.series.instance_count == len(files)


def test_a_restart_finds_what_was_not_put(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.restart()
    desk.wait(61)
    assert desk.status(uid) == "ready"


def test_a_crash_between_the_queue_and_the_spool_puts_nothing_twice(desk, tmp_path, monkeypatch):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "remember", crash)
        with pytest.raises(KeyboardInterrupt):
            desk.wait(61)
    desk.settle()
    desk.restart()
    assert desk.wait(1) == 1
    assert desk.status(uid) == "completed"


def test_a_second_push_changes_nothing(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    desk.settle()
    desk.keep(uid, files)
    desk.wait(61)
    assert (desk.status(uid), desk.steward.tally.put) == ("completed", 1)


def test_a_series_that_an_archive_has_listed_stays_with_it_and_that_is_said(desk, tmp_path, caplog):
    caplog.set_level("INFO")
    uid, files = slices(tmp_path / "ct")
    pacs = "dimse://TOMODEX@pacs/PACS"
    desk.keep(uid, files)
    listing = desk.source.describe(uid)
    desk.queue.put([NewTask(series=listing.series, source=pacs)])
    desk.wait(61)
    assert desk.queue.states(uid)[0].source == pacs
    (said,) = [record for record in caplog.records if record.message == "stays"]
    assert (said.series_uid, said.source) == (uid, pacs)
    summary = Summary(received={}, series=desk.steward.tally, open=0, seconds=61.0)
    assert f"of those 1 stay with {pacs}" in list(summary_lines(summary))


def test_a_steward_holds_nothing_of_series_that_have_left(desk, tmp_path):
    for name in ("one", "two"):
        desk.keep(*slices(tmp_path / name))
    desk.wait(61)
    desk.settle()
    desk.settle()
    desk.later_s += 3600
    assert desk.steward.remove_settled() == 2
    assert desk.steward._looked == {}
    desk.restart()
    desk.keep(*slices(tmp_path / "three"))
    desk.wait(61)
    assert len(desk.steward._looked) == 1


def test_an_instance_that_is_added_has_the_series_indexed_anew(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files[:-1])
    desk.wait(61)
    desk.settle()
    desk.keep(uid, files)
    desk.wait(61)
    (state,) = desk.queue.states(uid)
    assert (state.status, state.series.instance_count) == ("ready", len(files))


def test_a_series_is_not_whole_while_the_archive_has_more_of_it(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files))
    desk.restart()
    desk.keep(uid, files[:-2])
    assert desk.wait(61) == 0
    desk.keep(uid, files)
    assert desk.wait(61) == 1


def test_a_series_whose_rest_never_comes_is_put_in_the_end(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files) + 1)
    desk.restart()
    desk.keep(uid, files)
    assert desk.wait(3590) == 0
    assert desk.wait(20) == 1
    assert desk.status(uid) == "ready"


def test_an_archive_that_does_not_answer_is_asked_again(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files))
    desk.archive.error = Unavailable("pacs does not answer")
    desk.restart()
    desk.keep(uid, files)
    assert desk.wait(61) == 0
    desk.archive.error = None
    assert desk.wait(31) == 1


def test_a_series_of_which_more_is_missing_is_asked_about_less_and_less_often(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files) + 1)
    desk.restart()
    desk.keep(uid, files)
    desk.wait(61)
    for _ in range(100):  # every second, as the receiver looks
        desk.wait(1)
    assert desk.archive.asked == [uid] * 3  # after 0, 30 and 90 s
    while desk.status(uid) == "":
        desk.wait(10)
    assert len(desk.archive.asked) == 7  # and 210, 450, 930, 1890 s; put after an hour


def test_a_series_of_which_more_came_is_asked_about_at_once(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files))
    desk.restart()
    desk.keep(uid, files[:-1])
    for _ in range(20):
        desk.wait(70)
    assert desk.status(uid) == ""
    desk.later_s = 0.0
    desk.keep(uid, files[-1:])
    assert desk.wait(61) == 1


def test_an_archive_that_cannot_be_asked_leaves_series_to_their_quiet_time(desk, tmp_path, caplog):
    desk.archive = Archive(count=None)
    desk.archive.error = Misconfigured("the secret of pacs is not there")
    desk.restart()
    for name in ("one", "two"):
        desk.keep(*slices(tmp_path / name))
    assert desk.wait(61) == 2
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.sentence for record in said] == ["the secret of pacs is not there"]


def test_a_series_is_put_before_a_slow_archive_is_asked_about_others(desk, tmp_path):
    old, new = slices(tmp_path / "old"), slices(tmp_path / "new")
    desk.archive = Archive(count=1000)
    desk.restart()
    desk.keep(*old)
    desk.later_s = 3590.0
    desk.keep(*new)
    for file in desk.spool.folder(new[0]), *desk.spool.files(new[0]):
        os.utime(file, (time.time() + 3540, time.time() + 3540))
    while_asked: list[str] = []
    desk.archive.takes = lambda: while_asked.append(desk.status(old[0]))
    assert desk.wait(20) == 1
    assert while_asked == ["ready"]


def test_a_slow_archive_is_asked_about_one_series_at_a_look(desk, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("tomodex.receiving.inquiries.time.monotonic", lambda: clock[0])
    desk.archive = Archive(count=1000)
    desk.restart()
    for name in ("one", "two", "three"):
        desk.keep(*slices(tmp_path / name))

    def slowly() -> None:
        clock[0] += 30

    desk.archive.takes = slowly
    desk.wait(61)
    assert len(desk.archive.asked) == 1
    desk.wait(1)
    desk.wait(1)
    assert len(set(desk.archive.asked)) == len(desk.archive.asked) == 3


def test_what_the_archive_says_nothing_of_counts_as_whole(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=None)
    desk.restart()
    desk.keep(uid, files)
    assert desk.wait(61) == 1


def test_a_series_is_removed_when_its_result_has_stood_for_a_while(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    assert desk.steward.remove_settled() == 0
    desk.settle()
    assert desk.steward.remove_settled() == 0
    desk.later_s += 601
    assert desk.steward.remove_settled() == 1
    assert desk.spool.files(uid) == []


def test_a_rejected_series_is_removed_and_a_failed_one_is_not(desk, tmp_path):
    rejected, failed = (slices(tmp_path / name) for name in ("one", "two"))
    for uid, files in (rejected, failed):
        desk.keep(uid, files)
    desk.wait(61)
    for _ in range(2):
        task = desk.queue.lease("worker", timedelta(minutes=5))
        first = task.series.series_uid == rejected[0]
        outcome = Rejected(reason="gaps", sentence="") if first else Failed(sentence="a bug")
        desk.queue.settle(task, outcome)
    desk.later_s += 10_000
    assert desk.steward.remove_settled() == 1
    assert [folder.series_uid for folder in desk.spool.folders()] == [failed[0]]


def test_what_comes_again_after_it_was_removed_is_nothing_new(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    desk.settle()
    desk.later_s += 601
    desk.steward.remove_settled()
    desk.keep(uid, files)
    desk.wait(61)
    assert (desk.status(uid), desk.results()) == ("completed", 1)
    desk.later_s += 601
    assert desk.steward.remove_settled() == 1


def test_a_part_of_what_was_indexed_does_not_take_its_place(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files[:-1])
    desk.wait(61)
    desk.settle()
    desk.later_s += 601
    desk.steward.remove_settled()
    desk.keep(uid, files[10:])  # one of them is new
    desk.wait(61)
    assert (desk.status(uid), desk.steward.tally.partial) == ("completed", 1)
    desk.later_s += 10_000
    assert desk.steward.remove_settled() == 0
    desk.keep(uid, files)  # the rest
    desk.wait(61)
    (state,) = desk.queue.states(uid)
    assert (state.status, state.series.instance_count) == ("ready", len(files))


def test_a_part_counts_as_whole_where_the_archive_has_no_more(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.archive = Archive(count=len(files))
    desk.restart()
    desk.keep(uid, files)
    desk.wait(61)
    desk.settle()
    desk.later_s += 601
    desk.steward.remove_settled()
    desk.archive.count = len(files) - 1
    desk.keep(uid, files[1:])
    desk.wait(61)
    (state,) = desk.queue.states(uid)
    assert (state.status, state.series.instance_count) == ("ready", len(files) - 1)


def test_a_segmentation_that_comes_later_has_its_series_indexed_anew(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    desk.settle()
    seg = segmentation_of(uid)
    file = tmp_path / "seg.dcm"
    seg.save_as(file, enforce_file_format=True)
    desk.keep(seg.SeriesInstanceUID, [file])
    desk.wait(61)
    desk.wait(1)
    (state,) = desk.queue.states(uid)
    assert (state.status, state.series.segmentations) == ("ready", 1)
    (found,) = desk.source.retrieve_segmentations(state.series, into=tmp_path)
    assert dcmread(found).SOPInstanceUID == seg.SOPInstanceUID


def test_a_series_that_comes_again_without_its_segmentation_stays_as_it_is(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    seg = segmentation_of(uid)
    file = tmp_path / "seg.dcm"
    seg.save_as(file, enforce_file_format=True)
    desk.keep(seg.SeriesInstanceUID, [file])
    desk.keep(uid, files)
    desk.wait(61)
    desk.wait(1)
    desk.settle()
    desk.later_s += 601
    assert desk.steward.remove_settled() == 2
    desk.keep(uid, files)
    desk.wait(61)
    (state,) = desk.queue.states(uid)
    assert (state.status, state.series.segmentations) == ("completed", 1)


def test_a_segmentation_stays_until_its_series_can_go(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    seg = segmentation_of(uid)
    file = tmp_path / "seg.dcm"
    seg.save_as(file, enforce_file_format=True)
    desk.keep(uid, files)
    desk.keep(seg.SeriesInstanceUID, [file])
    desk.wait(61)
    desk.wait(1)
    assert desk.status(seg.SeriesInstanceUID) == "rejected"
    desk.later_s += 10_000
    assert desk.steward.remove_settled() == 0
    desk.settle()
    assert desk.steward.remove_settled() == 2


def test_a_series_is_put_again_where_the_queue_was_made_anew(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    desk.queue.close()
    for file in tmp_path.glob("tomodex.db*"):
        file.unlink()
    desk.queue = open_queue(f"sqlite://{tmp_path}/tomodex.db")
    desk.restart()
    desk.later_s += 10_000
    assert desk.steward.remove_settled() == 0
    desk.wait(1)
    assert desk.status(uid) == "ready"


def test_a_series_that_was_withdrawn_leaves_the_spool_and_does_not_come_back(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    desk.settle()
    desk.queue.withdraw(uid)
    assert desk.steward.remove_settled() == 1
    desk.wait(1)
    assert desk.status(uid) == ""


def test_a_series_that_lies_in_the_spool_too_is_withdrawn_where_the_archive_loses_it(
    desk, tmp_path
):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    desk.wait(61)
    (state,) = desk.queue.states(uid)
    desk.queue.put([NewTask(series=state.series, source=Archive.url)])
    desk.settle()
    assert desk.queue.withdraw(uid, Archive.url, "no longer in the archive")
    assert desk.status(uid) == ""


def test_a_spool_is_not_listed_as_what_has_left_it_would_count_as_deleted(desk):
    with pytest.raises(Misconfigured, match="nothing to discover"):
        next(desk.source.find(), None)


def test_a_series_that_has_left_the_spool_is_unavailable(desk):
    with pytest.raises(Unavailable, match="push it again"):
        desk.source.describe("1.2.3")


def test_series_in_the_spool_of_another_machine_are_left_to_it(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    series = desk.source.describe(uid).series
    there = open_source(f"spool://{tmp_path}/nowhere", pseudonymize=hidden, state=tmp_path)
    with pytest.raises(Elsewhere, match="not on this machine") as raised:
        there.retrieve(series, tmp_path)
    assert raised.value.source == there.url


def test_the_doctor_sees_how_much_lies_in_the_spool(desk, tmp_path):
    uid, files = slices(tmp_path / "ct")
    desk.keep(uid, files)
    (probe,) = desk.source.probe()
    assert "1 series" in probe.sentence
    missing = open_source(f"spool://{tmp_path}/nowhere", pseudonymize=hidden, state=tmp_path)
    assert [probe.verdict for probe in missing.probe()] == ["wrong"]


def test_the_doctor_looks_at_the_spool_where_there_is_one(tmp_path):
    settings = load_settings(data=tmp_path / "data", receive={"spool": str(tmp_path / "spool")})
    assert "spool" not in {finding.part for finding in examine(settings)}
    Spool(tmp_path / "spool").close()
    (found,) = [finding for finding in examine(settings) if finding.part == "spool"]
    assert "0 series" in found.probe.sentence


# --- the listener -------------------------------------------------------------------------------


@contextmanager
def receiver(tmp_path: Path, **door: Any) -> Iterator[tuple[int, Spool, Counts]]:
    """A listener in this process, which is not waited for at its end."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("tomodex.receiving.listener.FINISH_S", 0.2)
    spool, counts = Spool(tmp_path / "spool"), Counts()
    with listening(Door(host="127.0.0.1", port=0, aet="TOMODEX", **door), spool, counts) as port:
        yield port, spool, counts
    spool.close()
    monkeypatch.undo()


@pytest.mark.parametrize(
    "syntax", [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]
)
def test_what_is_pushed_is_kept_as_it_is_encoded(tmp_path, syntax):
    pushed = ct_dataset(
        np.arange(64, dtype=np.uint16).reshape(8, 8),
        transfer_syntax=syntax,
        series_uid=generate_uid(),
    )
    with receiver(tmp_path) as (port, spool, counts):
        assert push(port, [pushed], syntax=syntax) == [SUCCESS]
        (file,) = spool.files(pushed.SeriesInstanceUID)
    kept = dcmread(file)
    assert kept.file_meta.TransferSyntaxUID == syntax
    assert kept == pushed
    assert file.name == f"{pushed.SOPInstanceUID}.dcm"
    assert (counts.received, counts.bytes) == (1, file.stat().st_size)


def test_the_volume_is_that_of_the_files_that_were_pushed(tmp_path):
    uid, files = slices(tmp_path / "ct")
    with receiver(tmp_path) as (port, spool, _):
        assert push(port, files) == [SUCCESS] * len(files)
        for file in spool.files(uid):
            original = next(one for one in files if one.stem == file.stem)
            assert dcmread(file).PixelData == dcmread(original).PixelData
            kept, pushed = read_instance(file, hidden), read_instance(original, hidden)
            assert (kept.frames, kept.attributes) == (pushed.frames, pushed.attributes)


def test_nothing_is_kept_and_no_success_answered_where_the_disk_does_not_take_it(
    tmp_path, monkeypatch
):
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    pushed = one_slice()
    with receiver(tmp_path) as (port, spool, counts):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            assert push(port, [pushed]) == [OUT_OF_RESOURCES]
        assert list(spool.folders()) == []
        assert list(spool.incoming.iterdir()) == []
        assert push(port, [pushed]) == [SUCCESS]
    assert counts.refused == {"0xA700": 1}


def test_nothing_is_taken_beyond_the_disk_space_that_is_to_be_left_free(tmp_path):
    with receiver(tmp_path, reserve_bytes=2**60) as (port, spool, _):
        assert push(port, [one_slice()]) == [OUT_OF_RESOURCES]
        assert list(spool.folders()) == []


def test_a_full_disk_in_the_middle_of_a_large_instance_is_answered(tmp_path, monkeypatch):
    large = one_slice(PixelData=bytes(6 * 2**20))
    room = iter([True, False])
    monkeypatch.setattr("tomodex.receiving.listener._has_room", lambda *_: next(room, False))
    with receiver(tmp_path) as (port, spool, _):
        assert push(port, [large]) == [OUT_OF_RESOURCES]
        assert list(spool.folders()) == []


def test_a_large_instance_is_kept_whole(tmp_path):
    large = one_slice(PixelData=np.random.default_rng(0).bytes(11 * 2**20))
    with receiver(tmp_path) as (port, spool, _):
        assert push(port, [large]) == [SUCCESS]
        (file,) = spool.files(large.SeriesInstanceUID)
        assert dcmread(file).PixelData == large.PixelData


def test_an_instance_that_is_not_what_it_was_announced_as_is_refused(tmp_path):
    pushed = one_slice()
    with receiver(tmp_path) as (port, spool, _), associated(port) as association:
        pushed.SOPClassUID = MRImageStorage
        pushed.file_meta.MediaStorageSOPClassUID = MRImageStorage
        # The command says CT, the data set MR.
        assert store_as(association, pushed, CTImageStorage) == OTHER_CLASS
        assert list(spool.folders()) == []


def store_as(association: Any, dataset: Dataset, sop_class: str) -> int:
    """Push a data set under another SOP class than its own."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.DataSet = BytesIO(encode(dataset, False, True))
    (context,) = [c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage]
    association._reactor_checkpoint.clear()  # it would take the answer
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


@pytest.mark.parametrize("series_uid", ["", "..", "1.2/../../3"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_instance_without_a_series_is_refused(tmp_path, series_uid):
    with receiver(tmp_path) as (port, spool, _):
        assert push(port, [one_slice(SeriesInstanceUID=series_uid)]) == [NOT_UNDERSTOOD]
        assert list(spool.folders()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool"]


def test_who_calls_another_is_refused(tmp_path):
    with receiver(tmp_path) as (port, _, _), associated(port, called="PACS") as association:
        assert association.is_rejected


def test_who_is_not_allowed_is_refused(tmp_path):
    with receiver(tmp_path, allow=("CT1",)) as (port, _, _):
        with associated(port, calling="OTHER") as association:
            assert association.is_rejected
        with associated(port, calling="CT1") as association:
            assert association.is_established
            assert association.send_c_echo().Status == SUCCESS


def test_ten_push_at_once(tmp_path):
    series = [slices(tmp_path / str(n), shape=(6, 40, 50)) for n in range(10)]
    with receiver(tmp_path) as (port, spool, counts):
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda one: push(port, one[1]), series))
        assert answers == [[SUCCESS] * 6] * 10
        assert {uid: len(spool.files(uid)) for uid, _ in series} == {uid: 6 for uid, _ in series}
    assert counts.received == 60


def test_more_associations_than_are_allowed_are_refused(tmp_path):
    with receiver(tmp_path, associations=1) as (port, _, _), associated(port) as first:
        assert first.is_established
        with associated(port) as second:
            assert second.is_rejected


def test_strangers_do_not_stop_the_receiver(tmp_path):
    strange = [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">BBL", 1, 0, 2**32 - 1),  # an A-ASSOCIATE-RQ of 4 GiB
        struct.pack(">BBL", 4, 0, 12) + bytes(12),  # data before any association
        os.urandom(1000),
        b"\x01\x00",  # and then silence
    ]
    with receiver(tmp_path) as (port, _, _):
        connections = []
        for sent in strange:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(sent)
            connections.append(connection)
        assert push(port, [one_slice()]) == [SUCCESS]
        for connection in connections:
            connection.close()


def test_a_pdu_is_not_read_beyond_what_any_needs():
    with pytest.raises(OSError, match="more bytes"):
        wire.receive(None, wire.MOST_PDU_BYTES + 1)


def test_a_peer_that_does_not_wait_for_answers_has_to_wait(tmp_path):
    datasets = [one_slice() for _ in range(8)]
    with receiver(tmp_path) as (port, _, counts), associated(port) as association:
        association._reactor_checkpoint.clear()  # it would take the answers
        (context,) = [
            c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage
        ]
        for number, dataset in enumerate(datasets):
            request = C_STORE()
            request.MessageID, request.Priority = number + 1, 2
            request.AffectedSOPClassUID = dataset.SOPClassUID
            request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
            request.DataSet = BytesIO(encode(dataset, False, True))
            association.dimse.send_msg(request, context.context_id)
        answers = [association.dimse.get_msg(block=True)[1] for _ in datasets]
        association._reactor_checkpoint.set()
        assert [a.MessageIDBeingRespondedTo for a in answers] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert {a.Status for a in answers} == {SUCCESS}
    assert counts.received == 8


def test_an_association_that_goes_on_for_too_long_is_ended_with_the_receiver(tmp_path):
    with associated_after_its_end(tmp_path) as association:
        wait_for(lambda: association.is_aborted, seconds=10)


@contextmanager
def associated_after_its_end(tmp_path: Path) -> Iterator[Any]:
    """An association with a receiver that has ended."""
    with ExitStack() as stack:
        with receiver(tmp_path) as (port, _, _):
            association = stack.enter_context(associated(port))
            assert association.is_established
        yield association


def test_nothing_of_an_association_that_breaks_off_is_left(tmp_path):
    large = one_slice(PixelData=bytes(20 * 2**20))
    with receiver(tmp_path) as (port, spool, counts):
        with associated(port) as association:
            break_off(association, large)
        wait_for(lambda: not list(spool.incoming.iterdir()))
        assert push(port, [one_slice()]) == [SUCCESS]
        assert len(list(spool.folders())) == counts.received == 1
        assert list(spool.incoming.iterdir()) == []


def break_off(association: Any, dataset: Dataset) -> None:
    """Push most of a data set, then be gone."""
    (context,) = [c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage]
    request = store_request(encode(dataset, False, True))
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    sent = encoded(C_STORE_RQ, request, context.context_id, 2**17)
    association.dul.kill_dul()
    association.dul.join()
    association.dul.socket.socket.sendall(sent[: -(2**20)])
    association.dul.socket.socket.close()
    association.is_established = False


def test_with_tls_only_those_with_a_certificate_may_push(tmp_path):
    import ssl

    authority = trustme.CA()
    ours, theirs = authority.issue_cert("localhost"), authority.issue_cert("ct1.example")
    ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "ours.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    known, unknown = ssl.create_default_context(), ssl.create_default_context()
    for context in (known, unknown):
        authority.configure_trust(context)
    theirs.configure_cert(known)
    tls = {"certificate": tmp_path / "ours.pem", "peers": tmp_path / "ca.pem"}
    with receiver(tmp_path, **tls) as (port, _, counts):
        # Somebody who connects and says nothing must not hold up the others.
        with socket.create_connection(("127.0.0.1", port)):
            begin = time.monotonic()
            assert push(port, [one_slice()], tls=(known, "localhost")) == [SUCCESS]
            assert time.monotonic() - begin < wire.SILENCE_S / 2
        with associated(port, tls=(unknown, "localhost")) as association:
            assert not association.is_established
        with associated(port) as association:
            assert not association.is_established
    assert counts.received == 1


def test_a_port_that_is_taken_is_named(tmp_path):
    with receiver(tmp_path) as (port, spool, _):
        door = Door(host="127.0.0.1", port=port, aet="TOMODEX")
        with pytest.raises(Misconfigured, match=str(port)), listening(door, spool, Counts()):
            pass


@pytest.mark.parametrize("guard", [{"allow": ["PACS"]}, {"peers": "ca.pem", "certificate": "c"}])
def test_others_may_push_only_where_it_is_said_who(guard):
    exposed = load_settings(receive={"host": "0.0.0.0"}).receive
    with pytest.raises(Misconfigured, match="who may push"):
        require_guard(exposed)
    require_guard(load_settings(receive={"host": "0.0.0.0", **guard}).receive)
    require_guard(load_settings().receive)


# --- all of it ----------------------------------------------------------------------------------


def test_what_is_pushed_is_put_and_the_end_says_so(tmp_path):
    uid, files = slices(tmp_path / "ct")
    with receiving(tmp_path, "--quiet-s", "0.5") as (process, port):
        assert push(port, files) == [SUCCESS] * len(files)
        queue = open_queue(f"sqlite://{tmp_path}/data/tomodex.db")
        wait_for(lambda: queue.states(uid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    summary = json.loads((tmp_path / "out.json").read_text())
    assert summary["received"]["received"] == len(files)
    assert (summary["series"]["put"], summary["open"]) == (1, 0)
    queue.close()


def test_whatever_was_answered_with_success_survives_kill_9(tmp_path):
    uid, files = slices(tmp_path / "ct", shape=(200, 8, 10))
    answered: list[str] = []
    with receiving(tmp_path, "--quiet-s", "0.5") as (process, port):

        def push_until_it_dies() -> None:
            with associated(port) as association:
                for file in files:
                    if store(association, file) != SUCCESS:
                        return
                    answered.append(file.name)

        pushing = threading.Thread(target=push_until_it_dies, daemon=True)
        pushing.start()
        wait_for(lambda: len(answered) > 20, process)
        listener = children(process.pid)
        process.kill()
        for pid in listener:
            os.kill(pid, signal.SIGKILL)
        pushing.join(60)
    kept = {file.name for file in Spool(tmp_path / "data" / "spool").files(uid)}
    assert 20 < len(answered) < len(files)
    assert set(answered) <= kept
    with receiving(tmp_path, "--quiet-s", "0.5") as (_, _):
        queue = open_queue(f"sqlite://{tmp_path}/data/tomodex.db")
        wait_for(lambda: queue.states(uid))
        assert queue.states(uid)[0].series.instance_count == len(kept)
        queue.close()


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def test_the_listener_ends_when_whoever_started_it_is_gone(tmp_path):
    with receiving(tmp_path) as (process, port):
        listener = children(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in listener))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
