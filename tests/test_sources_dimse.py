"""A PACS over DIMSE: what is found of one that caps its answers, and what goes wrong on the way."""

from __future__ import annotations

import gc
import logging
import os
import socket
import ssl
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG2MPML,
    ComputedRadiographyImageStorage,
    JPEG2000Lossless,
    SegmentationStorage,
)
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider

from tests.contracts.source import SourceContract, by_uid
from tests.pacs import FIND, VERIFICATION, HeldSeries, HeldStudy, Pacs, held_study, hospital
from tests.servers.ports import free_port
from tests.test_instance import as_bytes, item, read
from tests.test_sources_folder import PATIENT, pseudonym, slice_of
from tomodex.errors import Misconfigured, NotThere, Suspended, Unavailable
from tomodex.series import Listing, Series
from tomodex.sources import Window, open_source
from tomodex.sources.dimse import association as association_module
from tomodex.sources.dimse import limits, splitting
from tomodex.sources.dimse.limits import find_limit, remembered
from tomodex.sources.dimse.options import options_of, peer_of
from tomodex.sources.dimse.queries import DAY_S, Question, Row
from tomodex.sources.dimse.retrieving import storage_contexts
from tomodex.sources.dimse.source import DimseSource
from tomodex.sources.dimse.splitting import Limit, Reply, Splitter
from tomodex.sources.gate import suspensions

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    """pynetdicom leaves the socket of a connection that was refused to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


TODAY = date(2026, 7, 1)
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"  #: Label Map Segmentation Storage
NO_LIMIT = Limit(rows=None, seen=10_000)


def open_pacs(pacs: Pacs, tmp_path: Path, options: str = "") -> DimseSource:
    """The PACS, as another process would open it."""
    source = open_source(
        f"{pacs.url}?{options}", pseudonymize=pseudonym, state=tmp_path / "state", free_text=False
    )
    assert isinstance(source, DimseSource)
    return source


def study_of_five(**elements: object) -> list[Dataset]:
    """A study of one series, to be held by a PACS."""
    return [slice_of("1.2.1", k, StudyDate="20260601", **elements) for k in range(5)]


def three_series() -> list[Dataset]:
    """Two CT series and the SEG of the first, in one study."""
    seg = slice_of("1.2.3", 0, SOPClassUID=SegmentationStorage, Modality="SEG")
    seg.ReferencedSeriesSequence = [item(SeriesInstanceUID="1.2.1")]
    return [*study_of_five(), *(slice_of("1.2.2", k) for k in range(3)), seg]


class TestDimseSource(SourceContract):
    pacs: Pacs

    @pytest.fixture
    def archive(self) -> Iterator[tuple[str, str, str]]:
        with Pacs([held_study(three_series())]).running() as pacs:
            self.pacs = pacs
            yield "1.2.1", "1.2.2", "1.2.3"

    def open_again(self, tmp_path: Path) -> DimseSource:
        return open_pacs(self.pacs, tmp_path)


# --- what a listing says ------------------------------------------------------------------------


def found(pacs: Pacs, tmp_path: Path, options: str = "", **asked: object) -> list[Listing]:
    with pacs.running():
        return list(open_pacs(pacs, tmp_path, options).find(**asked))  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Pacs]:
    """A PACS with a study of three series."""
    with Pacs([held_study(three_series())]).running() as pacs:
        yield pacs


def test_a_listing_has_what_the_archive_says_of_study_and_series(
    small: Pacs, tmp_path: Path
) -> None:
    series = by_uid(open_pacs(small, tmp_path))["1.2.1"].series
    assert series.study_uid == "1.2"
    assert series.modality == "CT"
    assert series.instance_count == 5
    assert series.segmentations == 1
    assert dict(series.attributes) == {
        "Modality": "CT",
        "StudyDate": "2026-06-01",
        "PatientAge": 66.0,
        "PatientSex": "F",
        "BodyPartExamined": "ABDOMEN",
        "SeriesNumber": 1.0,
    }


def test_the_pseudonym_is_the_one_that_the_header_gives(tmp_path: Path) -> None:
    instances = three_series()
    key: dict[str, str] = {}
    source_of = lambda pacs: DimseSource(  # noqa: E731
        pacs.url, pseudonymize=lambda who: key.setdefault(who, f"p{len(key)}"), state=tmp_path
    )
    with Pacs([held_study(instances)]).running() as pacs:
        patients = {listing.series.patient for listing in source_of(pacs).find()}
    header = read(instances[0])
    assert header is not None
    assert header.patient == f"<{PATIENT}>"
    assert patients == {key[PATIENT]}


def test_a_fingerprint_changes_when_instances_or_segmentations_come(tmp_path: Path) -> None:
    fingerprints = []
    for n, extra in enumerate([[], [slice_of("1.2.1", 9)], [three_series()[-1]]]):
        pacs = Pacs([held_study([*study_of_five(), *extra])])
        listings = found(pacs, tmp_path / str(n))
        fingerprints += [one.series.fingerprint for one in listings if one.series.modality == "CT"]
    assert len(set(fingerprints)) == 3
    assert all(fingerprints)


def test_an_archive_that_counts_nothing_has_no_fingerprint(tmp_path: Path) -> None:
    pacs = Pacs([held_study(study_of_five())], counts=False)
    (listing,) = found(pacs, tmp_path)
    assert listing.series.instance_count is None
    assert listing.series.fingerprint == ""


def test_a_window_has_the_studies_of_its_days_only(tmp_path: Path) -> None:
    studies = [study(f"1.2.{k}", f"202606{k:02}") for k in range(1, 10)]
    window = Window(first=date(2026, 6, 3), last=date(2026, 6, 5))
    listings = found(Pacs(studies), tmp_path, window=window)
    assert [one.series.study_uid for one in listings] == ["1.2.3", "1.2.4", "1.2.5"]


# --- whole answers ------------------------------------------------------------------------------


def study(uid: str, day: str, clock: str = "120000", modality: str = "CT") -> HeldStudy:
    series = (HeldSeries(uid=f"{uid}.1", modality=modality, count=3),)
    return HeldStudy(uid=uid, day=day, time=clock, patient="P", series=series)


@dataclass(frozen=True, slots=True)
class Told:
    """What the splitter needs of a row, without DICOM in between: it takes a tenth of the time."""

    uid: str
    day: date | None
    second: int | None
    modalities: frozenset[str]


def told(one: HeldStudy) -> Row:
    clock = f"{one.time:0<6}" if one.time else ""
    return cast(
        Row,
        Told(
            uid=one.uid,
            day=date.fromisoformat(one.day) if one.day else None,
            second=int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:]) if clock else None,
            modalities=frozenset(one.modalities),
        ),
    )


def ask_directly(pacs: Pacs) -> Callable[[Question], Reply]:
    """Questions to the PACS without a network in between."""

    def ask(question: Question) -> Reply:
        keys = {
            "StudyDate": question.dates,
            "StudyTime": question.times,
            "ModalitiesInStudy": question.modality,
        }
        pacs.requests["C-FIND STUDY"] += 1
        answers = [told(one) for one in pacs.matching(keys)]
        n = len(answers) if pacs.limit is None else pacs.limit
        refused = len(answers) > n and pacs.says_limit
        return Reply(rows=answers[:n], cut=refused, why="0xA700" if refused else "")

    return ask


def listed(pacs: Pacs, window_days: int = 366) -> list[str]:
    """The studies that are found, once the limit is known."""
    ask = ask_directly(pacs)
    splitter = Splitter(ask, find_limit(ask, TODAY), window_days, "PACS")
    return [row.uid for rows in splitter.everything(TODAY) for row in rows]


@pytest.mark.parametrize("limit", [None, 50, 333])
def test_every_study_of_a_hospital_is_found_exactly_once(limit: int | None) -> None:
    pacs = Pacs(hospital(5_000, busiest=400), limit=limit)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)
    assert pacs.requests["C-FIND STUDY"] < 350


def test_every_series_is_found_exactly_once_over_the_network(tmp_path: Path) -> None:
    pacs = Pacs(hospital(150, busiest=40), limit=15)
    listings = found(pacs, tmp_path, "simultaneous=3&answer_limit=15")
    assert Counter(one.series.series_uid for one in listings) == Counter(
        series.uid for one in pacs.studies for series in one.series
    )


def test_a_relational_archive_is_asked_for_many_series_at_once(tmp_path: Path) -> None:
    pacs = Pacs(hospital(150, busiest=30), limit=40)
    listings = found(pacs, tmp_path, "relational=yes&answer_limit=40")
    assert Counter(one.series.series_uid for one in listings) == Counter(
        series.uid for one in pacs.studies for series in one.series
    )
    assert {one.series.attributes["PatientSex"] for one in listings} == {"F"}
    assert pacs.requests["C-FIND STUDY"] == 0


def test_an_archive_that_refuses_too_many_answers_is_asked_in_parts() -> None:
    pacs = Pacs(hospital(1_000, busiest=100), limit=30, says_limit=True)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_many_studies_of_one_second_are_told_apart_by_modality() -> None:
    modalities = ("CT", "MR", "US", "XA")
    studies = [study(f"1.{k}", "20260601", "000000", modalities[k % 4]) for k in range(100)]
    pacs = Pacs([*studies, study("2.1", "20250101")], limit=30)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_more_studies_of_one_second_and_modality_than_the_limit_are_no_whole_day() -> None:
    studies = [study(f"1.{k}", "20260601", "000000") for k in range(100)]
    pacs = Pacs([*studies, study("2.1", "20250101")], limit=30)
    with pytest.raises(Unavailable, match=r"more studies of 2026-06-01 than the 30"):
        listed(pacs)


def test_an_archive_that_ignores_times_is_asked_by_modality() -> None:
    modalities = ("CT", "MR", "US", "XA")
    studies = [
        study(f"1.{k}", "20260601", f"{k % 24:02}0000", modalities[k % 4]) for k in range(100)
    ]
    pacs = Pacs([*studies, study("2.1", "20250101")], limit=30, matches_times=False)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_an_archive_that_ignores_times_and_modalities_is_not_believed() -> None:
    studies = [study(f"1.{k}", "20260601", f"{k % 24:02}0000") for k in range(100)]
    pacs = Pacs(
        [*studies, study("2.1", "20250101")],
        limit=30,
        matches_times=False,
        matches_modalities=False,
    )
    with pytest.raises(Unavailable, match="2026-06-01"):
        listed(pacs)


def test_studies_without_a_time_are_found_on_a_day_that_is_capped() -> None:
    timed = [study(f"1.{k}", "20260601", f"{k % 24:02}{k % 60:02}00", "CT") for k in range(100)]
    untimed = [study(f"2.{k}", "20260601", "", "MR") for k in range(5)]
    pacs = Pacs([*timed, *untimed, study("3.1", "20250101")], limit=30)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_more_studies_without_a_time_than_the_limit_are_no_whole_day() -> None:
    timed = [study(f"1.{k}", "20260601", f"{k % 24:02}0000") for k in range(50)]
    untimed = [study(f"2.{k}", "20260601", "") for k in range(50)]
    pacs = Pacs([*timed, *untimed, study("3.1", "20250101")], limit=30)
    with pytest.raises(Unavailable, match="2026-06-01"):
        listed(pacs)


def test_studies_of_impossible_days_are_found_too() -> None:
    days = ("18581117", "19000101", "20260601", "29991231")
    many = [study(f"1.{k}.{n}", day) for k, day in enumerate(days) for n in range(10)]
    pacs = Pacs(many, limit=15)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_studies_without_a_day_are_found_where_the_archive_shows_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dated = [study(f"1.{k}", f"202606{1 + k % 30:02}") for k in range(60)]
    pacs = Pacs([study("2.1", ""), *dated], limit=25)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)
    assert "studies without a date" in caplog.messages


def test_an_archive_that_ignores_the_day_is_not_believed() -> None:
    pacs = Pacs([study(f"1.{k}", "20260601") for k in range(3)])
    ask = ask_directly(pacs)
    splitter = Splitter(lambda _: ask(Question(first=None, last=None)), NO_LIMIT, 366, "PACS")
    with pytest.raises(Unavailable, match="studies of other days"):
        list(splitter.between(date(2020, 1, 1), date(2020, 1, 2)))


def test_an_answer_longer_than_any_before_is_asked_again_in_parts() -> None:
    pacs = Pacs([study(f"1.{k}", "20260601", f"{k % 24:02}0000") for k in range(150)], limit=120)
    splitter = Splitter(ask_directly(pacs), Limit(rows=None, seen=3), 366, "PACS")
    day = date(2026, 6, 1)
    assert len([row for rows in splitter.between(day, day) for row in rows]) == 150


def test_an_archive_whose_studies_are_all_of_one_day_is_found_wholly() -> None:
    studies = [study(f"1.{k}", "20260601", f"{k % 24:02}{k % 60:02}00") for k in range(700)]
    pacs = Pacs(studies, limit=150)
    assert Counter(listed(pacs)) == Counter(one.uid for one in studies)


def test_a_limit_as_large_as_what_is_listened_to_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOST", 150)
    monkeypatch.setattr(splitting, "MOST", 150)
    pacs = Pacs(hospital(2_000, busiest=300), limit=150)
    assert Counter(listed(pacs)) == Counter(one.uid for one in pacs.studies)


def test_an_archive_without_limit_is_not_listened_to_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tomodex.sources.dimse.source.MOST", 20)
    monkeypatch.setattr(limits, "MOST", 20)
    monkeypatch.setattr(splitting, "MOST", 20)
    pacs = Pacs(hospital(100, busiest=30))
    listings = found(pacs, tmp_path)
    assert len({one.series.series_uid for one in listings}) == len(listings) == 100


@given(st.lists(st.integers(0, DAY_S - 1), max_size=60), st.integers(2, 12), st.booleans())
def test_hours_part_a_day_without_loss(seconds: list[int], limit: int, whole_minutes: bool) -> None:
    times = [
        f"{s // 3600:02}{s // 60 % 60:02}" + f"{s % 60:02}" * (not whole_minutes) for s in seconds
    ]
    begins = [s if not whole_minutes else s // 60 * 60 for s in seconds]
    most = max((sum(s in (b, b + 1) for s in begins) for b in begins), default=0)
    studies = [study(f"1.{k}", "20260601", clock) for k, clock in enumerate(times)]
    pacs = Pacs(studies, limit=max(limit, most + 1))
    ask = ask_directly(pacs)
    splitter = Splitter(ask, Limit(rows=pacs.limit, seen=0), 366, "PACS")
    day = date(2026, 6, 1)
    rows = [row.uid for rows in splitter.between(day, day) for row in rows]
    assert Counter(rows) == Counter(one.uid for one in studies)


# --- the limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [7, 100, 499])
def test_the_limit_of_an_archive_is_found_out(limit: int) -> None:
    pacs = Pacs(hospital(5_000, busiest=200), limit=limit)
    assert find_limit(ask_directly(pacs), TODAY).rows == limit


def test_an_archive_without_limit_shows_none() -> None:
    pacs = Pacs(hospital(500, busiest=100))
    known = find_limit(ask_directly(pacs), TODAY)
    assert known == Limit(rows=None, seen=len(pacs.studies))


def test_an_archive_whose_last_study_is_long_ago_is_looked_through() -> None:
    pacs = Pacs([study(f"1.{k}", f"199101{1 + k % 20:02}") for k in range(60)], limit=40)
    assert find_limit(ask_directly(pacs), TODAY).rows == 40


def test_the_limit_is_remembered_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find() -> Limit:
        asked.append(1)
        return Limit(rows=500, seen=500)

    first = remembered(tmp_path, "dimse://x", "studies", find)
    assert remembered(tmp_path, "dimse://x", "studies", find) == first
    assert len(asked) == 1
    remembered(tmp_path, "dimse://y", "studies", find)
    assert len(asked) == 2
    later = time.time() + limits.BELIEVED_S + 1
    monkeypatch.setattr(limits.time, "time", lambda: later)
    remembered(tmp_path, "dimse://x", "studies", find)
    assert len(asked) == 3


def study_of_eighteen(*modalities: str) -> HeldStudy:
    series = tuple(
        HeldSeries(uid=f"1.2.{k}", modality=modalities[k % len(modalities)], count=1)
        for k in range(18)
    )
    return HeldStudy(uid="1.2", day="20260601", time="120000", patient="P", series=series)


def test_a_study_with_more_series_than_the_limit_is_asked_by_modality(tmp_path: Path) -> None:
    series = [
        HeldSeries(uid=f"1.2.{k}", modality="CT" if k % 2 else "MR", count=1) for k in range(18)
    ]
    big = HeldStudy(uid="1.2", day="20260601", time="120000", patient="P", series=tuple(series))
    pacs = Pacs([big], limit=10)
    listings = found(pacs, tmp_path, "answer_limit=10")
    assert len({one.series.series_uid for one in listings}) == len(listings) == 18


def test_a_study_that_has_fewer_series_than_it_is_said_to_have_is_listed(tmp_path: Path) -> None:
    pacs = Pacs([study_of_eighteen("CT", "MR")], says_series=20)
    assert len(found(pacs, tmp_path)) == 18


def test_a_study_whose_series_are_capped_whatever_is_asked_is_unavailable(tmp_path: Path) -> None:
    pacs = Pacs([study_of_eighteen("CT")], limit=10)
    with pytest.raises(Unavailable, match=r"more series of modality CT in study 1\.2 than the 10"):
        found(pacs, tmp_path, "answer_limit=10")


# --- instances ----------------------------------------------------------------------------------


def retrieved(source: DimseSource, tmp_path: Path, uid: str = "1.2.1") -> list[Path]:
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    series = Series(series_uid=uid, study_uid="1.2", patient="p", modality="CT")
    return list(source.retrieve(series, into))


def test_instances_arrive_as_they_are_stored(tmp_path: Path) -> None:
    instances = study_of_five()
    for n, instance in enumerate(instances):
        instance.PixelData = bytes([n, 1] * 6)
    with Pacs([held_study(instances)]).running() as pacs:
        files = retrieved(open_pacs(pacs, tmp_path), tmp_path)
    sent = {
        str(one.SOPInstanceUID): as_bytes(one).split(b"\x08\x00\x08\x00", 1)[1] for one in instances
    }
    assert {file.stem: file.read_bytes().split(b"\x08\x00\x08\x00", 1)[1] for file in files} == sent


def test_compressed_instances_stay_compressed(tmp_path: Path) -> None:
    instances = study_of_five()
    for instance in instances:
        instance.file_meta.TransferSyntaxUID = JPEG2000Lossless
        instance.PixelData = encapsulate([b"ab"])
        instance["PixelData"].VR = "OB"
        instance["PixelData"].is_undefined_length = True
    with Pacs([held_study(instances)]).running() as pacs:
        files = retrieved(open_pacs(pacs, tmp_path), tmp_path)
    assert len(files) == 5
    for file in files:
        assert read(file.read_bytes()).transfer_syntax == JPEG2000Lossless  # type: ignore[union-attr]


@pytest.mark.parametrize("options", ["retrieve=move", "retrieve=auto"])
def test_instances_come_by_c_move_where_c_get_is_not_offered(tmp_path: Path, options: str) -> None:
    port = free_port()
    offers = (VERIFICATION, FIND, "1.2.840.10008.5.1.4.1.2.2.2")
    pacs = Pacs([held_study(study_of_five())], offers=offers, destinations={"MINE": port})
    with pacs.running():
        source = open_pacs(
            pacs, tmp_path, f"{options}&move_port={port}&move_aet=MINE&move_address=127.0.0.1"
        )
        assert len(retrieved(source, tmp_path)) == 5
        assert len(retrieved(source, tmp_path)) == 5
    assert pacs.requests["C-MOVE"] == 2


def test_a_destination_that_the_archive_does_not_know_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Pacs([held_study(study_of_five())]).running() as pacs:
        source = open_pacs(pacs, tmp_path, f"retrieve=move&move_port={port}&move_address=127.0.0.1")
        with pytest.raises(Unavailable, match=r"to TOMODEX with status 0xA801.*enter our AE title"):
            retrieved(source, tmp_path)


def test_several_processes_share_the_ports_of_c_move(tmp_path: Path) -> None:
    port = free_port()
    pacs = Pacs([held_study(study_of_five())], destinations={"TOMODEX": port})
    with pacs.running():
        results: list[int] = []

        def retrieve(n: int) -> None:
            source = open_pacs(
                pacs, tmp_path, f"retrieve=move&move_port={port}&move_address=127.0.0.1"
            )
            (tmp_path / str(n)).mkdir()
            results.append(len(retrieved(source, tmp_path / str(n))))

        threads = [threading.Thread(target=retrieve, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [5, 5, 5]


def test_an_archive_without_c_get_and_a_source_without_port_say_what_to_do(tmp_path: Path) -> None:
    with (
        Pacs([held_study(study_of_five())], offers=(VERIFICATION, FIND)).running() as pacs,
        pytest.raises(Unavailable, match="permit it there, or give move_port"),
    ):
        retrieved(open_pacs(pacs, tmp_path), tmp_path)


def test_half_a_series_is_unavailable_and_says_both_numbers(tmp_path: Path) -> None:
    with (
        Pacs([held_study(study_of_five())], leaves_out=2).running() as pacs,
        pytest.raises(Unavailable, match=r"sent 3 of the 5 instances of series 1\.2\.1"),
    ):
        retrieved(open_pacs(pacs, tmp_path), tmp_path)


def test_a_count_that_is_old_does_not_hold_up_a_series_that_came_wholly(tmp_path: Path) -> None:
    whole = held_study(study_of_five())
    stale = replace(whole.series[0], count=7)
    with Pacs([replace(whole, series=(stale,))]).running() as pacs:
        assert len(retrieved(open_pacs(pacs, tmp_path), tmp_path)) == 5
        # As many as it lists are no proof where it lists so many at most.
        with pytest.raises(Unavailable, match="sent 5 of the 7"):
            retrieved(open_pacs(pacs, tmp_path, "answer_limit=5"), tmp_path)


def test_a_segmentation_that_cannot_be_sent_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one of a class that the PACS does not know."""
    label_map = slice_of("1.2.4", 0, Modality="SEG", SOPClassUID=LABEL_MAP)
    label_map.file_meta.MediaStorageSOPClassUID = LABEL_MAP
    series = Series(series_uid="1.2.1", study_uid="1.2", patient="p", modality="CT")
    with Pacs([held_study([*three_series(), label_map])]).running() as pacs:
        (file,) = open_pacs(pacs, tmp_path).retrieve_segmentations(series, tmp_path)
    assert file.parent.name == "1.2.3"
    assert "left out a segmentation that the archive cannot send" in caplog.messages


