from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from tests.official_package import write_package, write_weights
from tests.phantoms import write_ball_series
from tomodex import segmenters
from tomodex.cli import main
from tomodex.comparing import (
    choose_series,
    compare_engines,
    engine_url,
    reference_url,
    write_csv,
)
from tomodex.comparison import Limits
from tomodex.errors import Misconfigured, Unsuitable
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.selection import load_rules
from tomodex.series import Listing, Series
from tomodex.settings import Settings
from tomodex.wiring import segmenter_urls


class ByDensity:
    """`bydensity:60`: calls what is denser than that a spleen, on the image's own grid."""

    reads_stored = False
    seen: ClassVar[list] = []

    def __init__(self, url):
        self.above = int(url.partition(":")[2])

    def segment(self, volume, stored):
        self.seen.append((self.above, volume.voxels.shape))
        labels = (volume.voxels > self.above).astype(np.uint8)
        algorithm = Algorithm(name="a test", options={"above": str(self.above)})
        return Segmentation(
            volume=volume, layers=(labels,), names=({1: "spleen"},), algorithm=algorithm
        )


class Picky(ByDensity):
    """`picky:20`: takes only series of so many slices."""

    def segment(self, volume, stored):
        if len(volume.voxels) != self.above:
            raise Unsuitable("too_few_slices", "not for me")
        return ByDensity("bydensity:0").segment(volume, stored)


class Silent(ByDensity):
    def segment(self, volume, stored):
        return None


class Layered(ByDensity):
    def segment(self, volume, stored):
        one = super().segment(volume, stored)
        return replace(one, layers=one.layers * 2, names=(one.names[0], {1: "liver"}))


