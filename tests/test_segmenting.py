"""From a series to files with masks."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from tomodex.access import OWNER
from tomodex.errors import BadQuery, Unsuitable
from tomodex.mask_orders import Maker, Order, deliver_order
from tomodex.phantom import DEMO, Case
from tomodex.phantom.writing import write_phantom
from tomodex.segmenting import Wish, folder_name, require_fit, resolve_structures
from tomodex.settings import Settings, load_settings
from tomodex.stores import open_store
from tomodex.terminology import load_terminology
from tomodex.wiring import audit_of

TERMINOLOGY = load_terminology()

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def small(name: str) -> Case:
    """A phantom of the demo, with voxels twice as large across."""
    (case,) = [case for case in DEMO if case.name == name]
    between, rows, columns = case.spacing_mm
    return replace(case, spacing_mm=(between, 2 * rows, 2 * columns))


PELVIS, TILTED, ENHANCED = map(small, ("pelvis", "head-tilted", "enhanced-abdomen"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """Phantoms, each with the DICOM SEG that has its truth."""
    folder: Path = tmp_path_factory.mktemp("phantoms")
    for case in (PELVIS, TILTED, ENHANCED):
        write_phantom(folder / case.name, case, seed=0)
    return folder


@pytest.fixture(scope="module")
def pelvis(phantoms: Path) -> Path:
    return phantoms / PELVIS.name


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data=tmp_path / "data", segmenters=("dicomseg:",))


def order(folder: Path, tmp_path: Path, **wish: object) -> Order:
    return Order(**{"series": str(folder), "to": str(tmp_path / "masks"), **wish})


def truth(folder: Path) -> pydicom.Dataset:
    return pydicom.dcmread(folder / "seg" / "truth.dcm")


def images_of(folder: Path) -> dict[str, pydicom.Dataset]:
    read = (pydicom.dcmread(one) for one in (folder / "image").rglob("*") if one.is_file())
    return {ds.SOPInstanceUID: ds for ds in read}


def voxels_of(seg: pydicom.Dataset) -> dict[tuple[str, str], int]:
    """(type with side, source image) -> voxels: what does not depend on how it is stored."""
    found: dict[tuple[str, str], int] = {}
    names = {}
    for item in seg.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        names[item.SegmentNumber] = "/".join([kind.CodeValue, *(s.CodeValue for s in sides)])
    for frame, item in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        where = f"{source.ReferencedSOPInstanceUID}/{source.get('ReferencedFrameNumber', 1)}"
        if "SegmentIdentificationSequence" in item:
            number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            found[names[number], where] = int((frame > 0).sum())
            continue
        for number in np.unique(frame[frame > 0]).tolist():
            found[names[number], where] = int((frame == number).sum())
    return found


@pytest.mark.parametrize("case", [PELVIS, TILTED, ENHANCED], ids=lambda one: one.name)
def test_masks_have_the_voxels_that_were_drawn_on_each_image(tmp_path, settings, case, phantoms):
    """A leaning gantry, an enhanced instance and stacks against the order of their numbers."""
    folder = phantoms / case.name
    made = deliver_order(settings, order(folder, tmp_path, forms=("seg", "seg-binary")))
    assert len(made.places) == 2
    for place in made.places:
        assert voxels_of(pydicom.dcmread(place)) == voxels_of(truth(folder))


def test_segment_and_report_of_one_order_belong_together(tmp_path, settings, pelvis):
    made = deliver_order(settings, order(pelvis, tmp_path, forms=("sr", "seg")))
    seg, report = (pydicom.dcmread(place) for place in made.places)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    referred = {
        one.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    images = images_of(pelvis)
    assert referred == {seg.SOPInstanceUID, *images}
    image = next(iter(images.values()))
    for ds in (seg, report):
        assert ds.StudyInstanceUID == image.StudyInstanceUID
        assert (ds.PatientID, ds.PatientName) == (image.PatientID, image.PatientName)


def test_a_report_points_at_the_form_that_older_software_knows(tmp_path, settings, pelvis):
    made = deliver_order(settings, order(pelvis, tmp_path, forms=("seg", "seg-binary", "sr")))
    *segs, report = (pydicom.dcmread(place) for place in made.places)
    (binary,) = [ds.SOPInstanceUID for ds in segs if ds.SegmentationType == "BINARY"]
    referred = {
        element.value[0].ReferencedSOPInstanceUID
        for element in report.iterall()
        if element.keyword == "ReferencedSOPSequence"
        and "ReferencedSegmentNumber" in element.value[0]
    }
    assert referred == {binary}


def test_only_what_is_wanted_comes_and_what_was_not_found_is_said(tmp_path, settings, pelvis):
    wanted = ("urinary bladder", "liver", "left hip")
    made = deliver_order(
        settings, order(pelvis, tmp_path, forms=("nifti",), structures=wanted, files="each")
    )
    assert set(made.structures) == {"urinary_bladder", "hip_left"}
    assert made.missing == ("liver",)
    names = sorted(Path(place).name for place in made.places)
    assert names == ["hip_left.nii.gz", "labels.json", "urinary_bladder.nii.gz"]
    mask = np.asarray(nibabel.load(made.places[0]).dataobj)
    assert set(np.unique(mask)) == {0, 1}


def test_all_structures_come_in_one_file_with_their_names(tmp_path, settings, pelvis):
    made = deliver_order(settings, order(pelvis, tmp_path, forms=("nifti", "nrrd")))
    names = [Path(place).name for place in made.places]
    assert names == ["labels.nii.gz", "labels.seg.nrrd", "labels.label", "labels.json"]
    labels = np.asarray(nibabel.load(made.places[0]).dataobj)
    (layer,) = json.loads(Path(made.places[-1]).read_text())["layers"]
    assert {one["label"] for one in layer} == set(np.unique(labels)) - {0}
    assert {one["structure"] for one in layer} == set(made.structures)


def test_masks_lie_as_totalsegmentator_wrote_them_where_that_is_asked_for(
    tmp_path, settings, pelvis
):
    wish = {"forms": ("nifti", "statistics"), "files": "each", "folder": "none"}
    made = deliver_order(settings, order(pelvis, tmp_path).model_copy(update=wish))
    masks = {f"{name}.nii.gz" for name in made.structures}
    files = {one.name: one for one in (tmp_path / "masks").iterdir()}
    assert set(files) == masks | {"statistics.json", "labels.json"}
    statistics = json.loads(files["statistics.json"].read_text())
    assert set(statistics) == set(made.structures)
    for name, said in statistics.items():
        mask = nibabel.load(files[f"{name}.nii.gz"])
        voxel_mm3 = abs(np.linalg.det(mask.affine[:3, :3]))
        assert said["volume"] == pytest.approx(np.count_nonzero(mask.dataobj) * voxel_mm3, rel=1e-6)
        assert -1100 < said["intensity"] < 3100
    assert {"superior"} <= {side for said in statistics.values() for side in said["cut"]}
    assert 0 < made.loading_s < made.total_s


def test_an_order_tried_again_gives_the_same_objects_and_a_new_order_new_ones(
    tmp_path, settings, pelvis
):
    wish = order(pelvis, tmp_path, forms=("seg", "sr"))
    made: list[list[bytes]] = []
    for at in (NOON, NOON, NOON + timedelta(hours=1)):
        places = Maker(settings).make(wish, at).places
        made.append([Path(place).read_bytes() for place in places])
    first, again, later = made
    assert first == again
    uids = [{pydicom.dcmread(BytesIO(one)).SOPInstanceUID for one in some} for some in made]
    assert uids[0].isdisjoint(uids[2])
    assert len(first) == len(later) == 2


def test_nothing_is_left_behind_but_what_was_asked_for(tmp_path, settings, pelvis, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    deliver_order(settings, order(pelvis, tmp_path))
    assert list(scratch.iterdir()) == []
    assert not (settings.data / "tomodex.db").exists()


def test_every_order_is_in_the_audit_log(tmp_path, settings, pelvis):
    deliver_order(settings, order(pelvis, tmp_path, structures=("sacrum",)))
    (entry,) = audit_of(settings).entries()
    assert (entry.who, entry.act, entry.text) == (OWNER.name, "segment", "sacrum")
    assert entry.facts["to"] == str(tmp_path / "masks")


def test_a_series_that_shows_nothing_wanted_is_unsuitable(tmp_path, settings, pelvis):
    with pytest.raises(Unsuitable, match="none of the structures"):
        deliver_order(settings, order(pelvis, tmp_path, structures=("brain",)))
    nothing = settings.model_copy(update={"segmenters": ("none:",)})
    with pytest.raises(Unsuitable, match="no segmenter has anything"):
        deliver_order(nothing, order(pelvis, tmp_path))


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"structures": ("livr",)}, "did you mean liver"),
        ({"forms": ("seg-binary",), "packing": "rle"}, "one bit a pixel"),
        ({"series": "1.2.3"}, "name its source"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_done(
    tmp_path, settings, pelvis, wish, sentence
):
    with pytest.raises(BadQuery, match=sentence):
        deliver_order(settings, order(pelvis, tmp_path, **wish))
    assert not (tmp_path / "masks").exists()


def test_a_folder_with_several_series_needs_a_name(tmp_path, settings, phantoms):
    with pytest.raises(BadQuery, match="3 series"):
        deliver_order(settings, order(phantoms, tmp_path))


def test_a_series_of_a_folder_with_several_is_found_by_its_uid(tmp_path, settings, phantoms):
    image = next(iter(images_of(phantoms / ENHANCED.name).values()))
    wish = {"series": image.SeriesInstanceUID, "source": str(phantoms), "structures": ("liver",)}
    made = deliver_order(settings, order(phantoms, tmp_path, **wish))
    assert (made.series_uid, made.structures) == (image.SeriesInstanceUID, ("liver",))
    with pytest.raises(BadQuery, match=r"holds no series 9\.9"):
        deliver_order(settings, order(phantoms, tmp_path, series="9.9", source=str(phantoms)))


def test_an_archive_takes_dicom_only(tmp_path):
    store = open_store("dimse://TOMODEX@127.0.0.1:11112/PACS", tmp_path)
    with pytest.raises(BadQuery, match="takes DICOM only, and not nifti"):
        require_fit(Wish(forms=("seg", "nifti")), store)
    require_fit(Wish(forms=("seg", "sr")), store)


def test_words_mean_structures_and_all_means_all():
    assert resolve_structures(["left kidney", "spleen "], TERMINOLOGY) == ("kidney_left", "spleen")
    assert set(resolve_structures(["kidney"], TERMINOLOGY)) == {"kidney_left", "kidney_right"}
    for everything in ((), ("all",), ("liver", "ALL"), ("",)):
        assert resolve_structures(everything, TERMINOLOGY) == ()


def test_a_wish_without_a_form_is_none():
    with pytest.raises(BadQuery, match="no form"):
        Wish(forms=())
    with pytest.raises(BadQuery, match="dicom"):
        Wish(forms=("dicom",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uid", "name"),
    [("1.2.3", "1.2.3"), ("../../etc", "_.._etc"), ("", "series"), ("..", "series")],
)
def test_a_uid_that_is_none_leads_to_no_other_folder(uid, name):
    assert folder_name(uid) == name
