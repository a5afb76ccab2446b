"""Compare what `phantom:` finds with what was drawn, in phantoms that no training has seen.

    python tools/evaluate_phantom_network.py --page docs/reference/phantom-network.md

scans every wanted case of the demo's archive, of four seeds, through the product's own
engine. Dice are worked out on the model's grid, against what is drawn at its voxels' centres. The
page gets the tables between its two marks; a line of JSON goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomodex.phantom.cases import DEMO, Case
from tomodex.phantom.names import STRUCTURES
from tomodex.phantom.scan import find_body, scan_body
from tomodex.phantom.voxels import voxelize
from tomodex.segmentation import Segmentation
from tomodex.segmenters.phantom import MODEL, PhantomSegmenter
from tomodex.volume import Volume

#: Smaller ones are a few voxels of the model's grid.
LARGE_ML = 5.0
FIRST_MARK, LAST_MARK = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One structure of one scan: what was drawn and what was found."""

    drawn_ml: float
    found_ml: float
    both_ml: float

    @property
    def dice(self) -> float:
        return 2 * self.both_ml / (self.drawn_ml + self.found_ml)


Overlaps = Mapping[str, Overlap]  #: of all that was drawn or found


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One scan."""

    case: Case
    seed: int
    overlaps: Overlaps
    seconds: float


def evaluate(case: Case, seed: int, segmenter: PhantomSegmenter) -> Evaluated:
    """Scan the patient of a case of the archive of `seed`, and segment the scan."""
    scan = scan_body(case, seed)
    begin = time.perf_counter()
    found = segmenter.segment(Volume(scan.hu, scan.affine, is_phantom=True), ())
    seconds = time.perf_counter() - begin
    if found is None:
        raise SystemExit(f"{case.name}: nothing was said of it")
    return Evaluated(case=case, seed=seed, overlaps=compare(found, case, seed), seconds=seconds)


def compare(found: Segmentation, case: Case, seed: int) -> Overlaps:
    """What was found, beside what is drawn where the model's voxels lie."""
    grid = found.volume
    drawn, _ = voxelize(find_body(case, seed), grid.affine, grid.shape, 0.0)
    (labels,), (names,) = found.layers, found.names
    pairs = np.bincount(drawn.ravel().astype(np.int64) * 256 + labels.ravel(), minlength=65536)
    both = pairs.reshape(256, 256) * grid.voxel_volume_ml
    numbers = {name: label for label, name in names.items()}
    overlaps = {
        name: Overlap(
            drawn_ml=both[number].sum(),
            found_ml=both[:, numbers[name]].sum(),
            both_ml=both[number, numbers[name]],
        )
        for number, name in enumerate(STRUCTURES, start=1)
    }
    return {name: one for name, one in overlaps.items() if one.drawn_ml or one.found_ml}


def mean_by_structure(scans: Sequence[Evaluated], least_ml: float) -> dict[str, float]:
    """Mean Dice of each structure over the scans that have so much of it."""
    means = {}
    for name in STRUCTURES:
        dice = [
            scan.overlaps[name].dice
            for scan in scans
            if name in scan.overlaps and scan.overlaps[name].drawn_ml > least_ml
        ]
        if dice:
            means[name] = float(np.mean(dice))
    return means


# --- the page -------------------------------------------------------------------------------------


def tables(scans: Sequence[Evaluated]) -> str:
    """Figures in Markdown: all of it, by case, by structure."""
    return "\n\n".join(("\n".join(_summary(scans)), "\n".join(_by_case(scans)),
                        "\n".join(_by_structure(scans))))  # fmt: skip