@pytest.fixture(autouse=True)
def schemes(monkeypatch):
    for kind in (ByDensity, Picky, Silent, Layered):
        monkeypatch.setitem(
            segmenters.ADAPTERS, kind.__name__.lower(), f"tests.test_comparing:{kind.__name__}"
        )
    ByDensity.seen.clear()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three balls of 7.2 ml, one with a gap."""
    folder = tmp_path_factory.mktemp("archive")
    for name, options in {"one": {}, "two": {}, "short": {"shape": (14, 40, 50)}}.items():
        (folder / name).mkdir()
        write_ball_series(folder / name, **options)
    (folder / "gappy").mkdir()
    write_ball_series(folder / "gappy", leave_out=7)
    return folder


def run(tmp_path, archive, ours, reference, count=9, **limits):
    settings = Settings(data=tmp_path / "data", segmenters=(ours, reference))
    bars = {}

    def progress(title):
        return lambda done, total: bars.setdefault(title, []).append((done, total))

    return compare_engines(settings, str(archive), count, Limits(**limits), progress), bars


def test_every_wanted_series_is_compared(tmp_path, archive):
    found, bars = run(tmp_path, archive, "bydensity:0", "bydensity:0")
    assert found.accepted
    assert len(found.series) == 3
    assert found.left_out == ()
    assert bars["comparing series"][-1] == (3, 3)
    assert all(pair.dice == 1.0 for series in found.series for pair in series.pairs)


def test_what_differs_is_not_accepted(tmp_path, archive):
    found, _ = run(tmp_path, archive, "bydensity:100", "bydensity:0")
    assert not found.accepted
    assert {s.structure for s in found.structures} == {"spleen"}
    assert all(one.algorithm.options == {"above": "100"} for one in found.series)
    assert all(one.reference_algorithm.options == {"above": "0"} for one in found.series)


def test_both_get_the_same_volume_and_are_warmed_up_first(tmp_path, archive):
    run(tmp_path, archive, "bydensity:1", "bydensity:2", count=1)
    assert [above for above, _ in ByDensity.seen] == [1, 2, 1, 2]
    assert ByDensity.seen[0][1] == ByDensity.seen[1][1] == (30, 60, 60)
    assert ByDensity.seen[2][1] == ByDensity.seen[3][1]


def test_a_series_that_cannot_be_compared_is_told_and_another_one_taken(tmp_path, archive):
    found, _ = run(tmp_path, archive, "picky:20", "bydensity:0", count=2)
    assert len(found.series) == 2
    assert len(found.left_out) <= 1
    found, _ = run(tmp_path, archive, "picky:14", "bydensity:0", count=2)
    assert (len(found.series), len(found.left_out)) == (1, 2)
    assert {one.sentence for one in found.left_out} == {"not for me"}


def test_a_series_is_logged_as_soon_as_it_is_done(tmp_path, archive, caplog):
    caplog.set_level("INFO", logger="tomodex.comparing")
    found, _ = run(tmp_path, archive, "picky:14", "bydensity:0", count=2)
    done = {record.series_uid: record for record in caplog.records}
    (series,) = found.series
    assert done[series.series_uid].agreement == series.agreement
    assert done[found.left_out[0].series_uid].sentence == "not for me"


@pytest.mark.parametrize(
    ("segmenter", "said"), [("silent:0", "nothing to say"), ("layered:0", "overlap")]
)
def test_a_segmenter_that_cannot_be_compared_compares_nothing(tmp_path, archive, segmenter, said):
    found, _ = run(tmp_path, archive, "bydensity:0", segmenter)
    assert (found.series, found.accepted) == ((), False)
    assert all(said in one.sentence for one in found.left_out)


def test_a_wrong_setting_ends_it_at_once(tmp_path, archive):
    with pytest.raises(Misconfigured, match="no segmenter"):
        run(tmp_path, archive, "bydensity:0", "nobody:")


# --- which series -------------------------------------------------------------------------------


def listed(studies, series_each):
    return [
        Listing(
            series=Series(
                series_uid=f"1.{study}.{number}",
                study_uid=f"1.{study}",
                patient="p",
                modality="CT",
                sop_classes=("1.2.840.10008.5.1.4.1.1.2",),
                instance_count=100,
            )
        )
        for study in range(studies)
        for number in range(series_each)
    ]


def chosen(listings, count):
    return [s.series_uid for s in choose_series(listings, load_rules(None), count)]


def test_the_same_series_are_chosen_whatever_their_order():
    listings = listed(40, 3)
    assert chosen(listings, 10) == chosen(listings[::-1], 10)
    assert chosen(listings, 10) != [one.series.series_uid for one in listings[:10]]


def test_studies_come_before_second_series_of_one():
    listings = listed(4, 5)
    assert len({uid.split(".")[1] for uid in chosen(listings, 4)}) == 4
    assert len(set(chosen(listings, 20))) == 20
    assert len(chosen(listings, 99)) == 20


def test_fewer_are_chosen_of_the_same():
    listings = listed(30, 2)
    assert chosen(listings, 25)[:10] == chosen(listings, 10)


def test_a_large_archive_is_not_held_in_memory(monkeypatch):
    listings = listed(60, 3)
    whole = chosen(listings, 7)
    monkeypatch.setattr("tomodex.comparing._HELD", 10)
    assert chosen(listings, 7) == whole
    few_studies = listed(3, 60)
    monkeypatch.undo()
    whole = chosen(few_studies, 7)
    monkeypatch.setattr("tomodex.comparing._HELD", 10)
    assert chosen(few_studies, 7) == whole


# --- which segmenters ---------------------------------------------------------------------------


def test_the_reference_is_asked_for_what_ours_is_asked_for():
    assert reference_url("totalsegmentator:") == "reference:"
    ours = "totalsegmentator:?resolution=1.5&mode=fast&weights=%2Fsrv%2Fa+b&threads=2"
    assert reference_url(ours) == "reference:?resolution=1.5&weights=%2Fsrv%2Fa+b"


def test_our_engine_is_taken_as_the_settings_have_it(tmp_path):
    assert engine_url(Settings()) == "totalsegmentator:"
    settings = Settings(segmenters=("dicomseg:", "totalsegmentator:?mode=fast"), weights=tmp_path)
    assert engine_url(settings).startswith("totalsegmentator:?mode=fast&weights=")


def test_settings_say_where_weights_and_the_package_are(tmp_path):
    settings = Settings(
        segmenters=("reference:?resolution=6", "reference:?python=/mine"),
        weights=tmp_path,
        reference_python="/venv/bin/python",
    )
    first, second = segmenter_urls(settings)
    assert first.startswith("reference:?resolution=6&weights=")
    assert first.endswith("&python=%2Fvenv%2Fbin%2Fpython")
    assert second.startswith("reference:?python=/mine&weights=")
    assert second.count("python=") == 1


# --- as a command -------------------------------------------------------------------------------


@pytest.fixture
def tomodex(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tomodex", "--data", str(tmp_path / "data"), *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def test_the_command_says_whether_the_engine_is_accepted(tomodex, archive):
    pair = ("--segmenter", "bydensity:0", "--reference", "bydensity:100")
    code, said, _ = tomodex("compare-engine", "2", str(archive), *pair)
    assert code == 1
    assert "NOT accepted" in said
    assert "spleen: 7." in said
    loose = ("--min-agreement", "0.5", "--max-volume-difference", "100")
    code, said, _ = tomodex("compare-engine", "2", str(archive), *pair, *loose)
    assert code == 0
    assert "\naccepted" in said
    code, said, _ = tomodex("compare-engine", "2", str(archive), *pair[:3], "bydensity:0")
    assert code == 0


def test_json_and_csv_have_all_and_no_patient(tomodex, archive, tmp_path):
    out = tmp_path / "out"
    pair = ("--segmenter", "bydensity:0", "--reference", "bydensity:100")
    code, said, _ = tomodex("compare-engine", "9", str(archive), *pair, "--json", "--out", str(out))
    answer = json.loads(said)
    assert (code, answer["accepted"], len(answer["series"])) == (1, False, 3)
    assert answer["pairs"][0]["dice"] == 0.0
    rows = {
        name: list(csv.DictReader((out / f"{name}.csv").read_text().splitlines()))
        for name in ("series", "structures", "pairs")
    }
    assert [len(found) for found in rows.values()] == [3, 1, 3]
    assert {row["series_uid"] for row in rows["series"]} == {
        one["series_uid"] for one in answer["series"]
    }
    assert float(rows["pairs"][0]["volume_percent"]) == 100.0
    assert "patient" not in said.lower()


def test_files_that_cannot_be_written_are_told(tmp_path, archive):
    found, _ = run(tmp_path, archive, "bydensity:0", "bydensity:0", count=1)
    (tmp_path / "out").write_text("")
    with pytest.raises(Misconfigured, match="cannot write"):
        write_csv(found, tmp_path / "out")


def test_the_official_package_is_held_against_ours_by_default(
    tomodex, archive, tmp_path, monkeypatch
):
    """The stand-in finds what is of 60 HU on a grid of 3 mm, ours what is denser than 0."""
    monkeypatch.setenv("TOMODEX_WEIGHTS", str(write_weights(tmp_path / "weights")))
    monkeypatch.setenv("TOMODEX_REFERENCE_PYTHON", str(write_package(tmp_path)))
    code, said, _ = tomodex(
        "compare-engine", "1", str(archive), "--segmenter", "bydensity:0", "--json"
    )
    answer = json.loads(said)
    assert code == 1
    assert answer["reference_algorithm"]["version"] == "2.18.0"
    assert answer["reference_algorithm"]["model"] == "total 3 mm (Dataset297)"
    (series,) = answer["series"]
    assert series["carried"] is True
    assert series["agreement"] > 0.95
    assert answer["pairs"][0]["structure"] == "spleen"
