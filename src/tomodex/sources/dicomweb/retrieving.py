"""The instances of one series by WADO-RS, written to files while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tomodex.errors import Unavailable, Unsuitable
from tomodex.instance import Instance, read_instance
from tomodex.sources.dicomweb.connection import Answer, Connection, Refused
from tomodex.sources.dicomweb.multipart import boundary_of, parts

#: As they are kept, else as the server likes: uncompressed, says PS3.18 8.7.3.5.2.
ACCEPTED = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
)

#: What a server answers that does not understand one of these.
NOT_ACCEPTED = frozenset({400, 406, 415, 501})

#: What one series may hold; a dynamic CT has some thousands of instances and 10 GiB.
MAX_INSTANCES, MAX_BYTES = 65_536, 64 * 2**30


def retrieve(connection: Connection, path: str, series_uid: str, into: Path) -> list[Path]:
    """The instances of a series as files, each once, by name; made anew where they are already.

    Nothing is left behind if not all of them can be written.

    Raises:
        Refused: the server does not give them.
        Unavailable: it did not answer, not wholly, or with something else; the disk is full.
    """
    last = len(ACCEPTED) - 1
    for number, accepted in enumerate(ACCEPTED):
        writing = _Writing(connection.url, series_uid, into)
        try:
            return connection.ask(path, {}, accepted, writing.write)
        except Refused as refused:
            if refused.status not in NOT_ACCEPTED or number == last:
                raise
        except OSError as full:
            raise Unavailable(f"cannot write to {into}: {full.strerror}") from full
    raise AssertionError  # the last is answered or raises


class _Writing:
    """What has been written of one answer."""

    def __init__(self, url: str, series_uid: str, into: Path) -> None:
        self._url = url
        self._series_uid = series_uid
        self._into = into
        self._files: set[Path] = set()
        self._bytes = 0

    def write(self, answer: Answer) -> list[Path]:
        """Write all parts of an answer; none if that fails."""
        self._into.mkdir(parents=True, exist_ok=True)
        partial = self._into / "partial"
        try:
            for number, content in enumerate(self._contents(answer)):
                if number >= MAX_INSTANCES:
                    raise Unavailable(f"{self._url} sends more than {MAX_INSTANCES} instances")
                self._save(content, partial)
                self._keep(partial, number)
        except BaseException:
            for file in (partial, *self._files):
                file.unlink(missing_ok=True)
            raise
        partial.unlink(missing_ok=True)
        return sorted(self._files)

    def _contents(self, answer: Answer) -> Iterator[Iterator[bytes]]:
        if boundary := boundary_of(answer.content_type, self._url):
            yield from parts(answer.chunks, boundary, self._url)
        elif answer.content_type.partition(";")[0].strip().lower() == "application/dicom":
            yield answer.chunks
        elif answer.status != 204:
            kind = answer.content_type.partition(";")[0][:80] or "nothing that it names"
            raise Unavailable(f"{self._url} sends {kind!r} where instances were asked for")

    def _save(self, content: Iterator[bytes], partial: Path) -> None:
        with partial.open("wb") as file:
            for piece in content:
                self._bytes += len(piece)
                if self._bytes > MAX_BYTES:
                    raise Unavailable(f"{self._url} sends more than {MAX_BYTES} bytes of a series")
                file.write(piece)

    def _keep(self, partial: Path, number: int) -> None:
        """Give a file its name; the first counts of two with the same SOP Instance UID."""
        instance = self._read(partial)
        if instance and instance.series_uid != self._series_uid:
            raise Unavailable(f"{self._url} sends instances of another series")
        # Checked to be digits and dots when it was read.
        name = instance.sop_uid if instance else ""
        file = self._into / f"{name or f'{number:06d}'}.dcm"
        if file not in self._files:
            self._files.add(file)
            partial.replace(file)

    def _read(self, file: Path) -> Instance | None:
        """The header of what came; None if it is broken, which is judged when it is opened."""
        try:
            instance = read_instance(file, _nobody)
        except Unsuitable:
            return None
        if instance is None:
            raise Unavailable(f"{self._url} sends something that is no DICOM")
        return instance


def _nobody(identifier: str) -> str:
    """A pseudonym that nobody looks at."""
    return ""
