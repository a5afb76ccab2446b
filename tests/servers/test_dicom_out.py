"""What we write, read by others: Orthanc, DCMTK, dicom3tools, dcm2niix."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import requests

from tests.annotated import LIVER, ONE
from tests.servers.orthanc import Orthanc
from tests.test_segmenting import ENHANCED, PELVIS, TILTED, order, small, voxels_of
from tomodex.errors import Unsuitable
from tomodex.mask_orders import Maker, deliver_order
from tomodex.phantom import Case
from tomodex.phantom.writing import write_phantom
from tomodex.settings import Settings, load_settings
from tomodex.sinks import open_sink

pytestmark = pytest.mark.server

SERVERS = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
DCMQI = SERVERS / "dcmqi-1.5.7/dcmqi/bin"

CORONAL = small("chest-coronal")
CASES = pytest.mark.parametrize("case", [PELVIS, TILTED, ENHANCED], ids=lambda one: one.name)
#: LABELMAP is newer than dicom3tools of Debian 12, and nobody but us knows our own scheme.
KNOWN = ("Unrecognized defined term <99TOMODEX>", "would be needed to build DICOMDIR")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data=tmp_path / "data", segmenters=("dicomseg:",))


def phantom(tmp_path: Path, case: Case) -> Path:
    write_phantom(tmp_path / "phantom", case, seed=0)
    return tmp_path / "phantom"


def images(folder: Path) -> list[Path]:
    return sorted(one for one in (folder / "image").rglob("*") if one.is_file())


def said(*command: object) -> str:
    """What a program says, on either of its outputs; one that fails fails the test."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def complaints(file: Path) -> list[str]:
    """What dicom3tools says against an object."""
    lines = said("dciodvfy", file).splitlines()
    return [
        line
        for line in lines
        if line.startswith(("Error", "Warning")) and not any(known in line for known in KNOWN)
    ]


@CASES
def test_the_validator_of_dicom3tools_finds_nothing_wrong(tmp_path, settings, case):
    folder = phantom(tmp_path, case)
    made = deliver_order(settings, order(folder, tmp_path, forms=("seg-binary", "sr")))
    assert len(made.places) == 2
    for place in made.places:
        assert complaints(Path(place)) == []


@pytest.mark.parametrize("packing", ["native", "rle", "deflated"])
def test_dcmtk_parses_every_packing_and_unpacks_the_same_voxels(tmp_path, settings, packing):
    folder = phantom(tmp_path, TILTED)
    (place,) = deliver_order(settings, order(folder, tmp_path, packing=packing)).places
    dump = said("dcmdump", "--quiet", place)
    assert "SegmentedPropertyTypeCodeSequence" in dump
    plain = tmp_path / "plain.dcm"
    said("dcmdrle" if packing == "rle" else "dcmconv", "--write-xfer-little", place, plain)
    assert voxels_of(pydicom.dcmread(plain)) == voxels_of(pydicom.dcmread(place))


def test_dcmtk_reads_the_report(tmp_path, settings):
    folder = phantom(tmp_path, TILTED)
    (place,) = deliver_order(settings, order(folder, tmp_path, forms=("sr",))).places
    text = said("dsrdump", place)
    assert "Imaging Measurement Report" in text
    assert "tomodex brain" in text


def test_dcmqi_reads_every_voxel_and_every_measurement(tmp_path, settings):
    folder = phantom(tmp_path, PELVIS)
    forms = ("seg", "seg-binary", "sr", "nifti")
    label_map, binary, report, nifti, *_ = deliver_order(
        settings, order(folder, tmp_path, forms=forms)
    ).places
    ours = nibabel.load(nifti)
    wanted = np.asarray(ours.dataobj)
    (layer,) = json.loads((Path(nifti).parent / "labels.json").read_text())["layers"]
    label_of = {one["structure"]: one["label"] for one in layer}
    for file in (label_map, binary):
        found = np.zeros_like(wanted)
        for name, mask, affine in read_by_dcmqi(Path(file), tmp_path / Path(file).stem):
            to_ours = np.linalg.inv(ours.affine) @ affine
            place = np.rint(nibabel.affines.apply_affine(to_ours, np.argwhere(mask))).astype(int)
            found[tuple(place.T)] = label_of[name]
        assert (found == wanted).all()
    said(DCMQI / "tid1500reader", "--inputDICOM", report, "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert {one["TrackingIdentifier"] for one in groups} == {f"tomodex {one}" for one in label_of}
    for one in groups:
        said_of_it = [item["quantity"]["CodeMeaning"] for item in one["measurementItems"]]
        assert said_of_it[0] == "Volume"
        assert set(said_of_it[1:]) == {"Attenuation Coefficient"}


def read_by_dcmqi(file: Path, folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, voxels and affine of each segment."""
    folder.mkdir()
    options = ("--outputDirectory", folder, "-t", "nii", "--inputDICOM", file)
    said(DCMQI / "segimage2itkimage", *options)
    read = {one.name: nibabel.load(one) for one in folder.glob("*.nii.gz")}
    for item in pydicom.dcmread(file).SegmentSequence:
        if item.SegmentNumber == 0:
            continue
        # A label map is one file; of anything else each segment has its own.
        image = read["1.nii.gz" if len(read) == 1 else f"{item.SegmentNumber}.nii.gz"]
        mask = np.asarray(image.dataobj) == item.SegmentNumber
        yield item.SegmentDescription, mask, image.affine


@pytest.mark.parametrize("case", [PELVIS, ENHANCED, CORONAL], ids=lambda one: one.name)
def test_each_voxel_lies_where_dcm2niix_puts_it(tmp_path, settings, case):
    """Ours keeps the order of rows and slices, dcm2niix turns rows: so by place, not by index.

    Not of a leaning gantry: it knows no sheared affine, and resamples.
    """
    folder = phantom(tmp_path, replace(case, syntax="explicit"))
    (ours, *_) = deliver_order(settings, order(folder, tmp_path, forms=("nifti",))).places
    made = tmp_path / "converted"
    made.mkdir()
    said("dcm2niix", "-z", "n", "-m", "y", "-o", made, "-f", "a", folder / "image")
    theirs, mask = nibabel.load(made / "a.nii"), nibabel.load(ours)
    assert sorted(theirs.shape) == sorted(mask.shape)
    index = np.indices(mask.shape).reshape(3, -1).T
    here = nibabel.affines.apply_affine(mask.affine, index)
    there = nibabel.affines.apply_affine(np.linalg.inv(theirs.affine), here)
    assert np.abs(there - np.rint(there)).max() < 0.02
    assert (np.rint(there) >= 0).all()
    assert (np.rint(there) < theirs.shape).all()
    assert len(np.unique(np.rint(there), axis=0)) == len(index)


def test_orthanc_takes_all_of_it_by_c_store_and_stow(tmp_path, settings, orthanc: Orthanc):
    folder = phantom(tmp_path, TILTED)
    orthanc.store(images(folder))
    dimse = f"dimse://TOMODEX@127.0.0.1:{orthanc.dicom_port}/{orthanc.aet}"
    stow = orthanc.dicomweb.replace("http://", "dicomweb+http://")
    older, at = ("seg-binary", "sr"), datetime(2026, 11, 23, 12, tzinfo=UTC)
    for url, forms in ((dimse, older), (stow, ("seg", *older)), (dimse, older)):
        made = Maker(settings).make(order(folder, tmp_path, forms=forms, to=url), at)
        assert len(made.places) == len(forms)
    with pytest.raises(Unsuitable, match=r"takes no segmentations as label maps.*seg-binary"):
        Maker(settings).make(order(folder, tmp_path, forms=("seg",), to=dimse), at)
    kept = [pydicom.dcmread(BytesIO(one)) for one in orthanc.files()]
    assert sorted(ds.Modality for ds in kept if ds.Modality != "CT") == [
        "SEG",
        "SEG",
        "SR",  # of one segmentation
        "SR",  # of both
    ]
    back = {ds.SegmentationType: ds for ds in kept if ds.Modality == "SEG"}
    ours = Maker(settings).make(order(folder, tmp_path, forms=("seg", "seg-binary")), at)
    for place in ours.places:
        sent = pydicom.dcmread(place)
        assert sent == back[sent.SegmentationType]
    assert voxels_of(back["BINARY"]) == voxels_of(pydicom.dcmread(ours.places[-1]))
    assert set(back) == {"LABELMAP", "BINARY"}


@pytest.mark.parametrize("scheme", ["dimse", "stow"])
def test_orthanc_gets_a_report_of_the_patient_that_it_knows(tmp_path, orthanc: Orthanc, scheme):
    folder = phantom(tmp_path, TILTED)
    orthanc.store(images(folder))
    image = pydicom.dcmread(images(folder)[0])
    series = replace(
        ONE.series, series_uid=image.SeriesInstanceUID, study_uid=image.StudyInstanceUID
    )
    url = {
        "dimse": f"dimse://TOMODEX@127.0.0.1:{orthanc.dicom_port}/{orthanc.aet}",
        "stow": orthanc.dicomweb.replace("http://", "dicomweb+http://"),
    }[scheme]
    sink = open_sink(url, tmp_path)
    sink.write([replace(ONE, series=series, annotations=(LIVER,))])
    sink.close()
    kept = [pydicom.dcmread(BytesIO(one)) for one in orthanc.files()]
    (report,) = [ds for ds in kept if ds.Modality == "SR"]
    assert (report.PatientID, report.PatientName) == (image.PatientID, image.PatientName)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (referred,) = study.ReferencedSeriesSequence
    assert len(referred.ReferencedSOPSequence) == len(images(folder))
    patients = requests.get(f"{orthanc.rest}/patients", timeout=60).json()
    assert len(patients) == 1
    assert report.StudyInstanceUID == image.StudyInstanceUID
