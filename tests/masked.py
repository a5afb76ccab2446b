"""Masks of series that are made of headers alone, as tests of everything that is written need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tomodex.formats.dicom_header import Subject
from tomodex.formats.dicom_seg import Origin
from tomodex.geometry import find_geometry
from tomodex.instance import Frame, Instance
from tomodex.masks import Masks, masks_on_frames
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.volume import Volume

#: Rows x columns is no multiple of 8, so that packed frames begin within a byte.
SHAPE = (6, 9, 11)
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
SUBJECT = Subject(study_uid="1.2", patient_id="P1", patient_name="Doe^Jane", study_date="20260102")
ALGORITHM = Algorithm(
    name="TotalSegmentator", version="2", model="total", weights_sha256="ab", options={"step": "1"}
)
CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"

#: (slice, row, column, 1) -> LPS mm; no two axes share a length.
AXIAL = np.array([[0, 0, 0.7, -3.0], [0, 0.9, 0, 5.0], [2.0, 0, 0, 40.0], [0, 0, 0, 1.0]])
#: Feet last, so that slices go against the order of the files.
TILTED = np.array([[0, 0, 0.7, -3.0], [0.7, 0.9, 0, 5.0], [2.0, 0, 0, 40.0], [0, 0, 0, 1.0]])
CORONAL = np.array([[0, 0, 0.7, -3.0], [2.0, 0, 0, 5.0], [0, -0.9, 0, 40.0], [0, 0, 0, 1.0]])

GRIDS = {"axial": AXIAL, "tilted": TILTED, "coronal": CORONAL}

#: Gaps between slices of an uneven stack, in steps of the grid.
UNEVEN = (0.0, 1.1, 2.08, 3.0, 4.08, 5.0)


def frame_at(affine: npt.NDArray[np.float64], place: float) -> Frame:
    """The frame at a place along the first axis of a grid."""
    down, along = (affine[:3, n] / np.linalg.norm(affine[:3, n]) for n in (1, 2))
    x, y, z = (affine[:3, 3] + place * affine[:3, 0]).tolist()
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    return Frame(
        position_mm=(x, y, z),
        orientation=(*along.tolist(), *down.tolist()),
        pixel_spacing_mm=(float(spacing[0]), float(spacing[1])),
        rescale_slope=1.0,
        rescale_intercept=0.0,
    )


def instance(number: int, frames: Sequence[Frame], **facts: object) -> Instance:
    """An instance with these frames."""
    known = {
        "path": f"{number:03}.dcm",
        "series_uid": "1.2.3",
        "study_uid": "1.2",
        "sop_uid": f"1.2.3.{number}",
        "sop_class": CT if len(frames) == 1 else ENHANCED,
        "modality": "CT",
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "frame_of_reference_uid": "1.2.99",
        "rows": SHAPE[1],
        "columns": SHAPE[2],
        "number_of_frames": len(frames),
        "has_pixels": True,
        "frames": tuple(frames),
    }
    return Instance(**{**known, **facts})


def origin_of(
    affine: npt.NDArray[np.float64], places: Sequence[float] = range(SHAPE[0]), **facts: object
) -> Origin:
    """A series with one instance for each slice."""
    frames = [frame_at(affine, place) for place in places]
    return _origin([instance(n, [frame], **facts) for n, frame in enumerate(frames, start=1)])


def enhanced_origin(affine: npt.NDArray[np.float64]) -> Origin:
    """The same in two instances of many frames, the last slices in the first."""
    frames = [frame_at(affine, place) for place in range(SHAPE[0])]
    return _origin([instance(1, frames[4:]), instance(2, frames[:4])])


def _origin(instances: Sequence[Instance]) -> Origin:
    geometry = find_geometry(instances)
    return Origin(series_uid="1.2.3", subject=SUBJECT, instances=instances, geometry=geometry)


def volume_of(origin: Origin) -> Volume:
    """A volume of noise on the series' grid."""
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return Volume(hu, origin.geometry.affine)


#: Label -> structure; numbered as a model might, with gaps.
NAMES = {5: "liver", 7: "kidney_left", 30: "kidney_cyst_right", 200: "spleen"}


def labels() -> npt.NDArray[np.uint8]:
    """(6, 9, 11) labels; nothing about them is symmetric, and slices 0 is empty."""
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[1:4, 2:7, 1:5] = 5
    drawn[3, 0:2, 6:11] = 7
    drawn[5, 8, 10] = 30
    drawn[2:6, 5:9, 6:9] = 200
    return drawn


def segmentation_of(origin: Origin) -> Segmentation:
    return Segmentation(
        volume=volume_of(origin), layers=(labels(),), names=(NAMES,), algorithm=ALGORITHM
    )


def masks_of(origin: Origin) -> Masks:
    return masks_on_frames(segmentation_of(origin), origin.geometry)
