from __future__ import annotations

import pytest

from tests.phantoms import write_ball_series
from tomodex.errors import BadQuery
from tomodex.explaining import explain
from tomodex.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(data=tmp_path / "data")


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    (folder / "whole").mkdir(parents=True)
    (folder / "gappy").mkdir()
    write_ball_series(folder / "whole")
    write_ball_series(folder / "gappy", leave_out=7)
    return folder


def test_every_series_of_a_folder_is_judged_and_nothing_is_remembered(settings, archive):
    reasons = sorted(one.selection.reason for one in explain(settings, str(archive)))
    assert reasons == ["", "missing_slice"]
    assert not settings.data.exists()


def test_a_file_stands_for_its_series(settings, archive):
    file = next((archive / "gappy").iterdir())
    (explained,) = explain(settings, str(file))
    assert "missing_slice" in explained.headline
    assert "(19 instances)" in explained.headline


def test_what_is_neither_known_nor_there_is_said(settings):
    with pytest.raises(BadQuery, match=r"no series 1\.2\.3 was listed"):
        list(explain(settings, "1.2.3"))
