from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.phantoms import write_ball_series
from tomodex.errors import Unsuitable
from tomodex.instance import read_instance
from tomodex.pipeline import Tools, annotate_series
from tomodex.pseudonym import pseudonymizer
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.segmenters.none import NoSegmenter
from tomodex.selection import load_rules
from tomodex.sources import open_source
from tomodex.terminology import load_terminology

SECRET = pseudonymizer(b"k" * 32)
RULES = load_rules(None)


class Threshold:
    """Calls everything denser than air the liver."""

    reads_stored = False

    def __init__(self, url: str = "threshold:") -> None:
        self.seen: list[int] = []

    def segment(self, volume, stored):
        self.seen.append(len(stored))
        labels = (volume.voxels > 0).astype(np.uint8)
        return Segmentation(volume, (labels,), ({1: "liver"},), Algorithm(name="threshold"))


def tools(folder: Path, *segmenters) -> Tools:
    source = open_source(f"folder://{folder}", pseudonymize=SECRET, state=folder.parent)
    return Tools(
        source=source,
        read=partial(read_instance, pseudonymize=SECRET),
        rules=RULES,
        segmenters=segmenters,
        terminology=load_terminology(),
    )


@pytest.fixture
def archive(tmp_path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


def only_series(opened: Tools):
    (listing,) = opened.source.find()
    return listing.series


def test_a_ball_comes_back_as_its_volume_density_and_code(archive):
    write_ball_series(archive, radius_mm=12.0)
    opened = tools(archive, Threshold())
    annotated = annotate_series(only_series(opened), opened, "default")
    (liver,) = annotated.annotations
    assert liver.structure == "liver"
    assert {c.code for c in liver.codings} >= {"10200004", "RID58"}
    assert liver.measurement.volume_ml == pytest.approx(4 / 3 * math.pi * 1.2**3, rel=0.02)
    assert liver.measurement.mean_hu == 60
    assert liver.measurement.complete
    assert annotated.image.shape == (20, 40, 50)
    assert annotated.image.spacing_mm == pytest.approx((2.0, 0.9, 0.7))
    assert annotated.image.box_min_mm == pytest.approx((-0.35, -0.45, -1.0))
    assert annotated.image.box_max_mm == pytest.approx((34.65, 35.55, 39.0))


def test_provenance_says_how_it_came_about(archive):
    write_ball_series(archive)
    opened = tools(archive, Threshold())
    made = annotate_series(only_series(opened), opened, "nightly").provenance
    assert made.algorithm == Algorithm(name="threshold")
    assert made.configuration == "nightly"
    assert made.terminology == load_terminology().version
    assert set(made.software) == {"tomodex", "numpy", "pydicom", "imagecodecs"}
    assert made.stage_seconds.keys() == {"retrieve", "load", "segment", "measure"}
    assert made.started <= made.finished
    assert made.finished.endswith("+00:00")


def test_the_first_segmenter_with_an_answer_counts(archive):
    write_ball_series(archive)
    first, second = Threshold(), Threshold()
    opened = tools(archive, NoSegmenter("none:"), first, second)
    annotate_series(only_series(opened), opened, "default")
    assert (len(first.seen), len(second.seen)) == (1, 0)


def test_a_series_that_nobody_segments_is_kept_without_structures(archive):
    """So that it can be found by its tags."""
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    annotated = annotate_series(only_series(opened), opened, "default")
    assert annotated.provenance.algorithm is None
    assert annotated.annotations == ()
    assert annotated.image.shape == (20, 40, 50)


def test_what_came_is_judged_again_before_it_is_loaded(archive):
    """A file may be gone, or another come, since the series was listed."""
    write_ball_series(archive)
    opened = tools(archive, Threshold())
    series = only_series(opened)
    at = {opened.read(file).frames[0].position_mm[2]: file for file in archive.iterdir()}
    gone = at[14.0]
    retrieve = opened.source.retrieve
    opened.source.retrieve = lambda s, into: [f for f in retrieve(s, into) if f != gone]
    with pytest.raises(Unsuitable) as unsuitable:
        annotate_series(series, opened, "default")
    assert unsuitable.value.reason == "missing_slice"


# What the archive listed, and what the headers say


def thin(series, **changes):
    """The series as an archive over a network lists it."""
    said = replace(series, sop_classes=(), fingerprint="20", attributes={"StudyDate": "2020-01-02"})
    return replace(said, **changes)


def test_what_the_headers_say_takes_the_place_of_what_was_listed(archive):
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    series = only_series(opened)
    made = annotate_series(thin(series, instance_count=3), opened, "default").series
    assert (made.sop_classes, made.instance_count) == (series.sop_classes, 20)
    assert made.attributes == {**series.attributes, "StudyDate": "2020-01-02"}
    assert made.fingerprint == "20"


def test_what_was_listed_from_headers_stays_as_it_was(archive):
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    series = only_series(opened)
    assert annotate_series(series, opened, "default").series == series


def test_the_archive_knows_better_whose_the_series_is(archive):
    """A merge of patients is made in its database, not in what was stored before."""
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    merged = thin(only_series(opened), patient="merged", study_uid="1.9")
    made = annotate_series(merged, opened, "default").series
    assert (made.patient, made.study_uid) == ("merged", "1.9")
    unsaid = annotate_series(thin(only_series(opened), patient=""), opened, "default").series
    assert unsaid.patient == only_series(opened).patient


def test_a_short_series_is_not_wanted_for_a_segmentation_of_another(archive):
    """A PACS counts the segmentations of the study; only those of the series make it wanted."""
    write_ball_series(archive)
    opened = tools(archive, Threshold())
    at = {opened.read(file).frames[0].position_mm[2]: file for file in archive.iterdir()}
    for height in sorted(at)[5:]:
        at[height].unlink()
    listed = replace(only_series(opened), segmentations=1)
    with pytest.raises(Unsuitable, match="5 slices, fewer than 10"):
        annotate_series(listed, opened, "default")


def test_images_of_another_series_are_not_shown_under_its_uid(archive):
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    series = only_series(opened)
    files = opened.source.retrieve(series, archive)
    opened.source.retrieve = lambda s, into: files
    with pytest.raises(Unsuitable, match="1 other series") as caught:
        annotate_series(thin(series, series_uid="1.2.3"), opened, "default")
    assert caught.value.reason == "other_series"


def test_a_series_whose_pixels_nobody_needed_is_whole_all_the_same(archive):
    write_ball_series(archive)
    opened = tools(archive, NoSegmenter("none:"))
    series = only_series(opened)
    broken = sorted(archive.iterdir())[7]
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(Unsuitable) as caught:
        annotate_series(series, opened, "default")
    assert caught.value.reason == "truncated"


def test_what_a_segmenter_leaves_in_files_is_measured_before_they_are_gone(archive):
    class Later(Threshold):
        """Looks at no pixel itself."""

        def segment(self, volume, stored):
            labels = np.zeros(volume.shape, np.uint8)
            labels[10, 20, 25] = 1
            return Segmentation(volume, (labels,), ({1: "liver"},), Algorithm(name="later"))

    write_ball_series(archive)
    opened = tools(archive, Later())
    (liver,) = annotate_series(only_series(opened), opened, "default").annotations
    assert liver.measurement.mean_hu == 60


def test_nothing_is_left_on_disk(archive, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write_ball_series(archive)
    opened = tools(archive, Threshold())
    annotate_series(only_series(opened), opened, "default")
    assert list(scratch.iterdir()) == []
