"""Labels as a NIfTI-1 file that lies where the series lies."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured
from tomodex.masks import Labels

#: NIfTI's x and y grow to the right and to the front, DICOM's to the left and to the back.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Axes further from square than this cannot be said by a rotation, as with a leaning gantry.
_SQUARE = 1e-4

_SCANNER = 1  # the code of a space whose origin the scanner gave


def write_nifti(path: Path, labels: Labels, affine: npt.NDArray[np.float64]) -> None:
    """Write labels (slices, rows, columns), packed where the name ends on .gz.

    Voxels are stored in the series' own order: the first index runs along a row, the third from
    slice to slice. `affine` takes (slice, row, column, 1) to LPS mm. The file's sform is exact,
    sheared or not; its qform is left out where it could not be.

    Raises:
        Misconfigured: nibabel is not installed.
    """
    try:
        nibabel = import_module("nibabel")  # without types
    except ImportError as missing:
        raise Misconfigured("NIfTI needs nibabel; pip install 'tomodex[masks]'") from missing

    to_ras = nifti_affine(affine)
    image = nibabel.Nifti1Image(np.transpose(labels, (2, 1, 0)), to_ras, dtype=np.uint8)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(to_ras, _SCANNER)
    if _is_square(to_ras):
        image.set_qform(to_ras, _SCANNER)
    else:
        image.header["qform_code"] = 0
    image.header["descrip"] = b"Tomodex labels"
    nibabel.save(image, path)


def nifti_affine(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(4, 4): (column, row, slice, 1) -> RAS mm, from (slice, row, column, 1) -> LPS mm."""
    to_ras: npt.NDArray[np.float64] = _LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]
    return to_ras


def _is_square(affine: npt.NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < _SQUARE)
