from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import (
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
)

from tomodex.geometry import find_geometry
from tomodex.instance import read_instance
from tomodex.phantom import DEMO, write_phantom, write_phantoms
from tomodex.phantom.anatomy import Body, draw_body
from tomodex.phantom.cases import Case
from tomodex.phantom.dicom import MARKER, PRIVATE_CREATOR, PRIVATE_GROUP
from tomodex.phantom.names import LABELS, STRUCTURES
from tomodex.phantom.plan import Paint
from tomodex.phantom.scan import find_grid, scan_body
from tomodex.phantom.solids import Beyond, Capsule, Ellipsoid, Solid, Stack, Within, tube
from tomodex.phantom.truth import Truth, find_structures
from tomodex.phantom.voxels import Affine, voxelize
from tomodex.rules import load_rules
from tomodex.selection import REASONS, select
from tomodex.series import Listing, Series
from tomodex.terminology import load_terminology

CASES = {case.name: case for case in DEMO}
#: Small, and between them every form, most transfer syntaxes, a tilt and a coronal series.
WRITTEN = tuple(
    replace(case, spacing_mm=tuple(mm * 2.1 for mm in case.spacing_mm)) if not case.reason else case
    for case in DEMO
    if case.reason
    or case.name
    in {
        "chest-coronal",
        "abdomen",
        "abdomen-follow-up",
        "pelvis",
        "head-tilted",
        "enhanced-abdomen",
    }
)


