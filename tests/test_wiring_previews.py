"""Previews from the setting to the picture, and their end with the series."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.phantoms import write_ball_series
from tomodex import segmenters
from tomodex.discovery import discover
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.volume import Volume
from tomodex.wiring import (
    annotator_of,
    consumer_names,
    consumers_of,
    previews_of,
    queue_of,
    source_of,
)


class Labels:
    """Labels everything of a series; it knows what a skull is."""

    reads_stored = False

    def __init__(self, url: str) -> None:
        pass

    def segment(self, volume: Volume, stored: object) -> Segmentation:
        labels = np.ones(volume.shape, np.uint8)
        names = ({1: "liver", 2: "skull"},)
        return Segmentation(volume, (labels,), names, Algorithm(name="drawn"))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(segmenters.ADAPTERS, "drawn", f"{__name__}:Labels")
    (tmp_path / "ct").mkdir()
    return tmp_path / "ct"


def index(settings: Settings, source: Path) -> str:
    """What a worker does, in this process."""
    uid = write_ball_series(source)
    queue, url = queue_of(settings), f"folder://{source}"
    discover(source_of(settings, url), load_rules(None), queue, lane="on-demand")
    task = queue.lease("a test", timedelta(minutes=5))
    assert task is not None
    assert queue.settle(task, annotator_of(settings)(task))
    return uid


def test_a_preview_is_made_where_the_site_asks_for_it(tmp_path: Path, source: Path):
    settings = Settings(data=tmp_path / "data", segmenters=("drawn:",), preview="heads left out")
    uid = index(settings, source)
    picture = previews_of(settings).get(uid)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


def test_none_is_made_where_nobody_asked(tmp_path: Path, source: Path):
    settings = Settings(data=tmp_path / "data", segmenters=("drawn:",))
    uid = index(settings, source)
    assert previews_of(settings).get(uid) is None
    assert "previews:" not in consumer_names(settings)


def test_a_preview_goes_with_its_series_even_where_no_new_ones_are_made(
    tmp_path: Path, source: Path
):
    with_previews = Settings(data=tmp_path / "data", segmenters=("drawn:",), preview="heads shown")
    uid = index(with_previews, source)
    without = with_previews.model_copy(update={"preview": "off"})
    queue_of(without).withdraw(uid, sentence="erased")
    consumers_of(without)["previews:"].erase([uid])
    assert previews_of(without).get(uid) is None
