"""The index on a real OpenSearch server, beside the embedded one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest
import trustme

from tests.contracts.index import (
    QUERIES,
    IndexContract,
    Opening,
    _series,
    _term,
    archive,
    asked,
    ordered,
)
from tests.servers.opensearch import Secured, running_opensearch
from tomodex.annotation import AnnotatedSeries
from tomodex.delivery import begin_anew, deliver, deliver_batch, rebuild
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes import elasticsearch as adapter
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.elasticsearch import ElasticsearchIndex, conditions, generations
from tomodex.queues import NewTask
from tomodex.queues.sqlite import SqliteQueue
from tomodex.search import FIELDS, Query

pytestmark = pytest.mark.server

#: Series that both indexes are filled with, and searches besides those of the contract.
MANY, DRAWN = 3000, 40

#: Every one of so many searches is made with all facets, each of which is counted by patients.
FACETED = 12


#: Searches of the contract that compare structures.
PLACED = [text for text in QUERIES if {"above", "below", "between"} & set(text.split())]


def _opening(server: str, options: str) -> Opening:
    def opened() -> closing[ElasticsearchIndex]:
        return closing(ElasticsearchIndex(f"{server}/tomodex-{uuid4().hex}?refresh=true{options}"))

    return opened


class OnServer(IndexContract):
    def test_structures_are_compared_by_a_script_where_words_are_too_many(
        self, kept: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = {text: kept.search(asked(text), limit=1000) for text in PLACED}
        assert any(page.series for page in found.values())
        monkeypatch.setattr(conditions, "MOST_CLAUSES", 0)
        assert found == {text: kept.search(asked(text), limit=1000) for text in PLACED}


class TestElasticsearch(OnServer):
    """Elasticsearch 9."""

    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, elasticsearch_server: str) -> Opening:
        return _opening(elasticsearch_server, "")

    def test_doctor_learns_which_server_it_is(self, kept: ElasticsearchIndex) -> None:
        said = {probe.subject: probe for probe in kept.probe()}
        assert {probe.verdict for probe in said.values()} == {"ok"}
        assert said["search server"].sentence.startswith("elasticsearch 9.")
        assert f"{len(archive())} series" in said["index"].sentence

    def test_hits_behind_the_first_window_are_the_same(
        self, kept: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The last of what has no liver and no thickness is among them.
        orders = [*map(ordered, ("newest", "-SliceThickness", "smallest liver"))]
        near = [kept.search(asked(""), 280, 20, order).hits for order in orders]
        monkeypatch.setattr(adapter, "WINDOW", 50)
        monkeypatch.setattr(adapter, "BATCH", 7)
        assert [kept.search(asked(""), 280, 20, order).hits for order in orders] == near

    def test_the_later_entry_of_the_feed_stays(self, index: ElasticsearchIndex) -> None:
        old = archive()[0]
        index.write_entries({5: old})
        index.erase_entries({7: old.series.series_uid})
        index.write_entries({6: old})
        assert index.totals().series == 0
        index.write_entries({8: old})
        assert index.totals().series == 1

    def test_an_index_is_made_anew_beside_the_old(self, filled: ElasticsearchIndex) -> None:
        filled.renew()
        filled.write(archive()[:10])
        assert filled.totals().series == len(archive())
        filled.complete()
        assert filled.totals().series == 10


class TestOlderElasticsearch:
    """Elasticsearch 8, of which each kind of question is tried once.

    It is asked by the very same requests as 9: they name no version to be compatible with.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, older_elasticsearch_server: str) -> Opening:
        return _opening(older_elasticsearch_server, "&shards=2")

    index = IndexContract.index
    filled = IndexContract.filled
    kept = IndexContract.kept
    test_searches = IndexContract.test_every_search_finds_what_a_plain_reading_finds
    test_facets = IndexContract.test_facets_and_cells_count_every_value_of_every_field
    test_crowds = IndexContract.test_a_crowd_is_the_patients_of_what_was_found
    test_rows = IndexContract.test_rows_are_all_the_hits_of_a_search
    test_erased = IndexContract.test_what_is_erased_is_found_no_more
    test_scripts = OnServer.test_structures_are_compared_by_a_script_where_words_are_too_many
    test_anew = TestElasticsearch.test_an_index_is_made_anew_beside_the_old
    test_order = TestElasticsearch.test_the_later_entry_of_the_feed_stays

    def test_doctor_learns_which_server_it_is(self, kept: ElasticsearchIndex) -> None:
        said = {probe.subject: probe.sentence for probe in kept.probe()}
        assert said["search server"].startswith("elasticsearch 8.")