def upright(
    spacing: tuple[float, float, float], low: tuple[float, ...], high: tuple[float, ...]
) -> tuple[Affine, tuple[int, int, int]]:
    """An axial grid over a box, (slices, rows, columns) along z, y, x."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:, 3] = [*low, 1]
    slices, rows, columns = (
        int((high[axis] - low[axis]) / mm) for axis, mm in zip((2, 1, 0), spacing, strict=True)
    )
    return affine, (slices, rows, columns)


def whole(body: Body, spacing: tuple[float, float, float]) -> dict:
    affine, shape = upright(spacing, (-255, -125, -320 * body.scale[2]), (255, 145, 760))
    labels, hu = voxelize(body, affine, shape)
    return {"labels": labels, "hu": hu, "affine": affine, "sex": body.sex}


@pytest.fixture(scope="module")
def man() -> dict:
    return whole(draw_body(sex="M", seed=11, enhancement_hu=80), (3.5, 3.3, 3.1))


@pytest.fixture(scope="module")
def woman() -> dict:
    return whole(draw_body(sex="F", seed=7, arms="down"), (3.5, 3.3, 3.1))


@pytest.fixture(scope="module", params=["man", "woman"])
def body(request: pytest.FixtureRequest) -> dict:
    """A whole person, with the truth of each structure."""
    scan = request.getfixturevalue(request.param)
    return scan | {"truth": find_structures(scan["labels"], scan["hu"], scan["affine"])}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Truth]]:
    folder = tmp_path_factory.mktemp("phantoms")
    return folder, {truth.name: truth for truth in write_phantoms(folder, WRITTEN)}


# --- solids ------------------------------------------------------------------------------------


def solid_body(solid: Solid) -> Body:
    paint = Paint(solids=(solid,), label=5, hu=60, texture_hu=0)
    return Body(sex="M", seed=0, paints=(paint,), scale=(1.0, 1.0, 1.0), sway_mm=(0.0, 0.0))


BALL_ML = 4 / 3 * np.pi * 30 * 20 * 25 / 1000
ROD_ML = np.pi * 8**2 * 60 / 1000 + 4 / 3 * np.pi * 8**3 / 1000
TURNED = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("solid", "volume_ml"),
    [
        (Ellipsoid(center=(1, 2, 3), radii=(30, 20, 25)), BALL_ML),
        (Ellipsoid(center=(1, 2, 3), radii=(30, 20, 25), axes=TURNED), BALL_ML),
        (Capsule(ends=((0, -18, -24), (0, 18, 24)), radii=(8, 8)), ROD_ML),
        (Capsule(ends=((0, 0, -20), (0, 0, 40)), radii=(8, 8), squash=(2, 1, 1)), ROD_ML * 2),
        (Stack(levels=((-30, 20, 30, 0, 0), (30, 20, 30, 5, 0))), np.pi * 20 * 30 * 60 / 1000),
        (
            Beyond(solid=Ellipsoid(center=(0, 0, 0), radii=(30, 20, 25)), normal=(0, 1, 0),
                   offset_mm=0),
            BALL_ML / 2,
        ),
        (
            Within(solid=Ellipsoid(center=(0, 0, 0), radii=(30, 20, 25)),
                   other=Stack(levels=((0, 99, 99, 0, 0), (99, 99, 99, 0, 0)))),
            BALL_ML / 2,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shear", [0.0, 0.35])
def test_a_solid_has_the_volume_that_geometry_says(solid, volume_ml, shear):
    """On an upright grid and on a tilted one, so that its box holds all of it."""
    affine, shape = upright((1.3, 1.1, 0.9), (-60, -62, -64), (60, 62, 64))
    affine[2, 1] = shear
    labels, hu = voxelize(solid_body(solid), affine, shape)
    truth = find_structures(labels, hu, affine)[STRUCTURES[4]]
    assert truth.volume_ml == pytest.approx(volume_ml, rel=0.03)


def test_a_tube_passes_through_its_points_with_its_radii():
    parts = tube([(0, 0, 0), (0, 0, 10), (20, 0, 10)], [4, 6, 2])
    assert [part.radii for part in parts] == [(4, 6), (6, 2)]
    assert parts[0].ends[1] == parts[1].ends[0] == (0, 0, 10)


def test_later_paint_covers_earlier():
    outer, inner = (Ellipsoid(center=(0, 0, 0), radii=(r, r, r)) for r in (20, 10))
    paints = tuple(
        Paint(solids=(s,), label=n, hu=n, texture_hu=0) for n, s in ((1, outer), (2, inner))
    )
    nested = Body(sex="M", seed=0, paints=paints, scale=(1.0, 1.0, 1.0), sway_mm=(0.0, 0.0))
    labels, _ = voxelize(nested, *upright((2, 2, 2), (-30, -30, -30), (31, 31, 31)))
    assert labels[15, 15, 15] == 2
    assert labels[15, 15, 22] == 1
    assert labels[0, 0, 0] == 0


# --- anatomy -----------------------------------------------------------------------------------


def test_structures_have_totalsegmentators_names_and_numbers():
    known = load_terminology().structures
    assert {name: known[name].total_class for name in STRUCTURES} == LABELS
    assert len(LABELS) == 117


def test_all_117_structures_are_found_in_bodies_of_both_sexes(man, woman):
    """Each body has all but a prostate or a cyst; between them they have all."""
    found: set[str] = set()
    others = [whole(draw_body(sex=sex, seed=4), (4.1, 3.7, 3.3)) for sex in ("M", "F")]
    for person in (man, woman, *others):
        present = {STRUCTURES[n - 1] for n in np.unique(person["labels"]) if n}
        missing = set(STRUCTURES) - present - {"kidney_cyst_left", "kidney_cyst_right"}
        assert missing == ({"prostate"} if person["sex"] == "F" else set())
        found |= present
    assert found == set(STRUCTURES)


def gates(quantity: str) -> Iterator[tuple[str, float, float]]:
    for row in load_terminology().ranges:
        if row.kind == "editorial_gate" and row.quantity == quantity:
            for name in set(row.names) & set(STRUCTURES):
                yield name, row.low, row.high


@pytest.mark.parametrize(
    ("quantity", "attribute"), [("volume_ml", "volume_ml"), ("mean_HU_of_mask", "mean_hu")]
)
def test_sizes_and_densities_are_plausible(body, quantity, attribute):
    """Within the terminology's gates for adults; the thighs' end is the only cut."""
    checked = 0
    for name, low, high in gates(quantity):
        if name in body["truth"]:
            assert low <= getattr(body["truth"][name], attribute) <= high, name
            checked += 1
    assert checked >= 25


def test_left_is_the_patients_left(body):
    x = {name: truth.centroid_mm[0] for name, truth in body["truth"].items()}
    pairs = [(name, name.replace("left", "right")) for name in x if "left" in name]
    apart = {left: x[left] - x[right] for left, right in pairs if right in x}
    assert len(apart) >= 31
    assert min(apart.values()) > 20, min(apart, key=apart.get)
    assert body["truth"]["spleen"].centroid_mm[0] > 50
    assert body["truth"]["liver"].centroid_mm[0] < -30


def test_vertebrae_and_ribs_are_in_their_order(body):
    column = [f"vertebrae_C{n}" for n in range(1, 8)] + [f"vertebrae_T{n}" for n in range(1, 13)]
    column += [f"vertebrae_L{n}" for n in range(1, 6)] + ["vertebrae_S1", "sacrum"]
    ribs = [[f"rib_{side}_{n}" for n in range(1, 13)] for side in ("left", "right")]
    for names in (column, *ribs):
        heights = [body["truth"][name].centroid_mm[2] for name in names]
        assert heights == sorted(heights, reverse=True)


def test_structures_reach_the_levels_that_the_order_table_says(body):
    """From head to foot, organs follow each other as in the terminology's order table."""
    order = ["brain", "thyroid_gland", "heart", "liver", "kidney_left", "urinary_bladder"]
    heights = [body["truth"][name].centroid_mm[2] for name in order]
    assert heights == sorted(heights, reverse=True)
    level = {name: truth.centroid_mm[2] for name, truth in body["truth"].items()}
    assert level["vertebrae_T4"] > level["heart"] > level["vertebrae_T11"]
    assert level["vertebrae_T12"] > level["kidney_right"] > level["vertebrae_L4"]
    assert level["kidney_left"] > level["kidney_right"]


