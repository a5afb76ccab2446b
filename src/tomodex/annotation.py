"""What the index says of a series: which coded structures it shows, how much of them, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from tomodex.errors import Misconfigured
from tomodex.instance import LPS
from tomodex.measurement import Measurement
from tomodex.segmentation import Algorithm
from tomodex.series import Series
from tomodex.terminology import Structure, Terminology

# Both would cost the start of every command some 0.1 s; they are imported when first needed.
if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Version of the JSON that an `AnnotatedSeries` is published as. The first number changes when a
#: reader of the old one would misread the new one.
SCHEMA_VERSION = "1.0"

#: Code systems by the names that HL7 Terminology (THO) has for them.
SNOMED = "http://snomed.info/sct"
RADLEX = "http://radlex.org"


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
    corrected: tuple[str, ...] = ()  #: what was put right, "uneven_spacing"
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
    image: Image | None  #: None: the archive listed it, and nobody has read its pixels yet
    annotations: tuple[Annotation, ...]  #: largest first
    unmapped: tuple[str, ...] = ()  #: segments that our terminology has no name for
    provenance: Provenance


def annotate(
    measurements: Mapping[str, Measurement], terminology: Terminology
) -> tuple[Annotation, ...]:
    """Give each measured structure its codes, largest first.

    A name that the tables do not have is a gap in them, so it is a KeyError and a failed task:
    a structure that was found must not go missing from the index in silence.
    """
    found = [
        _annotation(terminology.structures[name], measurement)
        for name, measurement in measurements.items()
    ]
    return tuple(sorted(found, key=lambda a: (-a.measurement.volume_ml, a.structure)))


def _annotation(structure: Structure, measurement: Measurement) -> Annotation:
    codings = (
        Coding(system=SNOMED, code=structure.snomed, display=structure.snomed_display),
        Coding(system=RADLEX, code=structure.radlex, display=structure.radlex_display),
    )
    return Annotation(
        structure=structure.name,
        codings=tuple(coding for coding in codings if coding.code),
        laterality=structure.laterality,
        measurement=measurement,
    )


def recode(annotated: AnnotatedSeries, terminology: Terminology) -> AnnotatedSeries:
    """The same measurements with the codes that today's tables have for them.

    A name that the tables do not have any more keeps the codes it was given.
    """
    coded = tuple(
        _annotation(terminology.structures[one.structure], one.measurement)
        if one.structure in terminology.structures
        else one
        for one in annotated.annotations
    )
    made = replace(annotated.provenance, terminology=terminology.version)
    return replace(annotated, annotations=coded, provenance=made)


def to_json(annotated: AnnotatedSeries) -> bytes:
    """One line of JSON as `schemas/annotated-series-1.json` describes it, without its newline.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    import orjson

    line = orjson.dumps(annotated, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes NaN as null. A null is rare and cheap to look for; reading the line back
    # tells one that means "not known" from one that was a number.
    if b"null" in line:
        from_json(line)
    return line


def from_json(line: bytes) -> AnnotatedSeries:
    """What `to_json` was given; fields that a later minor version added are passed over.

    Raises:
        Misconfigured: it was written by a Tomodex with another major version of the schema.
        ValueError: it is no annotated series.
    """
    from pydantic import ValidationError

    try:
        annotated = _adapter().validate_json(line)
    except ValidationError as faults:
        _check_version(_version_of(line))
        first = faults.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        message = f"not an annotated series: {place}: {first['msg']}"
        # Not chained: pydantic's own text quotes the document.
        raise ValueError(message) from None
    _check_version(annotated.schema_version)
    return annotated


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


@cache
def _adapter() -> TypeAdapter[AnnotatedSeries]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    with_config(ConfigDict(allow_inf_nan=False))(AnnotatedSeries)
    return TypeAdapter(AnnotatedSeries)


def _version_of(line: bytes) -> str:
    """The version that a document of unknown shape claims; "" where it claims none."""
    import orjson

    try:
        document = orjson.loads(line)
    except ValueError:
        return ""
    return str(document.get("schema_version", "")) if isinstance(document, dict) else ""


def _check_version(version: str) -> None:
    major = version.partition(".")[0]
    if major and major != SCHEMA_VERSION.partition(".")[0]:
        raise Misconfigured(
            f"annotated series of schema version {version}; this Tomodex reads {SCHEMA_VERSION}: "
            "use the version of Tomodex that wrote it, or index the series again"
        )