def test_a_segmentation_of_an_archive_that_dies_is_not_left_out(tmp_path: Path) -> None:
    series = Series(series_uid="1.2.1", study_uid="1.2", patient="p", modality="CT")
    pacs = Pacs([held_study(three_series())], leaves_out=1)
    with pacs.running(), pytest.raises(Unavailable, match="sent 0 of the 1"):
        open_pacs(pacs, tmp_path).retrieve_segmentations(series, tmp_path)


def test_an_empty_answer_counts_where_the_archive_finds_another_series(tmp_path: Path) -> None:
    with Pacs([held_study(three_series())]).running() as pacs:
        source = open_pacs(pacs, tmp_path)
        with pytest.raises(Unavailable) as raised:
            source.describe("1.2.99")
        assert not isinstance(raised.value, NotThere)
        list(source.find())
        with pytest.raises(NotThere):
            source.describe("1.2.99")
        matching = pacs.matching
        within = lambda keys: matching(keys) if keys.get("StudyInstanceUID") else ()  # noqa: E731
        pacs.matching = within  # type: ignore[method-assign,assignment]
        with pytest.raises(Unavailable) as raised:
            source.describe("1.2.99")
        assert not isinstance(raised.value, NotThere)


def test_an_instance_in_a_syntax_that_nobody_decodes_is_missed(tmp_path: Path) -> None:
    instances = study_of_five()
    instances[3].file_meta.TransferSyntaxUID = MPEG2MPML
    instances[3].PixelData = encapsulate([b"ab"])
    instances[3]["PixelData"].VR = "OB"
    with Pacs([held_study(instances)]).running() as pacs:
        source = open_pacs(pacs, tmp_path)
        with pytest.raises(Unavailable, match=r"sent 4 of the 5 instances .* 1 failed there"):
            retrieved(source, tmp_path)


