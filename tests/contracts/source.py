"""What every source promises; the tests of an adapter inherit this."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tomodex.errors import Unavailable
from tomodex.instance import read_instance
from tomodex.series import Listing, Series
from tomodex.sources import Source


class SourceContract:
    """An adapter's test fills an archive with two CT series and the SEG of the first.

    `archive` does so and returns the three Series Instance UIDs in this order; `open_again` gives a
    source on it as another process would. `folder_of_archive` is where it keeps its files, if it
    does.
    """

    #: Instances that each of the three series has.
    COUNTS = (5, 3, 1)

    @pytest.fixture
    def archive(self, tmp_path: Path) -> tuple[str, str, str]:
        raise NotImplementedError

    def open_again(self, tmp_path: Path) -> Source:
        raise NotImplementedError

    def folder_of_archive(self, tmp_path: Path) -> Path | None:
        return None

    @pytest.fixture
    def source(self, archive: tuple[str, str, str], tmp_path: Path) -> Source:
        return self.open_again(tmp_path)

    def test_every_series_is_found_once(
        self, source: Source, archive: tuple[str, str, str]
    ) -> None:
        found = [listing.series.series_uid for listing in source.find()]
        assert sorted(found) == sorted(archive)

    def test_a_listing_counts_the_instances(
        self, source: Source, archive: tuple[str, str, str]
    ) -> None:
        listings = by_uid(source)
        for uid, count in zip(archive, self.COUNTS, strict=True):
            assert listings[uid].series.instance_count in (count, None)
            assert len(listings[uid].instances) in (count, 0)

    def test_listed_again_nothing_has_changed(self, source: Source, tmp_path: Path) -> None:
        first = by_uid(source)
        assert by_uid(source) == first
        assert by_uid(self.open_again(tmp_path)) == first

    def test_a_series_is_described_as_it_was_found(self, source: Source, tmp_path: Path) -> None:
        found = by_uid(source)
        other = self.open_again(tmp_path)
        for uid, listing in found.items():
            assert other.describe(uid) == listing

    def test_a_retrieved_series_has_all_its_instances_and_no_others(
        self, source: Source, archive: tuple[str, str, str], tmp_path: Path
    ) -> None:
        listings = by_uid(source)
        for uid, count in zip(archive, self.COUNTS, strict=True):
            files = self._retrieve(self.open_again(tmp_path), listings[uid].series, tmp_path)
            instances = [read_instance(file, str) for file in files]
            assert [one.series_uid for one in instances if one] == [uid] * count
            assert len({one.sop_uid for one in instances if one}) == count

    def test_a_series_can_be_retrieved_twice_into_one_place(
        self, source: Source, archive: tuple[str, str, str], tmp_path: Path
    ) -> None:
        series = by_uid(source)[archive[0]].series
        first = self._retrieve(source, series, tmp_path)
        assert self._retrieve(source, series, tmp_path) == first
        assert all(file.is_file() for file in first)

    def test_the_segmentations_of_a_series_are_retrieved(
        self, source: Source, archive: tuple[str, str, str], tmp_path: Path
    ) -> None:
        listings = by_uid(source)
        into = tmp_path / "into"
        into.mkdir()
        (file,) = source.retrieve_segmentations(listings[archive[0]].series, into)
        segmentation = read_instance(file, str)
        assert segmentation is not None
        assert segmentation.series_uid == archive[2]
        assert source.retrieve_segmentations(listings[archive[1]].series, into) == []

    def test_a_series_it_does_not_have_is_unavailable(self, source: Source, tmp_path: Path) -> None:
        by_uid(source)
        nowhere = Series(series_uid="1.2.999", study_uid="1", patient="p", modality="CT")
        with pytest.raises(Unavailable):
            source.describe("1.2.999")
        with pytest.raises(Unavailable):
            source.retrieve(nowhere, tmp_path)

    def test_patients_are_pseudonyms(self, source: Source) -> None:
        for listing in source.find():
            assert listing.series.patient.startswith("pseudonym-")
            for instance in listing.instances:
                assert instance.patient.startswith("pseudonym-")

    def test_progress_never_goes_back(self, source: Source) -> None:
        told: list[int] = []
        list(source.find(lambda done, total: told.append(done)))
        assert told
        assert told == sorted(told)

    def test_the_archive_is_never_changed(
        self, source: Source, archive: tuple[str, str, str], tmp_path: Path
    ) -> None:
        folder = self.folder_of_archive(tmp_path)
        if folder is None:
            pytest.skip("the archive keeps its files to itself")
        before = contents(folder)
        for uid, listing in by_uid(source).items():
            source.describe(uid)
            self._retrieve(source, listing.series, tmp_path)
        assert contents(folder) == before

    @staticmethod
    def _retrieve(source: Source, series: Series, tmp_path: Path) -> list[Path]:
        into = tmp_path / "into"
        into.mkdir(exist_ok=True)
        return list(source.retrieve(series, into))


def by_uid(source: Source) -> dict[str, Listing]:
    """What the source lists, by Series Instance UID."""
    return {listing.series.series_uid: listing for listing in source.find()}


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of every file in a folder."""
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
