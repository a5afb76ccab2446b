"""The files inside a .zip or .tar, read without unpacking and without trusting them.

Nothing is written where a member says: members are numbered, and `extract` gives them names of its
own. Links, devices and archives within archives are passed over.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from tomodex.errors import Unavailable, Unsuitable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may hold before we stop reading it."""

    members: int = 500_000  #: LIDC-IDRI, one of the largest public downloads, has 244,527
    member_bytes: int = 8 * 2**30  #: a 600-slice volume with 32 bits has 0.6 GiB
    total_bytes: int = 2 * 2**40
    #: unpacked to packed. Deflate reaches 1032, CT about 2.5, an empty volume anything: so it
    #: counts only beyond `harmless_bytes`.
    ratio: int = 200
    harmless_bytes: int = 2**30
    directory_bytes: int = 64 * 2**20  #: a zip's table of contents, which is held in memory
    block_bytes: int = 64 * 2**20  #: one read by tarfile, which holds long names whole


LIMITS = Limits()

#: What broken archives raise in zipfile, tarfile and the decompressors below them.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    struct.error,
    NotImplementedError,
    RecursionError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive."""

    number: int  #: its place among the members; a name may occur twice
    name: str  #: as the archive says it: for people only, never a path
    size: int  #: unpacked, bytes
    open: Callable[[], IO[bytes]]  #: usable until the next member is asked for


def is_archive(name: str) -> bool:
    """Whether a file of this name is looked into."""
    return name.lower().endswith(SUFFIXES)


def members(path: Path, limits: Limits = LIMITS) -> Iterator[Member]:
    """The files of an archive, in its order.

    Raises:
        Unsuitable: it is broken, or holds more than `limits` ("archive"); the members before
            that have been given.
        Unavailable: the file cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as refused:
        raise Unavailable(f"cannot open an archive: {refused.strerror}") from refused
    with stream:
        yield from members_of(stream, path.name, os.fstat(stream.fileno()).st_size, limits)


def members_of(
    stream: BinaryIO, name: str, packed: int, limits: Limits = LIMITS
) -> Iterator[Member]:
    """The same of an archive of `packed` bytes that can be read from anywhere; `name` says which.

    What reading the stream raises of its own is raised as it is.
    """
    read = _zip_members if name.lower().endswith(".zip") else _tar_members
    total = 0
    listed = read(stream, name, packed, limits)
    while (member := _next(listed)) is not None:
        total += member.size
        _check(member, total, packed, limits)
        yield member


def extract(path: Path, wanted: Mapping[int, Path], limits: Limits = LIMITS) -> None:
    """Write the members with these numbers to these files.

    Raises:
        Unavailable: one of them is not there any more, or cannot be read.
    """
    take(members(path, limits), wanted)


def take(listed: Iterable[Member], wanted: Mapping[int, Path]) -> None:
    """Write those of an archive's members; raises as `extract` does."""
    missing = set(wanted)
    try:
        for member in listed:
            if member.number in wanted:
                write_member(member, wanted[member.number])
                missing.discard(member.number)
            if not missing:
                return
    except Unsuitable as broken:
        raise Unavailable(f"an archive changed since it was listed: {broken}") from broken
    raise Unavailable(f"an archive has lost {len(missing)} members since it was listed")


def write_member(member: Member, path: Path) -> None:
    """Write one member to a file that is not there yet.

    Raises:
        Unsuitable: it is broken ("archive").
    """
    with reading():
        packed = member.open()
    left = member.size
    with closing(packed), path.open("xb") as unpacked:
        while left > 0:
            with reading():
                part = packed.read(min(left, 2**20))
            if not part:
                raise Unsuitable("archive", "a member ends early")
            unpacked.write(part)
            left -= len(part)


@contextmanager
def reading() -> Iterator[None]:
    """Turn what a broken member raises while it is read into Unsuitable ("archive")."""
    try:
        yield
    except RuntimeError as locked:  # zipfile's way to say so; RecursionError is one as well
        raise Unsuitable("archive", "a member is encrypted, or nested too deeply") from locked
    except _BROKEN as broken:
        raise Unsuitable("archive", f"it is broken: {type(broken).__name__}") from broken


def _next(listed: Iterator[Member]) -> Member | None:
    with reading():
        return next(listed, None)


def _check(member: Member, total: int, packed: int, limits: Limits) -> None:
    if member.number >= limits.members:
        raise Unsuitable("archive", f"it has more than {limits.members} members")
    if not 0 <= member.size <= limits.member_bytes:
        raise Unsuitable("archive", f"a member claims {member.size} bytes")
    if total > limits.total_bytes or total > max(limits.harmless_bytes, packed * limits.ratio):
        raise Unsuitable("archive", f"{packed} bytes claim to hold more than {total}")


# --- zip ----------------------------------------------------------------------------------------


def _zip_members(stream: BinaryIO, name: str, packed: int, limits: Limits) -> Iterator[Member]:
    if _directory_bytes(stream, packed) > limits.directory_bytes:
        raise Unsuitable("archive", f"its directory is larger than {limits.directory_bytes} bytes")
    with zipfile.ZipFile(stream) as archive:
        for number, info in enumerate(archive.infolist()):
            kind = info.external_attr >> 28  # file type of Unix, where it was packed there
            if not info.is_dir() and kind in (0, 0o10):
                yield Member(number, info.filename, info.file_size, _opener(archive, info))


def _opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _directory_bytes(stream: BinaryIO, packed: int) -> int:
    """Size of the central directory as the end record claims it: zipfile reads that much."""
    stream.seek(max(packed - 65_557, 0))  # the record and the longest comment behind it
    tail = stream.read(65_557)
    at = tail.rfind(b"PK\x05\x06")
    size = struct.unpack_from("<I", tail, at + 12)[0] if at >= 0 else 0
    # A zip64 archive says so elsewhere; its directory cannot be larger than the file.
    return packed if size == 0xFFFFFFFF else size


# --- tar ----------------------------------------------------------------------------------------


def _tar_members(stream: BinaryIO, name: str, packed: int, limits: Limits) -> Iterator[Member]:
    unpacked = _Bounded(_decompressed(stream, name), packed, limits)
    last = -1
    with tarfile.open(fileobj=cast(BinaryIO, unpacked), mode="r:") as archive:
        number = 0
        while (info := archive.next()) is not None:
            if info.offset <= last:  # a negative size would send us round for ever
                raise Unsuitable("archive", "its members overlap")
            last = info.offset
            if info.isreg() and not info.issparse():
                yield Member(number, info.name, info.size, _tar_opener(archive, info))
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep one for each
            number += 1


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        stream = archive.extractfile(info)
        if stream is None:
            raise Unsuitable("archive", "a member is no file")
        return stream

    return opened


def _decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    lower = name.lower()
    if lower.endswith((".gz", ".tgz")):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if lower.endswith((".xz", ".txz")):
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if lower.endswith((".bz2", ".tbz2")):
        return cast(BinaryIO, bz2.BZ2File(stream))
    return stream


class _Bounded(io.RawIOBase):
    """What tarfile reads from: no read and no position beyond the limits."""

    def __init__(self, stream: BinaryIO, packed: int, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        # Headers and padding of small members come on top of what the members hold.
        self._end = max(limits.harmless_bytes, packed * limits.ratio) * 2

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self._limits.block_bytes:
            raise Unsuitable("archive", f"a name or comment in it claims {size} bytes")
        return self._stream.read(size)

    def seek(self, position: int, whence: int = 0, /) -> int:
        if whence == 0 and not 0 <= position <= self._end:
            raise Unsuitable("archive", "it unpacks to more than its size can hold")
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
