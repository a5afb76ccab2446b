"""The index on a real OpenSearch server, beside the embedded one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contracts.index import QUERIES, IndexContract, _series, _term, archive, asked
from tests.servers.opensearch import running_opensearch
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes import elasticsearch as adapter
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.elasticsearch import ElasticsearchIndex, conditions
from tomodex.search import FIELDS, Query

pytestmark = pytest.mark.server

#: Series that both indexes are filled with, and searches besides those of the contract.
MANY, DRAWN = 3000, 40

#: Every one of so many searches is made with all facets, each of which is counted by patients.
FACETED = 12


#: Searches of the contract that compare structures.
PLACED = [text for text in QUERIES if {"above", "below", "between"} & set(text.split())]


class OnServer(IndexContract):
    def test_structures_are_compared_by_a_script_where_words_are_too_many(
        self, filled: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = {text: filled.search(asked(text), limit=1000) for text in PLACED}
        assert any(page.series for page in found.values())
        monkeypatch.setattr(conditions, "MOST_CLAUSES", 0)
        assert found == {text: filled.search(asked(text), limit=1000) for text in PLACED}


class TestElasticsearchIndex(OnServer):
    """OpenSearch 2."""

    @pytest.fixture
    def index(self, search_server: str) -> Iterator[ElasticsearchIndex]:
        index = ElasticsearchIndex(f"{search_server}/tomodex-{uuid4().hex}?refresh=true")
        yield index
        index.close()

    def test_hits_behind_the_first_window_are_the_same(
        self, filled: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        near = filled.search(asked(""), limit=20, offset=45).hits
        monkeypatch.setattr(adapter, "WINDOW", 50)
        monkeypatch.setattr(adapter, "BATCH", 7)
        assert filled.search(asked(""), limit=20, offset=45).hits == near

    def test_an_index_of_an_older_version_is_made_anew(
        self, filled: ElasticsearchIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "VERSION", "another")
        newer = ElasticsearchIndex(f"{filled.url}?refresh=true")
        with pytest.raises(Misconfigured, match="another version"):
            newer.search(asked(""))
        newer.clear()
        assert newer.totals().series == 0
        newer.write(archive()[:3])
        assert newer.totals().series == 3
        newer.close()

    def test_doctor_learns_which_server_it_is(self, filled: ElasticsearchIndex) -> None:
        said = {probe.subject: probe for probe in filled.probe()}
        assert {probe.verdict for probe in said.values()} == {"ok"}
        assert said["search server"].sentence.startswith("opensearch 2.")
        assert f"{len(archive())} series" in said["index"].sentence


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

    @pytest.fixture
    def index(self, newer_search_server: str) -> Iterator[ElasticsearchIndex]:
        url = f"{newer_search_server}/tomodex-{uuid4().hex}?refresh=true&shards=3"
        index = ElasticsearchIndex(url)
        yield index
        index.close()

    def test_doctor_learns_which_server_it_is(self, filled: ElasticsearchIndex) -> None:
        said = {probe.subject: probe.sentence for probe in filled.probe()}
        assert said["search server"].startswith("opensearch 3.")


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
        ("vertebra between rib and rib", True),
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
