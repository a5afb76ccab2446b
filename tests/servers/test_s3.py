"""A real S3 server: what lies in it is indexed as what lies in a folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.servers.s3 import KEY, SECRET, Store
from tests.servers.volumes import outcomes, real_files, write_phantoms
from tomodex.errors import Misconfigured, Suspended, Unavailable, Unsuitable
from tomodex.instance import read_instance
from tomodex.sources import open_source
from tomodex.sources.s3.source import S3Source

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY", KEY)
    monkeypatch.setenv("S3_SECRET", SECRET)


def pseudonym(identifier: str) -> str:
    return f"pseudonym-{len(identifier)}"


def open_s3(store: Store, tmp_path: Path, path: str = "", query: str = "") -> S3Source:
    options = f"endpoint={store.endpoint}&key=env:S3_KEY&secret=env:S3_SECRET&{query}"
    source = open_source(
        f"s3://scans{path}?{options}", pseudonymize=pseudonym, state=tmp_path / "state"
    )
    assert isinstance(source, S3Source)
    return source


def folder_outcomes(folder: Path, tmp_path: Path) -> dict[str, str]:
    source = open_source(f"folder://{folder}", pseudonymize=pseudonym, state=tmp_path / "folder")
    return outcomes(source, tmp_path / "of-folder")


def files_of(tmp_path: Path) -> Path:
    """A folder with phantoms, and the real series where there are some."""
    folder = tmp_path / "files"
    write_phantoms(folder)
    for number, file in enumerate(real_files()):
        (folder / f"real-{number}.dcm").write_bytes(file.read_bytes())
    return folder


def by_series(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        instance = read_instance(file, str)
        groups.setdefault(instance.series_uid if instance else "", []).append(file)
    return {uid: files for uid, files in groups.items() if uid}


def test_instances_give_the_volumes_of_a_folder(store: Store, tmp_path: Path) -> None:
    folder = files_of(tmp_path)
    for file in folder.iterdir():
        store.put(f"2026/{file.name}", file.read_bytes())
    found = outcomes(open_s3(store, tmp_path, "/2026"), tmp_path / "into")
    assert found == folder_outcomes(folder, tmp_path)
    assert sum(len(outcome) == 64 for outcome in found.values()) >= 5


def test_an_archive_for_each_series_gives_the_volumes_of_a_folder(
    store: Store, tmp_path: Path
) -> None:
    folder = files_of(tmp_path)
    for number, (uid, files) in enumerate(sorted(by_series(folder.iterdir()).items())):
        packed = io.BytesIO()
        kind = ("tar", "zip", "tar.gz")[number % 3]
        if kind == "zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    archive.write(file, file.name)
        else:
            with tarfile.open(fileobj=packed, mode="w:gz" if "gz" in kind else "w") as tar:
                for file in files:
                    tar.add(file, f"../../{file.name}")
        store.put(f"{uid}.{kind}", packed.getvalue())
    source = open_s3(store, tmp_path, query="layout=archives")
    expected = folder_outcomes(folder, tmp_path)
    found = outcomes(source, tmp_path / "into")
    assert found == {uid: outcome for uid, outcome in expected.items() if "2.25." not in uid}


def test_a_truncated_archive_and_a_missing_one_end_as_they_should(
    store: Store, tmp_path: Path
) -> None:
    write_phantoms(tmp_path / "files")
    (_, first), (_, second), *_ = sorted(by_series((tmp_path / "files").iterdir()).items())
    for name, files in (("cut", first), ("gone", second)):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for file in files:
                tar.add(file, file.name)
        store.put(f"{name}.tar", packed.getvalue())
    (store.folder / "cut.tar").write_bytes((store.folder / "cut.tar").read_bytes()[:20_000])
    source = open_s3(store, tmp_path, query="layout=archives")
    listings = {one.series.series_uid: one for one in source.find()}
    (store.folder / "gone.tar").unlink()
    cut, gone = (read_instance(files[0], str) for files in (first, second))
    assert cut is not None
    assert gone is not None
    with pytest.raises(Unsuitable):
        source.retrieve(listings[cut.series_uid].series, tmp_path / "cut")
    with pytest.raises(Unavailable, match="not there any more"):
        source.retrieve(listings[gone.series_uid].series, tmp_path / "gone")


def test_a_store_that_dies_is_left_alone_and_comes_back(store: Store, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "files")
    for file in (tmp_path / "files").iterdir():
        store.put(file.name, file.read_bytes())
    source = open_s3(store, tmp_path)
    (listing, *_) = source.find()
    store.kill()
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"cannot be reached|broke off"):
            source.retrieve(listing.series, tmp_path / "into")
    with pytest.raises(Suspended):
        source.retrieve(listing.series, tmp_path / "into")


def test_wrong_keys_and_buckets_are_told_apart(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {probe.subject: probe.verdict for probe in open_s3(store, tmp_path).probe()}
    assert found == {"list": "doubtful", "clock": "ok"}  # it is empty
    with pytest.raises(Misconfigured, match="no bucket 'other'"):
        list(
            open_source(
                f"s3://other?endpoint={store.endpoint}&key=env:S3_KEY&secret=env:S3_SECRET",
                pseudonymize=pseudonym,
                state=tmp_path / "other",
            ).find()
        )
    monkeypatch.setenv("S3_SECRET", "wrong")
    with pytest.raises(Unavailable, match="secret key, or the region"):
        list(open_s3(store, tmp_path).find())
