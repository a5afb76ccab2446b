"""Orders of masks: who may give them, and that each is made once, whatever dies or is silent."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.phantoms import write_ball_series
from tomodex import mask_orders
from tomodex.access import OWNER, Asker
from tomodex.errors import BadQuery, Forbidden, Misconfigured, Suspended, Unavailable, Unsuitable
from tomodex.indexing import index_source
from tomodex.mask_orders import KIND, Maker, Order, be_maker, make_next, place_order
from tomodex.operations import MOST_ATTEMPTS, Operations
from tomodex.segmenting import Delivered
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.wiring import audit_of, operations_of, queue_of

UID = "1.2.840.3"
RESEARCHER = Asker(name="ada", roles=frozenset({"researcher"}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "archive").mkdir()
    return load_settings(
        data=tmp_path / "data",
        sources={"disk": str(tmp_path / "archive")},
        destinations={"research": str(tmp_path / "masks")},
        segmenters=("dicomseg:",),
    )


@pytest.fixture
def operations(settings: Settings) -> Operations:
    return operations_of(settings)


def an_order(**facts: object) -> Order:
    return Order(**{"series": UID, "source": "disk", "to": "research", **facts})


def delivered(order: Order, at: datetime | None = None) -> Delivered:
    return Delivered(
        series_uid=order.series, structures=("liver",), missing=(), places=("/srv/masks/a.dcm",)
    )


def raising(error: BaseException):
    def make(order: Order, at: datetime) -> Delivered:
        raise error

    return make


# --- giving them ----------------------------------------------------------------------------------


def test_an_order_is_an_operation_and_in_the_audit_log(settings, operations):
    placed = place_order(settings, an_order(structures=("liver",)), RESEARCHER)
    assert (placed.kind, placed.status, placed.asker) == (KIND, "ready", "ada")
    assert Order.model_validate_json(placed.request) == an_order(structures=("liver",))
    (entry,) = audit_of(settings).entries()
    assert (entry.who, entry.act, entry.text) == ("ada", "segment", "liver")
    assert entry.facts == {"series_uid": UID, "forms": "seg", "to": "research"}


def test_the_same_key_is_the_same_order(settings):
    one = place_order(settings, an_order(), RESEARCHER, "key")
    assert place_order(settings, an_order(), RESEARCHER, "key").id == one.id
    assert place_order(settings, an_order(), RESEARCHER).id != one.id


@pytest.mark.parametrize("role", ["viewer", "operator", "service"])
def test_who_may_not_see_single_series_may_not_have_their_masks(settings, operations, role):
    asker = Asker(name="eve", roles=frozenset({role}))
    with pytest.raises(Forbidden, match="researcher"):
        place_order(settings, an_order(), asker)
    assert operations.newest() == []


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"to": "/srv/elsewhere"}, "no configured destination"),
        ({"to": "s3://elsewhere"}, "no configured destination"),
        ({"to": "dimse://A@10.0.0.1:104/B"}, "no configured destination"),
        ({"source": "folder:///etc"}, "not a configured source"),
        ({"source": ""}, "name its source"),
        ({"series": "/etc"}, "Series Instance UID"),
        ({"series": "1.2/../3"}, "Series Instance UID"),
        ({"structures": ("livr",)}, "did you mean"),
        ({"packing": "rle", "forms": ("seg-binary",)}, "one bit a pixel"),
    ],
)
def test_nothing_can_be_named_from_outside_that_is_not_configured(
    settings, operations, facts, sentence
):
    with pytest.raises(BadQuery, match=sentence):
        place_order(settings, an_order(**facts), RESEARCHER)
    assert operations.newest() == []


# --- making them ----------------------------------------------------------------------------------


def test_what_was_ordered_first_is_made_first_and_once(settings, operations):
    orders = [
        place_order(settings, an_order(structures=(name,)), RESEARCHER)
        for name in ("liver", "spleen")
    ]
    made: list[Order] = []

    def make(order: Order, at: datetime) -> Delivered:
        made.append(order)
        return delivered(order)

    while make_next(operations, make):
        pass
    assert [one.structures for one in made] == [("liver",), ("spleen",)]
    for order in orders:
        found = operations.find(order.id)
        assert found is not None
        assert found.status == "completed"
        assert dict(found.result) == {
            "series": UID, "structures": "liver", "missing": "", "files": "a.dcm",
            "algorithm": "", "loading_s": "0.000", "total_s": "0.000",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Unsuitable("no_structures", "nothing was found"), "nothing was found"),
        (BadQuery("no such series"), "no such series"),
        (Misconfigured("no weights"), "no weights"),
        (RuntimeError("the name of a patient"), "RuntimeError at"),
    ],
)
def test_what_cannot_be_made_is_failed_with_why(settings, operations, error, sentence):
    placed = place_order(settings, an_order(), RESEARCHER)
    assert make_next(operations, raising(error))
    found = operations.find(placed.id)
    assert found is not None
    assert found.status == "failed"
    assert sentence in found.errors[0]
    assert "patient" not in found.errors[0]


def test_what_does_not_answer_is_asked_again_later_while_others_go_on(settings, monkeypatch):
    now = [1000.0]
    operations = Operations(settings.data / "operations.db", lambda: now[0])
    settings.data.mkdir()
    silent = operations.put(KIND, an_order().model_dump_json(), "ada")
    now[0] += 1
    other = operations.put(KIND, an_order(structures=("spleen",)).model_dump_json(), "ada")
    assert make_next(operations, raising(Unavailable("the archive is silent")))
    assert make_next(operations, delivered)
    assert operations.find(other.id).status == "completed"
    assert not make_next(operations, delivered)
    now[0] += mask_orders.REST_S + 1
    assert make_next(operations, raising(Unavailable("the archive is silent")))
    now[0] += mask_orders.REST_S + 1
    assert not make_next(operations, delivered)
    now[0] += mask_orders.REST_S * mask_orders.REST_FACTOR
    assert make_next(operations, delivered)
    found = operations.find(silent.id)
    assert (found.status, found.attempt) == ("completed", MOST_ATTEMPTS)
    assert "the archive is silent" in found.errors[0]


def test_an_archive_that_is_left_alone_is_waited_for(settings):
    now = [datetime.now(UTC).timestamp()]
    operations = Operations(settings.data / "operations.db", lambda: now[0])
    settings.data.mkdir()
    operations.put(KIND, an_order().model_dump_json(), "ada")
    until = datetime.now(UTC) + timedelta(hours=8)
    make_next(operations, raising(Suspended("not its hours", source="disk", until=until)))
    now[0] += 7 * 3600
    assert not make_next(operations, delivered)
    now[0] += 2 * 3600
    assert make_next(operations, delivered)


def test_who_is_asked_to_end_gives_the_order_back(settings, operations):
    placed = place_order(settings, an_order(), RESEARCHER)
    with pytest.raises(KeyboardInterrupt):
        make_next(operations, raising(KeyboardInterrupt()))
    found = operations.find(placed.id)
    assert found is not None
    assert (found.status, found.attempt) == ("ready", 0)


def test_an_order_is_held_for_as_long_as_it_takes(settings, operations, monkeypatch):
    monkeypatch.setattr(mask_orders, "LEASE_S", 0.3)
    place_order(settings, an_order(), RESEARCHER)

    def slow(order: Order, at: datetime) -> Delivered:
        time.sleep(1.0)
        assert operations.lease({KIND}, 1.0) is None
        return delivered(order)

    assert make_next(operations, slow)
    assert operations.newest()[0].status == "completed"


def test_models_stay_open_from_one_order_to_the_next(settings, tmp_path, monkeypatch):
    uid = write_ball_series(tmp_path / "archive")
    opened = []
    tools_of = mask_orders.tools_of
    monkeypatch.setattr(mask_orders, "tools_of", lambda *a: opened.append(a) or tools_of(*a))
    index_source(settings, "disk", "daily", lambda title: lambda done, total: None)
    maker = Maker(settings)
    for _ in range(2):
        with pytest.raises(Unsuitable, match="no segmenter has anything"):
            maker.make(an_order(series=uid, source=""), datetime.now(UTC))
    assert len(opened) == 1


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def client(settings: Settings) -> TestClient:
    queue_of(settings).close()
    return TestClient(make_app(settings), base_url="http://127.0.0.1")


BODY = {
    "series": UID,
    "source": "disk",
    "structures": ["liver"],
    "forms": ["seg"],
    "to": "research",
}


def test_an_order_is_answered_with_where_to_ask(client, settings, operations):
    answer = client.post("/v1/segmentations", json=BODY)
    assert answer.status_code == HTTPStatus.ACCEPTED
    where = answer.headers["Location"]
    assert client.get(where).json()["status"] == "ready"
    be_maker(settings, "maker", iter_stop(1))
    done = client.get(where).json()
    assert done["status"] == "failed"
    assert f"holds no series {UID}" in done["errors"][0]


def iter_stop(rounds: int):
    left = [rounds]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def test_a_repeated_request_with_a_key_is_one_order(client, operations):
    headers = {"Idempotency-Key": "abc"}
    one, again = (client.post("/v1/segmentations", json=BODY, headers=headers) for _ in range(2))
    assert one.headers["Location"] == again.headers["Location"]
    assert len(operations.newest()) == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"to": "/srv"}, "no configured destination"),
        ({"series": "../x"}, "Series Instance UID"),
        ({"structures": ["livr"]}, "did you mean"),
        ({"structures": ["x"] * 501}, "500"),
        ({"forms": ["stl"]}, "forms"),
        ({"forms": []}, "forms"),
        ({"unknown": 1}, "unknown"),
        ({"to": None}, "to"),
    ],
)
def test_a_wrong_order_is_refused_with_why(client, operations, changed, sentence):
    answer = client.post("/v1/segmentations", json={**BODY, **changed})
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in answer.json()["detail"]
    assert operations.newest() == []


def test_the_owner_may_order(settings):
    assert place_order(settings, an_order(), OWNER).asker == "owner"
