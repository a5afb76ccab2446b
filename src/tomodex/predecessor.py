"""The predecessor's order of masks, as it lies on its Kafka topic of the segmentation mode."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tomodex.errors import BadQuery
from tomodex.mask_orders import UID, Order

Uid = Annotated[str, Field(pattern=f"^{UID}$")]


class Place(BaseModel):
    """An object in an S3 store."""

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(alias="s3-bucket", pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-_]{0,254}$")
    path: str = Field(alias="s3-path", min_length=1, max_length=1024)

    @property
    def url(self) -> str:
        """As sources and stores name it."""
        return f"s3://{self.bucket}/{quote(self.path)}"


class Identification(BaseModel):
    """Which series it is; whose, is not read."""

    model_config = ConfigDict(frozen=True)

    series: Uid
    study: Uid


class Message(BaseModel):
    """A task of its segmentation mode."""

    model_config = ConfigDict(frozen=True)

    identification: Identification
    input: Place = Field(alias="s3-input")
    output: Place = Field(alias="s3-output")


def mask_order_of(message: bytes) -> Order:
    """What a message of the predecessor's segmentation mode orders.

    A NIfTI file for each structure, with its name, and `statistics.json`, all of them right below
    the path of `s3-output`: as TotalSegmentator wrote them there into a folder, and as it stored
    that folder.

    Raises:
        BadQuery: it is no such message; what is wrong is said, never a value.
    """
    try:
        asked = Message.model_validate_json(message)
    except ValidationError as wrong:
        faults = wrong.errors(include_url=False, include_input=False)[:5]
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in faults)
        raise BadQuery(f"no order of masks: {found}") from None
    return Order(
        series=asked.identification.series,
        source=asked.input.url,
        forms=("nifti", "statistics"),
        files="each",
        folder="none",
        to=asked.output.url.rstrip("/"),
    )
