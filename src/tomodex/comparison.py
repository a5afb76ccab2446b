"""How far two segmentations of one volume agree, and whether that is enough to trust one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from tomodex.measurement import Measurement, Side, measure
from tomodex.resampling import carry_labels
from tomodex.segmentation import Algorithm, Segmentation

_Labels = npt.NDArray[np.uint8]
_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is asked of a segmenter that is to do what the reference does."""

    agreement: float = 0.999  #: share of the voxels of each series with the same label, at least
    volume_percent: float = 1.0  #: by so much may the volume of a structure differ
    over_ml: float = 5.0  #: of structures that are larger than this in either segmentation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One structure of one series in both segmentations; None where one has not found it."""

    structure: str
    dice: float  #: twice the voxels in common by the sum of both
    ours: Measurement | None
    reference: Measurement | None

    @property
    def ml(self) -> tuple[float, float]:
        """Volumes, ours and the reference's."""
        ours, reference = (one.volume_ml if one else 0.0 for one in (self.ours, self.reference))
        return ours, reference

    @property
    def volume_percent(self) -> float:
        """By how much ours is larger than the reference, in percent; 100 where that has none."""
        ours, reference = self.ml
        return 100.0 * (ours - reference) / (reference or ours)

    @property
    def difference_hu(self) -> float | None:
        """Mean HU of ours less the reference's; None where one has not found it."""
        if self.ours is None or self.reference is None:
            return None
        return self.ours.mean_hu - self.reference.mean_hu

    @property
    def cut(self) -> tuple[tuple[Side, ...] | None, tuple[Side, ...] | None]:
        """Sides on which it is cut, ours and the reference's."""
        return (
            self.ours.cut if self.ours else None,
            self.reference.cut if self.reference else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesComparison:
    """One series in both segmentations."""

    series_uid: str
    algorithm: Algorithm  #: ours
    reference_algorithm: Algorithm
    shape: tuple[int, ...]  #: of the grid that was compared
    carried: bool  #: the reference's labels lay on another grid
    voxels: int
    equal: int  #: voxels with the same label, or with none in both
    foreground: int  #: voxels with a label in one or both
    foreground_equal: int
    pairs: tuple[Pair, ...]  #: of every structure that either has found, by name
    swapped: tuple[str, ...]  #: structures that the reference mostly calls those of the other side
    seconds: float  #: ours
    reference_seconds: float

    @property
    def agreement(self) -> float:
        """Share of voxels with the same label."""
        return self.equal / self.voxels

    @property
    def foreground_agreement(self) -> float:
        """The same among voxels that have a label in one or both; 1 where none has."""
        return self.foreground_equal / self.foreground if self.foreground else 1.0

    def failures(self, limits: Limits) -> list[str]:
        """Where it is beyond the limits, in words."""
        found = []
        if self.agreement < limits.agreement:
            found.append(f"{self.agreement:.5f} of the voxels are equal")
        if self.swapped:
            found.append(f"left and right are exchanged: {', '.join(self.swapped)}")
        for pair in measured(self.pairs, limits):
            if abs(pair.volume_percent) > limits.volume_percent:
                ours, reference = pair.ml
                found.append(f"{pair.structure}: {ours:.1f} ml, reference {reference:.1f} ml")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A series that could not be compared."""

    series_uid: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureSummary:
    """One structure in all series."""

    structure: str
    series: int  #: in which either has found it
    dice_median: float
    dice_worst: float
    volume_percent_worst: float  #: farthest from 0
    difference_ml_worst: float
    difference_hu_worst: float | None  #: None where no series has it in both
    cut_differs: int  #: series in which it is cut on other sides, or found by one alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two segmenters on the same series."""

    limits: Limits
    series: tuple[SeriesComparison, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """What is beyond the limits, in words: Series Instance UID and sentence."""
        return tuple(
            (s.series_uid, found) for s in self.series for found in s.failures(self.limits)
        )

    @property
    def accepted(self) -> bool:
        """Something was compared, and all of it is within the limits."""
        return bool(self.series) and not self.failures

    @property
    def agreement(self) -> float | None:
        """Share of all voxels of all series with the same label."""
        return _ratio(sum(s.equal for s in self.series), sum(s.voxels for s in self.series))

    @property
    def foreground_agreement(self) -> float | None:
        """The same among voxels that have a label in one or both."""
        every = sum(s.foreground for s in self.series)
        return _ratio(sum(s.foreground_equal for s in self.series), every)

    @property
    def speed(self) -> float | None:
        """How many times the reference's time ours fits into, over all series."""
        ours = sum(s.seconds for s in self.series)
        return _ratio(sum(s.reference_seconds for s in self.series), ours)

    @property
    def structures(self) -> tuple[StructureSummary, ...]:
        """Every structure that was found, the one with the worst Dice first."""
        found: dict[str, list[tuple[str, Pair]]] = {}
        for series in self.series:
            for pair in series.pairs:
                found.setdefault(pair.structure, []).append((series.series_uid, pair))
        summaries = (_summarise(name, pairs) for name, pairs in found.items())
        return tuple(sorted(summaries, key=lambda s: (s.dice_worst, s.structure)))


def measured(pairs: Sequence[Pair], limits: Limits) -> list[Pair]:
    """Those structures that are large enough for their volume to count."""
    return [pair for pair in pairs if max(pair.ml) > limits.over_ml]


def compare(
    ours: Segmentation,
    reference: Segmentation,
    *,
    series_uid: str,
    seconds: float,
    reference_seconds: float,
) -> SeriesComparison:
    """Compare two segmentations of one volume, voxel by voxel and structure by structure.

    On the grid of ours: where the reference has another, each voxel of ours takes the label of
    the reference's nearest. Volumes and HU of each are measured on its own grid.

    Raises:
        ValueError: structures overlap in one of them, so that a voxel has several labels.
    """
    (labels,), (table,) = ours.layers, ours.names
    (reference_labels,), (reference_table,) = reference.layers, reference.names
    carried = not _same_grid(ours, reference)
    if carried:
        reference_labels = carry_labels(reference_labels, reference.volume, ours.volume)
    names = sorted({*table.values(), *reference_table.values()})
    numbers, reference_numbers = _renumber(table, names), _renumber(reference_table, names)
    counts = _count_pairs(labels, numbers, reference_labels, reference_numbers, len(names) + 1)
    return SeriesComparison(
        series_uid=series_uid,
        algorithm=ours.algorithm,
        reference_algorithm=reference.algorithm,
        shape=labels.shape,
        carried=carried,
        voxels=int(counts.sum()),
        equal=int(counts.trace()),
        foreground=int(counts.sum() - counts[0, 0]),
        foreground_equal=int(counts.trace() - counts[0, 0]),
        pairs=_pairs(names, counts, measure(ours), measure(reference)),
        swapped=_find_swapped(names, counts),
        seconds=seconds,
        reference_seconds=reference_seconds,
    )


def _same_grid(ours: Segmentation, reference: Segmentation) -> bool:
    one, other = ours.volume, reference.volume
    return one.voxels.shape == other.voxels.shape and np.allclose(
        one.affine, other.affine, rtol=0, atol=1e-3
    )


def _renumber(table: Mapping[int, str], names: Sequence[str]) -> npt.NDArray[np.int32]:
    """(256,): for each label the place of its name in `names`, from 1; 0 where it has none."""
    numbers = np.zeros(256, np.int32)
    for label, name in table.items():
        numbers[label] = names.index(name) + 1
    return numbers


def _count_pairs(
    labels: _Labels,
    numbers: npt.NDArray[np.int32],
    others: _Labels,
    other_numbers: npt.NDArray[np.int32],
    size: int,
) -> _Counts:
    """(size, size): voxels by their number in one (rows) and in the other (columns)."""
    counts = np.zeros(size * size, np.int64)
    for one, other in zip(labels, others, strict=True):
        both = numbers[one] * size + other_numbers[other]
        counts += np.bincount(both.ravel(), minlength=size * size)
    return counts.reshape(size, size)


def _pairs(
    names: Sequence[str],
    counts: _Counts,
    ours: Mapping[str, Measurement],
    reference: Mapping[str, Measurement],
) -> tuple[Pair, ...]:
    dices = 2 * counts.diagonal() / np.maximum(1, counts.sum(axis=0) + counts.sum(axis=1))
    return tuple(
        Pair(
            structure=name,
            dice=float(dices[number]),
            ours=ours.get(name),
            reference=reference.get(name),
        )
        for number, name in enumerate(names, start=1)
        if name in ours or name in reference
    )


def _find_swapped(names: Sequence[str], counts: _Counts) -> tuple[str, ...]:
    numbers = {name: number for number, name in enumerate(names, start=1)}
    return tuple(
        name
        for name, number in numbers.items()
        if (other := numbers.get(_other_side(name)))
        and counts[number, other] > counts[number, number]
    )


def _other_side(name: str) -> str:
    """The structure of the other side; "" where it has none."""
    sides = {"left": "right", "right": "left"}
    words = name.split("_")
    return "_".join(sides.get(w, w) for w in words) if sides.keys() & set(words) else ""


def _summarise(name: str, found: Sequence[tuple[str, Pair]]) -> StructureSummary:
    pairs = [pair for _, pair in found]
    hu = [pair.difference_hu for pair in pairs if pair.difference_hu is not None]
    return StructureSummary(
        structure=name,
        series=len(pairs),
        dice_median=median(pair.dice for pair in pairs),
        dice_worst=min(pair.dice for pair in pairs),
        volume_percent_worst=max((pair.volume_percent for pair in pairs), key=abs),
        difference_ml_worst=max((pair.ml[0] - pair.ml[1] for pair in pairs), key=abs),
        difference_hu_worst=max(hu, key=abs, default=None),
        cut_differs=sum(pair.cut[0] != pair.cut[1] for pair in pairs),
    )


def _ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to share."""
    return part / whole if whole else None
