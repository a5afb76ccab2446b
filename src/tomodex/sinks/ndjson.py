"""One JSON line per series, appended: the last line of a series is the one that counts."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tomodex.annotation import AnnotatedSeries, to_json
from tomodex.errors import Misconfigured, Unavailable
from tomodex.probe import Probe, probe_room
from tomodex.registry import path_of

#: How much is read at a time when the end of the last whole line is looked for.
CHUNK_BYTES = 1 << 20

#: Seconds that another may write for: a batch of it is some 10 MB.
PATIENCE_S = 30.0
PAUSE_S = 0.02


class NdjsonSink:
    """`ndjson:///var/lib/tomodex/series.ndjson`

    A line is what `schemas/annotated-series-1.json` describes, or `{"series_uid": "...", "erased":
    true}` for a series that the archive no longer has. Only one process writes at a time: whoever
    erases does so between two batches of who delivers.

    Raises:
        Misconfigured: the file cannot be opened for writing.
        Unavailable: another process writes to it for too long.
    """

    def __init__(self, url: str, state: Path | None = None) -> None:
        # All that it has to remember is in its own file.
        del state
        self._path = path_of(url)
        self._file = _open(self._path)
        with _locked(self._file, self._path):
            _repair(self._file)

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        self._append(to_json(one) for one in annotated)

    def erase(self, series_uids: Sequence[str]) -> None:
        import orjson

        self._append(orjson.dumps({"series_uid": uid, "erased": True}) for uid in series_uids)

    def probe(self) -> Iterator[Probe]:
        """Whether the file is open for us, and has room to grow."""
        size_mb = os.fstat(self._file).st_size / 1e6
        yield Probe(subject="file", verdict="ok", sentence=f"{self._path}: {size_mb:,.0f} MB")
        yield probe_room(self._path.absolute().parent)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _append(self, lines: Iterable[bytes]) -> None:
        """Add these lines, all or none, and return when they are on disk."""
        text = b"".join(line + b"\n" for line in lines)
        with _locked(self._file, self._path):
            # Another may have been killed in the middle of a line since.
            end = _repair(self._file)
            try:
                _write_all(self._file, text)
                os.fsync(self._file)
            except OSError as failed:
                os.ftruncate(self._file, end)
                sentence = f"{self._path}: {failed.strerror}; nothing was written"
                raise Unavailable(sentence) from failed


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as refused:
        raise Misconfigured(f"ndjson: cannot write to {path}: {refused.strerror}") from refused


@contextmanager
def _locked(file: int, path: Path) -> Iterator[None]:
    """Be the only one who writes."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as taken:
            if time.monotonic() > until:
                raise Unavailable(f"another process writes to {path}") from taken
        time.sleep(PAUSE_S)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _repair(file: int) -> int:
    """Cut off a last line that a crash left unfinished; nobody was told that it was safe.

    Returns how long the file is then.
    """
    end = size = os.lseek(file, 0, os.SEEK_END)
    if end and os.pread(file, 1, end - 1) == b"\n":
        return end
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _write_all(file: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(file, rest) :]
