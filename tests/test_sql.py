"""SQL: what it answers, and everything that it must not do."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import duckdb
import orjson
import pytest
from starlette.testclient import TestClient

from tests.corpus import corpus
from tomodex import sql
from tomodex.client import Index
from tomodex.errors import BadQuery, Misconfigured, Unavailable
from tomodex.formats.rows import STRUCTURES
from tomodex.search import SEARCHABLE
from tomodex.settings import Settings, load_settings
from tomodex.sql import ask
from tomodex.sql_process import Refused, answer, open_tables
from tomodex.web.app import make_app
from tomodex.wiring import audit_of, index_of


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = load_settings(data=tmp_path_factory.mktemp("sql") / "tomodex-data")
    index = index_of(made)
    index.write(corpus())
    index.close()
    return made


@pytest.fixture(scope="module")
def inside(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables as the process has them, without its bounds."""
    opened = open_tables(str(settings.data / "index.duckdb"), wait_s=1, memory_mb=256, threads=2)
    yield opened
    opened.close()


def rows(db: duckdb.DuckDBPyConnection, statement: str) -> list[list[object]]:
    found = answer(db, statement, 1000, 1 << 20)
    lines: list[list[object]] = orjson.loads(orjson.dumps(found["rows"]))
    return lines


# --- what it answers ---------------------------------------------------------------------------


def test_structures_are_counted_and_measured(settings):
    statement = """select structure, count(*) n, median(volume_ml) ml from annotations
        where complete group by 1 order by 1"""
    found = ask(settings.index_url, statement)
    assert (found.columns, found.types) == (
        ("structure", "n", "ml"),
        ("VARCHAR", "BIGINT", "FLOAT"),
    )
    assert found.rows == (("liver", 20, 1515.0), ("spleen", 15, 215.0))
    assert not found.truncated


def test_the_tables_are_joined_and_their_text_is_text(inside):
    statement = """select "SeriesInstanceUID", patient, "Manufacturer", display
        from annotations join series using (series_number) join structures using (structure)
        where structure = 'spleen' and "PatientAge" = 31"""
    assert rows(inside, statement) == [["1.2.9.1", "pseudonym-1", "Ümlaut, =Ltd", "Spleen"]]


def test_a_series_has_every_attribute_that_can_be_searched(inside):
    found = answer(inside, "from series limit 1", 1, 1 << 20)
    assert set(SEARCHABLE) <= set(found["columns"])
    named = answer(inside, "from structures limit 1", 1, 1 << 20)["columns"]
    assert named == [column.name for column in STRUCTURES]


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("select date '2026-02-28'", "2026-02-28"),
        ("select 'nan'::double", None),
        ("select 12345678901234567890::hugeint", "12345678901234567890"),
        ("select 1.5::decimal(4, 1)", 1.5),
        ("select '\\xAA'::blob", "aa"),
        ("select [1, null]", [1, None]),
        ("select {'a': date '2026-01-01'}", {"a": "2026-01-01"}),
        ("select interval 1 day", "1 day, 0:00:00"),
        ("select null", None),
    ],
)
def test_every_value_has_a_place_in_json(inside, statement, value):
    assert rows(inside, statement) == [[value]]


def test_more_rows_than_allowed_are_cut_off_and_said(inside):
    found = answer(inside, "select * from range(1000000000000)", 5, 1 << 20)
    assert (len(found["rows"]), found["truncated"]) == (5, True)
    exact = answer(inside, "select * from range(5)", 5, 1 << 20)
    assert (len(exact["rows"]), exact["truncated"]) == (5, False)
    wide = answer(inside, "select repeat('x', 1000) from range(100)", 1000, 10_000)
    assert (len(wide["rows"]), wide["truncated"]) == (9, True)


# --- what it must not do -----------------------------------------------------------------------