def test_answers_that_name_nothing_are_counted(tmp_path: Path) -> None:
    nameless = HeldSeries(uid="", modality="CT", count=1)
    whole = study("1.1", "20260601")
    with Pacs([replace(whole, series=(*whole.series, nameless))]).running() as pacs:
        source = open_pacs(pacs, tmp_path)
        assert len(list(source.find())) == 1
        assert source.skipped() == {"makes no sense": 1}


def test_instances_of_other_classes_are_asked_for_in_a_second_try(tmp_path: Path) -> None:
    instances = study_of_five()
    for cls in instances[:2]:
        cls.SOPClassUID = ComputedRadiographyImageStorage
        cls.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    with Pacs([held_study(instances)]).running() as pacs:
        assert len(retrieved(open_pacs(pacs, tmp_path), tmp_path)) == 5
    assert pacs.requests["C-GET"] == 2


def test_instances_of_another_series_are_not_taken(tmp_path: Path) -> None:
    wrong = held_study(study_of_five())
    foreign = slice_of("1.2.9", 4)
    series = replace(wrong.series[0], instances=(*wrong.series[0].instances[:4], foreign))
    with (
        Pacs([replace(wrong, series=(series,))]).running() as pacs,
        pytest.raises(Unavailable, match="sent 4 of the 5"),
    ):
        retrieved(open_pacs(pacs, tmp_path), tmp_path)
    assert len(list((tmp_path / "into" / "instances").iterdir())) == 4


