"""The index on an Elasticsearch or OpenSearch server, for many machines.

server.py       the server, and its errors as ours
generations.py  the index that is searched, and one that is being made anew
documents.py    the document of a series, and the mapping
order.py        which structure ends below which, as words of a document and as a line of them
sorting.py      the order of what is found
writing.py      many documents at once, of which the newest stay
conditions.py   a term of a query -> a clause of the Query DSL
counting.py     facets, and exact counts of patients and studies
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

import numpy as np

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import BadQuery, TomodexError
from tomodex.indexes.elasticsearch.conditions import clause_of
from tomodex.indexes.elasticsearch.counting import (
    buckets,
    cells_of,
    counts_of,
    crowd,
    crowd_of,
    crowds_of,
    distinct,
    distinct_of,
)
from tomodex.indexes.elasticsearch.documents import document_of, seen_of, unsigned
from tomodex.indexes.elasticsearch.generations import Generations
from tomodex.indexes.elasticsearch.order import Clause
from tomodex.indexes.elasticsearch.server import Server
from tomodex.indexes.elasticsearch.sorting import Sort, sort_of
from tomodex.indexes.elasticsearch.writing import Action, bulk, deleted, written
from tomodex.probe import Probe
from tomodex.search import (
    NEWEST,
    SEARCHABLE,
    CellCount,
    Hit,
    Order,
    Page,
    Query,
    Sample,
    Seen,
    Totals,
)
from tomodex.search.crowd import Crowd
from tomodex.search.lots import lots

log = logging.getLogger(__name__)

#: Series of one step through everything that was found.
BATCH = 1000

#: First hits that a server gives without being led there.
WINDOW = 10_000

#: How long the server remembers where we are while somebody reads on.
KEPT = "5m"

#: Part of an answer, where a shard is not there, would be a wrong one.
WHOLE = {"allow_partial_search_results": "false"}

_HIT = ["series_uid", "study_uid", "patient", "structure_count"]


class ElasticsearchIndex:
    """`elasticsearch+https://tomodex@search:9200/tomodex?password=file:/run/secrets/search`

    For Elasticsearch 8 and 9 and OpenSearch 2 and 3; `+http` for one without TLS. The path is
    the alias under which the index is found; it is made on first use.
    """

    def __init__(self, url: str) -> None:
        self._server = Server(url)
        self.url = self._server.shown  #: without options
        self._generations = Generations(self._server)
        self._alias = self._generations.searched

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        last = {one.series.series_uid: one for one in annotated}
        self._write([written(uid, document_of(one), None) for uid, one in last.items()])

    def erase(self, series_uids: Sequence[str]) -> None:
        self._erase([deleted(uid, None) for uid in series_uids])

    def write_entries(self, entries: Mapping[int, AnnotatedSeries]) -> None:
        self._write(
            [
                written(one.series.series_uid, document_of(one), sequence)
                for sequence, one in sorted(entries.items())
            ]
        )

    def erase_entries(self, entries: Mapping[int, str]) -> None:
        self._erase([deleted(uid, sequence) for sequence, uid in sorted(entries.items())])

    def search(self, query: Query, limit: int = 50, offset: int = 0, order: Order = NEWEST) -> Page:
        clause, sort = clause_of(query.term), sort_of(order)
        near = limit + offset <= WINDOW
        answer = self._ask(
            {
                "query": clause,
                "size": limit if near else 0,
                "from": offset if near else 0,
                "sort": sort,
                "track_total_hits": True,
                "_source": [*_HIT, "a"],
                "aggs": {
                    "studies": distinct("study_key"),
                    "patients": distinct("patient_key"),
                    "size": {"sum": {"field": "a.size_bytes"}},
                },
            }
        )
        patients, patients_key = distinct_of(answer["aggregations"]["patients"])
        hits = [hit["_source"] for hit in answer["hits"]["hits"]]
        return Page(
            series=int(answer["hits"]["total"]["value"]),
            studies=distinct_of(answer["aggregations"]["studies"])[0],
            patients=patients,
            hits=tuple(map(_hit, hits)) if near else self._far(clause, sort, limit, offset),
            offset=offset,
            patients_key=patients_key,
            size_bytes=int(answer["aggregations"]["size"]["value"]),
        )

    def facets(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        aggs = {field: buckets(field) for field in fields}
        answer = self._aggregated(query, aggs)
        return {field: counts_of(field, answer[field]) for field in fields}

    def cells(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, CellCount]]:
        patients = {"patients": distinct("patient_key")}
        aggs = {field: {**buckets(field), "aggs": patients} for field in fields}
        answer = self._aggregated(query, aggs)
        return {field: cells_of(field, answer[field]) for field in fields}

    def crowd(self, query: Query) -> Crowd:
        size = {"sum": {"field": "a.size_bytes"}}
        aggs = {"studies": distinct("study_key"), "crowd": crowd(), "size": size}
        clause = {"query": clause_of(query.term), "size": 0, "track_total_hits": True}
        answer = self._ask({**clause, "aggs": aggs})
        found = answer["aggregations"]
        return crowd_of(
            found["crowd"],
            series=int(answer["hits"]["total"]["value"]),
            studies=distinct_of(found["studies"])[0],
            size_bytes=int(found["size"]["value"]),
        )

    def crowds(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
        aggs = {field: {**buckets(field), "aggs": {"crowd": crowd()}} for field in fields}
        answer = self._aggregated(query, aggs)
        return {field: crowds_of(field, answer[field]) for field in fields}

    def seen(self, series_uids: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        documents = self._get(series_uids, ["complete", "m"])
        return {uid: seen_of(document) for uid, document in documents.items()}

    def rows(
        self,
        query: Query,
        keywords: Sequence[str] = tuple(SEARCHABLE),
        sample: Sample | None = None,
        order: Order = NEWEST,
    ) -> Iterator[Sequence[Hit]]:
        unknown = sorted(set(keywords) - set(SEARCHABLE))
        if unknown:
            raise BadQuery(f"{unknown[0]} is no attribute; known: {', '.join(SEARCHABLE)}")
        source = [*_HIT, *(f"a.{keyword}" for keyword in keywords)]
        clause = clause_of(query.term)
        drawn = self._drawn(clause, sample) if sample else None
        if drawn is not None and len(drawn) <= WINDOW:
            clause = {"terms": {"series_uid": sorted(drawn)}}
        for documents in self._walk(clause, source, sort_of(order)):
            wanted = [d for d in documents if drawn is None or d["series_uid"] in drawn]
            yield tuple(map(_hit, wanted))

    def totals(self) -> Totals:
        segmented = {"term": {"a.segmented": "yes"}}
        waiting = {"term": {"a.segmented": "waiting"}}
        answer = self._ask(
            {
                "size": 0,
                "track_total_hits": True,
                "aggs": {
                    "studies": distinct("study_key"),
                    "patients": distinct("patient_key"),
                    "segmented": {"filter": segmented},
                    "waiting": {"filter": waiting},
                    "newest": {"max": {"field": "a.StudyDate", "format": "strict_date"}},
                },
            }
        )
        found = answer["aggregations"]
        newest = found["newest"].get("value_as_string")
        return Totals(
            series=int(answer["hits"]["total"]["value"]),
            studies=distinct_of(found["studies"])[0],
            patients=distinct_of(found["patients"])[0],
            segmented=int(found["segmented"]["doc_count"]),
            waiting=int(found["waiting"]["doc_count"]),
            newest=date.fromisoformat(newest) if newest else None,
        )

    def clear(self) -> None:
        self._generations.clear()

    def renew(self) -> None:
        self._generations.renew()

    def complete(self) -> None:
        self._generations.complete()

    def probe(self) -> Iterator[Probe]:
        """Whether the server answers, which it is, how it is, and whether the index is ours."""
        try:
            with self._server.asked() as client:
                said = client.info()["version"]
                health = client.cluster.health()["status"]
            held, filling = self.totals().series, self._generations.is_filling()
        except TomodexError as error:
            yield Probe(subject="search server", verdict="wrong", sentence=str(error))
            return
        kind = said.get("distribution", "elasticsearch")
        yield Probe(subject="search server", verdict="ok", sentence=f"{kind} {said['number']}")
        yield Probe(
            subject="cluster",
            verdict="wrong" if health == "red" else "ok",
            sentence=f"is {health}",
            advice="see its own log; some shards are not there" if health == "red" else "",
        )
        yield Probe(subject="index", verdict="ok", sentence=f"{held:,} series are in it")
        if filling:
            yield Probe(
                subject="rebuilding",
                verdict="doubtful",
                sentence="the index is being made anew; until then the one before is searched",
                advice="if nobody is delivering, let `tomodex rebuild` begin again",
            )

    def close(self) -> None:
        self._server.client.close()

    def _write(self, actions: Sequence[Action]) -> None:
        if actions:
            alias = self._generations.written()
            # What is being filled is searched, and refreshed, when it is complete.
            refresh = self._server.options.refresh if alias == self._alias else "false"
            bulk(self._server, alias, actions, refresh)

    def _erase(self, actions: Sequence[Action]) -> None:
        # Whoever erases may rely on it being found no more.
        for alias in self._generations.all() if actions else ():
            bulk(self._server, alias, actions, "true")

    def _ask(self, body: Mapping[str, object]) -> Any:
        self._generations.ensure()
        with self._server.asked() as client:
            return client.search(index=self._alias, body=body, params=WHOLE)

    def _aggregated(self, query: Query, aggs: Mapping[str, object]) -> Any:
        if not aggs:
            return {}
        return self._ask({"query": clause_of(query.term), "size": 0, "aggs": aggs})["aggregations"]

    def _get(self, series_uids: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
        if not series_uids:
            return {}
        self._generations.ensure()
        with self._server.asked() as client:
            answer = client.mget(
                index=self._alias,
                body={"ids": list(series_uids)},
                params={"_source": ",".join(fields)},
            )
        return {doc["_id"]: doc["_source"] for doc in answer["docs"] if doc.get("found")}

    def _far(self, clause: Clause, sort: Sort, limit: int, offset: int) -> tuple[Hit, ...]:
        """Hits behind the first `WINDOW`: the server has to be led there."""
        hits: list[Hit] = []
        left = offset
        for documents in self._walk(clause, [*_HIT, "a"], sort):
            hits += map(_hit, documents[left:])
            left = max(0, left - len(documents))
            if len(hits) >= limit:
                break
        return tuple(hits[:limit])

    def _walk(self, clause: Clause, source: Sequence[str], sort: Sort) -> Iterator[list[Any]]:
        """Documents of everything that fits, in an order, as they were when we began."""
        with self._point_in_time() as point:
            after: Mapping[str, object] = {}
            while True:
                body = {
                    "query": clause,
                    "size": BATCH,
                    "sort": sort,
                    "_source": source,
                    "track_total_hits": False,
                    "pit": {"id": point, "keep_alive": KEPT},
                    **after,
                }
                with self._server.asked() as client:
                    hits = client.search(body=body, params=WHOLE)["hits"]["hits"]
                if not hits:
                    return
                yield [hit["_source"] for hit in hits]
                after = {"search_after": hits[-1]["sort"]}

    @contextmanager
    def _point_in_time(self) -> Iterator[str]:
        self._generations.ensure()
        point = _open_point(self._server, self._alias)
        try:
            yield point
        finally:
            _close_point(self._server, point)

    def _drawn(self, clause: Clause, sample: Sample) -> frozenset[str]:
        """UIDs with the lowest lots, the same ones as every index draws."""
        found = [
            (document["series_key"], document["series_uid"])
            for documents in self._walk(clause, ["series_key", "series_uid"], sort_of(NEWEST))
            for document in documents
        ]
        keys = np.array([unsigned(key) for key, _ in found], np.uint64)
        order = np.argsort(lots(keys, sample.seed), kind="stable")[: sample.size]
        return frozenset(found[place][1] for place in order.tolist())


def _hit(document: Mapping[str, Any]) -> Hit:
    return Hit(
        series_uid=document["series_uid"],
        study_uid=document["study_uid"],
        patient=document["patient"],
        attributes=document.get("a", {}),
        structure_count=document["structure_count"],
    )


def _open_point(server: Server, index: str) -> str:
    """A point in time: OpenSearch and Elasticsearch have the same under two names."""
    kept = {"keep_alive": KEPT}
    with server.asked() as client:
        if server.distribution == "opensearch":
            return str(client.create_pit(index=index, params=kept)["pit_id"])
        return str(client.transport.perform_request("POST", f"/{index}/_pit", kept)["id"])


def _close_point(server: Server, point: str) -> None:
    with server.asked() as client:
        if server.distribution == "opensearch":
            client.delete_pit(body={"pit_id": [point]})
        else:
            client.transport.perform_request("DELETE", "/_pit", None, {"id": point})
