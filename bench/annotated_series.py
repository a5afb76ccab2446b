"""How many annotated series are written to and read from JSON in a second, on one core.

python bench/annotated_series.py --structures 50
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from tomodex.annotation import (
    AnnotatedSeries,
    Annotation,
    Coding,
    Image,
    Provenance,
    from_json,
    to_json,
)
from tomodex.measurement import Measurement
from tomodex.segmentation import Algorithm
from tomodex.series import Series


def draw(structures: int) -> AnnotatedSeries:
    annotations = tuple(
        Annotation(
            structure=f"structure_{k}",
            codings=(
                Coding(system="http://snomed.info/sct", code=f"{k}1000", display="Some structure"),
                Coding(system="http://radlex.org", code=f"RID{k}", display="some structure"),
            ),
            laterality="left" if k % 2 else "",
            measurement=Measurement(
                voxel_count=100_000 + k,
                volume_ml=52.734375 + k,
                mean_hu=61.23456789 + k,
                sd_hu=12.3456789,
                centroid_mm=(1.23456 * k, -45.6789, 1001.2345),
                box_min_mm=(-10.5, -90.25, 950.125),
                box_max_mm=(30.5, 10.25, 1050.875),
                cut=("inferior",) if k % 5 == 0 else (),
            ),
        )
        for k in range(structures)
    )
    return AnnotatedSeries(
        series=Series(
            series_uid="1.2.3.4.5",
            study_uid="1.2.3.4",
            patient="0123456789abcdef",
            modality="CT",
            instance_count=300,
            attributes={"PatientAge": 52.0, "PatientSex": "F", "SliceThickness": 1.0},
        ),
        image=Image(
            shape=(300, 512, 512),
            spacing_mm=(1.0, 0.75, 0.7),
            affine=((0.0, 0.0, 0.7, -180.0), (0.0, 0.75, 0.0, -190.0), (1.0, 0.0, 0.0, 900.0)),
            plane="axial",
            oblique_deg=0.0,
            tilt_deg=0.0,
            box_min_mm=(-180.35, -190.375, 899.5),
            box_max_mm=(178.05, 193.625, 1199.5),
        ),
        annotations=annotations,
        provenance=Provenance(
            algorithm=Algorithm(name="drawn"),
            terminology="1",
            software={"tomodex": "0"},
            source="folder:///archive",
            configuration="default",
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:00:01+00:00",
        ),
    )


def rate(call: Callable[[], object], seconds: float) -> float:
    calls, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    annotated = draw(asked.structures)
    line = to_json(annotated)
    assert from_json(line) == annotated
    print(
        json.dumps(
            {
                "bench": "annotated_series",
                "structures": asked.structures,
                "bytes": len(line),
                "to_json_per_s": round(rate(lambda: to_json(annotated), asked.seconds)),
                "from_json_per_s": round(rate(lambda: from_json(line), asked.seconds)),
            }
        )
    )


if __name__ == "__main__":
    main()
