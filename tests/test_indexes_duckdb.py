from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from tests.contracts.index import IndexContract, Opening, archive, asked, counts, tally
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes import duckdb as adapter
from tomodex.indexes import open_index
from tomodex.indexes.duckdb import DuckDBIndex, store
from tomodex.indexes.duckdb.schema import WORDS, labels
from tomodex.indexes.duckdb.store import FileStore

#: Holds the file of the index as another process does, until its input is closed.
HOLD = """
import sys, duckdb
db = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("held", flush=True)
sys.stdin.read()
"""

#: Writes one batch.
WRITE_ONE = """
import sys
from tests.contracts.index import archive
from tomodex.indexes.duckdb import DuckDBIndex
DuckDBIndex(sys.argv[1]).write(archive()[:30])
"""

#: Writes batches until it is killed.
WRITE = """
import sys
from tests.contracts.index import archive
from tomodex.indexes.duckdb import DuckDBIndex
index = DuckDBIndex(sys.argv[1])
print("ready", flush=True)
while True:
    for first in range(0, 300, 30):
        index.write(archive()[first : first + 30])
"""


class TestDuckDBIndexInMemory(IndexContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls) -> Opening:
        return lambda: closing(DuckDBIndex("duckdb:"))


class TestDuckDBIndexInAFile(IndexContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, tmp_path_factory: pytest.TempPathFactory) -> Opening:
        def opened() -> closing[DuckDBIndex]:
            folder = tmp_path_factory.mktemp("index")
            return closing(DuckDBIndex(f"duckdb://{folder}/it's an index.duckdb"))

        return opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.duckdb"


def opened(path: Path, options: str = "") -> DuckDBIndex:
    index = open_index(f"duckdb://{path}{options}")
    assert isinstance(index, DuckDBIndex)
    return index


def holder(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_what_was_written_is_there_when_the_file_is_opened_again(path: Path) -> None:
    opened(path).write(archive())
    assert tally(opened(path).search(asked(""))) == counts(archive())


def test_a_search_waits_for_a_writer_of_another_process(path: Path) -> None:
    index = opened(path)
    with holder(path, "write") as other, ThreadPoolExecutor() as threads:
        answer = threads.submit(index.search, asked(""))
        time.sleep(0.2)
        assert not answer.done()
        other.communicate()
        assert answer.result(timeout=5).series == 0


def test_who_waits_too_long_is_told_to_come_later(path: Path) -> None:
    index = opened(path, "?wait=0.1")
    with holder(path, "write") as other:
        with pytest.raises(Unavailable, match="another process"):
            index.search(asked(""))
        other.communicate()
    with holder(path, "read") as other:
        assert index.search(asked("")).series == 0
        with pytest.raises(Unavailable, match="another process"):
            index.write(archive()[:1])
        other.communicate()
    index.write(archive()[:1])
    assert index.search(asked("")).series == 1


def test_searches_and_writes_of_one_process_do_not_disturb_each_other(path: Path) -> None:
    indexes = [opened(path), opened(path)]
    indexes[0].write(archive()[:1])

    def work(number: int) -> int:
        if number % 4 == 0:
            indexes[number % 3 % 2].write(archive()[number : number + 4])
        return indexes[number % 2].search(asked("")).series

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(40)))
    assert indexes[0].search(asked("")).series == 40


def test_a_search_goes_on_while_its_own_process_makes_new_tables(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, made = opened(path), store.create_tables
    index.write(archive()[:3])
    index._store.leave()  # type: ignore[attr-defined]

    def slowly(db: duckdb.DuckDBPyConnection) -> None:
        begun.set()
        db.execute("select count(*) from range(400_000_000) as r(i) where i % 7 = 3").fetchall()
        made(db)

    begun = threading.Event()
    monkeypatch.setattr(store, "create_tables", slowly)
    with ThreadPoolExecutor() as threads:
        clearing = threads.submit(index.clear)
        assert begun.wait(5)
        assert index.search(asked("")).series == 3
        assert not clearing.done()
    assert index.search(asked("")).series == 0


def test_searches_of_one_process_go_on_at_once(path: Path) -> None:
    index = opened(path)
    index.write(archive()[:3])
    with index._store.reading() as one, index._store.reading() as other:
        assert index.search(asked("")).series == 3
        assert [db.execute("select count(*) from series").fetchone() for db in (one, other)] == [
            (3,),
            (3,),
        ]


def test_a_writer_of_another_process_gets_in_however_much_is_searched(path: Path) -> None:
    index = opened(path)
    index.write(archive()[:3])
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            index.search(asked("liver"))

    with ThreadPoolExecutor() as threads:
        searching = [threads.submit(search) for _ in range(3)]
        with writer(path) as process:
            process.communicate(timeout=30)
        done.set()
        for one in searching:
            one.result()
    assert index.search(asked("")).series == 30


def test_a_file_that_nobody_searches_is_open_to_all_after_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "IDLE_S", 0.1)
    index = opened(path)
    assert index.search(asked("")).series == 0
    time.sleep(0.5)
    with holder(path, "write") as other:
        other.communicate()
    index.write(archive()[:1])
    assert index.search(asked("")).series == 1


