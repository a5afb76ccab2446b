from __future__ import annotations

from pathlib import Path

import pytest

from tomodex.errors import Misconfigured
from tomodex.settings import Settings
from tomodex.wiring import (
    avoided_sources,
    configured_url,
    segmenter_urls,
    source_of,
    source_url,
    task_source,
    with_source,
)


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


PACS = "dimse://TOMODEX@pacs:11112/ARCHIVE"


def test_a_source_is_called_by_its_name():
    settings = Settings(sources={"pacs": f"{PACS}?simultaneous=1"})
    assert configured_url(settings, "pacs") == f"{PACS}?simultaneous=1"


def test_a_task_finds_the_options_of_its_source(tmp_path):
    """A task carries the URL without options; they come from the settings."""
    (tmp_path / "a b").mkdir()
    settings = Settings(
        sources={"pacs": f"{PACS}?hours=19:00-06:00", "disk": str(tmp_path / "a b")}
    )
    assert configured_url(settings, PACS) == f"{PACS}?hours=19:00-06:00"
    assert configured_url(settings, f"{PACS}?hours=01:00-02:00") == f"{PACS}?hours=01:00-02:00"
    assert configured_url(settings, "dimse://other:104/AET") == "dimse://other:104/AET"
    assert configured_url(settings, f"folder://{tmp_path}/a%20b") == f"folder://{tmp_path}/a%20b"


def test_a_folder_that_is_not_there_hinders_no_other_source(tmp_path):
    settings = Settings(sources={"disk": str(tmp_path / "nowhere"), "pacs": f"{PACS}?a=1"})
    assert configured_url(settings, PACS) == f"{PACS}?a=1"
    with pytest.raises(Misconfigured, match="is not a folder"):
        configured_url(settings, "disk")


def test_sources_that_tasks_cannot_tell_apart_are_refused():
    settings = Settings(sources={"day": f"{PACS}?a=1", "night": f"{PACS}?a=2"})
    with pytest.raises(Misconfigured, match="day, night have the same URL"):
        configured_url(settings, PACS)


def test_the_workers_of_a_run_open_its_source_as_it_was_given():
    settings = Settings(sources={"pacs": f"{PACS}?a=1", "other": "dicomweb+https://pacs/web"})
    given = with_source(settings, f"{PACS}?a=2")
    assert given.sources == {"pacs": f"{PACS}?a=2", "other": "dicomweb+https://pacs/web"}
    assert configured_url(given, PACS) == f"{PACS}?a=2"
    new = with_source(settings, "s3://bucket/ct?endpoint=http://minio:9000")
    assert configured_url(new, "s3://bucket/ct") == "s3://bucket/ct?endpoint=http://minio:9000"
    assert configured_url(new, PACS) == f"{PACS}?a=1"


def test_a_source_is_opened_by_its_name(tmp_path):
    (tmp_path / "archive").mkdir()
    settings = Settings(data=tmp_path / "data", sources={"disk": str(tmp_path / "archive")})
    assert source_of(settings, "disk").url == f"folder://{tmp_path}/archive"


def test_a_source_is_avoided_by_its_name_or_its_url(tmp_path):
    sources = {"disk": str(tmp_path), "pacs": "dimse://A@pacs:104/B?rate=2"}
    settings = Settings(sources=sources, avoid=("disk", "pacs", "spool:///data/spool"))
    assert avoided_sources(settings) == {
        f"folder://{tmp_path}",
        "dimse://A@pacs:104/B",
        "spool:///data/spool",
    }
    assert {task_source(settings, name) for name in sources} < avoided_sources(settings)
