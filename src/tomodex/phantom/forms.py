"""How a scan becomes a series: as a volume, or as one of the series that are no volume."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from tomodex.phantom import dicom
from tomodex.phantom.cases import Case, Form
from tomodex.phantom.enhanced import enhanced_image
from tomodex.phantom.scan import Scan
from tomodex.phantom.voxels import HU

#: Iodine that makes 1 HU at the energies of a dual-layer scanner, mg/ml: about 26 HU per mg/ml.
_IODINE_MG_ML_PER_HU = 1 / 26
_PHASES = 3


def make_series(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """The instances of a case, not yet compressed; of a volume in the order of its slices."""
    return _FORMS[case.form](case, scan, seed)


def _single_slice(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """One image of a place that contrast is waited for at."""
    return dicom.slices(case, scan, seed)[:1]


def _few_slices(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    return dicom.slices(case, scan, seed)[:5]


def _gap(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """A volume of which one slice never arrived."""
    images = dicom.slices(case, scan, seed)
    return images[: len(images) // 2] + images[len(images) // 2 + 1 :]


def _time_points(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """The same slices at several phases of the heart."""
    images = []
    for phase in range(_PHASES):
        brighter = Scan(labels=scan.labels, hu=scan.hu + np.int16(15 * phase), affine=scan.affine)
        for k, ds in enumerate(dicom.slices(case, brighter, seed)):
            ds.SOPInstanceUID = dicom.make_uid(seed, case.name, "image", phase, k)
            ds.AcquisitionNumber = phase + 1
            ds.InstanceNumber = phase * len(scan.hu) + k + 1
            ds.AcquisitionTime = f"1030{phase:02d}.{phase}00000"
            ds.NominalPercentageOfCardiacPhase = 100.0 * phase / _PHASES
            images.append(ds)
    return images


def _monoenergetic(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """Virtual monoenergetic images (PS3.3 C.8.2.1.1.1 value 4 VMI): HU, but a second view."""
    images = dicom.slices(case, scan, seed)
    for ds in images:
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "VMI"]
        ds.MultienergyCTAcquisition = "YES"
    return images


def _iodine(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """A map of iodine in mg/ml (PS3.3 C.8.2.1.1.1 value 4 MAT_SPECIFIC)."""
    iodine = np.clip((scan.hu - 40) * _IODINE_MG_ML_PER_HU, 0, 40)
    images = dicom.slices(case, scan, seed)
    for ds, values in zip(images, iodine, strict=True):
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]
        ds.MultienergyCTAcquisition = "YES"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, "0.01", "MGML"
        ds.WindowCenter, ds.WindowWidth = 5, 10
        dicom.put_pixels(ds, np.rint(values * 100).astype(np.int16))
    return images


def _projection(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """Thick slabs of the brightest voxels, one every slice."""
    thick = np.stack([scan.hu[k : k + 2].max(axis=0) for k in range(len(scan.hu))])
    images = dicom.slices(case, Scan(labels=scan.labels, hu=thick, affine=scan.affine), seed)
    for ds in images:
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]
        ds.DerivationDescription = "maximum intensity projection"
    return images


def _localizer(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """A radiograph from the front, as the scanner makes it while the table moves."""
    middle = len(scan.hu) // 2
    through = np.clip(scan.hu.astype(np.float64) + 1000, 0, None).mean(axis=0)
    image = np.rint(through * 3 - 1000).clip(-1024, 3071).astype(np.int16)
    shown = Scan(labels=scan.labels, hu=np.broadcast_to(image, scan.hu.shape), affine=scan.affine)
    ds = dicom.slice_image(case, shown, dicom.series_header(case, seed), middle, 1, seed)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return [ds]


def _capture(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """A picture of a rendering, as a workstation sends it: colours at no place in the patient."""
    ds = dicom.series_header(case, seed)
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition"):
        delattr(ds, keyword)
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = dicom.make_uid(seed, case.name, "image", 0)
    ds.ConversionType, ds.InstanceNumber = "WSD", 1
    ds.PatientOrientation = ["L", "F"]
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    picture = _picture(scan.hu)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.Rows, ds.Columns = picture.shape[:2]
    pixels = picture.tobytes()
    ds.PixelData = pixels + bytes(len(pixels) % 2)
    return [ds]


def _picture(hu: HU) -> npt.NDArray[np.uint8]:
    """Bones in the colour of bone, (rows, columns, 3)."""
    bright = np.clip((hu.max(axis=0).astype(np.float64) - 100) / 900, 0, 1)
    picture: npt.NDArray[np.uint8] = np.rint(bright[..., None] * [255, 232, 196]).astype(np.uint8)
    return picture


def _enhanced(case: Case, scan: Scan, seed: int) -> list[Dataset]:
    """All slices in one instance."""
    return [enhanced_image(case, scan, seed)]


_FORMS: dict[Form, Callable[[Case, Scan, int], list[Dataset]]] = {
    "slices": dicom.slices,
    "enhanced": _enhanced,
    "localizer": _localizer,
    "single_slice": _single_slice,
    "few_slices": _few_slices,
    "gap": _gap,
    "time_points": _time_points,
    "monoenergetic": _monoenergetic,
    "iodine": _iodine,
    "projection": _projection,
    "capture": _capture,
}
