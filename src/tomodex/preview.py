"""A small picture of what a series shows, for a person who looks through hits.

A coronal maximum intensity projection, head up and the patient's left on the right, as radiologists
look at it, with the structures tinted over it. A site has to ask for it, and to say what is done
with heads: a face, and the shape of a skull, tell whose they are.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unavailable
from tomodex.measurement import SIDES, find_sides
from tomodex.probe import Probe
from tomodex.segmentation import Segmentation

#: What is done with heads: no picture of a series that shows one; what lies above its lower end is
#: black; or nothing.
Heads = Literal["left out", "cut off", "shown"]

#: Longest edge, in pixels of equal size.
LONGEST = 320

#: HU that are black and white.
WINDOW_HU = (-150.0, 900.0)

#: How much of its colour a structure gives to what lies behind it.
TINT = 0.45

#: Structures that only a head has. A model that cannot see any of them cannot tell.
HEAD = frozenset({"skull", "brain"})

#: Above the lower end of a skull and this much below it nothing is shown of a head that is cut off:
#: the chin lies lower than the skull is labelled.
CHIN_MM = 80.0

_Scalar = TypeVar("_Scalar", bound=np.generic)

Picture = npt.NDArray[np.uint8]  #: (rows, columns, 3), head first


def draw_preview(segmentation: Segmentation, heads: Heads) -> Picture | None:
    """The picture; None where a head must not be shown, or nobody knows whether there is one."""
    if heads != "shown" and not _knows_heads(segmentation):
        return None
    hu, colour, tinted = _projected(segmentation)
    has_head = bool(HEAD & _shown(segmentation))
    if has_head and heads == "left out":
        return None
    low, high = WINDOW_HU
    grey = np.clip((hu - low) / (high - low), 0, 1)[..., np.newaxis]
    share = np.where(tinted, TINT, 0.0)[..., np.newaxis]
    picture = (grey * (1 - share) + colour * share) * 255
    if has_head and heads == "cut off":
        picture[: _first_row_below(segmentation)] = 0
    return _sized(np.rint(picture).astype(np.uint8), segmentation)


class Previews:
    """Pictures as PNG files in a folder; a consumer of results that forgets with them.

    Args:
        folder: of all pictures.
        policy: what is done with heads; pictures made under another one are not shown any more.
    """

    def __init__(self, folder: Path, policy: str) -> None:
        self._folder = folder
        self._policy = policy.replace(" ", "-")

    def put(self, series_uid: str, picture: Picture) -> None:
        """Keep a picture, in the place of one that is there.

        Raises:
            Unavailable: the folder cannot be written.
        """
        # Costs the start of every command 0.1 s, and only workers need it.
        import imagecodecs

        place = self._place(series_uid)
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, fresh = tempfile.mkstemp(dir=place.parent)  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(imagecodecs.png_encode(picture, level=6))
            Path(fresh).replace(place)
        except OSError as refused:
            raise Unavailable(f"cannot write {place.parent}: {refused.strerror}") from refused

    def get(self, series_uid: str) -> bytes | None:
        """The PNG of a series; None: there is none."""
        try:
            return self._place(series_uid).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Nothing: whoever has the volume makes the picture."""

    def erase(self, series_uids: Sequence[str]) -> None:
        policies = [one.name for one in self._folder.glob("*") if one.is_dir()]
        for uid in series_uids:
            for policy in policies:
                self._place(uid, policy).unlink(missing_ok=True)

    def probe(self) -> Iterator[Probe]:
        yield Probe(subject="previews", verdict="ok", sentence=f"in {self._folder}")

    def close(self) -> None:
        pass

    def _place(self, series_uid: str, policy: str = "") -> Path:
        # A UID comes from outside; its hash is a safe name, and spreads a million of them.
        name = hashlib.sha256(series_uid.encode()).hexdigest()
        return self._folder / (policy or self._policy) / name[:2] / f"{name}.png"


def _knows_heads(segmentation: Segmentation) -> bool:
    return any(HEAD & set(names.values()) for names in segmentation.names)