#: These are several pieces in a person too.
IN_PIECES = {"costal_cartilages", "pulmonary_vein"}


def grow(piece: np.ndarray, into: np.ndarray) -> None:
    """Let a piece spread over faces, all the way along each axis there and back."""
    for axis in range(3):
        for there in (slice(None), slice(None, None, -1)):
            flow, room = (np.moveaxis(a, axis, 0)[there] for a in (piece, into))
            for k in range(1, len(flow)):
                flow[k] |= flow[k - 1] & room[k]


def largest_piece(mask: np.ndarray) -> int:
    """Voxels of the largest piece."""
    rest, largest = mask.copy(), 0
    while rest.sum() > largest:
        piece = np.zeros_like(rest)
        piece[np.unravel_index(rest.argmax(), rest.shape)] = True
        size = 0
        while piece.sum() > size:
            size = int(piece.sum())
            grow(piece, rest)
        rest &= ~piece
        largest = max(largest, size)
    return largest


def test_every_structure_is_one_piece(man):
    """But for the tips of what is thinner than the grid is fine."""
    for label, name in enumerate(STRUCTURES, start=1):
        where = np.argwhere(man["labels"] == label)
        if name in IN_PIECES or not len(where):
            continue
        low, high = where.min(axis=0), where.max(axis=0) + 1
        window = man["labels"][tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        assert largest_piece(window == label) >= 0.8 * len(where), name


def test_any_grid_sees_the_same_body():
    """Upright, tilted, coronal and oblique volumes agree on how large the liver is."""
    case = replace(CASES["abdomen"], reach=("T6", "L5"), spacing_mm=(5.1, 4.8, 4.4))
    volumes = []
    for change in ({}, {"tilt_deg": 18.0}, {"plane": "coronal"}, {"turn_deg": 30.0}):
        scan = scan_body(replace(case, field_mm=(470, 430), **change), seed=3)
        volumes.append(find_structures(scan.labels, scan.hu, scan.affine)["liver"].volume_ml)
    assert volumes == pytest.approx([volumes[0]] * 4, rel=0.02)


def test_noise_does_not_depend_on_how_the_work_is_cut_up(monkeypatch):
    scan = scan_body(CASES["few-slices"], seed=1)
    monkeypatch.setattr("tomodex.phantom.voxels.SLAB_VOXELS", 1)
    again = scan_body(CASES["few-slices"], seed=1)
    assert np.array_equal(scan.labels, again.labels)
    assert np.array_equal(scan.hu, again.hu)


def test_another_seed_draws_another_body():
    one, other = (scan_body(CASES["few-slices"], seed=seed) for seed in (1, 2))
    assert one.labels.shape != other.labels.shape or (one.labels != other.labels).mean() > 0.01


# --- truth -------------------------------------------------------------------------------------


def test_truth_of_a_box_is_what_one_counts():
    """Voxels 2..3, 0..4, 5..9 of a flipped, anisotropic grid; it lies at two faces."""
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2:4, 0:5, 5:10] = LABELS["liver"]
    hu = np.where(labels > 0, np.arange(10), -1000).astype(np.int16)
    affine = np.array([[0, 0, -2.0, 50], [0, 3.0, 0, 7], [5.0, 0, 0, -20], [0, 0, 0, 1]])
    truth = find_structures(labels, hu, affine)["liver"]
    assert truth.voxel_count == 50
    assert truth.volume_ml == pytest.approx(50 * 30 / 1000)
    assert truth.mean_hu == 7
    assert truth.sd_hu == pytest.approx(np.sqrt(2))
    assert truth.centroid_mm == pytest.approx((50 - 14, 7 + 6, -20 + 12.5))
    assert truth.box_min_mm == pytest.approx((50 - 19, 7 - 1.5, -20 + 7.5))
    assert truth.box_max_mm == pytest.approx((50 - 9, 7 + 13.5, -20 + 17.5))
    assert truth.cut == ("anterior", "right")