NO_SELECT = [
    "select 1; select 2",
    "",
    "-- nothing",
    "copy (select 1) to '/tmp/x.csv'",
    "attach '/tmp/x.duckdb'",
    "detach tomodex",
    "create table x as select 1",
    "create view x as select 1",
    "insert into tomodex.label values (1, 'x')",
    "update tomodex.label set structure = 'x'",
    "delete from tomodex.series",
    "drop view series",
    "pragma database_list",
    "call pragma_version()",
    "set memory_limit = '4GB'",
    "reset memory_limit",
    "set variable words = ['x']",
    "install httpfs",
    "load httpfs",
    "export database '/tmp/x'",
    "import database '/tmp/x'",
    "explain analyze select 1",
    "prepare p as select 1",
    "begin",
    "checkpoint",
    "vacuum",
    "use memory",
    "pivot series on segmented using count(*)",
]


@pytest.mark.parametrize("statement", NO_SELECT)
def test_what_is_no_single_select_is_not_done(inside, statement):
    with pytest.raises(Refused, match="one SELECT is answered") as refused:
        answer(inside, statement, 10, 1000)
    assert refused.value.error == "statement"


OUTSIDE = [
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('{index}')",
    "select * from read_parquet('https://example.org/x.parquet')",
    "select * from read_json('/proc/self/environ')",
    "select * from '/etc/passwd'",
    "select * from '/etc/passwd.csv'",
    "select * from glob('/*')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from query('copy (select 1) to ''/tmp/x.csv''')",
    "select * from query('select * from read_text(''/etc/passwd'')')",
    "select * from query_table('/etc/passwd.csv')",
    "select getenv('HOME')",
    "select * from sqlite_scan('{index}', 'x')",
    "select * from parquet_metadata('/etc/passwd')",
    "with x as (select * from read_text('/etc/passwd')) select * from x",
]


@pytest.mark.parametrize("statement", OUTSIDE)
def test_nothing_outside_the_index_is_read(inside, settings, statement):
    with pytest.raises(Refused) as refused:
        answer(inside, statement.format(index=settings.data / "index.duckdb"), 10, 1000)
    assert refused.value.error == "statement"
    assert "root:" not in refused.value.sentence


def test_the_locks_cannot_be_opened(inside):
    for statement in (
        "set enable_external_access = true",
        "set disabled_filesystems = ''",
        "set lock_configuration = false",
    ):
        with pytest.raises(duckdb.Error):
            inside.execute(statement)
    with pytest.raises(duckdb.Error, match="read-only"):
        inside.execute("delete from tomodex.series")


BOMBS = [
    "with recursive t as (select 1 n union all select n + 1 from t) select count(*) from t",
    "select count(*) from range(1000000) a, range(1000000) b where a.range * b.range % 7 = 3",
    "select list_sort(range(200000000))",
    "select list(a.series_number) from series a, series b, series c, series d, series e, series f",
    "select repeat('x', 4000000000)",
]


@pytest.mark.parametrize("statement", BOMBS)
def test_a_bomb_ends_in_time_and_harms_nobody(settings, statement):
    begin = time.monotonic()
    with pytest.raises(BadQuery, match="too much time or memory"):
        ask(settings.index_url, statement, seconds=1.5, memory_mb=256)
    # Well before the parent would give up waiting: the process ends itself.
    assert time.monotonic() - begin < 12
    assert ask(settings.index_url, "select 1").rows == ((1,),)


def test_the_process_has_no_secret_and_writes_no_file(settings, monkeypatch, tmp_path):
    """Even if all locks of DuckDB were open."""
    monkeypatch.setenv("SECRET", "hidden")
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import os, resource, sys; from tomodex import sql_process as p; p._bound(256)\n"
        "try:\n"
        "    with open(sys.argv[1], 'w') as file: file.write('x' * 10000)\n"
        "except OSError as error: print(type(error).__name__, dict(os.environ))\n"
    )
    monkeypatch.setattr(sql, "COMMAND", (*sql.COMMAND[:2], str(spy), str(tmp_path / "written")))
    task = sql.Task(
        file="x", statement="", rows=1, bytes=1, seconds=5, wait_s=1, memory_mb=256, threads=1
    )
    said = sql._run(task).decode()
    assert said.startswith("OSError")
    assert "hidden" not in said
    assert (tmp_path / "written").stat().st_size == 0