def _shown(segmentation: Segmentation) -> frozenset[str]:
    """Names of the structures that have a voxel."""
    layers = zip(segmentation.layers, segmentation.names, strict=True)
    return frozenset(
        names[label]
        for labels, names in layers
        for label in np.unique(labels).tolist()
        if label in names
    )


def _projected(
    segmentation: Segmentation,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(rows, columns) largest HU; colour of the structure that is nearest to the front; if any."""
    hu = _coronal(segmentation.volume.voxels, segmentation).max(axis=1).astype(np.float64)
    colour = np.zeros((*hu.shape, 3))
    tinted = np.zeros(hu.shape, np.bool_)
    for labels, names in zip(segmentation.layers, segmentation.names, strict=True):
        turned = _coronal(labels, segmentation)
        nearest = (turned > 0).argmax(axis=1)
        front = np.take_along_axis(turned, nearest[:, np.newaxis], axis=1)[:, 0]
        seen = (front > 0) & ~tinted
        palette = np.array([_colour(names.get(label, "")) for label in range(256)])
        colour[seen] = palette[front[seen]]
        tinted |= seen
    return hu, colour, tinted


def _coronal(voxels: npt.NDArray[_Scalar], segmentation: Segmentation) -> npt.NDArray[_Scalar]:
    """(head to foot, front to back, right to left) of the patient, as near as the grid has it."""
    axes, begins = _axes(segmentation)
    turned = voxels.transpose(axes)
    flips = tuple(slice(None, None, 1 if as_it_is else -1) for as_it_is in begins)
    return turned[flips]


def _axes(segmentation: Segmentation) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Axes of the grid along (z, y, x), and whether each begins at head, front and right."""
    sides = find_sides(segmentation.volume.affine)
    wanted = ("superior", "anterior", "right")
    ends = [next(pair for pair in SIDES if side in pair) for side in wanted]
    axes = tuple(next(i for i, pair in enumerate(sides) if set(pair) == set(end)) for end in ends)
    return axes, tuple(sides[axis][0] == side for axis, side in zip(axes, wanted, strict=True))


def _first_row_below(segmentation: Segmentation) -> int:
    """The first row that shows nothing of a head."""
    lowest = 0
    for labels, names in zip(segmentation.layers, segmentation.names, strict=True):
        numbers = [label for label, name in names.items() if name in HEAD]
        rows = np.isin(_coronal(labels, segmentation), numbers).any(axis=(1, 2))
        if rows.any():
            lowest = max(lowest, int(np.flatnonzero(rows)[-1]) + 1)
    axes, _ = _axes(segmentation)
    step_mm = float(np.linalg.norm(segmentation.volume.affine[:3, axes[0]]))
    return lowest + int(np.ceil(CHIN_MM / step_mm))


def _sized(picture: Picture, segmentation: Segmentation) -> Picture:
    """The same in pixels of equal size, by nearest neighbour, `LONGEST` of them at most."""
    axes, _ = _axes(segmentation)
    steps = np.linalg.norm(segmentation.volume.affine[:3, :3], axis=0)
    height_mm = picture.shape[0] * steps[axes[0]]
    width_mm = picture.shape[1] * steps[axes[2]]
    pixel_mm = max(height_mm, width_mm) / LONGEST
    rows, columns = (max(1, round(mm / pixel_mm)) for mm in (height_mm, width_mm))
    row = (np.arange(rows) * picture.shape[0]) // rows
    column = (np.arange(columns) * picture.shape[1]) // columns
    return np.ascontiguousarray(picture[row][:, column])


def _colour(name: str) -> tuple[float, float, float]:
    """A hue of its own for each structure, the same in every picture."""
    hue = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") / 65536 * 6
    third = 1 - abs(hue % 2 - 1)
    ramps = [
        (1, third, 0),
        (third, 1, 0),
        (0, 1, third),
        (0, third, 1),
        (third, 0, 1),
        (1, 0, third),
    ]
    red, green, blue = ramps[int(hue)]
    return 0.25 + 0.75 * red, 0.25 + 0.75 * green, 0.25 + 0.75 * blue
