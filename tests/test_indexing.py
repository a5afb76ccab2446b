from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.phantoms import write_ball_series
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexing import index_source, rebuild_index
from tomodex.search import parse
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of, source_url

SERIES = 6


def silent(title):
    return lambda done, total: None


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    for k in range(SERIES):
        (folder / str(k)).mkdir(parents=True)
        write_ball_series(folder / str(k))
    return folder


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(data=tmp_path / "data", workers=2)


def count(settings) -> int:
    return index_of(settings).search(parse("Modality = CT", load_terminology())).series


def test_everything_is_in_the_index_when_it_returns(archive, settings):
    summary = index_source(settings, source_url(str(archive)), "on-demand", silent)
    assert (summary.found, summary.indexed, summary.delivered) == (SERIES, SERIES, SERIES)
    assert count(settings) == SERIES


def test_progress_ends_where_it_said(archive, settings):
    seen: dict[str, list[tuple[int, int | None]]] = {}

    def progress(title):
        return lambda done, total: seen.setdefault(title, []).append((done, total))

    index_source(settings, source_url(str(archive)), "on-demand", progress)
    assert seen["looking through files"][-1] == (SERIES * 20, SERIES * 20)
    assert seen["indexing series"][-1] == (SERIES, SERIES)


def test_new_instances_are_noticed_and_old_ones_left_alone(archive, settings):
    url = source_url(str(archive))
    index_source(settings, url, "on-demand", silent)
    (archive / "more").mkdir()
    write_ball_series(archive / "more")
    sorted((archive / "0").iterdir())[0].unlink()
    summary = index_source(settings, url, "on-demand", silent)
    assert (summary.found, summary.new) == (SERIES + 1, 2)


def test_a_missing_segmenter_is_said_before_anything_is_done(archive, settings):
    wrong = settings.model_copy(update={"segmenters": ("magic:",)})
    with pytest.raises(Misconfigured, match="no segmenter for 'magic:'"):
        index_source(wrong, source_url(str(archive)), "on-demand", silent)
    assert not settings.data.exists()


def test_a_sink_that_cannot_be_opened_is_said_before_the_listing(archive, settings):
    wrong = settings.model_copy(update={"sinks": ("magic:",)})
    with pytest.raises(Misconfigured, match="no sink for 'magic:'"):
        index_source(wrong, source_url(str(archive)), "on-demand", silent)
    assert queue_of(settings).count() == {}


def test_a_source_that_is_gone_is_said(archive, settings):
    url = source_url(str(archive))
    archive.rename(archive.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="is not there"):
        index_source(settings, url, "on-demand", silent)


def test_the_index_is_made_anew_from_the_results(archive, settings):
    index_source(settings, source_url(str(archive)), "on-demand", silent)
    index_of(settings).clear()
    assert count(settings) == 0
    assert rebuild_index(settings) == SERIES
    assert count(settings) == SERIES


def test_kill_9_at_any_moment_loses_and_doubles_nothing(archive, settings):
    """The whole command, killed again and again with all it started, then left to finish."""
    program = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", program, "--data", str(settings.data)]
    command += ["index", str(archive), "--workers", "2", "--json"]
    for k in range(8):
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(0.5 + 0.35 * k)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    ended = subprocess.run(command, capture_output=True, check=True)
    summary = json.loads(ended.stdout)
    assert (summary["found"], summary["indexed"], summary["failed"]) == (SERIES, SERIES, 0)
    queue = queue_of(settings)
    feed = queue.results(0, 1000)
    assert len({result.series_uid for result in feed}) == len(feed) == SERIES
    assert count(settings) == SERIES