def test_truth_of_a_sheared_box_reaches_to_its_corners():
    labels = np.full((1, 1, 1), LABELS["spleen"], np.uint8)
    affine = np.array([[0, 0, 1.0, 0], [0, 2.0, 0, 0], [4.0, 1.0, 0, 0], [0, 0, 0, 1]])
    truth = find_structures(labels, np.zeros((1, 1, 1), np.int16), affine)["spleen"]
    assert truth.box_max_mm == pytest.approx((0.5, 1.0, 2.5))
    assert len(truth.cut) == 6


# --- cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DEMO, ids=lambda case: case.name)
def test_no_two_axes_are_alike(case):
    """So that a swapped pair of axes cannot go unseen."""
    _, shape = find_grid(case, draw_body(sex=case.patient.sex, seed=case.patient.seed))
    assert len(set(shape)) == 3
    assert len(set(case.spacing_mm)) == 3


def test_the_demo_has_what_its_page_promises():
    wanted = [case for case in DEMO if not case.reason]
    assert len({case.name for case in DEMO}) == len(DEMO) == 20
    assert len(wanted) == 11
    assert {case.reason for case in DEMO if case.reason} <= set(REASONS)
    assert {case.sex for case in {c.patient for c in wanted}} == {"M", "F"}
    assert any(not case.seg for case in wanted)
    page = Path(__file__).parent.parent / "docs" / "reference" / "phantoms.md"
    for case in DEMO:
        row = next(
            row for row in page.read_text("utf-8").splitlines() if f"| `{case.name}` |" in row
        )
        assert case.reason in row
        assert case.reason or " x ".join(f"{mm:g}" for mm in case.spacing_mm) in row


def truth_of(name: str) -> dict:
    scan = scan_body(CASES[name], seed=0)
    return find_structures(scan.labels, scan.hu, scan.affine)


def test_thin_slices_show_the_whole_sacrum_of_one_woman_of_forty_to_sixty():
    case = CASES["abdomen-pelvis"]
    assert (case.patient.sex, case.age, case.thickness_mm) == ("F", 52, 1.5)
    truth = truth_of("abdomen-pelvis")
    assert truth["sacrum"].cut == truth["vertebrae_S1"].cut == ()
    others = [c for c in DEMO if c.patient.sex == "F" and 40 <= c.age <= 60 and not c.reason]
    assert {c.name for c in others if c.thickness_mm <= 1.5} == {"abdomen-pelvis"}


def test_the_left_back_muscle_lies_between_heart_and_l1_where_the_page_says():
    truth = truth_of("thorax-abdomen")
    muscle, heart, lumbar = (truth[n] for n in ("autochthon_left", "heart", "vertebrae_L1"))
    assert heart.cut == lumbar.cut == ()
    assert lumbar.box_max_mm[2] < heart.box_min_mm[2]
    assert muscle.box_min_mm[2] < lumbar.box_max_mm[2]
    assert muscle.box_max_mm[2] > heart.box_min_mm[2]
    assert {f"vertebrae_{v}" for v in ("T12", "L1", "L2", "L3", "L4", "L5")} <= set(truth)


def test_one_series_shows_whole_kidneys_and_no_lung():
    truth = truth_of("enhanced-abdomen")
    assert truth["kidney_left"].cut == truth["kidney_right"].cut == ()
    assert not any(name.startswith("lung_") for name in truth)


def test_a_chest_series_cuts_the_liver_at_its_lower_end():
    truth = truth_of("chest")
    assert truth["liver"].cut == ("inferior",)
    assert truth["lung_upper_lobe_left"].cut == truth["heart"].cut == ()


# --- files -------------------------------------------------------------------------------------


def files(folder: Path, name: str) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((folder / name / "image").iterdir())]


