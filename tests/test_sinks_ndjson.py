from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.contracts.sink import SinkContract, series
from tomodex.annotation import AnnotatedSeries, from_json
from tomodex.errors import Misconfigured, Unavailable
from tomodex.sinks import Sink, ndjson, open_sink


def read(path: Path) -> dict[str, AnnotatedSeries]:
    """What the documentation tells a reader of the file to do."""
    held: dict[str, AnnotatedSeries] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        assert line.endswith(b"\n")
        document = json.loads(line)
        if document.get("erased"):
            held.pop(document["series_uid"], None)
        else:
            held[document["series"]["series_uid"]] = from_json(line)
    return held


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "with space" / "series.ndjson"


@pytest.fixture
def url(path: Path) -> str:
    path.parent.mkdir()
    return f"ndjson://{path.as_posix().replace(' ', '%20')}"


class TestNdjsonSink(SinkContract):
    @pytest.fixture
    def sink(self, url: str, path: Path) -> Iterator[Sink]:
        self.path = path
        sink = open_sink(url)
        yield sink
        sink.close()

    def held(self, sink: Sink) -> Mapping[str, AnnotatedSeries]:
        return read(self.path)


def test_goes_on_where_the_last_run_ended(url: str, path: Path) -> None:
    for uid in ("1.1", "1.2"):
        sink = open_sink(url)
        sink.write([series(uid)])
        sink.close()
    assert set(read(path)) == {"1.1", "1.2"}


@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
@pytest.mark.parametrize("lines_before", [0, 2])
def test_a_line_that_a_crash_left_unfinished_is_cut_off(
    url: str, path: Path, lines_before: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "CHUNK_BYTES", chunk_bytes)
    first = open_sink(url)
    first.write([series(f"1.{k}") for k in range(lines_before)])
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"schema_version":"1.0","series":{"series_uid":"9.9"')
    again = open_sink(url)
    assert path.read_bytes() == whole
    again.write([series("1.7")])
    again.close()
    assert set(read(path)) == {"1.7", *(f"1.{k}" for k in range(lines_before))}


def test_a_batch_that_does_not_fit_the_disk_leaves_nothing_behind(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(url)
    sink.write([series("1.1")])
    before = path.read_bytes()
    write = os.write
    written = []

    def half_then_full(file: int, text: bytes) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(write(file, text[: len(text) // 2]))
        return written[0]

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(Unavailable, match="No space left"):
        sink.write([series("1.2"), series("1.3")])
    monkeypatch.undo()
    assert path.read_bytes() == before
    sink.write([series("1.2")])
    sink.close()
    assert set(read(path)) == {"1.1", "1.2"}


def test_is_on_disk_before_the_write_returns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sink = open_sink(url)
    sink.write([series("1.1"), series("1.2")])
    assert len(synced) == 1
    sink.erase(["1.1"])
    assert len(synced) == 2
    sink.close()


def test_one_that_is_killed_while_writing_leaves_whole_lines(url: str, path: Path) -> None:
    script = (
        "import sys; from tests.contracts.sink import series; from tomodex.sinks import open_sink\n"
        "sink = open_sink(sys.argv[1]); sink.write([series('1.1')]); print('ready', flush=True)\n"
        "while True: sink.write([series(f'1.{k}') for k in range(50)])"
    )
    root = Path(__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
    )
    with child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    sink = open_sink(url)
    sink.write([series("2.1")])
    sink.close()
    assert {"1.1", "2.1"} <= set(read(path))


def test_who_erases_does_so_while_another_delivers(url: str, path: Path) -> None:
    delivering = open_sink(url)
    delivering.write([series("1.1"), series("1.2")])
    erasing = open_sink(url)
    erasing.erase(["1.1"])
    path.write_bytes(path.read_bytes() + b'{"schema_ver')  # and was killed
    delivering.write([series("1.3")])
    erasing.close()
    erasing.close()
    delivering.close()
    assert set(read(path)) == {"1.2", "1.3"}


def test_only_one_process_writes_to_a_file_at_a_time(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "PATIENCE_S", 0.1)
    sink = open_sink(url)
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process"):
            sink.write([series("1.1")])
    sink.write([series("1.2")])
    sink.close()
    assert set(read(path)) == {"1.2"}


@pytest.mark.parametrize("place", ["", "/no/such/folder/series.ndjson"])
def test_a_place_that_cannot_be_written_stops_the_operator(place: str) -> None:
    with pytest.raises(Misconfigured, match="cannot write"):
        open_sink(f"ndjson://{place}")
