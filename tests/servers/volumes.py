"""Series to push into an archive, and what becomes of them: the same on every way out of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from tests.phantoms import ct_dataset, write_dataset
from tomodex.errors import Unsuitable
from tomodex.instance import read_instance
from tomodex.selection import load_rules, select
from tomodex.series import Listing, Series
from tomodex.sources import Source
from tomodex.volume import load_volume

#: Series of the real data that servers take as they are, and that have a UID.
REAL = ("ct_body", "ct_head", "seg_in_pacs", "pet_ct", "tilt")

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)


def write_phantoms(folder: Path) -> None:
    """A series of 24 slices of noise in each of `SYNTAXES`, in a study and of a patient each."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 4096, (24, 20, 30), dtype=np.uint16)
    for syntax in SYNTAXES:
        series_uid, study_uid = generate_uid(), generate_uid()
        for k, pixels in enumerate(noise):
            ds = ct_dataset(
                pixels, transfer_syntax=syntax, position_mm=(0, 0, 2.5 * k), series_uid=series_uid
            )
            ds.StudyInstanceUID, ds.StudyDate = study_uid, "20260501"
            ds.PatientID, ds.IssuerOfPatientID = f"Müller-{syntax[-2:]}", "Ward 7"
            ds.SpecificCharacterSet = "ISO_IR 192"
            ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            write_dataset(folder / f"{series_uid}-{k}.dcm", ds)


def real_files() -> list[Path]:
    """Files of the real data; none where TOMODEX_REAL_DATA is not set."""
    root = os.environ.get("TOMODEX_REAL_DATA")
    if not root:
        return []
    return [f for name in REAL for f in sorted((Path(root) / name).rglob("*")) if f.is_file()]


def outcomes(source: Source, into: Path) -> dict[str, str]:
    """What becomes of each series: the hash of its HU, or why there are none."""
    return {
        listing.series.series_uid: outcome(source, listing.series, into / str(number))
        for number, listing in enumerate(source.find())
    }


def outcome(source: Source, series: Series, into: Path) -> str:
    """The same of one series."""
    into.mkdir(parents=True)
    found = [read_instance(file, str) for file in source.retrieve(series, into)]
    instances = tuple(sorted((one for one in found if one), key=lambda one: one.sop_uid))
    chosen = select(Listing(series=series, instances=instances), load_rules(None))
    if chosen.geometry is None:
        return f"{len(instances)} {chosen.reason}"
    try:
        volume = load_volume(chosen.instances, chosen.geometry)
    except Unsuitable as unsuitable:
        return f"{len(instances)} {unsuitable.reason}"
    return hashlib.sha256(volume.voxels.tobytes() + volume.affine.tobytes()).hexdigest()