def test_selection_says_of_every_series_what_its_truth_says(archive):
    folder, truths = archive
    rules = load_rules(None)
    for name, truth in truths.items():
        instances = tuple(
            read_instance(path, str) for path in sorted((folder / name / "image").iterdir())
        )
        first = instances[0]
        series = Series(
            series_uid=first.series_uid, study_uid=first.study_uid, patient="p", modality="CT"
        )
        selection = select(Listing(series=series, instances=instances), rules)
        assert (selection.reason or "wanted") == truth.verdict, name
        assert len(instances) == truth.instance_count
        if selection.geometry:
            assert selection.geometry.shape == truth.shape
            assert selection.geometry.affine == pytest.approx(np.array(truth.affine), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "tilt", "plane"), [("head-tilted", 16, "axial"), ("chest-coronal", 0, "coronal")]
)
def test_a_series_lies_as_its_case_says(archive, name, tilt, plane):
    paths = (archive[0] / name / "image").iterdir()
    geometry = find_geometry([i for path in paths if (i := read_instance(path, str))])
    assert geometry.tilt_deg == pytest.approx(tilt, abs=0.01)
    assert geometry.plane == plane
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    assert spacing == pytest.approx(next(c for c in WRITTEN if c.name == name).spacing_mm)


def test_every_file_says_that_it_is_a_phantom(archive):
    for path in archive[0].rglob("image/*"):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert ds.SoftwareVersions[0] == MARKER
        assert "Not a patient" in ds.ImageComments
        assert ds.PatientID.startswith("PHANTOM-")
        assert str(ds.PatientName).startswith("PHANTOM^")
        # Implicit VR does not say that the value is text.
        mark = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x01].value
        assert MARKER in (mark.decode().strip() if isinstance(mark, bytes) else mark)


def below(ds: pydicom.Dataset, path: list[str]) -> list[pydicom.Dataset]:
    """The items that a path of sequences leads to."""
    found = [ds]
    for keyword in path:
        found = [item for parent in found for item in parent.get(keyword) or []]
    return found


def missing(ds: pydicom.Dataset) -> set[tuple[str, ...]]:
    """Attributes of type 1 and 2 of its mandatory modules that an instance does not have.

    Which functional groups there are, in the shared or in the frames' item, the tables cannot say.
    """
    modules = get_iod_module_map()[get_sop_class_iod_map()[ds.SOPClassUID]]
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    gone = set()
    for module in (m["key"] for m in modules if m["usage"] == "M"):
        for rule in get_module_attribute_map()[module]:
            keyword, kind = rule["keyword"], rule["type"]
            if kind not in ("1", "2") or (rule["path"] and rule["path"][-1] in groups):
                continue
            for parent in below(ds, rule["path"]):
                if keyword not in parent or (kind == "1" and parent[keyword].is_empty):
                    gone.add((module, *rule["path"], keyword))
    return gone