def test_a_full_disk_is_said_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    with Pacs([held_study(study_of_five())]).running() as pacs:
        source = open_pacs(pacs, tmp_path)
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(Unavailable, match="no space left on"):
            retrieved(source, tmp_path)
    assert list((tmp_path / "into" / "instances").iterdir()) == []


def test_a_context_is_proposed_for_each_class_and_syntax_as_far_as_128_reach() -> None:
    for classes in (1, 3, 6, 7, 20, 100, 127):
        contexts = storage_contexts([f"1.2.{n}" for n in range(classes)], 127)
        assert len(contexts) <= 127
        assert {str(one.abstract_syntax) for one in contexts} == {
            f"1.2.{n}" for n in range(classes)
        }
    assert all(len(one.transfer_syntax) == 1 for one in storage_contexts(["1.2"], 127))


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_title_that_the_archive_does_not_know_is_named(tmp_path: Path) -> None:
    with (
        Pacs([]).running(require_calling_aet=["OTHER"]) as pacs,
        pytest.raises(Unavailable, match="does not know our AE title; enter TOMODEX there"),
    ):
        list(open_pacs(pacs, tmp_path).find())


def test_a_wrong_called_title_is_named(tmp_path: Path) -> None:
    with Pacs([]).running() as pacs:
        source = DimseSource(
            pacs.url.replace("ARCHIVE", "WRONG"), pseudonymize=pseudonym, state=tmp_path
        )
        with pytest.raises(Unavailable, match="it is not called WRONG"):
            list(source.find())


