"""What the index says of a series: which coded structures it shows, how much of them, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tomodex.instance import LPS
from tomodex.measurement import Measurement
from tomodex.segmentation import Algorithm
from tomodex.series import Series

#: Version of the JSON that an `AnnotatedSeries` is published as. The first number changes when a
#: reader of the old one would misread the new one.
SCHEMA_VERSION = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """A code in a code system, as FHIR's Coding."""

    system: str  #: "http://snomed.info/sct", "http://radlex.org"
    code: str
    display: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One structure, seen in one series."""

    structure: str  #: our name of it, such as "kidney_left"
    codings: tuple[Coding, ...]
    laterality: str  #: "left", "right", "" where it has no side
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The volume that was indexed, as far as a search or a viewer needs it."""

    shape: tuple[int, int, int]  #: (slices, rows, columns)
    spacing_mm: LPS  #: between (slices, rows, columns)
    affine: tuple[tuple[float, ...], ...]  #: (4, 4), (slice, row, column, 1) -> LPS, mm
    plane: str  #: "axial", "coronal", "sagittal"
    oblique_deg: float
    tilt_deg: float
    box_min_mm: LPS  #: lowest LPS coordinates of any corner of its voxels
    box_max_mm: LPS  #: highest
    corrected: tuple[str, ...] = ()  #: what was put right, such as "tilt" and "uneven_spacing"
    left_out: Mapping[str, int] = field(default_factory=dict)  #: instances not in it, by reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a result came about, so that it can be repeated, doubted or made anew."""

    algorithm: Algorithm | None  #: None: not segmented (yet); the series is findable by its tags
    terminology: str  #: version of the tables that named and coded the structures
    software: Mapping[str, str]  #: version of everything that could change a number, by package
    source: str  #: URL of the archive, without secrets
    configuration: str  #: name of the configuration that the task was put with
    started: str  #: RFC 3339 with offset
    finished: str  #: RFC 3339 with offset
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedSeries:
    """What the pipeline makes of a series; every index and sink takes these."""

    schema_version: str = SCHEMA_VERSION
    series: Series
    image: Image
    annotations: tuple[Annotation, ...]  #: largest first
    unmapped: tuple[str, ...] = ()  #: segments that our terminology has no name for
    provenance: Provenance