def test_a_search_reads_the_file_that_took_the_place_of_another(path: Path) -> None:
    index, other = opened(path), opened(path)
    index.write(archive())
    assert other.search(asked("")).series == 300
    index.clear()
    index.write(archive()[:5])
    assert other.search(asked("")).series == 5


def writer(path: Path) -> subprocess.Popen[bytes]:
    """Writes one batch of 30 series."""
    command = [sys.executable, "-c", WRITE_ONE, f"duckdb://{path}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment)


def test_an_index_that_is_not_wholly_made_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            DuckDBIndex(f"duckdb://{path}")
    assert not path.exists()
    assert DuckDBIndex(f"duckdb://{path}").totals().series == 0


def test_a_writer_that_is_killed_leaves_whole_batches(path: Path) -> None:
    for kill_after_s in (0.03, 0.1, 0.2, 0.35):
        command = [sys.executable, "-c", WRITE, f"duckdb://{path}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(kill_after_s)
            process.kill()
        index = opened(path)
        found = index.search(asked("")).series
        assert found % 30 == 0
        in_bits = index.facets(asked(""), ["structure"])["structure"].get("liver", 0)
        in_rows = index.search(asked("liver volume > 0")).series
        assert in_bits == in_rows
    index.write(archive())
    assert tally(index.search(asked(""))) == counts(archive())


@pytest.mark.parametrize("damage", ["no database", "torn", "another database", "older version"])
def test_a_file_that_cannot_be_used_is_refused_and_can_be_made_anew(
    path: Path, damage: str
) -> None:
    index = opened(path)
    index.write(archive())
    DAMAGES[damage](path)
    with pytest.raises(Misconfigured, match="`tomodex rebuild` makes it anew"):
        opened(path).search(asked("liver volume > 1"))
    again = opened(path)
    again.clear()
    again.write(archive()[:3])
    assert again.search(asked("")).series == 3


def _overwrite(path: Path) -> None:
    path.write_bytes(b"hello" * 10_000)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _replace(path: Path) -> None:
    path.unlink()
    duckdb.connect(str(path)).execute("create table t (x int)").close()


def _age(path: Path) -> None:
    with duckdb.connect(str(path)) as db:
        db.execute("update meta set value = 'older' where key = 'version'")


DAMAGES = {
    "no database": _overwrite,
    "torn": _tear,
    "another database": _replace,
    "older version": _age,
}


def test_putting_it_in_order_changes_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "UNSORTED", 1000)
    monkeypatch.setattr(adapter, "UNSORTED_PART", 0.1)
    tidied: list[Path] = []
    monkeypatch.setattr(FileStore, "tidy", _told(FileStore.tidy, tidied))
    index = opened(path)
    for first in range(0, 300, 20):
        index.write(archive()[first : first + 20])
    assert 1 < len(tidied) < 10
    texts = ["", "liver complete", "kidney volume > 160", "kidney between T12 and L4"]
    answers = [index.search(asked(text), limit=400) for text in texts]
    index._store.tidy()
    assert [index.search(asked(text), limit=400) for text in texts] == answers
    assert tally(answers[0]) == counts(archive())
    with index._store.reading() as db:
        order = [s for (s,) in db.execute("select structure from annotation").fetchall()]
    assert order == sorted(order)


def _told(tidy, calls):  # type: ignore[no-untyped-def]
    def told(store: FileStore) -> None:
        calls.append(store)
        tidy(store)

    return told


def test_nothing_is_left_beside_the_file_but_its_locks(path: Path) -> None:
    index = opened(path)
    index.write(archive())
    index._store.tidy()
    index.clear()
    index.close()
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"index.duckdb", "index.duckdb.lock", "index.duckdb.door"}


def test_structures_keep_their_bits_when_new_ones_come(path: Path) -> None:
    index = opened(path)
    with_liver = [one for one in archive() if any(a.structure == "liver" for a in one.annotations)]
    index.write([one for one in archive() if one not in with_liver])
    with index._store.reading() as db:
        before = labels(db)
    index.write(with_liver)
    with index._store.reading() as db:
        after = labels(db)
    assert "liver" not in before
    assert before.items() < after.items()
    assert index.search(asked("liver")).series == len(with_liver)


def test_more_structures_than_bits_are_refused(path: Path) -> None:
    index = opened(path)
    with index._store.writing() as db:
        db.executemany("insert into label values (?, ?)", [(n, f"s{n}") for n in range(WORDS * 64)])
    with pytest.raises(Misconfigured, match="512 structures"):
        index.write(archive()[:1])
    assert index.search(asked("")).series == 0


def test_a_search_reaches_no_other_file(path: Path) -> None:
    other = path.with_name("secret.csv")
    other.write_text("a,b\n1,2\n")
    with (
        opened(path)._store.reading() as db,
        pytest.raises(duckdb.PermissionException, match="disabled"),
    ):
        db.execute(f"select * from read_csv('{other}')")


def test_nothing_is_drawn_between_the_answers(path: Path) -> None:
    with opened(path)._store.reading() as db:
        assert db.execute("select current_setting('enable_progress_bar')").fetchone() == (False,)