def test_a_host_where_nothing_listens_costs_no_attempt_and_is_left_alone(tmp_path: Path) -> None:
    url = f"dimse://TOMODEX@127.0.0.1:{free_port()}/ARCHIVE"
    source = DimseSource(url, pseudonymize=pseudonym, state=tmp_path)
    for _ in range(3):
        with pytest.raises(Suspended, match=r"ARCHIVE at .* Connection refused"):
            list(source.find())
    with pytest.raises(Suspended):
        list(source.find())
    assert [one.source for one in suspensions(tmp_path)] == [url]


def test_something_that_is_no_archive_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"dimse://TOMODEX@127.0.0.1:{port}/ARCHIVE?connect_s=0.5"
        source = DimseSource(url, pseudonymize=pseudonym, state=tmp_path)
        with pytest.raises(Unavailable, match="does not answer as a DICOM node does"):
            list(source.find())


def at_answer(n: int, act: Callable[[evt.Event], object]) -> Callable[[evt.Event, int], None]:
    return lambda event, so_far: act(event) and None if so_far == n else None


def test_an_archive_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    silence = threading.Event()
    pacs = Pacs([study(f"1.{k}", "20260601") for k in range(5)])
    pacs.before_answer = at_answer(2, lambda _: silence.wait(20))
    with pacs.running():
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"it was silent for 0\.5 s"):
            list(open_pacs(pacs, tmp_path, "answer_s=0.5").find())
        assert time.monotonic() - begin < 10
        silence.set()