def test_a_mistake_is_said_in_the_words_of_duckdb(settings):
    with pytest.raises(BadQuery, match=r'"volume" not found') as wrong:
        ask(settings.index_url, "select volume from annotations")
    assert "\n\n" not in str(wrong.value)
    with pytest.raises(BadQuery, match="at most"):
        ask(settings.index_url, "select 1 --" + "x" * sql.LONGEST)


def test_who_writes_the_index_is_waited_for_but_not_for_ever(settings, monkeypatch, tmp_path):
    file = tmp_path / "index.duckdb"
    shutil.copy(settings.data / "index.duckdb", file)
    writer = duckdb.connect(file)
    soon = threading.Timer(0.7, writer.close)
    soon.start()
    assert ask(f"duckdb://{file}", "select count(*) from series").rows == ((30,),)
    soon.join()
    monkeypatch.setattr(sql, "WAIT_S", 0.1)
    with duckdb.connect(file), pytest.raises(Unavailable, match="is being written"):
        ask(f"duckdb://{file}", "select 1")


def test_one_at_a_time(settings):
    assert sql._busy.acquire(timeout=1)
    try:
        with pytest.raises(Unavailable, match="one at a time"):
            ask(settings.index_url, "select 1")
    finally:
        sql._busy.release()


@pytest.mark.parametrize("url", ["duckdb:", "elasticsearch+https://search.example/tomodex"])
def test_an_index_that_is_no_file_has_no_sql(url):
    with pytest.raises(Misconfigured, match="DuckDB file"):
        ask(url, "select 1")


def test_a_file_that_is_no_index_is_said(tmp_path):
    (tmp_path / "x.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(Misconfigured, match="cannot be opened"):
        ask(f"duckdb://{tmp_path / 'x.duckdb'}", "select 1")
    duckdb.connect(tmp_path / "y.duckdb").close()
    with pytest.raises(Misconfigured, match="is none"):
        ask(f"duckdb://{tmp_path / 'y.duckdb'}", "select 1")


# --- over HTTP and from Python -----------------------------------------------------------------


def client_of(settings: Settings, roles: tuple[str, ...], *, allowed: bool) -> TestClient:
    served = settings.serve.model_copy(update={"sql": allowed})
    access = settings.access.model_copy(update={"local": roles})
    made = settings.model_copy(update={"serve": served, "access": access})
    return TestClient(make_app(made), "http://127.0.0.1", raise_server_exceptions=False)


def test_it_is_off_unless_the_site_allows_it(settings):
    off = client_of(settings, ("researcher",), allowed=False)
    answered = off.post("/v1/sql", json={"sql": "select 1"})
    assert answered.status_code == HTTPStatus.FORBIDDEN
    assert "SQL is off here" in answered.json()["detail"]


def test_who_may_only_count_gets_no_sql(settings):
    viewer = client_of(settings, ("viewer", "operator"), allowed=True)
    answered = viewer.post("/v1/sql", json={"sql": "select count(*) from series"})
    assert answered.status_code == HTTPStatus.FORBIDDEN
    assert "researcher" in answered.json()["detail"]
    last = list(audit_of(settings).entries())[-1]
    assert (last.act, last.text) == ("refused", "select count(*) from series")


def test_over_http_and_from_python_the_answer_is_the_same(settings):
    statement = "select structure, count(*) n from annotations group by 1 order by 1"
    on = client_of(settings, ("researcher",), allowed=True)
    answered = on.post("/v1/sql", json={"sql": statement})
    assert answered.json()["rows"] == [["liver", 30], ["spleen", 15]]
    log = (settings.data / "audit.jsonl").read_text().splitlines()
    assert any(
        entry["act"] == "sql" and entry["text"] == statement for entry in map(json.loads, log)
    )
    with Index(settings.data) as index:
        found = index.sql(statement)
    assert [list(row.values()) for row in found] == answered.json()["rows"]
    assert list(found.to_pandas()["n"]) == list(found.to_polars()["n"]) == [30, 15]
    wrong = on.post("/v1/sql", json={"sql": "drop table series"})
    assert (wrong.status_code, wrong.json()["type"]) == (400, "urn:tomodex:problem:bad-query")
    assert on.post("/v1/sql", json={"sql": "x" * (sql.LONGEST + 1)}).status_code == 422
