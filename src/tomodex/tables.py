"""What a person sees in the terminal: answers as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import get_args

from rich.table import Table

from tomodex.annotation import AnnotatedSeries, Annotation, Image
from tomodex.backfill import BackfillStatus
from tomodex.cohorts import Counts
from tomodex.daily import Look
from tomodex.delivery import Lag
from tomodex.doctor import Finding
from tomodex.indexing import Summary
from tomodex.queues import Aside, Lane, Status, TaskState
from tomodex.search import Hit, Measured, Order, Page, Seen
from tomodex.selection import Check
from tomodex.sources.gate import Suspension
from tomodex.verifying import Verified

#: Attributes that a table of hits shows, when any of its rows has them.
SHOWN = ("StudyDate", "PatientAge", "PatientSex", "SliceThickness", "Manufacturer")

#: Reason of a series that is not indexed but used: it segments another one.
STORED = "segmentation"


def counts_line(found: Page | Counts) -> str:
    """The answer in one line: patients, studies, series, and the size of their images."""
    return (
        f"{_many(found.patients or 0, 'patient')} · "
        f"{_many(found.studies or 0, 'study', 'studies')} · "
        f"{_many(found.series or 0, 'series', 'series')}{_size(found.size_bytes or 0)}"
    )


def verified_line(verified: Verified) -> str:
    """What was compared, and how much of it disagrees, in one line."""
    wrong = Counter(one.place for one in verified.disagreements)
    return (
        f"{_many(verified.results, 'result')} and {verified.indexed:,} of the index compared: "
        f"the index disagrees on {wrong['index']:,}; {verified.archived:,} asked for in archives, "
        f"which disagree on {wrong['archive']:,}; {verified.waiting:,} not delivered yet"
    )


def _size(size_bytes: int) -> str:
    """How much there is to retrieve, in the unit that keeps numbers short; "" for nothing."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= one:
            return f" · {size_bytes / one:.3g} {unit}"
    return ""


def hits_table(hits: Sequence[Hit], order: Order, seen: Mapping[str, Sequence[Seen]]) -> Table:
    """One row for each series that was found, with what they are sorted by."""
    also = (order.by,) if isinstance(order.by, str) else ()
    keywords = dict.fromkeys((*SHOWN, *also))
    shown = [keyword for keyword in keywords if any(keyword in hit.attributes for hit in hits)]
    measured = (_measured_heading(order.by),) if isinstance(order.by, Measured) and seen else ()
    table = _table("SeriesInstanceUID", *shown, *measured, "structures")
    for hit in hits:
        values = [_value(hit.attributes.get(keyword, "")) for keyword in shown]
        if measured:
            values.append(_measured(order, seen.get(hit.series_uid, ())))
        table.add_row(hit.series_uid, *values, str(hit.structure_count))
    return table


def _measured_heading(by: Measured) -> str:
    return f"{by.structure}, {'ml' if by.what == 'volume_ml' else 'HU'}"


def _measured(order: Order, seen: Sequence[Seen]) -> str:
    """The number that a series is sorted by, and whether the structure is cut there."""
    if isinstance(order.by, str):
        return ""
    found = next((one for one in seen if one.structure == order.by.structure), None)
    if found is None:
        return ""
    number = f"{found.volume_ml:,.1f}" if order.by.what == "volume_ml" else f"{found.mean_hu:.0f}"
    return number if found.complete else f"{number} cut"


def annotations_table(annotations: Sequence[Annotation]) -> Table:
    """One row for each structure of a series, largest first."""
    table = _table("structure", "SNOMED CT", "ml", "HU", "from foot to head, mm", "whole?")
    for annotation in annotations:
        found = annotation.measurement
        snomed = next((c.code for c in annotation.codings if "snomed" in c.system), "")
        table.add_row(
            annotation.structure,
            snomed,
            f"{found.volume_ml:,.1f}",
            f"{found.mean_hu:.0f} ± {found.sd_hu:.0f}",
            f"{found.box_min_mm[2]:.0f} .. {found.box_max_mm[2]:.0f}",
            "whole" if found.complete else f"cut {', '.join(found.cut)}",
        )
    return table


def facts_table(annotated: AnnotatedSeries) -> Table:
    """What a series is and how its result came about."""
    image, made = annotated.image, annotated.provenance
    table = _table("", "")
    rows: dict[str, object] = {
        "StudyInstanceUID": annotated.series.study_uid,
        **annotated.series.attributes,
        **(_image_facts(image) if image else {"voxels": "not read yet"}),
        "segmented by": _algorithm(annotated),
        "not named": ", ".join(annotated.unmapped) or "nothing",
        "terminology": made.terminology,
        "software": ", ".join(f"{name} {version}" for name, version in made.software.items()),
        "source": made.source,
        "configuration": made.configuration,
        "finished": made.finished,
        "seconds": _counted(made.stage_seconds),
    }
    for name, value in rows.items():
        table.add_row(name, _value(value))
    return table


def _image_facts(image: Image) -> dict[str, object]:
    return {
        "voxels": " x ".join(map(str, image.shape)) + " (slices, rows, columns)",
        "spacing": " x ".join(f"{mm:.4g}" for mm in image.spacing_mm) + " mm",
        "slices are": f"{image.plane}, oblique {image.oblique_deg:.1f}°",
        "gantry tilt": f"{image.tilt_deg:.1f}°",
        "corrected": ", ".join(image.corrected) or "nothing",
        "left out": _counted(image.left_out) or "nothing",
    }


