"""What people call the places that files are put to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomodex.errors import BadQuery
from tomodex.settings import Settings
from tomodex.stores.folder import FolderStore
from tomodex.wiring import store_of


def settings(tmp_path: Path, **destinations: str) -> Settings:
    return Settings(data=tmp_path / "data", destinations=destinations)


@pytest.mark.parametrize(
    ("given", "said", "near"),
    [
        ("reserch", "no configured destination; did you mean research?", ("research",)),
        ("elsewhere", "configured are: archive, research", ()),
        ("file:/x", "did you mean /x?", ()),
        ("file:///srv/masks", "did you mean /srv/masks?", ()),
        ("s3:/bucket/masks", "did you mean s3://bucket/masks?", ("s3://bucket/masks",)),
        ("s3:bucket", "did you mean s3://bucket?", ("s3://bucket",)),
    ],
)
def test_a_place_that_was_hardly_meant_so_is_no_folder(tmp_path, monkeypatch, given, said, near):
    monkeypatch.chdir(tmp_path)
    known = settings(tmp_path, research=str(tmp_path / "masks"), archive="s3://a")
    with pytest.raises(BadQuery) as refused:
        store_of(known, given)
    assert said in str(refused.value)
    assert refused.value.suggestions == near
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["masks", "./masks", "a:b/masks"])
def test_any_path_is_a_folder_where_it_can_be_nothing_else(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    known = settings(tmp_path) if given == "masks" else settings(tmp_path, research="s3://a")
    if given == "a:b/masks":
        (tmp_path / given).mkdir()
    store_of(known, given).close()
    assert (tmp_path / given).is_dir()


def test_a_folder_that_is_there_needs_no_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    store = store_of(settings(tmp_path, research="s3://a"), "masks")
    assert isinstance(store, FolderStore)
    store.close()