def test_files_have_what_the_standard_asks_for(archive, monkeypatch):
    """Every value is valid, and no required attribute of a mandatory module is missing."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    for name in archive[1]:
        folder = archive[0] / name
        for path in [next((folder / "image").iterdir()), *folder.glob("seg/*")]:
            ds = pydicom.dcmread(path)
            assert [element.value for element in ds.iterall()]
            assert missing(ds) == set(), path


def test_the_tables_would_notice_a_missing_attribute(archive):
    ds = files(archive[0], "enhanced-abdomen")[0]
    del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType
    del ds.VolumetricProperties
    assert len(missing(ds)) == 2


def stored_hu(ds: pydicom.Dataset) -> np.ndarray:
    """Pixels of one instance as HU, (frames, rows, columns)."""
    rescale = ds
    if "SharedFunctionalGroupsSequence" in ds:
        rescale = ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    pixels = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns).astype(int)
    return pixels * int(rescale.RescaleSlope) + int(rescale.RescaleIntercept)


@pytest.mark.parametrize("name", ["head-tilted", "chest-coronal", "abdomen", "pelvis"])
def test_files_hold_the_hu_and_the_places_of_the_scan(archive, name):
    """Read back with nothing of ours, sorted by where they lie."""
    images = files(archive[0], name)
    case = next(case for case in WRITTEN if case.name == name)
    scan = scan_body(case, 0)
    rows = np.array(images[0].ImageOrientationPatient[:3], float)
    normal = np.cross(rows, np.array(images[0].ImageOrientationPatient[3:], float))
    places = [normal @ np.array(ds.ImagePositionPatient, float) for ds in images]
    for k, index in enumerate(np.argsort(places)):
        corner = scan.affine @ [k, 0, 0, 1]
        assert images[index].ImagePositionPatient == pytest.approx(list(corner[:3]), abs=1e-5)
        assert np.array_equal(stored_hu(images[index])[0], scan.hu[k])


def test_the_order_of_files_and_numbers_is_not_that_of_the_slices(archive):
    images = files(archive[0], "pelvis")
    for key in (lambda ds: 0, lambda ds: ds.InstanceNumber):
        heights = [ds.ImagePositionPatient[2] for ds in sorted(images, key=key)]
        assert heights not in (sorted(heights), sorted(heights, reverse=True))


def test_the_transfer_syntaxes_are_those_of_the_cases(archive):
    found = {files(archive[0], case.name)[0].file_meta.TransferSyntaxUID.name for case in WRITTEN}
    assert len(found) >= 5


def label_map(seg: pydicom.Dataset, affine: Affine, shape: tuple[int, ...]) -> np.ndarray:
    """Labels that a SEG has on a grid whose slices its frames are, each put where it says."""
    known = load_terminology().structures
    by_display = {known[name].display: label for name, label in LABELS.items()}
    labels = {s.SegmentNumber: by_display.get(s.SegmentLabel, 0) for s in seg.SegmentSequence}
    labels[0] = 0
    found = np.zeros(shape, int)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        place = group.PlanePositionSequence[0].ImagePositionPatient
        index = np.linalg.solve(affine, [*place, 1])[:3]
        k = round(index[0])
        assert index == pytest.approx([k, 0, 0], abs=1e-3)
        if seg.SegmentationType == "LABELMAP":
            found[k] = np.vectorize(labels.get)(frame)
        else:
            number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            found[k][frame > 0] = labels[number]
    return found


@pytest.mark.parametrize("name", ["head-tilted", "pelvis", "enhanced-abdomen"])
def test_the_segmentation_has_the_labels_of_the_scan(archive, name):
    """Labelmap and binary, tilted and multi-frame, read with nothing of ours."""
    folder, truths = archive
    seg = pydicom.dcmread(next((folder / name / "seg").iterdir()))
    assert seg.SOPInstanceUID == truths[name].segmentation_uid
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == truths[name].series_uid
    scan = scan_body(next(case for case in WRITTEN if case.name == name), 0)
    assert np.array_equal(label_map(seg, scan.affine, scan.labels.shape), scan.labels)


def test_a_cyst_is_a_finding_at_a_kidney(archive):
    seg = pydicom.dcmread(archive[0] / "abdomen" / "seg" / "truth.dcm")
    cyst = next(s for s in seg.SegmentSequence if s.SegmentLabel == "Cyst of left kidney")
    region = cyst.AnatomicRegionSequence[0]
    assert cyst.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert region.CodeValue == "64033007"
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Left"


def test_segments_are_coded_with_their_side(archive):
    seg = pydicom.dcmread(archive[0] / "pelvis" / "seg" / "truth.dcm")
    by_label = {s.SegmentLabel: s for s in seg.SegmentSequence}
    kind = by_label["Left femur"].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("71341001", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


def test_the_truth_on_disk_is_the_truth_returned(archive):
    folder, truths = archive
    read = json.loads((folder / "abdomen" / "truth.json").read_text())
    assert read["verdict"] == "wanted"
    assert read["shape"] == list(truths["abdomen"].shape)
    liver = truths["abdomen"].structures["liver"]
    assert read["structures"]["liver"]["volume_ml"] == liver.volume_ml
    assert read["structures"]["liver"]["cut"] == list(liver.cut)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    """Images, segmentation and truth; another seed shares no UID with it."""
    case: Case = replace(CASES["head-tilted"], spacing_mm=(8.0, 3.7, 3.5))
    uids = []
    for folder, seed in (("a", 4), ("b", 4), ("c", 5)):
        write_phantom(tmp_path / folder, case, seed)
        images = [pydicom.dcmread(p) for p in (tmp_path / folder / "image").iterdir()]
        uids.append({(ds.SOPInstanceUID, ds.SeriesInstanceUID) for ds in images})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert uids[0].isdisjoint(uids[2])


def test_progress_is_told_of_every_series(tmp_path):
    told: list[tuple[int, int | None]] = []
    cases = [CASES["monitoring"], CASES["screenshot"]]
    write_phantoms(tmp_path, cases, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_importing_phantoms_does_not_import_highdicom():
    """It takes a second, and only writing a segmentation needs it."""
    code = "import sys, tomodex.phantom; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
