"""A scan as one Enhanced CT image (PS3.3 A.38), with a frame for each slice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage

from tomodex.phantom import dicom
from tomodex.phantom.cases import Case
from tomodex.phantom.scan import Scan

_IMAGE_TYPE = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]


def enhanced_image(case: Case, scan: Scan, seed: int) -> Dataset:
    """The frames run from head to foot, so against the normal; each says where it lies."""
    ds = dicom.series_header(case, seed)
    ds.SOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = dicom.make_uid(seed, case.name, "image", 0)
    _describe_image(ds, case)
    _describe_dimensions(ds, dicom.make_uid(seed, case.name, "dimension organization"))
    ds.SharedFunctionalGroupsSequence = [_shared(case, scan)]
    order = range(len(scan.hu) - 1, -1, -1)
    ds.PerFrameFunctionalGroupsSequence = [
        _frame(scan, k, number) for number, k in enumerate(order, start=1)
    ]
    ds.NumberOfFrames = len(scan.hu)
    dicom.describe_pixels(ds, case)
    dicom.put_pixels(ds, scan.hu[::-1] - np.int16(dicom.intercept(case)))
    return ds


def _describe_image(ds: Dataset, case: Case) -> None:
    ds.ImageType, ds.InstanceNumber, ds.AcquisitionNumber = _IMAGE_TYPE, 1, 1
    ds.AcquisitionDateTime, ds.AcquisitionDuration = ds.AcquisitionDate + ds.AcquisitionTime, 4.0
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique, ds.ContentQualification = "NONE", "RESEARCH"
    ds.PresentationLUTShape, ds.MultienergyCTAcquisition = "IDENTITY", "NO"
    ds.IsocenterPosition = [0, 0, 0]
    ds.AcquisitionContextSequence = []
    ds.ReconstructionDiameter, ds.BodyPartExamined = max(case.field_mm), "PHANTOM"
    ds.ConvolutionKernel, ds.SliceThickness, ds.KVP = case.kernel, case.thickness_mm, case.kvp
    if case.enhancement_hu:
        ds.ContrastBolusAgent = "PHANTOM CONTRAST"


def _describe_dimensions(ds: Dataset, uid: str) -> None:
    """Frames are ordered by their place in a stack."""
    ds.DimensionOrganizationSequence = [_item({"DimensionOrganizationUID": uid})]
    ds.DimensionIndexSequence = [
        _item(
            {
                "DimensionOrganizationUID": uid,
                "DimensionIndexPointer": Tag("InStackPositionNumber"),
                "FunctionalGroupPointer": Tag("FrameContentSequence"),
            }
        )
    ]


def _frame(scan: Scan, k: int, number: int) -> Dataset:
    """What is of this frame only: its place."""
    content = {
        "FrameAcquisitionNumber": 1,
        "StackID": "1",
        "InStackPositionNumber": number,
        "DimensionIndexValues": [number],
    }
    return _item(
        {
            "FrameContentSequence": [_item(content)],
            "PlanePositionSequence": [_item({"ImagePositionPatient": dicom.position(scan, k)})],
        }
    )


def _shared(case: Case, scan: Scan) -> Dataset:
    """What all frames have in common (PS3.3 A.38.1.4)."""
    groups: dict[str, Mapping[str, object]] = {
        "PixelMeasuresSequence": {
            "PixelSpacing": [dicom.decimal(s) for s in _pixel_spacing(scan)],
            "SliceThickness": case.thickness_mm,
        },
        "PlaneOrientationSequence": {"ImageOrientationPatient": dicom.orientation(scan)},
        "FrameAnatomySequence": {
            "FrameLaterality": "U",
            "AnatomicRegionSequence": [_code("818981001", "Abdomen")],
        },
        "CTImageFrameTypeSequence": {
            "FrameType": _IMAGE_TYPE,
            "PixelPresentation": "MONOCHROME",
            "VolumetricProperties": "VOLUME",
            "VolumeBasedCalculationTechnique": "NONE",
        },
        "PixelValueTransformationSequence": {
            "RescaleIntercept": dicom.intercept(case),
            "RescaleSlope": 1,
            "RescaleType": "HU",
        },
        "FrameVOILUTSequence": {"WindowCenter": 40, "WindowWidth": 400},
        **_acquisition(case),
        **_reconstruction(case, scan),
    }
    return _item({name: [_item(values)] for name, values in groups.items()})


def _acquisition(case: Case) -> dict[str, Mapping[str, object]]:
    return {
        "CTAcquisitionTypeSequence": {
            "AcquisitionType": "SPIRAL",
            "TubeAngle": 0.0,
            "ConstantVolumeFlag": "NO",
            "FluoroscopyFlag": "NO",
        },
        "CTAcquisitionDetailsSequence": {
            "RotationDirection": "CW",
            "RevolutionTime": 0.5,
            "SingleCollimationWidth": 0.6,
            "TotalCollimationWidth": 38.4,
            "TableHeight": 150.0,
            "GantryDetectorTilt": case.tilt_deg,
            "DataCollectionDiameter": 500.0,
        },
        "CTTableDynamicsSequence": {
            "TableSpeed": 60.0,
            "TableFeedPerRotation": 30.0,
            "SpiralPitchFactor": 0.8,
        },
        "CTGeometrySequence": {
            "DistanceSourceToDetector": 1085.0,
            "DistanceSourceToDataCollectionCenter": 595.0,
        },
        "CTExposureSequence": {
            "ExposureTimeInms": 500.0,
            "XRayTubeCurrentInmA": 180.0,
            "ExposureInmAs": 90.0,
            "ExposureModulationType": "NONE",
            "CTDIvol": 6.0,
        },
        "CTXRayDetailsSequence": {
            "KVP": case.kvp,
            "FocalSpots": 1.2,
            "FilterType": "FLAT",
            "FilterMaterial": "ALUMINUM",
            "CalciumScoringMassFactorPatient": 1.0,
        },
    }


def _reconstruction(case: Case, scan: Scan) -> dict[str, Mapping[str, object]]:
    middle = scan.affine @ np.array([*(np.asarray(scan.hu.shape) - 1) / 2, 1.0])
    center = [float(c) for c in middle[:3]]
    return {
        "CTPositionSequence": {
            "TablePosition": center[2],
            "DataCollectionCenterPatient": center,
            "ReconstructionTargetCenterPatient": center,
        },
        "CTReconstructionSequence": {
            "ReconstructionAlgorithm": "FILTER_BACK_PROJ",
            "ConvolutionKernel": case.kernel,
            "ConvolutionKernelGroup": "SOFT_TISSUE",
            "ReconstructionDiameter": max(case.field_mm),
            "ReconstructionPixelSpacing": [float(s) for s in _pixel_spacing(scan)],
            "ReconstructionAngle": 360.0,
            "ImageFilter": "NONE",
        },
    }


def _pixel_spacing(scan: Scan) -> tuple[float, float]:
    rows, columns = np.linalg.norm(scan.affine[:3, 1:3], axis=0)
    return float(rows), float(columns)


def _code(code: str, meaning: str) -> Dataset:
    return _item({"CodeValue": code, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning})


def _item(values: Mapping[str, object]) -> Dataset:
    """A sequence item of these attributes."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds
