"""The official package at work in a process of its own, which is asked for labels.

The process ends with the one that asks, works in a private folder, and is killed when an answer
takes too long. It is given voxels and an affine, nothing else of a series.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Timer
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.segmenters.reference import official
from tomodex.volume import Volume

#: Seconds that the package may take to be imported: 10 s, 95 s on a very busy machine (measured).
START_S = 300.0

#: What the package is told about sending usage statistics, in its own file.
CONFIG = {
    "totalseg_id": "totalseg_TOMODEX0",
    "send_usage_stats": False,
    "prediction_counter": 0,
    "statistics_disclaimer_shown": True,
}

#: Variables that the package gets, by how they begin: what finds programs, and what computes. All
#: others might hold secrets, or lead to modules and weights of another environment.
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_", "TZ", "LD_LIBRARY_PATH"),
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "PYTORCH_", "nnUNet_"),
    *("MALLOC_", "THP_"),
)

#: LPS <-> RAS.
_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Our axes (slice, row, column) <-> those of NIfTI.
_BACKWARDS = [2, 1, 0, 3]

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process of the official package is for."""

    python: Path  #: of the environment that has it
    task: str
    resolution: str  #: mm, as the segmenter's URL has it
    device: str  #: "cpu" or "gpu"
    folders: tuple[Path, ...]  #: of the models, each named as nnU-Net's data set


class Official:
    """A process of the official package, ready to label volumes; it ends when this is dropped.

    Raises:
        Misconfigured: the package is not installed, or cannot be used on this machine.
    """

    def __init__(self, job: Job) -> None:
        folder = Path(tempfile.mkdtemp(prefix="tomodex-reference-"))
        try:
            _make_home(folder, job.folders)
            self._process = _start(job, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.close = weakref.finalize(self, _end, self._process, folder)
        hello = self._greet(job)
        self.names: Mapping[int, str] = {int(n): name for n, name in hello["names"].items()}
        self.versions: Mapping[str, str] = hello["versions"]

    def label(self, volume: Volume, deadline_s: float) -> Labels:
        """Labels on the model's grid, (z, y, x): upwards, to the front, to the right.

        Raises:
            Unavailable: it took longer than the deadline, or the process died.
            TomodexError: the package could not do it.
        """
        request = {"affine": (_TURN @ volume.affine[:, _BACKWARDS]).tolist()}
        voxels = volume.voxels
        with self._deadline(deadline_s):
            official.send(self._requests, request, voxels)
            said, labels = official.receive(self._answers)
        if "error" in said:
            raise TomodexError(f"the official TotalSegmentator failed: {said['error']}")
        if labels.dtype != np.uint8 or labels.ndim != 3:
            raise Unavailable("the official TotalSegmentator answered with something else")
        return labels

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.close.alive and self._process.poll() is None

    @property
    def _requests(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdin)

    @property
    def _answers(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdout)

    def _greet(self, job: Job) -> dict[str, Any]:
        """What the process says of itself when it is ready."""
        try:
            with self._deadline(START_S):
                hello, _ = official.receive(self._answers)
        except Unavailable as unready:
            raise Misconfigured(f"{job.python}: {unready} (before it was ready)") from unready
        if "missing" in hello:
            self.close()
            raise Misconfigured(
                f"reference: {job.python} has not all that the official TotalSegmentator needs "
                f"({hello['missing']}). Either pip install 'tomodex[reference]', or name a Python "
                "that has it: reference:?python=/path/to/venv/bin/python, or the setting "
                "`reference_python`"
            )
        if job.device == "gpu" and not hello["gpu"]:
            self.close()
            raise Misconfigured(f"reference:?device=gpu: torch of {job.python} sees no GPU")
        return hello

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Kill the process if what is asked of it takes longer; say so, or that it has died.

        Raises:
            Unavailable: it was killed, or died.
        """
        overdue = Event()
        timer = Timer(seconds, _kill_overdue, (self._process, overdue))
        timer.daemon = True
        timer.start()
        try:
            yield
        except (EOFError, OSError, ValueError) as broken:
            self.close()
            why = f"took more than {seconds:.0f} s" if overdue.is_set() else self._ending()
            raise Unavailable(f"the official TotalSegmentator {why}") from broken
        except BaseException:
            # Such as Ctrl-C: an answer that comes now would be taken for the next one.
            self.close()
            raise
        finally:
            timer.cancel()

    def _ending(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}; with SIGKILL, memory was short"
        return f"ended with exit code {code}"


def _make_home(folder: Path, models: Sequence[Path]) -> None:
    """A home for the package: the models, and what keeps its statistics here.

    Of its own, as the package deletes old weights, counts images and downloads what is missing.
    """
    results = folder / "home" / "nnunet" / "results"
    results.mkdir(parents=True)
    for model in models:
        data_set = model.absolute().parent
        (results / data_set.name).symlink_to(data_set)
    (folder / "home" / "config.json").write_text(json.dumps(CONFIG))


def _start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    about = {
        "parent": os.getpid(),
        "folder": str(folder),
        "task": job.task,
        "resolution": job.resolution,
        "device": job.device,
    }
    try:
        return subprocess.Popen(
            [job.python, official.__file__, json.dumps(about)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            # Ctrl-C is for us; and so is the end of all that it has started.
            start_new_session=True,
        )
    except OSError as refused:
        raise Misconfigured(
            f"{job.python} cannot be started: {refused.strerror}; reference:?python= or the "
            "setting `reference_python` names a Python that has the official TotalSegmentator"
        ) from refused


def _environment(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(_PASSED)},
        "TOTALSEG_HOME_DIR": str(folder / "home"),
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(folder),
    }


def _kill_overdue(process: subprocess.Popen[bytes], overdue: Event) -> None:
    overdue.set()
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was still to be written is of no use any more
    shutil.rmtree(folder, ignore_errors=True)
