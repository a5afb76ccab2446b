"""What others may order over HTTP: series of configured sources, in our words or the predecessor's.

The predecessor's task, from a Kafka topic or a NiFi flow, is taken as it is:

    {"identification": {"mpi": "...", "series": "1.2.3", "study": "1.2"},
     "s3-input": {"s3-bucket": "landing", "s3-path": "1.2.3.zip"}}

Its patient number is not kept: headers say whose the images are, as everywhere else.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from tomodex import mask_orders
from tomodex.errors import BadQuery
from tomodex.predecessor import mask_order_of
from tomodex.queues import Lane
from tomodex.settings import Settings
from tomodex.web.problems import Refused
from tomodex.wiring import task_source

Uid = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]


class Order(BaseModel):
    """A series of a configured source that is to be indexed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        max_length=2048,
        description="Name of a configured source, or its URL without options.",
        examples=["pacs"],
    )
    series_uid: Uid = Field(description="Series Instance UID.", examples=["1.2.840.113619.2.1.3"])
    study_uid: Uid | None = Field(
        default=None,
        description="Study Instance UID. Without it the source is asked at once, which takes "
        "longer and fails where it does not answer.",
        examples=["1.2.840.113619.2.1"],
    )
    lane: Lane | None = Field(
        default=None, description="How urgent it is; the setting says the default."
    )
    fingerprint: str = Field(
        default="",
        max_length=128,
        description="Changes when the series does: another one than last time has it indexed anew.",
    )


class Identification(BaseModel):
    """Whose and which series it is; what else is said is not read."""

    model_config = ConfigDict(frozen=True)

    series: Uid
    study: Uid


class Place(BaseModel):
    """An object in an S3 store."""

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(alias="s3-bucket", pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-_]{0,254}$")
    path: str = Field(alias="s3-path", min_length=1, max_length=1024)


class PredecessorOrder(BaseModel):
    """The predecessor's task: a tar or zip in S3 that holds one series.

    With `s3-output` it is one of its segmentation mode: masks are put there, nothing is indexed.
    """

    model_config = ConfigDict(frozen=True)

    identification: Identification
    input: Place = Field(alias="s3-input")
    output: Place | None = Field(default=None, alias="s3-output")


def _kind(order: object) -> Literal["ours", "predecessor"]:
    given = order if isinstance(order, dict) else {}
    return "predecessor" if "identification" in given or "s3-input" in given else "ours"


AnyOrder = Annotated[
    Annotated[Order, Tag("ours")] | Annotated[PredecessorOrder, Tag("predecessor")],
    Discriminator(_kind),
]


def as_order(settings: Settings, order: Order | PredecessorOrder) -> Order:
    """The order in our words, its source as tasks carry it.

    Raises:
        Refused: its source is not configured, or it wants what is not offered.
    """
    try:
        if isinstance(order, Order):
            return order.model_copy(update={"source": task_source(settings, order.source)})
        if order.output is not None:
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                "masks-not-offered",
                "masks are ordered by POST /v1/tasks, not here; without s3-output the series is "
                "indexed",
            )
        return Order(
            source=task_source(settings, f"s3://{order.input.bucket}/{quote(order.input.path)}"),
            series_uid=order.identification.series,
            study_uid=order.identification.study,
        )
    except BadQuery as unknown:
        sentence = str(unknown)
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-source", sentence) from unknown


def as_mask_order(order: PredecessorOrder) -> mask_orders.Order:
    """What a task of the predecessor's segmentation mode orders."""
    return mask_order_of(order.model_dump_json(by_alias=True).encode())


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of an order, whole: OpenAPI finds its own parts elsewhere."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            named = value.get("$ref", "").removeprefix("#/$defs/")
            return whole(parts[named]) if named else {k: whole(v) for k, v in value.items()}
        return [whole(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = whole(schema)
    return found