class TestOlderIndex:
    """OpenSearch 2, secured, with the rights that the documentation lists and no others.

    Each kind of question is tried once.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, secured_search_server: Secured) -> Opening:
        server = secured_search_server
        secrets = f"&ca={server.ca}&password=file:{server.password}"
        return _opening(f"opensearch+https://tomodex@{server.place}", secrets)

    index = IndexContract.index
    filled = IndexContract.filled
    kept = IndexContract.kept
    test_searches = IndexContract.test_every_search_finds_what_a_plain_reading_finds
    test_facets = IndexContract.test_facets_and_cells_count_every_value_of_every_field
    test_crowds = IndexContract.test_a_crowd_is_the_patients_of_what_was_found
    test_rows = IndexContract.test_rows_are_all_the_hits_of_a_search
    test_seen = IndexContract.test_everything_that_a_series_shows_is_seen_at_once
    test_erased = IndexContract.test_what_is_erased_is_found_no_more
    test_scripts = OnServer.test_structures_are_compared_by_a_script_where_words_are_too_many
    test_anew = TestElasticsearch.test_an_index_is_made_anew_beside_the_old
    test_order = TestElasticsearch.test_the_later_entry_of_the_feed_stays

    def test_doctor_may_ask_all_it_wants_to_know(self, kept: ElasticsearchIndex) -> None:
        said = {probe.subject: probe for probe in kept.probe()}
        assert {probe.verdict for probe in said.values()} == {"ok"}, said
        assert said["search server"].sentence.startswith("opensearch 2.")

    @pytest.mark.parametrize(
        ("user", "name", "options", "said"),
        [
            ("tomodex", "tomodex", "ca={ca}&password=file:{wrong}", "does not know us"),
            ("stranger", "tomodex", "ca={ca}&password=file:{right}", "forbids it"),
            ("tomodex", "payroll", "ca={ca}&password=file:{right}", "forbids it"),
            ("tomodex", "tomodex", "ca={other}&password=file:{right}", "not trusted"),
        ],
        ids=["wrong password", "without rights", "index of others", "wrong authority"],
    )
    def test_who_may_not_is_told_why_at_once(
        self,
        secured_search_server: Secured,
        tmp_path: Path,
        user: str,
        name: str,
        options: str,
        said: str,
    ) -> None:
        server, wrong, other = secured_search_server, tmp_path / "wrong", tmp_path / "other.pem"
        wrong.write_text("guessed")
        trustme.CA().cert_pem.write_to_path(str(other))
        files = {"ca": server.ca, "right": server.password, "wrong": wrong, "other": other}
        url = f"opensearch+https://{user}@{server.place}/{name}?{options.format(**files)}"
        begin = time.monotonic()
        with closing(ElasticsearchIndex(url)) as index:
            for ask in (index.totals, lambda: index.write(archive()[:1])):
                with pytest.raises(Misconfigured, match=said):
                    ask()
        assert time.monotonic() - begin < 10


def test_what_was_written_is_there_after_the_server_was_killed(tmp_path: Path) -> None:
    with running_opensearch(tmp_path / "node") as url:
        index = ElasticsearchIndex(f"{url}/tomodex")
        index.write(archive()[:10])
    with pytest.raises(Unavailable):
        index.write(archive()[10:20])
    index.close()
    with running_opensearch(tmp_path / "node") as url:
        again = ElasticsearchIndex(f"{url}/tomodex?refresh=true")
        again.write(archive()[:20])
        assert again.totals().series == 20
        again.close()


class TestNewerIndex(OnServer):
    """OpenSearch 3, several shards."""

    @pytest.fixture(scope="class")
    @classmethod
    def opening(cls, newer_search_server: str) -> Opening:
        return _opening(newer_search_server, "&shards=3")

    def test_doctor_learns_which_server_it_is(self, kept: ElasticsearchIndex) -> None:
        said = {probe.subject: probe.sentence for probe in kept.probe()}
        assert said["search server"].startswith("opensearch 3.")

    def test_the_later_entry_of_the_feed_stays_in_whichever_order_they_come(
        self, index: ElasticsearchIndex
    ) -> None:
        old, other = archive()[:2]
        uid = old.series.series_uid
        new = replace(old, annotations=())
        index.write_entries({5: new, 6: other})
        index.write_entries({3: old, 4: other})
        index.erase_entries({2: uid})
        assert index.seen([uid]) == {uid: ()}
        index.write_entries({5: new})
        index.erase_entries({7: uid, 8: "1.2.3.never.written"})
        index.write_entries({6: old})
        assert index.totals().series == 1
        index.write_entries({9: old})
        assert index.totals().series == 2

    def test_what_was_erased_stays_erased_for_who_comes_late(
        self, index: ElasticsearchIndex
    ) -> None:
        old = archive()[0]
        index.write_entries({5: old})
        index.erase([old.series.series_uid])
        index.write_entries({5: old})
        assert index.totals().series == 0

    def test_many_who_deliver_at_once_leave_the_last_entry_of_each(
        self, index: ElasticsearchIndex
    ) -> None:
        dice = random.Random(3)
        names = [f"1.2.{n}" for n in range(12)]
        feed = [(dice.choice(names), dice.random() < 0.3) for _ in range(400)]
        batches = [range(start, start + 20) for start in range(0, 400, 20)] * 2
        dice.shuffle(batches)

        def deliver(batch: Sequence[int]) -> None:
            gone = {at + 1: feed[at][0] for at in batch if feed[at][1]}
            there = {at + 1: _named(*feed[at], at) for at in batch if not feed[at][1]}
            index.erase_entries(gone)
            index.write_entries(there)

        with ThreadPoolExecutor(4) as deliverers:
            list(deliverers.map(deliver, batches))
        last = {uid: (gone, at) for at, (uid, gone) in enumerate(feed)}
        found = {h.series_uid: h.attributes["KVP"] for h in index.search(asked("")).hits}
        assert found == {uid: at for uid, (gone, at) in last.items() if not gone}

    def test_an_index_is_searched_as_it_was_while_it_is_made_anew(
        self, filled: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(SqliteQueue("sqlite:")) as queue:
            _settle(queue, archive()[:40])
            before = filled.search(asked("liver")).series
            begin_anew(queue, "index", filled)
            deliver_batch(queue, "index", filled, 15)
            assert filled.search(asked("liver")).series == before
            assert {probe.verdict for probe in filled.probe()} == {"ok", "doubtful"}
            # Somebody erased meanwhile is in neither; what was begun and left is dropped.
            filled.erase([archive()[0].series.series_uid])
            assert filled.totals().series == len(archive()) - 1
            begin_anew(queue, "index", filled)
            assert len(_indexes(filled)) == 2
            assert deliver(queue, "index", filled) == 40
            assert filled.totals().series == 40
            assert not filled._generations.is_filling()
            assert len(_indexes(filled)) == 2
            # Who may still be reading the one before, is not disturbed.
            monkeypatch.setattr(generations, "LEFT_S", 0)
            deliver(queue, "index", filled)
            assert len(_indexes(filled)) == 1

    def test_nobody_who_searches_notices_that_the_index_is_made_anew(
        self, index: ElasticsearchIndex
    ) -> None:
        ended = Event()

        def search() -> set[int]:
            found = set()
            while not ended.is_set():
                found.add(index.search(asked("")).series)
                found.add(sum(map(len, index.rows(asked(""), ["KVP"]))))
            return found

        with closing(SqliteQueue("sqlite:")) as queue, ThreadPoolExecutor(1) as people:
            _settle(queue, archive()[:60])
            deliver(queue, "index", index)
            searching = people.submit(search)
            for _ in range(3):
                assert rebuild(queue, "index", index, batch=20) == 60
            ended.set()
            assert searching.result() == {60}

    def test_an_older_version_is_searched_until_a_newer_one_is_complete(
        self, index: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(SqliteQueue("sqlite:")) as queue:
            _settle(queue, archive()[:30])
            deliver(queue, "index", index)
            monkeypatch.setattr(generations, "VERSION", "another")
            newer = ElasticsearchIndex(f"{index.url}?refresh=true")
            with pytest.raises(Misconfigured, match="another version"):
                newer.search(asked(""))
            begin_anew(queue, "index", newer)
            assert index.totals().series == 30
            deliver(queue, "index", newer)
            assert newer.totals().series == index.totals().series == 30
            assert any(name.startswith(f"{newer._alias}-another-") for name in _indexes(newer))
            newer.close()


def _named(uid: str, gone: bool, at: int) -> AnnotatedSeries:
    one = archive()[0]
    return replace(one, series=replace(one.series, series_uid=uid, attributes={"KVP": float(at)}))


def _settle(queue: SqliteQueue, some: Sequence[AnnotatedSeries]) -> None:
    """Have these as results in the feed."""
    for one in some:
        queue.put([NewTask(series=one.series, source="folder:")])
        task = queue.lease("worker", timedelta(minutes=5))
        assert task is not None
        assert queue.settle(task, one)


def _indexes(index: ElasticsearchIndex) -> list[str]:
    with index._server.asked() as client:
        return sorted(client.indices.get(index=f"{index._alias}-*"))


@pytest.fixture(scope="module")
def both(newer_search_server: str) -> Iterator[tuple[DuckDBIndex, ElasticsearchIndex]]:
    """The embedded index and one on a server, of the same few thousand series."""
    dice = random.Random(13)
    series = [_series(number, dice) for number in range(MANY)]
    embedded = DuckDBIndex("duckdb:")
    served = ElasticsearchIndex(f"{newer_search_server}/both?refresh=true&shards=2")
    served.clear()
    for index in (embedded, served):
        for start in range(0, MANY, 500):
            index.write(series[start : start + 500])
    yield embedded, served
    embedded.close()
    served.close()


def test_both_indexes_answer_alike(both: tuple[DuckDBIndex, ElasticsearchIndex]) -> None:
    embedded, served = both
    dice = random.Random(17)
    drawn = [Query(text="", term=_term(dice, 3)) for _ in range(DRAWN)]
    found = 0
    for number, query in enumerate([*map(asked, QUERIES[::2]), *drawn]):
        one, other = (index.search(query, limit=10) for index in both)
        assert one == other, query
        assert embedded.crowd(query) == served.crowd(query), query
        if number % FACETED == 0:
            assert embedded.cells(query, FIELDS) == served.cells(query, FIELDS), query
        found += one.series > 0
    assert found > 0.7 * (len(QUERIES[::2]) + DRAWN)


@pytest.mark.parametrize(
    ("text", "scripted"),
    [
        ("left autochthon between heart and L1", False),
        ("kidney between any T9..T12 and any L1..L4 complete", False),
        ("all kidney above sacrum volume > 100", False),
        ("vertebra between rib and rib", False),
        ("vertebra between rib complete and rib complete", True),
    ],
)
def test_a_server_runs_no_script_for_places_but_of_large_groups(
    both: tuple[DuckDBIndex, ElasticsearchIndex], text: str, scripted: bool
) -> None:
    embedded, served = both
    body = {"query": conditions.clause_of(asked(text).term), "profile": True, "size": 0}
    with served._server.asked() as client:
        answer = client.search(index="both", body={**body, "track_total_hits": True})
    assert answer["hits"]["total"]["value"] == embedded.search(asked(text)).series > 0
    assert ("ScriptQuery" in json.dumps(answer["profile"])) == scripted
