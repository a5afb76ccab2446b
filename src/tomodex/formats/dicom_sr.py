"""Measurements as a DICOM structured report after TID 1500 (PS3.16): volume, mean and spread of HU.

Each structure is a measurement group of its own. It points at its segment where there is a DICOM
SEG (TID 1411), else at the series by its UID and, where they are known, its images (TID 1501).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from tomodex.annotation import AnnotatedSeries, Annotation, to_json
from tomodex.formats.dicom_coding import CodedStructure, coded
from tomodex.formats.dicom_header import (
    MANUFACTURER,
    Made,
    Subject,
    begin_object,
    made_uid,
    moment,
    reference,
)
from tomodex.formats.dicom_seg import parameters, tracking_id, tracking_uid
from tomodex.segmentation import Algorithm
from tomodex.series import Series
from tomodex.terminology import Terminology

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        FindingSite,
        Measurement,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    _Group = (
        VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
    )

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"  #: Comprehensive SR: all viewers know it
SERIES_NUMBER = 9102

_IMAGING = Code("363679005", "SCT", "Imaging procedure")
_VOLUME = Code("118565006", "SCT", "Volume")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_MEAN = Code("373098007", "SCT", "Mean")
_SD = Code("386136009", "SCT", "Standard deviation")
_MILLILITRE = Code("ml", "UCUM", "milliliter")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_NO_UNIT = Code("1", "UCUM", "no units")
_COMPLETENESS = Code("complete", "99TOMODEX", "Whole inside the image")
_YES = Code("373066001", "SCT", "Yes")
_NO = Code("373067005", "SCT", "No")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """The objects of the study that a report may point at."""

    segmentations: Sequence[Dataset] = ()  #: DICOM SEG of these very structures
    #: (SOP class, SOP Instance UID) of the images of the series; () where nobody knows them
    images: Sequence[tuple[str, str]] = ()

    def segment(self, name: str) -> tuple[Dataset, int] | None:
        """The SEG that has a structure, and its number there; None: it is in none of them."""
        wanted = tracking_id(name)
        for seg in self.segmentations:
            for item in seg.SegmentSequence:
                if item.get("TrackingID") == wanted:
                    return seg, int(item.SegmentNumber)
        return None


def measurement_report(
    annotated: AnnotatedSeries,
    subject: Subject,
    terminology: Terminology,
    evidence: Evidence,
    at: datetime,
) -> Dataset:
    """The report of one series in which something was found.

    The same result is the same object; one of another moment has UIDs of its own.

    Raises:
        ValueError: there is nothing to report, or a number is none (NaN).
    """
    facts = (annotated.series.series_uid, annotated.provenance.configuration, moment(at))
    segs = tuple(seg.SOPInstanceUID for seg in evidence.segmentations)
    made = Made(
        sop_class=SOP_CLASS,
        sop_uid=made_uid(
            "report", _reported(annotated), asdict(subject), segs, tuple(evidence.images), facts
        ),
        series_uid=made_uid("report series", *facts),
        series_number=SERIES_NUMBER,
        series_description="Tomodex measurements",
        modality="SR",
        at=at,
    )
    ds = begin_object(subject, made)
    _describe_document(ds)
    if known := list(_known_series(annotated.series.series_uid, evidence)):
        study = Dataset()
        study.StudyInstanceUID, study.ReferencedSeriesSequence = subject.study_uid, known
        ds.CurrentRequestedProcedureEvidenceSequence = [study]
    (root,) = _content(annotated, terminology, evidence)
    ds.update(root)
    return ds


def _reported(annotated: AnnotatedSeries) -> bytes:
    """What the report says of a result: not when it was made, nor by which pseudonym."""
    series = Series(
        series_uid=annotated.series.series_uid,
        study_uid=annotated.series.study_uid,
        patient="",
        modality=annotated.series.modality,
    )
    provenance = replace(annotated.provenance, source="", started="", finished="", stage_seconds={})
    return to_json(replace(annotated, series=series, provenance=provenance))


def _describe_document(ds: Dataset) -> None:
    """SR Document Series and General (PS3.3 C.17.1, C.17.2): whole, and nobody has looked at it."""
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY"


def _known_series(series_uid: str, evidence: Evidence) -> Iterator[Dataset]:
    """Series of the study with their instances, as SOP Instance Reference Macro has them."""
    segs: dict[str, list[tuple[str, str]]] = {}
    for seg in evidence.segmentations:
        segs.setdefault(seg.SeriesInstanceUID, []).append((seg.SOPClassUID, seg.SOPInstanceUID))
    images = {series_uid: evidence.images} if evidence.images else {}
    for uid, instances in {**images, **segs}.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedSOPSequence = [reference(*one) for one in instances]
        yield item


# --- content --------------------------------------------------------------------------------------


def _content(
    annotated: AnnotatedSeries, terminology: Terminology, evidence: Evidence
) -> MeasurementReport:
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=made_uid("device", annotated.provenance.software.get("tomodex", "")),
        name="Tomodex",
        manufacturer_name=MANUFACTURER,
        model_name=annotated.provenance.software.get("tomodex", ""),
    )
    return MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=device
            )
        ),
        procedure_reported=_IMAGING,
        imaging_measurements=[
            _group(annotation, annotated, terminology, evidence)
            for annotation in annotated.annotations
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _group(
    annotation: Annotation,
    annotated: AnnotatedSeries,
    terminology: Terminology,
    evidence: Evidence,
) -> _Group:
    # Half a second to import, and nobody else needs it.
    from highdicom import sr

    series_uid = annotated.series.series_uid
    codes = coded(terminology.structures[annotation.structure])
    source = sr.SourceSeriesForSegmentation(UID(series_uid))
    # What either template takes; its type is none that mypy can spread.
    shared: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=tracking_uid(series_uid, annotation.structure),
            identifier=tracking_id(annotation.structure),
        ),
        "finding_category": Code(*codes.category),
        "finding_type": Code(*codes.kind),
        "finding_sites": [_site(codes)],
        "algorithm_id": _algorithm(annotated.provenance.algorithm),
        "measurements": list(_measurements(annotation, annotated.series.modality)),
        "qualitative_evaluations": [_completeness(annotation)],
    }
    if found := evidence.segment(annotation.structure):
        seg, number = found
        segment = sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=number,
            source_series=source,
        )
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=segment, **shared
        )
    images = [sr.SourceImageForMeasurementGroup(*image) for image in evidence.images[:1]]
    group = sr.MeasurementsAndQualitativeEvaluations(source_images=images or None, **shared)
    # TID 1501 may be extended, and nothing else of it can name a series.
    group[0].ContentSequence.append(source)
    return group


def _site(codes: CodedStructure) -> FindingSite:
    """Where it is: the site of a finding; anatomy is its own site."""
    from highdicom.sr import FindingSite

    site, side = (codes.site, codes.site_side) if codes.site else (codes.kind, codes.kind_side)
    return FindingSite(anatomic_location=Code(*site), laterality=Code(*side) if side else None)


def _algorithm(algorithm: Algorithm | None) -> AlgorithmIdentification | None:
    from highdicom.sr import AlgorithmIdentification

    if algorithm is None:
        return None
    return AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version or algorithm.model or "not known",
        parameters=[said] if (said := parameters(algorithm)) else None,
    )


def _measurements(annotation: Annotation, modality: str) -> Iterator[Measurement]:
    from highdicom.sr import Measurement

    found = annotation.measurement
    unit = _HOUNSFIELD if modality in ("CT", "") else _NO_UNIT
    for name, value, of, derivation in (
        (_VOLUME, found.volume_ml, _MILLILITRE, None),
        (_ATTENUATION, found.mean_hu, unit, _MEAN),
        (_ATTENUATION, found.sd_hu, unit, _SD),
    ):
        yield Measurement(name=name, value=_plain(value), unit=of, derivation=derivation)


def _plain(value: float) -> float:
    """A number that a Decimal String of 16 characters holds exactly."""
    return float(f"{value:.9g}")


def _completeness(annotation: Annotation) -> QualitativeEvaluation:
    """Whether it is whole inside the image; if not, its volume is a lower bound."""
    from highdicom.sr import QualitativeEvaluation

    value = _YES if annotation.measurement.complete else _NO
    return QualitativeEvaluation(name=_COMPLETENESS, value=value)
