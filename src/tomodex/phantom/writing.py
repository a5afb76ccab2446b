"""Phantom series on disk: images, segmentation and known answer of each, a folder for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
from pydicom.dataset import Dataset

from tomodex.errors import Unavailable
from tomodex.phantom.cases import DEMO, Case
from tomodex.phantom.encoding import save
from tomodex.phantom.forms import make_series
from tomodex.phantom.scan import Scan, scan_body
from tomodex.phantom.truth import Truth, find_structures
from tomodex.sources import Progress


def write_phantoms(
    folder: Path,
    cases: Sequence[Case] = DEMO,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sequence[Truth]:
    """Write each case to `folder`/NAME: `image/`, `seg/` where it has one, `truth.json`.

    The same seed writes the same bytes; another one draws other patients, under other UIDs.

    Raises:
        Unavailable: the folder cannot be written, or the disk is full.
    """
    truths = []
    for done, case in enumerate(cases):
        if progress:
            progress(done, len(cases))
        try:
            truths.append(write_phantom(folder / case.name, case, seed))
        except OSError as refused:
            raise Unavailable(f"cannot write to {folder}: {refused.strerror}") from refused
    if progress:
        progress(len(cases), len(cases))
    return truths


def write_phantom(folder: Path, case: Case, seed: int) -> Truth:
    """Write one case, and return its known answer."""
    scan = scan_body(case, seed)
    images = make_series(case, scan, seed)
    wanted = not case.reason
    segmentation = _segment(case, scan, images, seed) if wanted and case.seg else None
    truth = _truth(case, scan, images, segmentation)
    _write_images(folder / "image", case, images, seed)
    if segmentation:
        (folder / "seg").mkdir(parents=True, exist_ok=True)
        segmentation.save_as(folder / "seg" / "truth.dcm", enforce_file_format=True)
    (folder / "truth.json").write_bytes(orjson.dumps(truth, option=orjson.OPT_INDENT_2))
    return truth


def _segment(case: Case, scan: Scan, images: Sequence[Dataset], seed: int) -> Dataset:
    from tomodex.phantom.segmentation import make_segmentation

    return make_segmentation(case, scan, images, seed)


def _truth(
    case: Case, scan: Scan, images: Sequence[Dataset], segmentation: Dataset | None
) -> Truth:
    wanted = not case.reason
    return Truth(
        name=case.name,
        verdict=case.verdict,
        series_uid=images[0].SeriesInstanceUID,
        study_uid=images[0].StudyInstanceUID,
        patient_id=case.patient.id,
        patient_sex=case.patient.sex,
        patient_age=case.age,
        study_date=case.study_date,
        slice_thickness_mm=case.thickness_mm,
        instance_count=len(images),
        shape=(len(scan.hu), *scan.hu.shape[1:]) if wanted else None,
        affine=tuple(tuple(map(float, row)) for row in scan.affine) if wanted else None,
        segmentation_uid=segmentation.SOPInstanceUID if segmentation else "",
        structures=find_structures(scan.labels, scan.hu, scan.affine) if wanted else {},
    )


def _write_images(folder: Path, case: Case, images: Sequence[Dataset], seed: int) -> None:
    """Under names whose order is not that of the slices, and without a suffix, as on a CD."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(images))
    for ds, name in zip(images, names, strict=True):
        save(ds, folder / f"IM{name:05d}", case.syntax)
