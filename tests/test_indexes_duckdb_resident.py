from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contracts.index import IndexContract, archive, asked, counts, newest_first, tally
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.duckdb.resident import image as images
from tomodex.indexes.duckdb.resident.image import Image
from tomodex.indexes.duckdb.resident.matching import AskTheFile
from tomodex.search import FIELDS
from tomodex.settings import load_settings
from tomodex.wiring import cohorts_of, lasting_cohorts_of

#: Holds the file as a writer does, its door closed, until its input is closed.
HOLD = """
import sys
from pathlib import Path
from tomodex.indexes.duckdb.store import FileStore
with FileStore(Path(sys.argv[1]), {}, 10).writing() as db:
    print("held", flush=True)
    sys.stdin.read()
"""

#: Writes all series but the first 20 of each 100, and erases those, over and over.
WRITE_AND_ERASE = """
import sys
from tests.contracts.index import archive
from tomodex.indexes.duckdb import DuckDBIndex
index = DuckDBIndex(sys.argv[1])
for round in range(int(sys.argv[2])):
    for first in range(0, 300, 100):
        batch = archive()[first : first + 100]
        index.erase([one.series.series_uid for one in batch[:20]])
        index.write(batch[20:])
"""


class InMemory(DuckDBIndex):
    """Answers from memory or not at all, and waits until it is there."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.keep_resident()

    def _asking(self, query):  # type: ignore[no-untyped-def]
        # What is in the middle of a UID is asked of the file.
        assert "UID = *" in query.text, query
        return super()._asking(query)

    def _image(self) -> Image:
        return self.awaited(lambda image: image.measured)

    def awaited(self, wanted: Callable[[Image], bool]) -> Image:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                image = super()._image()
            except AskTheFile:
                time.sleep(0.005)
                continue
            if wanted(image):
                return image
            time.sleep(0.005)
        raise AssertionError("it does not come")


class WrittenFirst(InMemory):
    """Reads everything anew after each write, so that it is all in the large block."""

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        super().write(annotated)
        assert self._keeper is not None
        self._keeper.close()
        self._keeper = None
        self.keep_resident()


class TestWhatIsWrittenWhileItIsInMemory(IndexContract):
    @pytest.fixture
    def index(self, tmp_path: Path) -> Iterator[DuckDBIndex]:
        index = InMemory(f"duckdb://{tmp_path}/index.duckdb")
        index.awaited(lambda image: image.measured)
        yield index
        index.close()


class TestWhatIsReadIntoMemory(IndexContract):
    @pytest.fixture
    def index(self, tmp_path: Path) -> Iterator[DuckDBIndex]:
        index = WrittenFirst(f"duckdb://{tmp_path}/index.duckdb")
        yield index
        index.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.duckdb"


@pytest.fixture
def written(path: Path) -> Path:
    index = DuckDBIndex(f"duckdb://{path}")
    index.write(archive())
    index.close()
    return path


@pytest.fixture
def index(written: Path) -> Iterator[InMemory]:
    index = InMemory(f"duckdb://{written}")
    yield index
    index.close()


def another(command: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", command, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def test_a_search_goes_on_while_another_process_writes(index: InMemory, written: Path) -> None:
    before = index.search(asked("liver"), limit=1000)
    with another(HOLD, written) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "held\n"
        begin = time.monotonic()
        assert index.search(asked("liver"), limit=1000) == before
        uids = [hit.series_uid for hit in before.hits]
        assert len(index.seen(uids)) == len(uids)
        assert time.monotonic() < begin + 1
        writer.communicate()


def test_what_another_process_erases_and_writes_is_known_at_once(
    index: InMemory, written: Path
) -> None:
    erased = {one.series.series_uid for first in (0, 100, 200) for one in archive()[first:][:20]}
    left = [one for one in archive() if one.series.series_uid not in erased]
    assert tally(index.search(asked(""))) == counts(archive())
    with another(WRITE_AND_ERASE, f"duckdb://{written}", 1) as writer:
        while writer.poll() is None:
            series = index.search(asked("")).series
            assert series in {300, 280, 260, 240}
    found = index.search(asked(""), limit=1000)
    assert [hit.series_uid for hit in found.hits] == newest_first(left)
    assert tally(found) == counts(left)
    assert not erased & set(index.seen(list(erased)))


def test_memory_and_file_answer_alike_after_many_changes(
    index: InMemory, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LATE", 50)
    monkeypatch.setattr(images, "LATE_PART", 0.0)
    with another(WRITE_AND_ERASE, f"duckdb://{written}", 6) as writer:
        while writer.poll() is None:
            index.search(asked("liver above sacrum"))
    index.awaited(lambda image: len(image.late.block) <= 50)
    file = DuckDBIndex(f"duckdb://{written}")
    for text in ("", "liver", "liver above sacrum", "all kidney volume > 100", "PatientSex = F"):
        query = asked(text)
        assert index.search(query, limit=400) == file.search(query, limit=400)
        assert index.facets(query, FIELDS) == file.facets(query, FIELDS)
        assert index.crowds(query, FIELDS) == file.crowds(query, FIELDS)
    uids = [hit.series_uid for hit in file.search(asked(""), limit=400).hits]
    assert index.seen(uids) == file.seen(uids)
    file.close()


def test_a_new_structure_is_found_in_what_was_written_since(index: InMemory) -> None:
    (one, *_) = (o for o in archive() if o.annotations)
    named = replace(one.annotations[0], structure="thyroid_gland")
    assert index.search(asked("thyroid gland")).series == 0
    index.write([replace(one, annotations=(*one.annotations, named))])
    assert index.search(asked("thyroid gland")).series == 1
    assert index.facets(asked(""), ["structure"])["structure"]["thyroid_gland"] == 1


def test_an_index_that_was_made_anew_is_read_anew(index: InMemory, written: Path) -> None:
    assert index.search(asked("")).series == 300
    other = DuckDBIndex(f"duckdb://{written}")
    other.clear()
    other.write(archive()[:7])
    other.close()
    assert tally(index.search(asked(""))) == counts(archive()[:7])


def test_putting_the_file_in_order_is_no_change(index: InMemory) -> None:
    before = index.awaited(lambda image: image.measured)
    answer = index.search(asked(""), limit=400)
    index._store.tidy()
    assert index.search(asked(""), limit=400) == answer
    assert index._image() is before
    index.erase([answer.hits[0].series_uid])
    assert index.search(asked("")).series == 299


def test_what_does_not_fit_into_memory_is_answered_by_the_file(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = DuckDBIndex(f"duckdb://{written}?resident=1KB")
    index.keep_resident()
    deadline = time.monotonic() + 10
    while "index_not_in_memory" not in caplog.messages and time.monotonic() < deadline:
        assert index.search(asked("")).series == 300
    (refused,) = (record for record in caplog.records if record.msg == "index_not_in_memory")
    assert "GB of memory, and may take" in str(vars(refused)["sentence"])
    assert index.search(asked("kidney between T12 and L4")).series == 50
    index.close()


def test_measures_that_do_not_fit_are_read_from_the_file(written: Path) -> None:
    index = DuckDBIndex(f"duckdb://{written}?resident=100KB")
    index.keep_resident()
    deadline = time.monotonic() + 10
    while index._keeper is None or index._keeper._now is None:
        assert time.monotonic() < deadline
    assert not index._image().measured
    assert index.search(asked("kidney between T12 and L4")).series == 50
    assert index.search(asked("liver volume > 1500 ml")).series == 76
    assert len(index.seen([archive()[0].series.series_uid])) == 1
    index.close()


def test_nothing_is_kept_in_memory_where_it_is_not_wanted(written: Path) -> None:
    index = DuckDBIndex(f"duckdb://{written}?resident=no")
    index.keep_resident()
    assert index._keeper is None
    with pytest.raises(Misconfigured, match="no or a size as 4GB, not 'lots'"):
        DuckDBIndex(f"duckdb://{written}?resident=lots")


def test_a_server_keeps_the_index_in_memory_and_a_command_does_not(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path)
    lasting, once = lasting_cohorts_of(settings)._index, cohorts_of(settings)._index
    assert isinstance(lasting, DuckDBIndex)
    assert isinstance(once, DuckDBIndex)
    assert (lasting._keeper is None, once._keeper is None) == (False, True)
    lasting.close()
