"""TotalSegmentator's tasks, the models that they need, and where those lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tomodex.errors import Misconfigured

Modality = Literal["CT", "MR"]

#: Where releases are published.
_RELEASES = "https://github.com/wasserth/TotalSegmentator/releases/download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One network of TotalSegmentator, as it is published."""

    number: int  #: of nnU-Net's data set
    name: str  #: of nnU-Net's data set: the folder that it is unpacked to
    release: str  #: under which it was published
    archive_sha256: str = ""  #: of the .zip; "" where we could not learn it from a second source
    checkpoint_sha256: str = ""  #: of checkpoint_final.pth; "" likewise

    @property
    def url(self) -> str:
        return f"{_RELEASES}/{self.release}/{self.name}.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked of TotalSegmentator: so many structures, so fine."""

    name: str
    resolution: str  #: mm, as it is written in a URL
    models: tuple[int, ...]  #: numbers; where two label a voxel, the later one counts
    modality: Modality

    @property
    def spacing_mm(self) -> float:
        return float(self.resolution)

    @property
    def title(self) -> str:
        """Such as "total 3 mm (Dataset297)"."""
        ends = sorted({self.models[0], self.models[-1]})
        return f"{self.name} {self.resolution} mm (Dataset{'-'.join(map(str, ends))})"


def _models(release: str, *names: str) -> dict[int, Model]:
    found = (Model(number=int(name[7:10]), name=name, release=release) for name in names)
    return {model.number: model for model in found}


#: By number. Names and releases as in TotalSegmentator 2.18 (map_tasks_config.py).
MODELS: Mapping[int, Model] = {
    **_models(
        "v2.0.0-weights",
        "Dataset291_TotalSegmentator_part1_organs_1559subj",
        "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
        "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
        "Dataset294_TotalSegmentator_part4_muscles_1559subj",
        "Dataset295_TotalSegmentator_part5_ribs_1559subj",
        "Dataset298_TotalSegmentator_total_6mm_1559subj",
    ),
    **_models(
        "v2.5.0-weights",
        "Dataset850_TotalSegMRI_part1_organs_1088subj",
        "Dataset851_TotalSegMRI_part2_muscles_1088subj",
        "Dataset852_TotalSegMRI_total_3mm_1088subj",
        "Dataset853_TotalSegMRI_total_6mm_1088subj",
    ),
    # The hashes were published once, by somebody who measured the official download.
    297: Model(
        number=297,
        name="Dataset297_TotalSegmentator_total_3mm_1559subj",
        release="v2.0.0-weights",
        archive_sha256="0baa2c8de2975600eb31801dd5c1825cd2b356f794498659cf3348714c073394",
        checkpoint_sha256="1e38e40356adc2706a662e365405a97f862d62a7da65f6bf81d025aee1b979ac",
    ),
}

TASKS = (
    Task(name="total", resolution="3", models=(297,), modality="CT"),
    Task(name="total", resolution="6", models=(298,), modality="CT"),
    Task(name="total", resolution="1.5", models=(291, 292, 293, 294, 295), modality="CT"),
    Task(name="total_mr", resolution="3", models=(852,), modality="MR"),
    Task(name="total_mr", resolution="6", models=(853,), modality="MR"),
    Task(name="total_mr", resolution="1.5", models=(850, 851), modality="MR"),
)


def find_task(name: str, resolution: str) -> Task:
    """The task with that name and resolution.

    Raises:
        Misconfigured: there is none.
    """
    for task in TASKS:
        if (task.name, task.resolution) == (name, resolution):
            return task
    known = ", ".join(f"{task.name} at {task.resolution}" for task in TASKS)
    raise Misconfigured(f"no task {name!r} at {resolution!r} mm; there are {known}")


def find_results(weights: Path | None = None) -> Path:
    """The folder of nnU-Net results: `weights` if given, else where the environment says.

    TOMODEX_WEIGHTS counts before TotalSegmentator's own TOTALSEG_WEIGHTS_PATH and
    TOTALSEG_HOME_DIR, and all before ~/.totalsegmentator. Each may be the folder of results
    itself or a home that has it as nnunet/results. It need not be there yet.
    """
    said = map(os.environ.get, ("TOMODEX_WEIGHTS", "TOTALSEG_WEIGHTS_PATH"))
    named = weights or next(filter(None, said), None)
    home = os.environ.get("TOTALSEG_HOME_DIR") or Path.home() / ".totalsegmentator"
    chosen = Path(named or home).expanduser()
    inner = chosen / "nnunet" / "results"
    return inner if inner.is_dir() or not named else chosen


def find_model(number: int, results: Path) -> Path:
    """The trained-model folder (with plans.json) of a data set of nnU-Net.

    Raises:
        Misconfigured: it is not there, or there are several; the message says how to get it.
    """
    found = sorted(
        plans.parent for plans in results.glob(f"Dataset{number:03}_*/*__*__3d_fullres/plans.json")
    )
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(folder.relative_to(results)) for folder in found)
        raise Misconfigured(
            f"Dataset{number} is there {len(found)} times: {names}; name one nnunet:"
        )
    raise Misconfigured(
        f"the weights of Dataset{number} are not in {results}. With internet: "
        f"`tomodex weights fetch {number}`. Without: bring {_archive_of(number)} here and "
        "`tomodex weights import` it"
    )


def _archive_of(number: int) -> str:
    return f"{MODELS[number].name}.zip" if number in MODELS else f"a .zip with Dataset{number}_*"