def test_a_search_changes_nothing(path: Path) -> None:
    index = opened(path)
    with (
        index._store.reading() as db,
        pytest.raises(duckdb.InvalidInputException, match="read-only"),
    ):
        db.execute("delete from series")


def test_a_batch_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(path)
    index.write(archive()[:5])
    monkeypatch.setattr("tomodex.indexes.duckdb.schema.INSERT_ANNOTATIONS", "select error('x')")
    with pytest.raises(duckdb.InvalidInputException):
        index.write(archive())
    assert index.search(asked("")).series == 5


def test_an_option_that_nobody_knows_is_refused(path: Path) -> None:
    with pytest.raises(Misconfigured, match="no option 'memroy'; the index has memory"):
        opened(path, "?memroy=1GB")


def test_memory_and_threads_are_bounded_as_asked(path: Path) -> None:
    with opened(path, "?memory=200MB&threads=1")._store.reading() as db:
        settings = "select current_setting('memory_limit'), current_setting('threads')"
        assert db.execute(settings).fetchone() == ("190.7 MiB", 1)


def test_a_folder_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be written: No such file"):
        opened(path / "missing.duckdb" / "index.duckdb")


def test_a_batch_is_safe_where_there_is_no_room_to_put_it_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: FileStore) -> None:
        raise Unavailable("there is no room")

    monkeypatch.setattr(adapter, "UNSORTED", 10)
    monkeypatch.setattr(FileStore, "tidy", full)
    index = opened(path)
    index.write(archive())
    assert index.search(asked("")).series == 300


def test_a_replacement_that_fails_leaves_the_file_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened(path)
    index.write(archive())
    monkeypatch.setattr("tomodex.indexes.duckdb.store.IN_ORDER", "select error('x')")
    with pytest.raises(duckdb.Error):
        index._store.tidy()
    assert index.search(asked("")).series == 300
    assert not list(path.parent.glob("*.new*"))


def test_an_erased_series_leaves_no_row(path: Path) -> None:
    index = opened(path)
    index.write(archive())
    index.write(archive()[:100])
    index.erase([one.series.series_uid for one in archive()])
    with index._store.reading() as db:
        rows = db.execute("select count(*) from series union all select count(*) from annotation")
        assert rows.fetchall() == [(0,), (0,)]


def test_what_an_erased_series_alone_said_is_forgotten(path: Path) -> None:
    one, other = archive()[0], archive()[1]
    index = opened(path)
    telling = {"SeriesDescription": "Jane Doe", "PatientSex": "F"}
    index.write([replace(one, series=replace(one.series, attributes=telling))])
    index.write([replace(other, series=replace(other.series, attributes={"PatientSex": "F"}))])
    index.erase([one.series.series_uid])
    assert ("Jane Doe",) not in words_in(index)
    assert ("F",) in words_in(index)


def test_a_series_that_is_indexed_again_says_nothing_that_it_said_before(path: Path) -> None:
    one, index = archive()[0], opened(path)
    telling = replace(one.series, attributes={"SeriesDescription": "Jane Doe"})
    index.write([replace(one, series=telling)])
    index.write([one])
    assert ("Jane Doe",) not in words_in(index)


def words_in(index: DuckDBIndex) -> list[tuple[str]]:
    with index._store.reading() as db:
        return db.execute("select value from word").fetchall()


def test_numbers_stay_dense_however_often_all_is_indexed_again(path: Path) -> None:
    index = opened(path)
    for _ in range(3):
        index.write(archive())
    with index._store.reading() as db:
        assert db.execute("select max(number) from series").fetchone() == (299,)


def test_a_structure_that_a_series_has_twice_counts_with_its_largest(path: Path) -> None:
    one = next(one for one in archive() if any(a.structure == "liver" for a in one.annotations))
    liver = next(a for a in one.annotations if a.structure == "liver")
    larger, smaller = (
        replace(liver, measurement=replace(liver.measurement, volume_ml=ml)) for ml in (900, 100)
    )
    index = opened(path)
    for both in ((larger, smaller), (smaller, larger)):
        index.write([replace(one, annotations=both)])
        assert index.search(asked("liver volume > 500")).series == 1
        assert index.search(asked("liver volume < 500")).series == 0
        assert index.search(asked("")).hits[0].structure_count == 1


def test_a_series_that_is_indexed_again_keeps_its_study_and_patient_together(path: Path) -> None:
    index = opened(path)
    index.write(archive())
    for one in archive():
        index.write([one]) if one.series.study_uid.endswith("7") else None
    assert tally(index.search(asked(""))) == counts(archive())
    with index._store.reading() as db:
        assert db.execute("select max(study) from series").fetchone() == (100,)


def test_a_probe_says_that_a_damaged_index_can_be_made_anew(tmp_path):
    index = open_index(f"duckdb://{tmp_path}/index.duckdb")
    (tmp_path / "index.duckdb").write_bytes(b"not an index" * 1000)
    probes = {probe.subject: probe for probe in index.probe()}
    assert probes["index file"].verdict == "wrong"
    assert "tomodex rebuild" in probes["index file"].advice
