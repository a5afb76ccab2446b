from __future__ import annotations

import stat
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from tomodex.preview import LONGEST, Heads, Previews, draw_preview
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.volume import Volume

#: (slice, row, column) -> LPS of an axial series from foot to head, 5 x 2 x 2 mm.
AXIAL = np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])

NAMES = {1: "liver", 2: "spleen", 3: "skull", 4: "brain"}


def scan(labels: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64] = AXIAL) -> Segmentation:
    hu = np.where(labels > 0, 400, -1000).astype(np.int16)
    return Segmentation(Volume(hu, affine), (labels,), (NAMES,), Algorithm(name="drawn"))


def body(*, head: bool) -> npt.NDArray[np.uint8]:
    """Liver low on the patient's right, spleen on the left; a skull in the upper slices."""
    labels = np.zeros((60, 20, 40), np.uint8)
    labels[5:10, 5:15, 2:12] = 1
    labels[5:10, 5:15, 28:38] = 2
    if head:
        labels[45:58, 5:15, 12:28] = 3
    return labels


def bright(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return picture.max(axis=2) > 60


def test_the_head_is_up_and_the_left_is_on_the_right():
    picture = draw_preview(scan(body(head=True)), "shown")
    assert picture is not None
    rows, columns = np.nonzero(bright(picture))
    low = picture[picture.shape[0] // 2 :]
    liver, spleen = low[:, : low.shape[1] // 2], low[:, low.shape[1] // 2 :]
    assert rows.min() < picture.shape[0] * 0.1
    assert columns.min() < picture.shape[1] * 0.1
    colours = [part[bright(part)].mean(axis=0) for part in (liver, spleen)]
    assert np.abs(colours[0] - colours[1]).max() > 20


@pytest.mark.parametrize(
    "axes", [(0, 1, 2), (1, 0, 2), (2, 0, 1)], ids=["axial", "coronal", "sagittal"]
)
@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_a_grid_that_is_turned_gives_the_same_picture(
    axes: tuple[int, int, int], flip: tuple[int, int, int]
):
    labels = body(head=True)
    upright = draw_preview(scan(labels), "shown")
    ends = [n - 1 if step < 0 else 0 for n, step in zip(labels.shape, flip, strict=True)]
    affine = AXIAL.copy()
    affine[:3, :3] = AXIAL[:3, :3] * np.array(flip)
    affine[:3, 3] = AXIAL[:3, :3] @ ends
    flipped = labels[tuple(slice(None, None, step) for step in flip)]
    affine[:3, :3] = affine[:3, :3][:, axes]
    turned = draw_preview(scan(np.ascontiguousarray(flipped.transpose(axes)), affine), "shown")
    assert upright is not None
    assert turned is not None
    np.testing.assert_array_equal(turned, upright)


def test_pixels_are_of_equal_size():
    picture = draw_preview(scan(body(head=False)), "shown")
    assert picture is not None
    assert picture.shape == (LONGEST, round(LONGEST * 80 / 300), 3)


def test_a_series_with_a_head_has_no_picture_where_heads_are_left_out():
    assert draw_preview(scan(body(head=True)), "left out") is None
    assert draw_preview(scan(body(head=False)), "left out") is not None


def test_nothing_is_shown_of_a_head_that_is_cut_off():
    labels = body(head=True)
    picture = draw_preview(scan(labels), "cut off")
    assert picture is not None
    # The skull begins at slice 45 of 60, and the chin 80 mm lower: 31 of 60 from above.
    black = round(LONGEST * 31 / 60)
    assert not picture[: black - 1].any()
    assert bright(picture[black:]).any()


@pytest.mark.parametrize("heads", ["left out", "cut off"])
def test_a_model_that_knows_no_heads_gets_no_picture(heads: Heads):
    labels = body(head=False)
    volume = Volume(np.zeros(labels.shape, np.int16), AXIAL)
    blind = Segmentation(volume, (labels,), ({1: "liver", 2: "spleen"},), Algorithm(name="x"))
    assert draw_preview(blind, heads) is None
    assert draw_preview(blind, "shown") is not None


def test_pictures_are_kept_for_their_owner_alone_and_forgotten(tmp_path: Path):
    previews = Previews(tmp_path / "previews", "heads shown")
    picture = draw_preview(scan(body(head=False)), "shown")
    assert picture is not None
    previews.put("1.2.3", picture)
    (file,) = (tmp_path / "previews").rglob("*.png")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = previews.get("1.2.3")
    assert kept is not None
    np.testing.assert_array_equal(imagecodecs.png_decode(kept), picture)
    previews.erase(["1.2.3", "1.2.4"])
    assert previews.get("1.2.3") is None


def test_a_uid_is_never_a_path(tmp_path: Path):
    previews = Previews(tmp_path / "previews", "heads shown")
    previews.put("../../../escape", np.zeros((2, 2, 3), np.uint8))
    assert not (tmp_path / "escape").exists()
    assert len(list((tmp_path / "previews").rglob("*.png"))) == 1


def test_pictures_of_a_former_policy_are_not_shown_and_forgotten_all_the_same(tmp_path: Path):
    former, now = (Previews(tmp_path, policy) for policy in ("heads shown", "heads left out"))
    former.put("1.2.3", np.zeros((2, 2, 3), np.uint8))
    assert now.get("1.2.3") is None
    now.erase(["1.2.3"])
    assert former.get("1.2.3") is None
