from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.index import (
    BODY,
    ORDERS,
    IndexContract,
    Opening,
    archive,
    asked,
    counts,
    in_order,
    matches,
    newest_first,
    ordered,
    tally,
)
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.duckdb.resident import image as images
from tomodex.indexes.duckdb.resident.answering import page_of
from tomodex.indexes.duckdb.resident.image import Image
from tomodex.indexes.duckdb.resident.matching import AskTheFile
from tomodex.search import (
    FIELDS,
    SEARCHABLE,
    Above,
    And,
    Below,
    Between,
    Has,
    Interval,
    Not,
    Or,
    Order,
    Query,
    Shows,
    Term,
)
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
    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, tmp_path_factory: pytest.TempPathFactory) -> Opening:
        def opened() -> closing[InMemory]:
            index = InMemory(f"duckdb://{tmp_path_factory.mktemp('index')}/index.duckdb")
            index.awaited(lambda image: image.measured)
            return closing(index)

        return opened


class TestWhatIsReadIntoMemory(IndexContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, tmp_path_factory: pytest.TempPathFactory) -> Opening:
        def opened() -> closing[WrittenFirst]:
            folder = tmp_path_factory.mktemp("index")
            return closing(WrittenFirst(f"duckdb://{folder}/index.duckdb"))

        return opened


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


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InMemory, DuckDBIndex]]:
    """The archive in memory, in both blocks and with some of it gone, and the file."""
    url = f"duckdb://{tmp_path_factory.mktemp('both')}/index.duckdb"
    file = DuckDBIndex(url)
    file.write(archive()[:220])
    memory = InMemory(url)
    assert len(memory._image().base.block) == 220
    file.erase([one.series.series_uid for one in archive()[:40]])
    file.write([replace(one, annotations=()) for one in archive()[100:130]])
    file.write([*archive()[:20], *archive()[100:130], *archive()[220:]])
    file.write(archive()[20:40])
    yield memory, file
    memory.close()
    file.close()


NAMES = st.sampled_from([*BODY, "thyroid_gland"])
ENDS = st.none() | st.integers(0, 40).map(lambda number: number * 10.0)


def intervals(ends: st.SearchStrategy[Any]) -> st.SearchStrategy[Interval]:
    return st.builds(Interval, low=ends, high=ends, low_open=st.booleans(), high_open=st.booleans())


SHOWS = st.builds(
    Shows,
    structures=st.lists(NAMES, min_size=1, max_size=4, unique=True).map(sorted).map(tuple),
    match=st.sampled_from(["any", "all"]),
    completeness=st.sampled_from(["any", "complete", "cut"]),
    volume_ml=st.none() | intervals(ENDS),
    mean_hu=st.none() | intervals(ENDS),
)
TEXTS = [k for k in FIELDS if SEARCHABLE.get(k) == "text"]
PATTERNS = st.sampled_from(
    ["*", "F", "m", "siemens", "*S", "MÜLLER*", "*E M*", "B_0*", "100%", "axial", "yes", ""]
)
DAYS = st.none() | st.dates(date(2015, 1, 1), date(2025, 1, 1)).map(date.isoformat)
UIDS = st.sampled_from(["*", "1.3.7", "1.3.1*", "*.3.2", "*7", archive()[3].series.series_uid])
HAS = st.one_of(
    st.builds(Has, keyword=st.sampled_from(TEXTS), values=st.lists(PATTERNS).map(tuple)),
    st.builds(
        Has,
        keyword=st.sampled_from([k for k, kind in SEARCHABLE.items() if kind == "number"]),
        interval=intervals(ENDS),
    ),
    st.builds(Has, keyword=st.sampled_from(["KVP", "StudyDate"]), values=st.just(("*",))),
    st.builds(Has, keyword=st.just("StudyDate"), interval=intervals(DAYS)),
    st.builds(
        Has,
        keyword=st.sampled_from(["SeriesInstanceUID", "StudyInstanceUID"]),
        values=st.lists(UIDS, min_size=1, max_size=3).map(tuple),
    ),
)
#: A landmark of several structures is any one of them.
LANDMARKS = SHOWS.map(lambda shows: replace(shows, match="any"))
PLACED = st.one_of(
    st.builds(Between, subject=SHOWS, one=LANDMARKS, other=LANDMARKS),
    st.builds(Above, subject=SHOWS, landmark=LANDMARKS),
    st.builds(Below, subject=SHOWS, landmark=LANDMARKS),
)
TERMS: st.SearchStrategy[Any] = st.recursive(
    SHOWS | HAS | PLACED,
    lambda terms: st.one_of(
        st.lists(terms, min_size=1, max_size=3).map(lambda some: And(terms=tuple(some))),
        st.lists(terms, min_size=1, max_size=3).map(lambda some: Or(terms=tuple(some))),
        terms.map(lambda term: Not(term=term)),
    ),
    max_leaves=5,
)


@given(
    term=TERMS,
    limit=st.integers(0, 60),
    offset=st.integers(0, 60),
    order=st.sampled_from(ORDERS).map(ordered),
)
@settings(max_examples=40, deadline=None)
def test_memory_file_and_a_plain_reading_answer_alike(
    both: tuple[InMemory, DuckDBIndex], term: Term, limit: int, offset: int, order: Order
) -> None:
    memory, file = both
    query = Query(text="", term=term)
    matching = [one for one in archive() if matches(term, one)]
    page = memory.search(query, limit, offset, order)
    assert tally(page) == counts(matching)
    assert [h.series_uid for h in page.hits] == in_order(matching, order)[offset : offset + limit]
    assert page == file.search(query, limit, offset, order)
    assert memory.crowd(query) == file.crowd(query)
    fields = ("structure", "cut", "StudyYear", "AgeDecade", "SliceThicknessClass", "Manufacturer")
    assert memory.facets(query, fields) == file.facets(query, fields)
    assert memory.cells(query, fields) == file.cells(query, fields)
    assert memory.crowds(query, fields) == file.crowds(query, fields)


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
        # As it is when a batch is committed and not yet taken over from the journal.
        os.utime(written)
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
    with another(WRITE_AND_ERASE, f"duckdb://{written}", 3) as writer:
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


def test_what_is_written_while_two_blocks_become_one_is_not_lost(index: InMemory) -> None:
    index.write(archive()[:30])
    then = index._image()
    block = images.in_one(then)
    index.erase([one.series.series_uid for one in (archive()[3], archive()[200])])
    index.write([replace(one, annotations=()) for one in (archive()[7], archive()[250])])
    now = index._image()
    joined = images.rebased(now, then, block)
    assert (len(joined.base.block), len(joined.late.block)) == (300, 2)
    for text in ("", "liver", "kidney above L5"):
        assert page_of(joined, asked(text), 400, 0) == page_of(now, asked(text), 400, 0)
    assert page_of(joined, asked(""), 0, 0).series == 298


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
        time.sleep(0.005)
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
        time.sleep(0.005)
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
    made = load_settings(data=tmp_path)
    lasting, once = lasting_cohorts_of(made)._index, cohorts_of(made)._index
    assert isinstance(lasting, DuckDBIndex)
    assert isinstance(once, DuckDBIndex)
    assert (lasting._keeper is None, once._keeper is None) == (False, True)
    lasting.close()
