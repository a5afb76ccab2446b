"""Archives inside a folder: read without unpacking, and without trusting them."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.source import SourceContract, by_uid
from tests.test_instance import as_bytes
from tests.test_sources_folder import open_folder, slice_of, write, write_archive
from tomodex.errors import Unavailable, Unsuitable
from tomodex.sources.archive import SUFFIXES, Limits, extract, members
from tomodex.sources.folder import FolderSource

Files = list[tuple[str, bytes]]


def pack(path: Path, files: Files) -> Path:
    """Write an archive of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files:
                archive.writestr(name, data)
        return path
    packing = {"gz": "gz", "tgz": "gz", "xz": "xz", "txz": "xz", "bz2": "bz2", "tbz2": "bz2"}
    mode = "w:" + packing.get(path.suffix[1:], "")
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(path: Path, limits: Limits | None = None) -> list[str]:
    """The members of an archive."""
    return [member.name for member in members(path, limits or Limits())]


def slices(series: str, count: int) -> Files:
    """The first slices of a series, by name."""
    return [(f"{series}/{k}.dcm", one_slice(series, k)) for k in range(count)]


@cache
def one_slice(series: str, k: int) -> bytes:
    return as_bytes(slice_of(series, k))


class TestZip(SourceContract):
    """The two series and the SEG of the contract, in archives of one kind."""

    SUFFIX = ".zip"

    @pytest.fixture
    def archive(self, tmp_path: Path) -> tuple[str, str, str]:
        loose = tmp_path / "loose"
        uids = write_archive(loose)
        files = [
            (str(f.relative_to(loose)), f.read_bytes()) for f in loose.rglob("*") if f.is_file()
        ]
        files.sort()
        pack(tmp_path / "archive" / f"one{self.SUFFIX}", files[::2])
        pack(tmp_path / "archive" / f"two{self.SUFFIX}", files[1::2])
        return uids

    def open_again(self, tmp_path: Path) -> FolderSource:
        return open_folder(tmp_path)

    def folder_of_archive(self, tmp_path: Path) -> Path:
        return tmp_path / "archive"


class TestTar(TestZip):
    SUFFIX = ".tar"


class TestCompressedTar(TestZip):
    SUFFIX = ".tar.xz"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_archive_is_read(tmp_path: Path, suffix: str) -> None:
    files = [*slices("1.2.1", 3), ("readme.txt", b"hello")]
    pack(tmp_path / "archive" / f"case{suffix}", files)
    source = open_folder(tmp_path)
    (listing,) = source.find()
    paths = [instance.path for instance in listing.instances]
    assert paths == [f"{tmp_path}/archive/case{suffix}!1.2.1/{k}.dcm" for k in range(3)]
    assert source.skipped() == {"not_dicom": 1}
    unpacked = source.retrieve(listing.series, tmp_path / "into")
    assert [file.read_bytes() for file in unpacked] == [data for _, data in files[:3]]


def test_a_series_in_files_and_archives_is_one(tmp_path: Path) -> None:
    pack(tmp_path / "archive" / "a.zip", slices("1.2.1", 3)[:2])
    write(tmp_path / "archive" / "z.dcm", slice_of("1.2.1", 2))
    source = open_folder(tmp_path)
    (listing,) = source.find()
    files = source.retrieve(listing.series, tmp_path / "into")
    assert listing.series.instance_count == len(files) == 3
    assert files[2] == tmp_path / "archive" / "z.dcm"


def test_packing_a_series_does_not_change_its_fingerprint(tmp_path: Path) -> None:
    for name, data in slices("1.2.1", 3):
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (loose,) = open_folder(tmp_path).find()
    for name, _ in slices("1.2.1", 3):
        (tmp_path / "archive" / name).unlink()
    pack(tmp_path / "archive" / "case.tar.gz", slices("1.2.1", 3))
    (packed,) = open_folder(tmp_path).find()
    assert packed.series.fingerprint == loose.series.fingerprint


def test_members_with_one_name_are_two(tmp_path: Path) -> None:
    first, second = (data for _, data in slices("1.2.1", 2))
    pack(tmp_path / "archive" / "case.tar", [("x", first), ("x", second)])
    source = open_folder(tmp_path)
    (listing,) = source.find()
    unpacked = source.retrieve(listing.series, tmp_path / "into")
    assert [file.read_bytes() for file in unpacked] == [first, second]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../../escape.dcm", "/escape.dcm", "a/../../escape.dcm", "..\\e"])
def test_members_are_never_written_where_their_names_say(
    tmp_path: Path, suffix: str, name: str
) -> None:
    pack(tmp_path / "archive" / f"case{suffix}", [(name, as_bytes(slice_of("1.2.1", 0)))])
    source = open_folder(tmp_path)
    (listing,) = source.find()
    into = tmp_path / "in" / "to"
    (file,) = source.retrieve(listing.series, into)
    assert file.resolve().is_relative_to(into.resolve())
    assert not list(tmp_path.rglob("*escape*"))
    assert not Path("/escape.dcm").exists()


def test_links_devices_and_sparse_members_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "archive" / "case.tar"
    path.parent.mkdir()
    (tmp_path / "secret.dcm").write_bytes(as_bytes(slice_of("1.2.9", 0)))
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"member-{kind!r}")
            info.type, info.linkname = kind, str(tmp_path / "secret.dcm")
            tar.addfile(info)
    assert names(path) == []
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "archive" / "case.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "secret.dcm"))
    assert names(tmp_path / "archive" / "case.zip") == []
    assert list(open_folder(tmp_path).find()) == []


