"""A series that was annotated, as tests of everything downstream of the pipeline need it."""

from __future__ import annotations

from dataclasses import replace

from tomodex.annotation import AnnotatedSeries, Annotation, Coding, Image, Provenance
from tomodex.measurement import Measurement
from tomodex.segmentation import Algorithm
from tomodex.series import Series

LIVER = Annotation(
    structure="liver",
    codings=(Coding(system="http://snomed.info/sct", code="10200004", display="Liver"),),
    laterality="",
    measurement=Measurement(
        voxel_count=1500,
        volume_ml=1500.0,
        mean_hu=61.5,
        sd_hu=12.25,
        centroid_mm=(-60.0, 10.0, 1100.5),
        box_min_mm=(-120.0, -80.0, 1020.0),
        box_max_mm=(30.0, 90.0, 1180.0),
        cut=("inferior",),
    ),
)
SPLEEN = Annotation(
    structure="spleen",
    codings=(Coding(system="http://snomed.info/sct", code="78961009", display="Spleen"),),
    laterality="",
    measurement=replace(LIVER.measurement, voxel_count=200, volume_ml=200.0, cut=()),
)
ONE = AnnotatedSeries(
    series=Series(
        series_uid="1.2.3",
        study_uid="1.2",
        patient="pseudonym",
        modality="CT",
        instance_count=300,
        attributes={"PatientAge": 52.0, "PatientSex": "F"},
    ),
    image=Image(
        shape=(300, 512, 512),
        spacing_mm=(1.0, 0.75, 0.7),
        affine=(
            (0.0, 0.0, 0.7, -180.0),
            (0.0, 0.75, 0.0, -190.0),
            (1.0, 0.0, 0.0, 900.0),
            (0, 0, 0, 1),
        ),
        plane="axial",
        oblique_deg=0.0,
        tilt_deg=0.0,
        box_min_mm=(-180.35, -190.375, 899.5),
        box_max_mm=(178.05, 193.625, 1199.5),
    ),
    annotations=(LIVER,),
    provenance=Provenance(
        algorithm=Algorithm(name="drawn by hand"),
        terminology="2026-11-23",
        software={"tomodex": "0.1.0"},
        source="folder:///archive",
        configuration="default",
        started="2026-11-23T10:00:00+01:00",
        finished="2026-11-23T10:00:03+01:00",
    ),
)