def summary(scans: Sequence[Evaluated]) -> dict[str, object]:
    """The figures that matter."""
    large = mean_by_structure(scans, LARGE_ML)
    drawn = [one for scan in scans for one in scan.overlaps.values() if one.drawn_ml > LARGE_ML]
    false = [o.found_ml for scan in scans for o in scan.overlaps.values() if not o.drawn_ml]
    worst = min(large, key=large.__getitem__)
    return {
        "scans": len(scans),
        "archive_seeds": sorted({scan.seed for scan in scans}),
        "structures_drawn": len({n for s in scans for n, o in s.overlaps.items() if o.drawn_ml}),
        "structures_found": len({n for s in scans for n, o in s.overlaps.items() if o.both_ml}),
        "structures_over_5_ml": len(large),
        "mean_dice_over_5_ml": round(float(np.mean(list(large.values()))), 4),
        "worst_structure": [worst, round(large[worst], 4)],
        "missed_over_5_ml": sum(not one.both_ml for one in drawn),
        "found_where_not_drawn": len(false),
        "largest_not_drawn_ml": round(max(false, default=0.0), 2),
        "seconds_a_scan": round(float(np.mean([scan.seconds for scan in scans])), 2),
    }


def _summary(scans: Sequence[Evaluated]) -> list[str]:
    return ["| | |", "|---|---|", *(
        f"| {name.replace('_', ' ')} | {_told(value)} |" for name, value in summary(scans).items()
    )]  # fmt: skip


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _by_case(scans: Sequence[Evaluated]) -> list[str]:
    lines = ["| case | scans | structures over 5 ml | mean Dice | worst |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(scan.case.name for scan in scans):
        own = [scan for scan in scans if scan.case.name == name]
        means = mean_by_structure(own, LARGE_ML)
        worst = min(means, key=means.__getitem__)
        lines.append(f"| {name} | {len(own)} | {len(means)} | {np.mean(list(means.values())):.3f} "
                     f"| {worst} {means[worst]:.3f} |")  # fmt: skip
    return lines


def _by_structure(scans: Sequence[Evaluated]) -> list[str]:
    large, all_sizes = mean_by_structure(scans, LARGE_ML), mean_by_structure(scans, 0.0)
    lines = ["| structure | largest, ml | scans with it | Dice, over 5 ml | Dice, any size |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in STRUCTURES:
        drawn = [s.overlaps[name].drawn_ml for s in scans if name in s.overlaps]
        count = sum(ml > 0 for ml in drawn)
        first, other = (f"{m[name]:.3f}" if name in m else "" for m in (large, all_sizes))
        lines.append(f"| {name} | {max(drawn, default=0):.1f} | {count} | {first} | {other} |")
    return lines


def training(model: Path) -> str:
    """How the model was trained, from the file that training left, in Markdown."""
    told = json.loads((model / "training.json").read_text())
    first, last = told["body_seeds"]
    lines = [f"{told['scans']} scans of one body each, body seeds {first} to {last}."]
    for run in told["runs"]:
        curve = dict(run["loss"])
        some = sorted({*list(curve)[:: max(1, len(curve) // 6)], max(curve)})
        losses = ", ".join(f"{curve[step]:.2f} at {step}" for step in some)
        lines.append(
            f"{run['steps']} steps in {run['minutes']:.0f} minutes, learning rate up to "
            f"{run['learning_rate']}. Mean loss of 100 steps: {losses}."
        )
    return "\n".join(f"- {line}" for line in lines)


def write_page(page: Path, text: str) -> None:
    """Put the text between the marks of a page."""
    before, rest = page.read_text().split(FIRST_MARK)
    _, after = rest.split(LAST_MARK)
    page.write_text(f"{before}{FIRST_MARK}\n\n{text}\n\n{LAST_MARK}{after}")


def main() -> None:
    """Evaluate as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--cases", nargs="+", default=[c.name for c in DEMO if not c.reason])
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    given = parser.parse_args()
    segmenter = PhantomSegmenter("phantom:")
    scans = [
        evaluate(case, seed, segmenter)
        for seed in given.seeds
        for case in DEMO
        if case.name in given.cases
    ]
    if given.page:
        write_page(given.page, f"{training(MODEL)}\n\n{tables(scans)}")
    print(json.dumps(summary(scans)))


if __name__ == "__main__":
    main()
