"""A bucket of instances and archives: what is found, what is read of it, and what goes wrong."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import logging
import socket
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.loaders import create_loader
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from pydicom.uid import SegmentationStorage

from tests.contracts.source import SourceContract, by_uid
from tests.test_instance import as_bytes, item
from tests.test_sources_folder import (
    DESCRIPTION,
    NAME,
    PATIENT,
    open_folder,
    pseudonym,
    slice_of,
    write_archive,
)
from tomodex.errors import Elsewhere, Misconfigured, NotThere, Suspended, Unavailable, Unsuitable
from tomodex.instance import read_instance
from tomodex.series import Series
from tomodex.sources import Window, open_source
from tomodex.sources.s3 import bucket as bucket_module
from tomodex.sources.s3 import source as source_module
from tomodex.sources.s3.bucket import Bucket, Gone, Object, Piece
from tomodex.sources.s3.source import S3Source
from tomodex.sources.s3.stream import LARGEST_PIECE, ObjectStream

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    """A store with a bucket, and one loader of boto3's data for all clients: it takes 0.3 s."""
    loader = create_loader()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr("botocore.loaders.create_loader", lambda *_: loader)
        patch.setattr("botocore.session.create_loader", lambda *_: loader, raising=False)
        for name in KEYS:
            patch.setenv(name, "x")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="scans")
        yield client


