"""Runs the official TotalSegmentator: a program for a Python of its own, which stays at work.

    python official.py '{"parent": 123, "folder": "/private", "task": "total", "resolution": "3",
                         "device": "cpu"}'

It is run by path, in an environment that has the official package and nothing of ours, from Python
3.9 on. Volumes come in on stdin and labels go out on stdout, as `send` and `receive` have it; what
libraries print goes to stderr.

The official code does all that changes labels. What is changed around it:

- Models stay loaded. It would read them again for every image.
- nnU-Net's own loop in one process is used (`predict_from_files_sequential`). The default would
  start two more processes for every image and pickle its logits, gigabytes of them, to one.
- Labels stay on the model's grid for 1.5 mm too, as its `save_lowres` has it for 3 and 6 mm.
- It reaches no network.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

#: What JSON can say.
Header = dict[str, Any]

#: What the package calls a resolution, in mm.
MODES: dict[str, dict[str, bool]] = {"1.5": {}, "3": {"fast": True}, "6": {"fastest": True}}

#: How often it is looked whether anybody still waits for an answer.
WATCH_S = 1.0

#: A header longer than this is none.
LONGEST_HEADER = 2**20

_LENGTH = struct.Struct("<Q")


# --- messages -----------------------------------------------------------------------------------


def send(stream: BinaryIO, header: Header, array: npt.NDArray[Any] | None = None) -> None:
    """Write a message: the length of a header, the header in JSON, and the bytes of an array."""
    if array is not None:
        header = {**header, "shape": array.shape, "dtype": array.dtype.str}
    text = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    if array is not None and array.size:
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Header, npt.NDArray[Any]]:
    """Read a message; the array is empty where none was sent.

    Raises:
        EOFError: the other side has ended.
    """
    (length,) = _LENGTH.unpack(_read(stream, bytearray(_LENGTH.size)))
    if length > LONGEST_HEADER:
        raise EOFError("what came is no message")
    header = json.loads(bytes(_read(stream, bytearray(length))))
    if "shape" not in header:
        return header, np.empty(0)
    array = np.empty(header["shape"], header["dtype"])
    if array.size:
        _read(stream, array.reshape(-1).view(np.uint8).data)
    return header, array


def _read(stream: BinaryIO, into: Any) -> Any:
    """Fill a buffer."""
    view, filled = memoryview(into), 0
    while filled < len(view):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other side has ended")
        filled += count
    return into


# --- the package --------------------------------------------------------------------------------


class Package:
    """The official package, imported and made ready for one task.

    Raises:
        ImportError: it, or what it needs, is not installed, or is too old.
    """

    def __init__(self, task: str, resolution: str, device: str) -> None:
        from totalsegmentator.config import setup_nnunet

        # Before nnU-Net is imported: older ones look for the models' folder then.
        setup_nnunet()
        import nibabel
        import totalsegmentator.nnunet
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from totalsegmentator.map_to_binary import class_map
        from totalsegmentator.python_api import totalsegmentator as label

        self._nibabel: Any = nibabel
        self._label = label
        self._options = {"task": task, "device": device, **MODES[resolution]}
        self.names = {int(number): name for number, name in class_map[task].items()}
        keep_models(nnUNetPredictor)
        use_one_process(nnUNetPredictor)
        stay_on_grid(totalsegmentator.nnunet)

    def label(self, voxels: npt.NDArray[np.int16], affine: Any) -> npt.NDArray[np.uint8]:
        """Labels (z, y, x) on the model's grid: upwards, to the front, to the right.

        Args:
            voxels: HU, in the reversed order of NIfTI's axes, such as (slice, row, column).
            affine: (4, 4), NIfTI's: (column, row, slice, 1) -> RAS position, mm.
        """
        image = self._nibabel.Nifti1Image(voxels.T, np.array(affine))
        found = self._label(image, None, ml=True, quiet=True, nr_thr_saving=1, **self._options)
        upright = self._nibabel.as_closest_canonical(found)
        labels: npt.NDArray[np.uint8] = np.asanyarray(upright.dataobj).astype(np.uint8).T
        return labels


def keep_models(predictor: Any) -> None:
    """Let a predictor take over what another one loaded from the same files."""
    load: Callable[..., None] = predictor.initialize_from_trained_model_folder
    kept: dict[str, dict[str, Any]] = {}

    def initialize(self: Any, folder: str, *choice: Any, **more: Any) -> None:
        key = repr((folder, choice, sorted(more.items())))
        if key not in kept:
            before = dict(vars(self))
            load(self, folder, *choice, **more)
            kept[key] = {k: v for k, v in vars(self).items() if before.get(k) is not v}
        vars(self).update(kept[key])

    predictor.initialize_from_trained_model_folder = initialize


def use_one_process(predictor: Any) -> None:
    """Let nnU-Net label files in this process, by its own other loop."""

    def predict(self: Any, images: str, results: str, **options: Any) -> Any:
        known = {k: options[k] for k in ("save_probabilities", "overwrite") if k in options}
        return self.predict_from_files_sequential(images, results, **known)

    predictor.predict_from_files = predict


def stay_on_grid(runner: Any) -> None:
    """Let labels of every resolution stay on the model's grid."""
    predict: Callable[..., Any] = runner.nnUNet_predict_image
    if "save_lowres" not in inspect.signature(predict).parameters:
        raise ImportError("a newer TotalSegmentator, from 2.18 on")

    def predict_on_grid(*image: Any, **options: Any) -> Any:
        return predict(*image, **{**options, "save_lowres": True})

    runner.nnUNet_predict_image = predict_on_grid


def describe_software() -> Header:
    """Versions of all that the labels come from, and whether torch sees a GPU."""
    from importlib.metadata import version

    import torch

    names = ("TotalSegmentator", "nnunetv2", "torch")
    return {"versions": {n: version(n) for n in names}, "gpu": torch.cuda.is_available()}


# --- the process --------------------------------------------------------------------------------


def stay_offline() -> None:
    """Refuse every connection that leaves this machine or this process."""

    def refuse(event: str, details: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            raise PermissionError("the reference reaches no network")

    sys.addaudithook(refuse)


def end_with(parent: int, folder: Path) -> None:
    """End this process when the one that asks it has ended, and leave nothing behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def open_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Where volumes come from and labels go to; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def describe_error(error: BaseException) -> str:
    """Kind and places of an error, without its text."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-3:]))}"


def answer(package: Package, requests: BinaryIO, answers: BinaryIO) -> None:
    """Label one volume after the other, until nobody asks any more."""
    while True:
        try:
            header, voxels = receive(requests)
        except EOFError:
            return
        try:
            labels = package.label(voxels, header["affine"])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the next volume may be better
            send(answers, {"error": describe_error(error)})
        else:
            send(answers, {}, labels)


def main() -> None:
    # Modules beside this file are none of the package's.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    wanted = json.loads(sys.argv[1])
    requests, answers = open_pipes()
    end_with(wanted["parent"], Path(wanted["folder"]))
    stay_offline()
    try:
        package = Package(wanted["task"], wanted["resolution"], wanted["device"])
        send(answers, {"names": package.names, **describe_software()})
        answer(package, requests, answers)
    except ImportError as missing:
        send(answers, {"missing": missing.name or str(missing)})
    finally:
        shutil.rmtree(wanted["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
