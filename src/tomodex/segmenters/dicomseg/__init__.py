"""Reads a segmentation that the archive holds already, as DICOM SEG objects; nothing is inferred.

seg.py        what an object says of its segments and frames
naming.py     which of our structures a coded segment means
pixels.py     the values of one frame
placing.py    where they fall on the volume's grid
painting.py   structures into label maps, several where they overlap
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured, Unsuitable
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.segmenters.dicomseg.naming import describe, is_background, name_segment
from tomodex.segmenters.dicomseg.painting import MAX_LABELS, Canvas
from tomodex.segmenters.dicomseg.pixels import Values, find_frames
from tomodex.segmenters.dicomseg.placing import Placed, Placer
from tomodex.segmenters.dicomseg.seg import Seg, SegFrame, Segment, read_seg
from tomodex.terminology import Terminology, load_terminology
from tomodex.volume import Volume

log = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Unit:
    """Structures of one object that are painted together."""

    names: tuple[str, ...]
    frames: Sequence[SegFrame]
    to_labels: Callable[[Values], Labels]  #: stored values -> 1, 2, ... in the order of names


@dataclass(slots=True, eq=False)
class _Found:
    """What the objects of one series have come to so far."""

    canvas: Canvas
    done: set[str] = field(default_factory=set)  #: names that a newer object has
    unmapped: set[str] = field(default_factory=set)
    used: list[tuple[Seg, tuple[Segment, ...]]] = field(default_factory=list)


class DicomSegSegmenter:
    """`dicomseg:` or `dicomseg:?threshold=0.7`, the fraction from which a voxel belongs.

    Several objects are taken together; where two have the same structure, the newer one counts.
    An object that cannot be read is logged and passed over.

    Raises:
        Misconfigured: the URL has another option, or a threshold that is no fraction.
    """

    reads_stored = True

    def __init__(self, url: str, terminology: Terminology | None = None) -> None:
        self._threshold = _threshold_of(url)
        self._terminology = terminology or load_terminology()

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """What the SEG objects in `stored` show of our structures; None where that is nothing."""
        found = _Found(Canvas(volume.shape))
        for seg in _newest_first(stored):
            try:
                self._add(seg, volume, found)
            except Unsuitable as broken:
                _log_skipped(seg.sop_uid, broken)
        if not found.done:
            return None
        return Segmentation(
            volume=volume,
            layers=found.canvas.layers,
            names=found.canvas.names,
            algorithm=_describe_algorithm(found.used, self._threshold),
            unmapped=tuple(sorted(found.unmapped)),
        )

    def _add(self, seg: Seg, volume: Volume, found: _Found) -> None:
        """Paint all of an object that no newer one has shown."""
        named = {s: name_segment(s, self._terminology) for s in seg.segments}
        found.unmapped |= {
            describe(s) for s, name in named.items() if name is None and not is_background(s)
        }
        wanted = {s: name for s, name in named.items() if name and name not in found.done}
        if not wanted:
            return
        read_frame, placer = find_frames(seg), Placer(seg, volume)

        def paint(unit: _Unit) -> Iterator[Placed]:
            for frame in unit.frames:
                yield from placer.place(frame, unit.to_labels(read_frame(frame.index)))

        for unit in _units(seg, wanted, self._threshold):
            try:
                fits = found.canvas.add(unit.names, partial(paint, unit))
            except Unsuitable as broken:
                _log_skipped(seg.sop_uid, broken)
                continue
            if not fits:
                found.unmapped |= {f"{name}: overlaps too many others" for name in unit.names}
        shown = {name for names in found.canvas.names for name in names.values()} - found.done
        if shown:
            found.done |= shown
            found.used.append((seg, tuple(s for s, name in wanted.items() if name in shown)))


def _threshold_of(url: str) -> float:
    options = parse_qs(urlsplit(url).query, keep_blank_values=True)
    try:
        (threshold,) = map(float, options.pop("threshold", ["0.5"]))
    except ValueError:
        threshold = 0.0
    if options or not 0 < threshold <= 1:
        raise Misconfigured(f"{url!r}: the only option is threshold, above 0 and up to 1")
    return threshold


def _newest_first(stored: Sequence[Path]) -> list[Seg]:
    """The SEG objects among `stored` that can be read, each once."""
    segs: dict[str, Seg] = {}
    for path in stored:
        try:
            seg = read_seg(path)
        except Unsuitable as broken:
            _log_skipped("", broken)
            continue
        if seg is not None and seg.frames:
            segs[seg.sop_uid] = seg
    return sorted(segs.values(), key=lambda seg: (seg.made, seg.sop_uid), reverse=True)


def _log_skipped(sop_uid: str, broken: Unsuitable) -> None:
    facts = {"sop_uid": sop_uid, "reason": broken.reason, "sentence": broken.sentence}
    log.warning("segmentation_skipped", extra=facts)


# --- what to paint ------------------------------------------------------------------------------


def _units(seg: Seg, wanted: Mapping[Segment, str], threshold: float) -> Iterator[_Unit]:
    """Segments that mean one structure are one; those of a label map cannot overlap anyway."""
    names = tuple(dict.fromkeys(wanted.values()))
    numbers = {name: {s.number for s in wanted if wanted[s] == name} for name in names}
    if seg.kind == "LABELMAP":
        for first in range(0, len(names), MAX_LABELS):
            some = names[first : first + MAX_LABELS]
            yield _Unit(names=some, frames=seg.frames, to_labels=_by_number(some, numbers))
        return
    lowest = threshold * seg.max_fraction if seg.kind == "FRACTIONAL" else 1
    for name in names:
        frames = [frame for frame in seg.frames if frame.segment in numbers[name]]
        yield _Unit(names=(name,), frames=frames, to_labels=_from(lowest))


def _from(lowest: float) -> Callable[[Values], Labels]:
    return lambda values: (values >= lowest).view(np.uint8)


def _by_number(names: Sequence[str], numbers: Mapping[str, set[int]]) -> Callable[[Values], Labels]:
    table = np.zeros(1 << 16, np.uint8)
    for label, name in enumerate(names, start=1):
        table[list(numbers[name])] = label
    return lambda values: table[values]


# --- provenance ---------------------------------------------------------------------------------


def _describe_algorithm(
    used: Sequence[tuple[Seg, tuple[Segment, ...]]], threshold: float
) -> Algorithm:
    """Who made the objects, and by which means, as far as they say so themselves."""
    makers = {seg.made_by: None for seg, _ in used if seg.made_by}
    means = {_describe_means(s): None for _, segments in used for s in segments}
    fractional = any(seg.kind == "FRACTIONAL" for seg, _ in used)
    return Algorithm(
        name="DICOM SEG",
        version="; ".join(makers),
        model="; ".join(filter(None, means)),
        options={"threshold": f"{threshold:g}"} if fractional else {},
        segmentation_uids=tuple(seg.sop_uid for seg, _ in used),
    )


def _describe_means(segment: Segment) -> str:
    """Such as "TotalSegmentator (AUTOMATIC)"."""
    kind = f"({segment.algorithm_type})" if segment.algorithm_type else ""
    return f"{segment.algorithm_name} {kind}".strip()
