"""Labels as NIfTI and NRRD: each voxel lies where the series has it."""

from __future__ import annotations

import json

import nibabel
import nrrd
import numpy as np
import pytest

from tests.masked import AXIAL, GRIDS, NAMES, TILTED, labels, masks_of, origin_of
from tomodex.formats.labelling import write_label_file, write_labels_json
from tomodex.formats.nifti import write_nifti
from tomodex.formats.nrrd import write_nrrd
from tomodex.terminology import load_terminology

TERMINOLOGY = load_terminology()
RAS = np.diag([-1, -1, 1])


def places_lps(affine, label):
    """(n, 3) where the voxels of a label lie."""
    index = np.argwhere(labels() == label)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("grid", GRIDS)
def test_nibabel_finds_each_label_where_the_series_has_it(tmp_path, grid):
    write_nifti(tmp_path / "a.nii.gz", labels(), GRIDS[grid])
    image = nibabel.load(tmp_path / "a.nii.gz")
    found = np.asarray(image.dataobj)
    assert found.dtype == np.uint8
    assert found.shape == labels().shape[::-1]
    for label in NAMES:
        at = nibabel.affines.apply_affine(image.affine, np.argwhere(found == label)) @ RAS
        expected = places_lps(GRIDS[grid], label)
        assert np.allclose(np.sort(at, axis=0), np.sort(expected, axis=0), atol=1e-4)


def test_a_leaning_grid_is_exact_in_the_sform_and_has_no_qform(tmp_path):
    write_nifti(tmp_path / "leaning.nii.gz", labels(), TILTED)
    write_nifti(tmp_path / "square.nii.gz", labels(), AXIAL)
    leaning = nibabel.load(tmp_path / "leaning.nii.gz").header
    square = nibabel.load(tmp_path / "square.nii.gz").header
    assert (int(leaning["sform_code"]), int(leaning["qform_code"])) == (1, 0)
    assert (int(square["sform_code"]), int(square["qform_code"])) == (1, 1)
    assert np.allclose(square.get_qform(), square.get_sform(), atol=1e-5)
    assert square.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize("grid", GRIDS)
def test_nrrd_has_each_label_where_the_series_has_it_with_name_and_code(tmp_path, grid):
    write_nrrd(tmp_path / "a.seg.nrrd", labels(), NAMES, GRIDS[grid], TERMINOLOGY)
    found, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    assert header["space"] == "left-posterior-superior"
    for label in NAMES:
        at = np.argwhere(found == label) @ header["space directions"] + header["space origin"]
        expected = places_lps(GRIDS[grid], label)
        assert np.allclose(np.sort(at, axis=0), np.sort(expected, axis=0), atol=1e-4)
    by_id = {header[f"Segment{n}_ID"]: n for n in range(len(NAMES))}
    n = by_id["kidney_left"]
    assert (header[f"Segment{n}_LabelValue"], header[f"Segment{n}_Name"]) == ("7", "Left kidney")
    assert "~SCT^64033007^Kidney structure~SCT^7771000^Left~" in header[f"Segment{n}_Tags"]
    # Slicer splits tags at "|" and terminology at "~": seven parts, and nothing after the last.
    entry = header[f"Segment{n}_Tags"].removeprefix("TerminologyEntry:").removesuffix("|")
    assert len(entry.split("~")) == 7


def test_the_sidecars_say_what_each_label_is(tmp_path):
    masks = masks_of(origin_of(AXIAL))
    write_labels_json(tmp_path / "labels.json", masks, "1.2.3", TERMINOLOGY)
    said = json.loads((tmp_path / "labels.json").read_text())
    (layer,) = said["layers"]
    assert {one["label"]: one["structure"] for one in layer} == NAMES
    (kidney,) = [one for one in layer if one["structure"] == "kidney_left"]
    assert (kidney["snomed"], kidney["radlex"]) == ("18639004", "RID29663")
    assert np.allclose(said["affine_lps"], AXIAL)
    assert said["algorithm"]["weights_sha256"] == "ab"

    write_label_file(tmp_path / "labels.label", NAMES)
    lines = (tmp_path / "labels.label").read_text().splitlines()
    shown = {line.split()[0]: line.split('"')[1] for line in lines if line[0] != "#"}
    assert shown == {"0": "Clear Label", **{str(n): name for n, name in NAMES.items()}}


def test_every_structure_has_an_nrrd_segment(tmp_path):
    some = dict(enumerate(sorted(TERMINOLOGY.structures)[:255], start=1))
    write_nrrd(tmp_path / "a.seg.nrrd", labels(), some, AXIAL, TERMINOLOGY)
    _, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    assert {header[f"Segment{n}_ID"] for n in range(255)} == set(some.values())
