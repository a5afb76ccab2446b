"""Runs the official TotalSegmentator, in an environment of its own: `python official.py jobs.json`.

TOTALSEG_HOME_DIR has the weights and a config.json that keeps usage statistics at home. A job has a
`kind`, one of KINDS, and paths: `image` (NIfTI, or a folder of DICOM), `labels` to be written, or
to be read for `statistics`. Prints [seconds, peak MB of this process and of its largest child] of
each.

nnU-Net adds up its logits in half precision, whose steps are as large as the margins of a network
that was hardly trained. `single` shows what it would say without that, and nothing else changed.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

Job = dict[str, str]


class SingleTorch:
    """torch, but for what it calls half."""

    def __getattr__(self, name: str) -> object:
        import torch

        return torch.float if name == "half" else getattr(torch, name)


def half(job: Job) -> None:
    """Labels on the model's own grid: `-ml -f -sl -ro 1`, the fastest that its authors offer."""
    from totalsegmentator.python_api import totalsegmentator

    totalsegmentator(
        job["image"],
        job["labels"],
        ml=True,
        fast=True,
        save_lowres=True,
        resampling_order=1,
        device="cpu",
        quiet=True,
        nr_thr_saving=1,
    )


def single(job: Job) -> None:
    import nnunetv2.inference.predict_from_raw_data as inference

    kept, inference.torch = inference.torch, SingleTorch()
    try:
        half(job)
    finally:
        inference.torch = kept


def predecessor(job: Job) -> None:
    """As the IMPETUS CT indexer called it."""
    from totalsegmentator.python_api import totalsegmentator

    totalsegmentator(
        job["image"],
        str(Path(job["labels"]).parent),
        fast=True,
        statistics=True,
        preview=False,
        body_seg=True,
        force_split=True,
        skip_saving=True,
        device="cpu",
        quiet=True,
        nr_thr_saving=1,
    )


def statistics(job: Job) -> None:
    import nibabel
    import numpy as np
    from totalsegmentator.statistics import get_basic_statistics

    labels = np.asarray(nibabel.load(job["labels"]).dataobj)
    found = get_basic_statistics(
        labels, nibabel.load(job["image"]), quiet=True, exclude_masks_at_border=False
    )
    Path(job["statistics"]).write_text(json.dumps(found))


KINDS = {
    "half": half,
    "fastest": half,
    "single": single,
    "predecessor": predecessor,
    "statistics": statistics,
}


def main() -> None:
    costs = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        begin = perf_counter()
        KINDS[job["kind"]](job)
        peaks = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        costs.append((round(perf_counter() - begin, 2), sum(p.ru_maxrss for p in peaks) // 1024))
    sys.stdout.write(f"\n{json.dumps(costs)}\n")


# Its worker processes import this file anew.
if __name__ == "__main__":
    main()
