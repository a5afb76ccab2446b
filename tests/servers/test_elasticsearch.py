"""The index on a real OpenSearch server, beside the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contracts.index import QUERIES, IndexContract, archive, asked
from tests.servers.opensearch import running_opensearch
from tomodex.errors import Misconfigured, Unavailable
from tomodex.indexes import elasticsearch as adapter
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.search import FIELDS

pytestmark = pytest.mark.server

#: Every third search of the contract, as each is made with all facets here.
TEXTS = QUERIES[::3]


class TestElasticsearchIndex(IndexContract):
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


def test_both_indexes_answer_alike(search_server: str) -> None:
    embedded = DuckDBIndex("duckdb:")
    served = ElasticsearchIndex(f"{search_server}/tomodex-{uuid4().hex}?refresh=true")
    for index in (embedded, served):
        index.write(archive())
    for text in TEXTS:
        one, other = (index.search(asked(text), limit=10) for index in (embedded, served))
        assert one == other, text
        assert embedded.cells(asked(text), FIELDS) == served.cells(asked(text), FIELDS), text
    embedded.close()
    served.close()