def test_an_archive_that_never_ends_is_given_up(tmp_path: Path) -> None:
    pacs = Pacs([study(f"1.{k}", "20260601") for k in range(2000)])
    pacs.before_answer = lambda event, n: time.sleep(0.05)
    with pacs.running(), pytest.raises(Unavailable, match=r"it was not done after 1 s"):
        list(open_pacs(pacs, tmp_path, "transfer_s=1").find())


@pytest.mark.parametrize("request_name", ["find", "retrieve"])
def test_an_archive_that_aborts_in_the_middle_is_unavailable(
    tmp_path: Path, request_name: str
) -> None:
    pacs = Pacs([held_study(study_of_five())])
    pacs.before_answer = at_answer(3, lambda event: event.assoc.abort())
    if request_name == "find":
        pacs = Pacs([study(f"1.{k}", "20260601") for k in range(5)])
        pacs.before_answer = at_answer(3, lambda event: event.assoc.abort())
    with pacs.running():
        source = open_pacs(pacs, tmp_path)
        with pytest.raises(Unavailable, match="to the end: it closed the connection"):
            list(source.find()) if request_name == "find" else retrieved(source, tmp_path)


def test_too_large_a_message_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association_module, "MAX_INSTANCE", 100_000)
    instances = study_of_five()
    instances[2].PixelData = bytes(1_000_000)
    with (
        Pacs([held_study(instances)]).running() as pacs,
        pytest.raises(Unavailable, match="it sent more than"),
    ):
        retrieved(open_pacs(pacs, tmp_path), tmp_path)


