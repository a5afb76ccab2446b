"""How fast phantoms are: one volume on one core, and the whole demo set on disk."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from tomodex.phantom import DEMO, write_phantoms
from tomodex.phantom.anatomy import draw_body
from tomodex.phantom.voxels import voxelize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[120, 256, 256])
    parser.add_argument("--spacing", type=float, nargs=3, default=[4.0, 1.6, 1.5])
    given = parser.parse_args()
    seconds = {tilt: _voxelize(given.shape, given.spacing, tilt) for tilt in (0.0, 15.0)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        truths = write_phantoms(Path(folder))
        written = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    facts = {
        "shape": given.shape,
        "voxelize_s": round(seconds[0.0], 2),
        "voxelize_tilted_s": round(seconds[15.0], 2),
        "demo_series": len(DEMO),
        "demo_instances": sum(truth.instance_count for truth in truths),
        "demo_s": round(written, 1),
        "demo_mb": round(size / 1e6),
    }
    print(json.dumps(facts))


def _voxelize(shape: list[int], spacing: list[float], tilt_deg: float) -> float:
    """Seconds to draw and scan a trunk, from the thighs up."""
    tilt = np.deg2rad(tilt_deg)
    affine = np.eye(4)
    affine[:3, 0] = [0, 0, spacing[0]]
    affine[:3, 1] = np.array([0, np.cos(tilt), np.sin(tilt)]) * spacing[1]
    affine[:3, 2] = [spacing[2], 0, 0]
    affine[:3, 3] = -affine[:3, 1:3] @ np.array(shape[1:]) / 2
    started = time.perf_counter()
    voxelize(draw_body(sex="F", seed=1), affine, (shape[0], shape[1], shape[2]))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