def test_an_archive_within_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", slices("1.2.1", 1)).read_bytes()
    pack(tmp_path / "archive" / "outer.tar", [("inner.ZIP", inner), *slices("1.2.2", 1)])
    source = open_folder(tmp_path)
    assert set(by_uid(source)) == {"1.2.2"}
    assert source.skipped() == {"nested_archive": 1}


# --- broken and hostile -------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no archive" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, garbage, empty])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_broken_archive_does_not_end_the_listing(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    damage(pack(tmp_path / "archive" / f"a{suffix}", slices("1.2.1", 40)))
    write(tmp_path / "archive" / "b.dcm", slice_of("1.2.2", 0))
    source = open_folder(tmp_path)
    listings = by_uid(source)
    assert "1.2.2" in listings
    lost_only_zeros = suffix == ".tar" and damage is cut
    assert ("archive" in source.skipped()) is not lost_only_zeros


def test_what_could_be_read_of_a_broken_archive_counts(tmp_path: Path) -> None:
    path = pack(tmp_path / "archive" / "a.tar", slices("1.2.1", 40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = open_folder(tmp_path)
    (listing,) = source.find()
    assert listing.series.instance_count in range(15, 30)
    assert set(source.skipped()) == {"archive"}


def test_an_archive_that_changed_since_is_unavailable(tmp_path: Path) -> None:
    path = pack(tmp_path / "archive" / "a.tar.gz", slices("1.2.1", 4))
    source = open_folder(tmp_path)
    (listing,) = source.find()
    pack(path, slices("1.2.1", 2))
    with pytest.raises(Unavailable, match="lost 2 members"):
        source.retrieve(listing.series, tmp_path / "into")
    path.unlink()
    with pytest.raises(Unavailable, match="cannot open"):
        source.retrieve(listing.series, tmp_path / "into")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(members=3), "more than 3 members"),
        (Limits(member_bytes=100), "claims"),
        (Limits(total_bytes=3_000), "claim to hold"),
        (Limits(ratio=1, harmless_bytes=1_000), "claim to hold"),
    ],
)
def test_an_archive_is_read_up_to_its_limits(
    tmp_path: Path, suffix: str, limits: Limits, sentence: str
) -> None:
    path = pack(tmp_path / f"a{suffix}", slices("1.2.1", 9))
    with pytest.raises(Unsuitable, match=sentence) as refused:
        names(path, limits)
    assert refused.value.reason == "archive"


def test_a_directory_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", slices("1.2.1", 9))
    with pytest.raises(Unsuitable, match="directory is larger"):
        names(path, Limits(directory_bytes=100))


def test_a_bomb_of_zeros_is_not_held_in_memory(tmp_path: Path) -> None:
    path = pack(tmp_path / "archive" / "a.tar.bz2", [("zeros", bytes(40 * 2**20))])
    assert path.stat().st_size < 1_000
    write(tmp_path / "archive" / "b.dcm", slice_of("1.2.2", 0))
    source = open_folder(tmp_path)
    tracemalloc.start()
    try:
        assert len(list(source.find())) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_name_that_claims_to_be_huge_is_not_held_in_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**16))
    with pytest.raises(Unsuitable, match="claims 8589934592 bytes"):
        names(path)


def test_a_member_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", slices("1.2.1", 1))
    info = tarfile.TarInfo("x")
    info.size = 2**39
    path.write_bytes(info.tobuf() + bytes(2**12))
    with pytest.raises(Unsuitable, match="a member claims"):
        names(path)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"Z"])
def test_a_member_of_negative_size_does_not_send_us_round_for_ever(
    tmp_path: Path, kind: bytes
) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, -512
    path = tmp_path / "a.tar"
    first = tarfile.TarInfo("first").tobuf()
    path.write_bytes(first + info.tobuf(tarfile.GNU_FORMAT) + bytes(2**12))
    with pytest.raises(Unsuitable, match=r"claims -512 bytes|overlap"):
        names(path)


def test_an_encrypted_member_is_skipped(tmp_path: Path) -> None:
    path = pack(tmp_path / "archive" / "a.zip", slices("1.2.1", 2))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.index(signature) + offset
        struct.pack_into("<H", data, at, 1)
    path.write_bytes(bytes(data))
    source = open_folder(tmp_path)
    (listing,) = source.find()
    assert listing.series.instance_count == 1
    assert source.skipped() == {"archive": 1}


def test_extracting_stops_at_what_is_not_there(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", slices("1.2.1", 2))
    with pytest.raises(Unavailable, match="lost 1 members"):
        extract(path, {1: tmp_path / "1", 5: tmp_path / "5"})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((".zip", ".tar", ".tar.gz", ".tar.xz")),
    st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6
    ),
)
def test_a_damaged_archive_gives_members_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, damages: list[tuple[float, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    data = bytearray(pack(path, DAMAGED).read_bytes())
    for where, damage in damages:
        at = int(where * (len(data) - len(damage)))
        data[at : at + len(damage)] = damage
    path.write_bytes(bytes(data))
    try:
        for member in members(path):
            assert member.number < 100
    except Unsuitable as unsuitable:
        assert unsuitable.reason == "archive"  # noqa: PT017


DAMAGED: Files = [(f"{k}", bytes([k]) * 700) for k in range(5)]