def test_an_association_that_the_archive_has_closed_is_opened_again(tmp_path: Path) -> None:
    pacs = Pacs([study(f"1.{k}", "20260601") for k in range(12)])
    asked = Counter[str]()

    def abort_now_and_then(event: evt.Event, n: int) -> None:
        asked["answers"] += n == 0
        if n == 0 and asked["answers"] % 7 == 6:
            event.assoc.abort()

    pacs.before_answer = abort_now_and_then
    assert len(found(pacs, tmp_path, "simultaneous=1&answer_limit=500")) == 12


def test_no_answer_is_taken_away_while_a_request_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = dict[int, bool]()

    def slowly(self: Association, paused: bool) -> None:
        if not paused:  # pynetdicom's thread has passed the checkpoint, and is held up there
            time.sleep(0.02)
        held[id(self)] = paused

    def late(self: DIMSEServiceProvider, block: bool = False) -> object:
        if block:  # answers pile up
            time.sleep(0.05)
        return get_msg(self, block)

    get_msg = DIMSEServiceProvider.get_msg
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", late)

    paused = property(lambda self: held.get(id(self), False), slowly)
    monkeypatch.setattr(Association, "_is_paused", paused, raising=False)
    pacs = Pacs([study(f"1.{k}", "20260601") for k in range(4)])
    assert len(found(pacs, tmp_path, "simultaneous=1&answer_limit=500")) == 4


def test_a_refusal_names_its_status(tmp_path: Path) -> None:
    pacs = Pacs([study("1.1", "20260601")])
    pacs._find = lambda event: iter([(0xA900, None)])  # type: ignore[method-assign]
    with (
        pacs.running(),
        pytest.raises(Unavailable, match="status 0xA900, the question does not fit"),
    ):
        list(open_pacs(pacs, tmp_path).find())


def test_an_archive_that_cannot_answer_at_all_is_not_hammered(tmp_path: Path) -> None:
    pacs = Pacs([study("1.1", "20260601")])
    asked: list[int] = []

    def refuse(event: evt.Event) -> Iterator[tuple[int, None]]:
        asked.append(1)
        yield 0xC001, None

    pacs._find = refuse  # type: ignore[method-assign, assignment]
    with pacs.running(), pytest.raises(Unavailable, match="status 0xC001, unable to process"):
        list(open_pacs(pacs, tmp_path).find())
    assert len(asked) < 60


def test_nothing_of_a_patient_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Pacs([held_study(three_series())]).running() as pacs:
        source = open_pacs(pacs, tmp_path)
        list(source.find())
        retrieved(source, tmp_path)
    assert PATIENT not in caplog.text
    assert "Doe" not in caplog.text


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "dimse://pacs:104/ARCHIVE",
        "dimse://TOMODEX@pacs/ARCHIVE",
        "dimse://TOMODEX@pacs:104",
        "dimse://TOMODEX@:104/ARCHIVE",
        "dimse://TOMODEX@pacs:x/ARCHIVE",
        "dimse://MUCH_TOO_LONG_A_TITLE@pacs:104/ARCHIVE",
        "dimse://TOMODEX@pacs:104/BACK%5CSLASH",
    ],
)
def test_a_url_that_names_no_archive_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured):
        peer_of(url)


@pytest.mark.parametrize(
    "query",
    [
        "retrieve=move",
        "move_port=1,2",
        "move_port=1&move_aet=A,B",
        "ca=/x.pem",
        "answer_limit=1",
        "tls=yes&move_port=11113",
        "tls=any-name&retrieve=move&move_port=11113",
        "unknown=1",
    ],
)
def test_options_that_contradict_each_other_are_misconfigured(query: str) -> None:
    with pytest.raises(Misconfigured):
        options_of(f"dimse://A@pacs:104/B?{query}")


@pytest.mark.parametrize("query", ["retrieve=get", "move_plain=yes", "retrieve=move&move_plain=1"])
def test_images_come_in_plain_text_beside_tls_only_if_that_is_said(query: str) -> None:
    assert options_of(f"dimse://A@pacs:104/B?tls=yes&move_port=11113&{query}").tls == "yes"


def test_titles_may_have_spaces() -> None:
    peer = peer_of("dimse://MY%20AE@pacs:104/THE%20PACS?tls=yes")
    assert (peer.calling, peer.called, peer.url) == (
        "MY AE",
        "THE PACS",
        "dimse://MY%20AE@pacs:104/THE%20PACS",
    )


# --- TLS ----------------------------------------------------------------------------------------


@contextmanager
def pacs_with_tls(authority: trustme.CA, name: str) -> Iterator[Pacs]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with Pacs([held_study(study_of_five())], tls=context).running() as pacs:
        yield pacs


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files_of(authority: trustme.CA, folder: Path) -> str:
    """The options of a client that the authority vouches for."""
    ca, cert = folder / "ca.pem", folder / "client.pem"
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(cert))
    return f"ca={ca}&cert={cert}"


