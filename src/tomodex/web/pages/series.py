"""The page of one series: what is in it, where, how whole, and how that came to be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomodex.annotation import AnnotatedSeries, Annotation, Image
from tomodex.cohorts import OneSeries
from tomodex.queues import Audited, TaskState
from tomodex.search import SEARCHABLE, Seen
from tomodex.terminology import Terminology
from tomodex.web.pages.asking import NOTHING
from tomodex.web.pages.strip import Strip, strip_of
from tomodex.web.viewer import viewer_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One structure of the series."""

    name: str
    title: str
    codes: str
    volume_ml: float
    mean_hu: float
    sd_hu: float
    bottom_mm: float
    top_mm: float
    x: float  #: where it lies between the upper and the lower end of the image, of 100
    width: float
    cut: Sequence[str]  #: sides; () is whole


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPage:
    """Everything that the page shows."""

    series_uid: str
    study_uid: str | None
    title: str
    viewer: str  #: where it can be looked at; "": nowhere
    picture: str  #: address of a small one, made when it was indexed; "": there is none
    strip: Strip | None
    rows: Sequence[Row]
    facts: Mapping[str, str]  #: what headers and image say
    provenance: Mapping[str, str]
    tasks: Sequence[TaskState]
    audit: Sequence[Audited]


def series_page(
    known: OneSeries, template: str, picture: str, terminology: Terminology
) -> SeriesPage:
    """The page; `template` is the URL of the site's viewer, `picture` an address."""
    found, study_uid = known.annotated, known.study_uid
    strip = _strip(found, terminology) if found else None
    words = strip.words if strip else ""
    return SeriesPage(
        series_uid=known.series_uid,
        study_uid=study_uid,
        title=words[:1].upper() + words[1:] or "Series",
        viewer=viewer_url(template, study_uid, known.series_uid) if template and study_uid else "",
        picture=picture,
        strip=strip,
        rows=_rows(found, terminology) if found else (),
        facts=_facts(found) if found else {},
        provenance=_provenance(found) if found else {},
        tasks=known.tasks,
        audit=known.audit,
    )


def _strip(found: AnnotatedSeries, terminology: Terminology) -> Strip | None:
    seen = [
        Seen(
            structure=one.structure,
            volume_ml=one.measurement.volume_ml,
            mean_hu=one.measurement.mean_hu,
            bottom_mm=one.measurement.box_min_mm[2],
            top_mm=one.measurement.box_max_mm[2],
            complete=one.measurement.complete,
        )
        for one in found.annotations
    ]
    return strip_of(seen, _ends(found.image), NOTHING, terminology)


def _ends(image: Image | None) -> tuple[float, float] | None:
    return (image.box_min_mm[2], image.box_max_mm[2]) if image else None


def _rows(found: AnnotatedSeries, terminology: Terminology) -> list[Row]:
    """From head to foot."""
    low, high = _ends(found.image) or (0.0, 1.0)
    rows = [_row(one, low, high, terminology) for one in found.annotations]
    return sorted(rows, key=lambda row: (-row.top_mm - row.bottom_mm, row.title))


def _row(one: Annotation, low: float, high: float, terminology: Terminology) -> Row:
    measured = one.measurement
    bottom, top, length = measured.box_min_mm[2], measured.box_max_mm[2], max(high - low, 1e-6)
    known = terminology.structures.get(one.structure)
    return Row(
        name=one.structure,
        title=known.display if known else one.structure,
        codes=", ".join(f"{_scheme(code.system)} {code.code}" for code in one.codings),
        volume_ml=measured.volume_ml,
        mean_hu=measured.mean_hu,
        sd_hu=measured.sd_hu,
        bottom_mm=bottom,
        top_mm=top,
        x=round(100 * (high - top) / length, 1),
        width=round(max(100 * (top - bottom) / length, 1.0), 1),
        cut=measured.cut,
    )


def _scheme(system: str) -> str:
    return "SNOMED CT" if "snomed" in system else "RadLex"


def _facts(found: AnnotatedSeries) -> Mapping[str, str]:
    said = {
        keyword: value
        for keyword, value in found.series.attributes.items()
        if keyword in SEARCHABLE
    }
    facts = {keyword: _plain(value) for keyword, value in said.items()}
    if found.series.patient:
        facts["Patient, by pseudonym"] = found.series.patient
    return {**facts, **_image(found.image)}


def _image(image: Image | None) -> Mapping[str, str]:
    if image is None:
        return {"Image": "nobody has read it yet"}
    shape = " × ".join(map(str, image.shape))  # noqa: RUF001
    spacing = " × ".join(f"{mm:.3g}" for mm in image.spacing_mm)  # noqa: RUF001
    facts = {
        "Voxels": f"{shape} (slices, rows, columns)",
        "Voxel size": f"{spacing} mm",
        "Plane": image.plane,
    }
    if image.corrected:
        facts["Put right"] = ", ".join(image.corrected)
    if image.left_out:
        facts["Left out"] = ", ".join(f"{why} {many}" for why, many in image.left_out.items())
    return facts


def _provenance(found: AnnotatedSeries) -> Mapping[str, str]:
    made = found.provenance
    by = made.algorithm
    seconds = ", ".join(f"{stage} {took:.2g} s" for stage, took in made.stage_seconds.items())
    facts = {
        "Segmented by": " ".join(filter(None, (by.name, by.version, by.model))) if by else "nobody",
        "Terminology": made.terminology,
        "Software": ", ".join(f"{name} {version}" for name, version in made.software.items()),
        "Source": made.source,
        "Configuration": made.configuration,
        "Finished": made.finished,
        "Steps": seconds,
        "Segments without a name": ", ".join(found.unmapped),
    }
    return {name: value for name, value in facts.items() if value}


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
