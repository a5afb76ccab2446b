from __future__ import annotations

from pathlib import Path

import pytest

from tomodex.errors import Misconfigured
from tomodex.settings import Settings
from tomodex.wiring import segmenter_urls, source_url


def test_a_path_is_a_folder_source(tmp_path):
    (tmp_path / "a b").mkdir()
    assert source_url(str(tmp_path / "a b")) == f"folder://{tmp_path}/a%20b"
    assert source_url("dimse://pacs:104/AET") == "dimse://pacs:104/AET"


def test_a_path_that_is_not_there_is_no_source(tmp_path):
    with pytest.raises(Misconfigured, match="is not a folder"):
        source_url(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ("totalsegmentator:", "totalsegmentator:?weights=%2Fw%2Fa+b"),
        ("totalsegmentator:?mode=fast", "totalsegmentator:?mode=fast&weights=%2Fw%2Fa+b"),
        ("totalsegmentator:?weights=/own", "totalsegmentator:?weights=/own"),
        ("dicomseg:", "dicomseg:"),
    ],
)
def test_published_models_are_told_where_the_weights_lie(given, opened):
    settings = Settings(segmenters=(given,), weights=Path("/w/a b"))
    assert segmenter_urls(settings) == (opened,)
    assert segmenter_urls(Settings(segmenters=(given,))) == (given,)