def test_an_archive_is_asked_over_tls(tmp_path: Path, authority: trustme.CA) -> None:
    with pacs_with_tls(authority, "127.0.0.1") as pacs:
        source = open_pacs(pacs, tmp_path, f"tls=yes&{files_of(authority, tmp_path)}")
        assert len(list(source.find())) == 1
        assert len(retrieved(source, tmp_path)) == 5
        (certificate,) = [one for one in source.probe() if one.subject == "TLS"]
        assert certificate.verdict == "ok"
        assert "good until" in certificate.sentence


def test_a_certificate_of_another_host_is_refused_unless_any_name_will_do(
    tmp_path: Path, authority: trustme.CA
) -> None:
    files = files_of(authority, tmp_path)
    with pacs_with_tls(authority, "pacs.example") as pacs:
        with pytest.raises(Unavailable, match="its certificate is not accepted"):
            list(open_pacs(pacs, tmp_path, f"tls=yes&{files}").find())
        assert len(list(open_pacs(pacs, tmp_path, f"tls=any-name&{files}").find())) == 1


def test_a_certificate_of_nobody_we_trust_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    with pacs_with_tls(authority, "127.0.0.1") as pacs:
        files = files_of(trustme.CA(), tmp_path)
        with pytest.raises(Unavailable, match="its certificate is not accepted"):
            list(open_pacs(pacs, tmp_path, f"tls=yes&{files}").find())


def test_a_key_that_is_not_there_is_misconfigured(tmp_path: Path) -> None:
    url = "dimse://A@127.0.0.1:1/B?tls=yes&cert=/nowhere/cert.pem"
    with pytest.raises(Misconfigured, match="ca, cert or key cannot be used"):
        list(DimseSource(url, pseudonymize=pseudonym, state=tmp_path).find())


# --- doctor -------------------------------------------------------------------------------------


def test_doctor_says_what_an_archive_is_and_gives(tmp_path: Path) -> None:
    with Pacs(hospital(200, busiest=40), limit=20).running() as pacs:
        probes = {one.subject: one for one in open_pacs(pacs, tmp_path).probe()}
    assert {subject: one.verdict for subject, one in probes.items()} == {
        "C-ECHO": "ok",
        "C-FIND": "ok",
        "retrieve": "ok",
        "answer limit": "ok",
    }
    assert "PYNETDICOM" in probes["C-ECHO"].sentence
    assert "20 answers at once" in probes["answer limit"].sentence


def test_doctor_says_what_to_do_where_an_archive_is_of_no_use(tmp_path: Path) -> None:
    with Pacs([], offers=(VERIFICATION,)).running() as pacs:
        probes = {one.subject: one for one in open_pacs(pacs, tmp_path).probe()}
    assert probes["C-FIND"].verdict == probes["retrieve"].verdict == "wrong"
    assert "permit TOMODEX" in probes["C-FIND"].advice
    (probe,) = open_pacs(pacs, tmp_path).probe()
    assert (probe.subject, probe.verdict) == ("C-ECHO", "wrong")
    assert "Connection refused" in probe.sentence


def test_doctor_says_which_ports_cannot_be_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, Pacs([]).running() as pacs:
        port = taken.getsockname()[1]
        options = f"move_port={port}&move_address=127.0.0.1"
        probes = {one.subject: one for one in open_pacs(pacs, tmp_path, options).probe()}
    assert probes["move port"].verdict == "doubtful"
    assert f"port {port}" in probes["move port"].sentence


# --- questions ----------------------------------------------------------------------------------


def test_the_halves_of_a_day_overlap_by_a_second_and_are_open_at_its_ends() -> None:
    day = date(2026, 6, 1)
    first, last = Question(first=day, last=day).halves_of_time() or ()
    assert (first.dates, first.times) == ("20260601", "-115959.999999")
    assert (last.dates, last.times) == ("20260601", "115959-")


@pytest.mark.parametrize(
    ("first", "last", "written"),
    [
        (None, None, ""),
        (date(2026, 1, 1), date(2026, 1, 31), "20260101-20260131"),
        (None, date(1979, 12, 31), "-19791231"),
        (date(2026, 1, 2), None, "20260102-"),
    ],
)
def test_days_are_written_as_ranges(first: date | None, last: date | None, written: str) -> None:
    assert Question(first=first, last=last).dates == written


def test_a_row_reads_dates_and_times_as_archives_write_them() -> None:
    def row(day: str, clock: str) -> Row:
        raw = (("StudyDate", "DA", day), ("StudyTime", "TM", clock))
        answer = Dataset()
        for keyword, vr, value in raw:
            tag = Tag(keyword)
            answer[tag] = RawDataElement(tag, vr, len(value), value.encode(), 0, False, True)
        return Row(answer)

    assert row("20260601", "1230").second == 45_000
    assert row("2026.06.01", "12").day == date(2026, 6, 1)
    assert row("20260601", "235959.999999").second == 86_399
    assert row("", "").day is None
    assert row("", "").second is None


def test_days_at_the_end_of_time_are_asked_about_without_error() -> None:
    asked: list[Question] = []

    def ask(question: Question) -> Reply:
        asked.append(question)
        return Reply(rows=[], cut=False)

    find_limit(ask, TODAY)
    assert asked[-1].first is not None
    assert asked[-1].first < TODAY - timedelta(days=60_000)