def checks_table(checks: Iterable[Check]) -> Table:
    """Every selection rule, what it found and what it says."""
    table = _table("rule", "found", "verdict", "because")
    for check in checks:
        table.add_row(check.rule, check.found, check.verdict, check.sentence)
    return table


def states_table(states: Sequence[TaskState]) -> Table:
    """What became of a series that has no result."""
    table = _table("configuration", "status", "reason", "because", "attempts", "since")
    for state in states:
        table.add_row(
            state.configuration,
            state.status,
            state.reason,
            state.sentence,
            str(state.attempt),
            state.updated,
        )
    return table


def summary_lines(summary: Summary) -> list[str | Table]:
    """What came of indexing a source."""
    known = summary.found - summary.new
    rejected = {why: n for why, n in summary.rejected.items() if why != STORED}
    stored = summary.rejected.get(STORED, 0)
    lines: list[str | Table] = [
        f"{summary.found:,} series found: {summary.new:,} new or changed, {known:,} known; "
        f"{summary.seconds:.1f} s",
        f"in all now: {summary.indexed:,} indexed, {stored:,} stored segmentations, "
        f"{sum(rejected.values()):,} rejected, {summary.failed:,} failed, "
        f"{summary.waiting:,} waiting",
    ]
    if summary.withdrawn:
        lines.append(
            f"{summary.withdrawn:,} series are no longer in the archive and left the index"
        )
    lines += [_left_alone(one) for one in summary.suspended]
    if rejected:
        lines += ["", counted_table("rejected", rejected)]
    if summary.skipped:
        lines += ["", f"files that hold no instance: {_counted(summary.skipped)}"]
    return lines


def counted_table(title: str, counts: Mapping[str, int]) -> Table:
    """Values and how often each occurs, most frequent first."""
    table = _table(title, "series")
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(name, f"{count:,}")
    return table


def lanes_table(counts: Mapping[tuple[Lane, Status], int]) -> Table:
    """How many tasks are in each lane and status."""
    statuses: tuple[Status, ...] = get_args(Status)
    table = _table("lane", *statuses)
    for lane in dict.fromkeys(lane for lane, _ in counts):
        table.add_row(lane, *(f"{counts.get((lane, status), 0):,}" for status in statuses))
    return table


def suspensions_table(suspensions: Sequence[Suspension]) -> Table:
    """Archives that are left alone, until when and why."""
    table = _table("left alone", "until", "because")
    for one in suspensions:
        table.add_row(one.source, _clock(one.until), one.sentence)
    return table


def _left_alone(one: Suspension) -> str:
    return f"{one.source} is left alone until {_clock(one.until)}: {one.sentence}"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """What `doctor` saw, and what to do about it."""
    table = _table("part", "looked at", "", "seen", "what to do")
    for finding in findings:
        probe = finding.probe
        table.add_row(finding.part, probe.subject, probe.verdict, probe.sentence, probe.advice)
    return table


def looks_table(looks: Sequence[Look]) -> Table:
    """What was found in each archive that was looked through."""
    table = _table("source", "studies of", "series", "new or changed", "rejected", "gone")
    for look in looks:
        days = f"{look.window.first} to {look.window.last}" if look.window else "all days"
        found = look.discovery
        if found is None:
            table.add_row(look.source, days, "not listed", "", "", "")
            continue
        counts = (found.found, found.new, sum(found.rejected.values()), found.withdrawn)
        table.add_row(look.source, days, *(f"{count:,}" for count in counts))
    return table


def backfill_table(status: BackfillStatus) -> Table:
    """How far a back-fill is, and how long the rest will take."""
    days = status.days
    rows: dict[str, object] = {
        "source": status.source,
        "state": f"{status.state}, {status.order}",
        "from, to": f"{days.first}, {days.last}",
        "windows": f"{days.listed:,} listed, {days.planned:,} to go, {days.failed:,} failed",
        "series": f"{days.found:,} found, {days.wanted:,} wanted, {days.withdrawn:,} gone",
        "listing": status.listing_forecast,
        "pixels": f"{status.indexed:,} indexed, {status.rejected:,} rejected, "
        f"{status.failed:,} failed, {status.waiting:,} waiting",
        "": status.pixels_forecast,
        **{
            f"failed: {day.first} to {day.last}": f"{day.attempts} times: {day.sentence}"
            for day in status.failed_days
        },
    }
    return rows_table(("", ""), rows.items())


def asides_table(asides: Sequence[Aside]) -> Table:
    """Results that an index or a sink could not take."""
    table = _table("set aside by", "SeriesInstanceUID", "because")
    for aside in asides:
        table.add_row(aside.consumer, aside.series_uid, aside.sentence)
    return table


def lags_table(lags: Sequence[Lag]) -> Table:
    """How far each index and sink is behind the results."""
    table = _table("delivered to", "lacks", "since", "set aside")
    for lag in lags:
        lacks = f"{lag.behind:,}" if lag.behind else "nothing"
        since = _clock(datetime.fromisoformat(lag.since)) if lag.since else ""
        table.add_row(lag.consumer, lacks, since, f"{len(lag.asides):,}")
    return table


def rows_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Any rows under headings."""
    table = _table(*headings)
    for row in rows:
        table.add_row(*(_value(cell) for cell in row))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _algorithm(annotated: AnnotatedSeries) -> str:
    algorithm = annotated.provenance.algorithm
    if algorithm is None:
        return "nobody yet: findable by its DICOM attributes"
    return " ".join(filter(None, (algorithm.name, algorithm.version, algorithm.model)))


def _counted(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_value(count)}" for name, count in counts.items())


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