@pytest.fixture(autouse=True)
def store(moto: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket is empty, and credentials lie where boto3 looks for them."""
    for name in KEYS:
        monkeypatch.setenv(name, "x")
    bucket_module._session.cache_clear()
    for one in moto.list_objects_v2(Bucket="scans").get("Contents", []):
        moto.delete_object(Bucket="scans", Key=one["Key"])
    return moto


def open_s3(tmp_path: Path, url: str = "s3://scans", query: str = "") -> S3Source:
    """A bucket as another process would open it."""
    source = open_source(
        f"{url}?region=us-east-1&{query}", pseudonymize=pseudonym, state=tmp_path / "state"
    )
    assert isinstance(source, S3Source)
    return source


def put(store: Any, key: str, data: bytes) -> None:
    store.put_object(Bucket="scans", Key=key, Body=data)


def instance(series: str, k: int = 0, **elements: object) -> bytes:
    return as_bytes(slice_of(series, k, **elements))


def tar_of(contents: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar with files of these names."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def zip_of(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return packed.getvalue()


def slices(series: str, count: int, **elements: object) -> dict[str, bytes]:
    return {f"series/{k}.dcm": instance(series, k, **elements) for k in range(count)}


def count_pieces(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Key and size of every piece that is asked for from now on."""
    asked: list[tuple[str, int]] = []
    piece = Bucket.piece

    def counted(self: Bucket, key: str, first: int, size: int, etag: str = "") -> Any:
        asked.append((key, size))
        return piece(self, key, first, size, etag)

    monkeypatch.setattr(Bucket, "piece", counted)
    return asked


class TestInstances(SourceContract):
    """Objects that are instances."""

    @pytest.fixture
    def archive(self, store: Any, tmp_path: Path) -> tuple[str, str, str]:
        uids = write_archive(tmp_path / "archive")
        for file in (tmp_path / "archive").rglob("*"):
            if file.is_file():
                put(store, str(file.relative_to(tmp_path / "archive")), file.read_bytes())
        return uids

    def open_again(self, tmp_path: Path) -> S3Source:
        return open_s3(tmp_path)


class TestArchives(SourceContract):
    """An archive for each series, of which the first instance is read."""

    @pytest.fixture
    def archive(self, store: Any, tmp_path: Path) -> tuple[str, str, str]:
        put(store, "a.tar", tar_of(slices("1.2.1", 5)))
        put(store, "b.zip", zip_of(slices("1.2.2", 3)))
        put(store, "c.tar.gz", tar_of({"seg": segmentation("1.2.3", "1.2.1")}, "w:gz"))
        return "1.2.1", "1.2.2", "1.2.3"

    def open_again(self, tmp_path: Path) -> S3Source:
        return open_s3(tmp_path, query="layout=archives")


class TestMixed(SourceContract):
    """Archives that are looked through, with any number of series in each."""

    @pytest.fixture
    def archive(self, store: Any, tmp_path: Path) -> tuple[str, str, str]:
        put(store, "half.tar", tar_of(slices("1.2.1", 2)))
        rest = {str(k): instance("1.2.1", k) for k in range(2, 5)}
        put(store, "other/half.zip", zip_of({**rest, **slices("1.2.2", 3)}))
        put(store, "seg", segmentation("1.2.3", "1.2.1"))
        return "1.2.1", "1.2.2", "1.2.3"

    def open_again(self, tmp_path: Path) -> S3Source:
        return open_s3(tmp_path)


def segmentation(series: str, of_series: str) -> bytes:
    seg = slice_of(series, 0, SOPClassUID=SegmentationStorage, Modality="SEG")
    seg.ReferencedSeriesSequence = [item(SeriesInstanceUID=of_series)]
    return as_bytes(seg)


# --- listing ------------------------------------------------------------------------------------


def test_an_unchanged_bucket_is_listed_without_reading_an_object(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(4):
        put(store, f"1/{k}", instance("1.2.1", k))
    put(store, "2.tar", tar_of(slices("1.2.2", 3)))
    first = by_uid(open_s3(tmp_path))
    asked = count_pieces(monkeypatch)
    assert by_uid(open_s3(tmp_path)) == first
    assert asked == []
    put(store, "1/3", instance("1.2.1", 7))
    store.delete_object(Bucket="scans", Key="2.tar")
    again = by_uid(open_s3(tmp_path))
    assert [key for key, _ in asked] == ["1/3"]
    assert list(again) == ["1.2.1"]
    assert again["1.2.1"].series.fingerprint != first["1.2.1"].series.fingerprint


def test_of_a_large_archive_only_the_beginning_is_read(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = slices("1.2.1", 5, PixelData=bytes(2**20))
    for name, data in (("a.tar", tar_of(large)), ("b.tar.gz", tar_of(slices("1.2.2", 3), "w:gz"))):
        put(store, name, data)
    put(store, "c.zip", zip_of({k: gzip.compress(v, 0) for k, v in large.items()} | large))
    asked = count_pieces(monkeypatch)
    listings = by_uid(open_s3(tmp_path, query="layout=archives"))
    assert sum(size for _, size in asked) < 2**20
    assert listings["1.2.1"].series.instance_count is None
    assert listings["1.2.1"].instances == ()


def test_an_archive_that_is_replaced_changes_its_series(store: Any, tmp_path: Path) -> None:
    put(store, "a.tar", tar_of(slices("1.2.1", 5)))
    before = by_uid(open_s3(tmp_path, query="layout=archives"))["1.2.1"]
    put(store, "a.tar", tar_of(slices("1.2.1", 5) | {"series/4.dcm": instance("1.2.1", 9)}))
    after = by_uid(open_s3(tmp_path, query="layout=archives"))["1.2.1"]
    assert after.series.fingerprint != before.series.fingerprint


def test_a_prefix_is_a_folder_or_one_object_and_nothing_that_begins_so(
    store: Any, tmp_path: Path
) -> None:
    put(store, "day/1", instance("1.2.1"))
    put(store, "day2/1", instance("1.2.2"))
    put(store, "day/a.tar", tar_of(slices("1.2.3", 2)))
    put(store, "day/a.tar.old", tar_of(slices("1.2.4", 2)))
    found = {
        prefix: sorted(by_uid(open_s3(tmp_path, f"s3://scans/{prefix}")))
        for prefix in ("day", "day/", "day/a.tar", "day/1", "da")
    }
    assert found == {
        "day": ["1.2.1", "1.2.3"],
        "day/": ["1.2.1", "1.2.3"],
        "day/a.tar": ["1.2.3"],
        "day/1": ["1.2.1"],
        "da": [],
    }


KEY = "".join(map(chr, range(32, 127))) + "ü東/"


@given(st.lists(st.text(KEY, min_size=1, max_size=12), unique=True, max_size=8))
def test_any_key_is_kept_as_it_is(keys: list[str]) -> None:
    files = [source_module._file(Object(key=key, size=1, etag="x")) for key in keys]
    names = [Path(file.folder.decode(), file.name.decode()) for file in files]
    assert [source_module._key(name) for name in names] == keys


def test_keys_that_look_like_paths_lead_nowhere_else(store: Any, tmp_path: Path) -> None:
    keys = ("../../x", "/x", "x", "a//x", "a/./x", "ü ?#%2F", "..")
    for k, key in enumerate(keys):
        put(store, key, instance("1.2.1", k))
    source = open_s3(tmp_path)
    (listing,) = source.find()
    assert sorted(one.path for one in listing.instances) == sorted(keys)
    into = tmp_path / "into"
    files = source.retrieve(listing.series, into)
    assert {file.parent for file in files} == {into / "instances"}
    assert len({one.sop_uid for file in files if (one := read_instance(file, str))}) == 7


def test_series_without_uid_are_told_apart_as_in_a_folder(store: Any, tmp_path: Path) -> None:
    files = {
        "x": instance(""),
        "a/x": instance("", StudyInstanceUID=""),
        "a/b.tar": tar_of({"c/x": instance("", StudyInstanceUID="")}),
    }
    for name, data in files.items():
        put(store, f"2026/{name}", data)
        (tmp_path / "archive" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive" / name).write_bytes(data)
    expected = sorted(by_uid(open_folder(tmp_path)))
    assert len(expected) == 3
    for url in ("s3://scans/2026", "s3://scans/2026/"):
        assert sorted(by_uid(open_s3(tmp_path, url))) == expected


def test_a_window_has_the_studies_of_its_days(store: Any, tmp_path: Path) -> None:
    for k, day in enumerate(("20260430", "20260501", "")):
        put(store, str(k), instance(f"1.2.{k}", StudyDate=day))
    window = Window(first=date(2026, 5, 1), last=date(2026, 5, 1))
    found = [listing.series.series_uid for listing in open_s3(tmp_path).find(window=window)]
    assert found == ["1.2.1"]


def test_what_holds_no_instance_is_counted_by_reason(store: Any, tmp_path: Path) -> None:
    put(store, "folder/", b"")
    put(store, "readme.txt", b"no DICOM")
    put(store, "broken.zip", b"PK no zip")
    put(store, "cut.tar", tar_of(slices("1.2.1", 3))[:3700])
    put(store, "nested.tar", tar_of({"inner.zip": b""}))
    put(store, "text.tar", tar_of({"readme": b"no DICOM"}))
    source = open_s3(tmp_path)
    assert by_uid(source)["1.2.1"].series.instance_count == 2
    assert source.skipped() == {"not_dicom": 3, "archive": 3, "nested_archive": 1}
    source = open_s3(tmp_path, query="layout=archives")
    assert list(by_uid(source)) == ["1.2.1"]
    assert source.skipped() == {"not_dicom": 3, "archive": 1, "nested_archive": 1}


def test_an_object_that_cannot_be_had_now_is_passed_over_and_read_next_time(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", instance("1.2.1", 0))
    put(store, "b", instance("1.2.1", 1))
    source = open_s3(tmp_path)
    piece = Bucket.piece

    def cold(self: Bucket, key: str, *rest: Any) -> Piece:
        if key == "b":
            raise Gone("an object is in cold storage")
        return piece(self, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "piece", cold)
        assert by_uid(source)["1.2.1"].series.instance_count == 1
        assert source.skipped() == {"unreadable": 1}
    assert by_uid(source)["1.2.1"].series.instance_count == 2
    assert source.skipped() == {}


def test_an_object_that_may_not_be_read_is_passed_over_and_counts_against_nobody(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(6):
        put(store, f"{k}", instance("1.2.1", k))
    call = BaseClient._make_api_call

    def denied(self: Any, operation: str, asked: dict[str, Any]) -> Any:
        if operation == "GetObject" and asked["Key"] != "0":
            answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {}}
            raise ClientError(answer, operation)  # type: ignore[arg-type]
        return call(self, operation, asked)

    monkeypatch.setattr(BaseClient, "_make_api_call", denied)
    source = open_s3(tmp_path, query="simultaneous=1")
    assert by_uid(source)["1.2.1"].series.instance_count == 1
    assert source.skipped() == {"unreadable": 5}
    with pytest.raises(Unavailable) as raised:  # it may be in one of these
        source.describe("1.2.2")
    assert not isinstance(raised.value, NotThere)


def test_a_series_is_not_there_once_the_bucket_was_looked_through(
    store: Any, tmp_path: Path
) -> None:
    put(store, "1", instance("1.2.1"))
    source = open_s3(tmp_path)
    with pytest.raises(Elsewhere, match="never listed") as raised:
        source.describe("1.2.2")
    assert raised.value.source == source.url
    list(source.find())
    with pytest.raises(NotThere):
        source.describe("1.2.2")


@pytest.mark.parametrize(
    ("said", "length"),
    [("bytes 1-900/2000", 900), ("bytes 0-1799/2000", 1800), ("bytes 0-899/2000", 1800)],
)
def test_another_range_than_was_asked_for_is_not_read(
    tmp_path: Path, said: str, length: int
) -> None:
    def write(connection: socket.socket, _: bytes) -> None:
        head = f"HTTP/1.1 206 OK\r\nContent-Length: {length}\r\nContent-Range: {said}\r\n"
        connection.sendall(head.encode() + b"ETag: x\r\n\r\n" + bytes(length))

    with answering(write) as port, pytest.raises(Unavailable, match=r"ranges of|more bytes than"):
        at(port, tmp_path)._bucket.piece("x", 0, 900)


def test_an_interrupted_listing_goes_on_where_it_was(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "TRANSACTION", 4)
    for k in range(40):
        put(store, f"{k:02d}", instance("1.2.1", k))
    asked = count_pieces(monkeypatch)
    piece = Bucket.piece

    def breaks(self: Bucket, key: str, *rest: Any) -> Any:
        if key == "20":
            raise Unavailable("the store is gone")
        return piece(self, key, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "piece", breaks)
        with pytest.raises(Unavailable, match="gone"):
            list(open_s3(tmp_path, query="simultaneous=1").find())
    asked.clear()
    assert by_uid(open_s3(tmp_path))["1.2.1"].series.instance_count == 40
    assert len(asked) == 20


def test_a_million_keys_are_listed_in_little_memory(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(self: Bucket, **asked: Any) -> dict[str, Any]:
        begin = int(asked.get("ContinuationToken", "0"))
        contents = [{"Key": f"{k:09d}", "Size": 0, "ETag": "x"} for k in range(begin, begin + 1000)]
        more = begin + 1000 < 30_000
        return {
            "Contents": contents,
            "IsTruncated": more,
            "NextContinuationToken": str(begin + 1000),
        }

    monkeypatch.setattr(Bucket, "_page", page)
    bucket = open_s3(tmp_path)._bucket
    tracemalloc.start()
    try:
        assert sum(1 for _ in bucket.objects()) == 30_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20  # of one page


def test_a_store_that_goes_round_in_its_pages_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Bucket, "_page", lambda *_, **__: {"IsTruncated": True, "NextContinuationToken": "1"}
    )
    with pytest.raises(Unavailable, match="not which"):
        list(open_s3(tmp_path).find())


def test_series_of_another_layout_are_read_anew(store: Any, tmp_path: Path) -> None:
    put(store, "a.tar", tar_of(slices("1.2.1", 5)))
    whole = by_uid(open_s3(tmp_path, query="layout=archives"))["1.2.1"]
    each = by_uid(open_s3(tmp_path))["1.2.1"]
    assert (whole.series.instance_count, each.series.instance_count) == (None, 5)


# --- retrieving ---------------------------------------------------------------------------------


def test_one_archive_can_be_indexed_without_being_listed_first(store: Any, tmp_path: Path) -> None:
    """As the predecessor's tasks name it."""
    put(store, "landing/test.zip", zip_of(slices("1.2.1", 4)))
    source = open_s3(tmp_path, "s3://scans/landing/test.zip")
    series = Series(series_uid="1.2.1", study_uid="1.2", patient="p", modality="CT")
    assert len(source.retrieve(series, tmp_path / "into")) == 4
    assert source.describe("1.2.1").series.instance_count == 4


def test_objects_of_a_store_that_fails_are_left_alone_together_and_leave_nothing(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    series = Series(series_uid="1.2.1", study_uid="1.2", patient="p", modality="CT")

    def broken(*_: object, **__: object) -> None:
        raise EndpointConnectionError(endpoint_url="x")

    with monkeypatch.context() as patch:
        patch.setattr("botocore.client.BaseClient._make_api_call", broken)
        for k in range(3):
            with pytest.raises(Unavailable, match="cannot be reached"):
                open_s3(tmp_path, f"s3://scans/{k}.zip").retrieve(series, tmp_path)
    with pytest.raises(Suspended) as raised:
        open_s3(tmp_path, "s3://scans/4.zip").retrieve(series, tmp_path)
    assert raised.value.source == "s3://scans/4.zip"
    del raised  # it holds the source
    gc.collect()
    assert list(scratch.iterdir()) == []
    assert not list((tmp_path / "state").glob("s3-*"))


def test_an_archive_gives_the_series_that_it_is_asked_for(store: Any, tmp_path: Path) -> None:
    """Though its first instance alone was looked at."""
    put(store, "a.tar", tar_of({**slices("1.2.1", 3), "x": instance("1.2.2"), "y": b"text"}))
    source = open_s3(tmp_path, query="layout=archives")
    (listing,) = source.find()
    files = source.retrieve(listing.series, tmp_path / "into")
    assert [one.series_uid for file in files if (one := read_instance(file, str))] == ["1.2.1"] * 3
    assert sorted((tmp_path / "into" / "instances").iterdir()) == sorted(files)


def test_an_object_that_is_gone_is_unavailable_and_does_not_count_against_the_store(
    store: Any, tmp_path: Path
) -> None:
    put(store, "a", instance("1.2.1"))
    put(store, "b.tar", tar_of(slices("1.2.2", 3)))
    source = open_s3(tmp_path)
    listings = by_uid(source)
    for key in ("a", "b.tar"):
        store.delete_object(Bucket="scans", Key=key)
    for _ in range(3):
        for uid in ("1.2.1", "1.2.2"):
            with pytest.raises(Unavailable, match="not there any more") as raised:
                source.retrieve(listings[uid].series, tmp_path / "into")
            assert not isinstance(raised.value, Suspended)


def test_an_archive_that_was_cut_off_is_unsuitable_when_it_is_unpacked(
    store: Any, tmp_path: Path
) -> None:
    for name, packed in (
        ("a.tar", tar_of(slices("1.2.1", 9))),
        ("b.tar.gz", tar_of(slices("1.2.2", 9), "w:gz")),
    ):
        put(store, name, packed[: len(packed) // 2])
    source = open_s3(tmp_path, query="layout=archives")
    for listing in source.find():
        with pytest.raises(Unsuitable) as raised:
            source.retrieve(listing.series, tmp_path / "into")
        assert raised.value.reason == "archive"
        assert list((tmp_path / "into" / "instances").iterdir()) == []


def test_an_archive_that_lost_members_since_it_was_listed_is_unavailable(
    store: Any, tmp_path: Path
) -> None:
    put(store, "a.tar", tar_of(slices("1.2.1", 5)))
    source = open_s3(tmp_path)
    (listing,) = source.find()
    put(store, "a.tar", tar_of(slices("1.2.1", 2)))
    with pytest.raises(Unavailable, match="has lost 3 members"):
        source.retrieve(listing.series, tmp_path / "into")


def test_an_object_that_is_replaced_while_it_is_read_is_unavailable(
    store: Any, tmp_path: Path
) -> None:
    put(store, "a.tar", bytes(200_000))
    stream = ObjectStream(open_s3(tmp_path)._bucket, "a.tar")
    put(store, "a.tar", b"x" * 200_000)
    stream.seek(100_000)
    with pytest.raises(Unavailable, match="changed while it was read"):
        stream.read(1)


def test_a_full_disk_is_unavailable_and_leaves_nothing(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(3):
        put(store, str(k), instance("1.2.1", k))
    source = open_s3(tmp_path)
    (listing,) = source.find()
    save = Bucket.save

    def full(self: Bucket, key: str, path: Path) -> None:
        save(self, key, path)
        if key == "2":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Bucket, "save", full)
    with pytest.raises(Unavailable, match="No space left"):
        source.retrieve(listing.series, tmp_path / "into")
    assert list((tmp_path / "into" / "instances").iterdir()) == []


@given(
    st.integers(1, 300_000),
    st.lists(st.tuples(st.integers(0, 310_000), st.integers(0, 90_000)), max_size=6),
)
def test_a_stream_reads_what_a_file_would(size: int, reads: list[tuple[int, int]]) -> None:
    data = bytes(k * 31 % 251 for k in range(size))
    stream, file = ObjectStream(_Fake(data), "x"), io.BytesIO(data)  # type: ignore[arg-type]
    for at, count in reads:
        assert stream.seek(at) == file.seek(at)
        assert stream.read(count) == file.read(count)
        assert stream.tell() == file.tell()
    assert stream.read() == file.read()
    assert stream.seek(-1, io.SEEK_END) == size - 1


class _Fake:
    """A bucket with one object."""

    def __init__(self, data: bytes) -> None:
        self.data, self.largest = data, 0

    def piece(self, key: str, first: int, size: int, etag: str) -> Piece:
        self.largest = max(self.largest, size)
        return Piece(self.data[first : first + size], len(self.data), "x")


def test_a_stream_asks_for_more_at_once_the_longer_it_is_read_but_never_all() -> None:
    fake = _Fake(bytes(40 * 2**20))
    stream = ObjectStream(fake, "x")  # type: ignore[arg-type]
    while stream.read(2**20):
        pass
    assert fake.largest == LARGEST_PIECE


# --- a store that does not answer well ----------------------------------------------------------


@contextmanager
def answering(write: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """The port of a store that answers each connection as it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        write(connection, connection.recv(2**16))
                    except OSError:
                        continue

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def at(port: int, tmp_path: Path, query: str = "") -> S3Source:
    return open_s3(tmp_path, query=f"endpoint=http://127.0.0.1:{port}&simultaneous=1&{query}")


def refusing(code: str, status: int) -> Callable[[socket.socket, bytes], None]:
    body = f"<Error><Code>{code}</Code><Message>Doe^Jane</Message></Error>".encode()

    def write(connection: socket.socket, _: bytes) -> None:
        head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return write


@pytest.mark.parametrize(
    ("code", "status", "kind", "sentence"),
    [
        ("NoSuchBucket", 404, Misconfigured, "no bucket 'scans'"),
        ("AccessDenied", 403, Unavailable, "ListBucket and GetObject"),
        ("InvalidAccessKeyId", 403, Unavailable, "does not know the access key"),
        ("RequestTimeTooSkewed", 403, Unavailable, "too far apart"),
        ("Whatever", 400, Unavailable, r"answers Whatever \(400\)"),
    ],
)
def test_a_refusal_is_explained_without_the_stores_words(
    tmp_path: Path, code: str, status: int, kind: type[Exception], sentence: str
) -> None:
    with (
        answering(refusing(code, status)) as port,
        pytest.raises(kind, match=sentence) as raised,
    ):
        list(at(port, tmp_path).find())
    assert "Doe" not in str(raised.value)


def test_a_store_that_is_not_there_is_unavailable_and_then_left_alone(tmp_path: Path) -> None:
    with answering(lambda *_: None) as port:
        pass
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot be reached"):
            list(at(port, tmp_path).find())
    with pytest.raises(Suspended):
        list(at(port, tmp_path).find())


def test_an_object_that_ends_early_is_unavailable(tmp_path: Path) -> None:
    def write(connection: socket.socket, _: bytes) -> None:
        head = b"HTTP/1.1 206 OK\r\nContent-Length: 900\r\nContent-Range: bytes 0-899/900\r\n"
        connection.sendall(head + b"ETag: x\r\n\r\n" + bytes(100))

    with answering(write) as port, pytest.raises(Unavailable, match="broke off in the middle"):
        at(port, tmp_path)._bucket.piece("x", 0, 900)


def test_a_store_that_drips_is_given_up(tmp_path: Path) -> None:
    def write(connection: socket.socket, _: bytes) -> None:
        head = b"HTTP/1.1 206 OK\r\nContent-Length: 900\r\nContent-Range: bytes 0-899/900\r\n"
        connection.sendall(head + b"ETag: x\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.02)

    begun = time.monotonic()
    with answering(write) as port, pytest.raises(Unavailable, match=r"after 0\.3 s"):
        at(port, tmp_path, "total_s=0.3")._bucket.piece("x", 0, 900)
    assert time.monotonic() - begun < 2


def test_a_store_without_ranges_is_unavailable(tmp_path: Path) -> None:
    def write(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: x\r\n\r\nabc")

    with answering(write) as port, pytest.raises(Unavailable, match="ranges of bytes"):
        at(port, tmp_path)._bucket.piece("x", 0, 900)


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with answering(refusing("AccessDenied", 403)) as port, pytest.raises(Unavailable, match="403"):
        list(at(port, tmp_path).find())


def test_no_credentials_are_a_matter_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(Misconfigured, match="no credentials"):
        list(open_s3(tmp_path).find())


def test_credentials_come_from_where_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bytes] = []

    def write(connection: socket.socket, request: bytes) -> None:
        shown.append(request)
        refusing("AccessDenied", 403)(connection, request)

    monkeypatch.setenv("OURS", "mykey")
    (tmp_path / "secret").write_text("mysecret\n")
    with answering(write) as port:
        for query in (f"key=env:OURS&secret=file:{tmp_path}/secret", "anonymous=yes"):
            with pytest.raises(Unavailable):
                list(at(port, tmp_path, query).find())
    assert b"Credential=mykey/" in shown[0]
    assert b"mysecret" not in b"".join(shown)
    assert b"authorization" not in shown[1].lower()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://scans?endpoint=http://s3.example", "plain text"),
        ("s3://scans?endpoint=s3.example", "endpoint is a URL"),
        ("s3://scans?endpoint=https://me:topsecret@s3.example", "no place in"),
        ("s3://scans?key=env:HOME", "go together"),
        ("s3://scans?token=env:HOME", "go together"),
        ("s3://scans?key=env:HOME&secret=env:HOME&anonymous=yes", "contradiction"),
        ("s3://scans?key=topsecret&secret=env:HOME", "a secret is named"),
        ("s3://scans?ca=/nowhere.pem", "cannot be read"),
        ("s3://scans?layout=both", "layout"),
    ],
)
def test_settings_that_make_no_sense_are_refused_without_quoting_secrets(
    url: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=sentence) as raised:
        open_source(url, pseudonymize=pseudonym, state=tmp_path)
    assert "topsecret" not in str(raised.value)


def test_nothing_of_a_patient_is_logged_or_kept(
    store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(store, "a", instance("1.2.1"))
    put(store, "b.tar", tar_of(slices("1.2.2", 2)))
    source = open_s3(tmp_path)
    for listing in source.find():
        source.retrieve(listing.series, tmp_path / "into")
    kept = b"".join(file.read_bytes() for file in (tmp_path / "state").glob("s3-*"))
    for secret in (PATIENT, NAME, DESCRIPTION):
        assert secret not in caplog.text
        assert secret.encode() not in kept


# --- doctor -------------------------------------------------------------------------------------


def test_a_bucket_that_is_well_has_nothing_to_be_done(store: Any, tmp_path: Path) -> None:
    put(store, "a", instance("1.2.1"))
    found = {probe.subject: probe for probe in open_s3(tmp_path).probe()}
    assert {probe.verdict for probe in found.values()} == {"ok"}
    assert set(found) == {"list", "read", "clock"}
    assert found["read"].sentence == "702 bytes of an object"


def test_what_is_wrong_with_a_bucket_is_said_with_what_helps(store: Any, tmp_path: Path) -> None:
    (empty,) = [probe for probe in open_s3(tmp_path).probe() if probe.subject == "list"]
    assert (empty.verdict, bool(empty.advice)) == ("doubtful", True)
    (gone,) = open_s3(tmp_path, "s3://other").probe()
    assert (gone.verdict, bool(gone.advice)) == ("wrong", True)
