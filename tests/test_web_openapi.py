"""Our own OpenAPI document, asked everything that it allows and much that it does not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.contracts.queue import settle_next
from tests.corpus import corpus
from tomodex.queues import NewTask
from tomodex.settings import load_settings
from tomodex.web.app import make_app
from tomodex.wiring import index_of, queue_of

#: A question may be none, and a thing may not be there, though its form is right.
FORMALLY_RIGHT = ["2xx", 400, 403, 404, 406]


TOKEN = "a-token-that-is-long-enough"


def accepting(*more: int) -> dict[str, object]:
    return {"positive_data_acceptance": {"expected-statuses": [*FORMALLY_RIGHT, *more]}}


CONFIG = {
    "base-url": "http://localhost",
    "checks": accepting(),
    "auth": {"openapi": {"HTTPBearer": {"bearer": TOKEN}}},
    # Of an order, the form is right and the source is one that nobody has configured.
    "operations": [
        {
            "include-path": "/v1/tasks",
            "checks": {
                **accepting(415, 422, 501),
                "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 501]},
            },
        },
        {"include-path": "/v1/segmentations", "checks": accepting(422)},
    ],
}

#: Cases of each route and mode.
EXAMPLES = 12


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The app over 30 series, asked by whoever may do everything."""
    data = tmp_path_factory.mktemp("openapi") / "data"
    secret = tmp_path_factory.mktemp("secrets") / "token"
    secret.write_text(TOKEN)
    roles = ("researcher", "steward", "operator", "service")
    site = load_settings(
        data=data,
        sources={"disk": str(tmp_path_factory.mktemp("archive"))},
        serve={"per_second": 100_000},
        access={"tokens": {"all": {"secret": f"file:{secret}", "roles": roles}}},
    )
    index_of(site).write(corpus())
    queue, first = queue_of(site), corpus()[0]
    queue.put([NewTask(series=first.series, source="folder:///archive")])
    settle_next(queue, first)
    app = make_app(site)
    config = schemathesis.Config.from_dict(CONFIG)
    schema = schemathesis.openapi.from_dict(app.openapi(), config=config)
    schema.app = app
    return schema


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_route_answers_as_its_description_says(api, mode):
    for found in api.get_all_operations():
        operation = found.ok()
        if mode.is_positive or can_be_wrong(operation):
            ask(operation, mode)


def can_be_wrong(operation) -> bool:
    """Whether a request of this route says anything."""
    return bool(operation.path_parameters or operation.query or operation.body)


def ask(operation, mode) -> None:
    """Ask one route what the mode makes up: what fits its description, or what does not."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_all(case):
        case.call_and_validate()

    try_all()
