"""The doors through which others bring series: settings of `tomodex receive`, `serve`, `bridge`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    field_validator,
)

from tomodex.options import Secret

#: PS3.5 6.2: up to 16 characters, without backslash or control characters; spaces around do not
#: count, so there are none.
AeTitle = Annotated[
    str,
    Field(
        max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e])?$"
    ),
]


def _named(place: str) -> str:
    if place:
        TypeAdapter(Secret).validate_python(place)
    return place


def _template(url: str) -> str:
    if url and not url.startswith(("https://", "http://", "/")):
        raise ValueError("a viewer is a URL, such as https://viewer.example/?study={study}")
    named = set(re.findall(r"{([^{}]*)}", url))
    if (url and not named) or named - {"study", "series"}:
        raise ValueError("a viewer's URL has {study} and {series} where the UIDs belong")
    return url


class Receive(BaseModel):
    """The C-STORE receiver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"  #: address to listen on; 0.0.0.0: all
    port: int = Field(default=11112, ge=0, le=65535)  #: 0: any that is free
    aet: AeTitle = "TOMODEX"  #: our AE title
    allow: tuple[AeTitle, ...] = ()  #: AE titles that may push; empty: any
    associations: int = Field(default=10, ge=1, le=200)  #: at once
    certificate: Path | None = None  #: PEM file; None: no TLS
    key: Path | None = None  #: PEM file; None: it is in `certificate`
    peers: Path | None = None  #: PEM file of who signs the certificates of those that may push
    spool: Path | None = None  #: folder; None: `spool` in the data folder
    reserve_gb: float = Field(default=2.0, ge=0)  #: of the spool's disk that are left free
    quiet_s: float = Field(default=60.0, gt=0)  #: without a new instance: the series is whole
    archive: str = ""  #: source to ask how many instances a series has; "": none
    missing_s: float = Field(default=3600.0, gt=0)  #: the same where the archive has more
    keep_s: float = Field(default=3600.0, ge=0)  #: from a result to the removal from the spool
    lane: Literal["on-demand", "daily", "reindex", "backfill"] = "daily"


class KafkaAccess(BaseModel):
    """Who we are to the brokers of a Kafka cluster."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str = ""
    password: Secret | None = None  #: where it is: file:/path or env:NAME
    ca: Path | None = None  #: PEM file of who signs the brokers' certificates
    certificate: Path | None = None  #: ours, PEM
    key: Path | None = None  #: ours, PEM


class Bridge(KafkaAccess):
    """The predecessor's topics in Kafka, by the names it gave them unless others are set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: str = ""  #: brokers as host:port, with commas between them
    tasks: str = "impetus.ct-indexer.index"  #: topic that tasks come from; "": none
    results: str = "impetus.ct-indexer.index.results"  #: topic for what was found
    mask_tasks: str = ""  #: topic that tasks of its segmentation mode come from; "": none
    mask_results: str = "impetus.ct-indexer.segmentation.results"  #: topic for where masks are
    errors: str = "medicsh.datalake.json.impax.ct-indexer.error"  #: topic for what failed
    group: str = "impetus-ct-indexer-index-grp-0"  #: consumer group
    labels: Literal["whole", "all"] = "whole"  #: as there, or with structures that are cut
    store: str = ""  #: options of any bucket that a task names, as `s3:?endpoint=...`
    lane: Literal["on-demand", "daily", "reindex", "backfill"] = "daily"

    @field_validator("store")
    @classmethod
    def _be_a_store(cls, url: str) -> str:
        if url and not (url.startswith("s3:") and urlsplit(url).password is None):
            raise ValueError("is the URL of an S3 store without a bucket, as s3:?endpoint=...")
        return url


class Serve(BaseModel):
    """The web process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"  #: address to listen on; 0.0.0.0: all
    port: int = Field(default=8042, ge=0, le=65535)  #: 0: any that is free
    token: Annotated[str, AfterValidator(_named)] = ""  #: where it is: file:/path or env:NAME
    certificate: Path | None = None  #: PEM file; None: no TLS
    key: Path | None = None  #: PEM file; None: it is in `certificate`
    lane: Literal["on-demand", "daily", "reindex", "backfill"] = "on-demand"
    #: of tasks that do not say theirs
    per_second: float = Field(default=50.0, gt=0)  #: requests of one client, more for a short while
    sql: bool = False  #: who may see single series may also ask one SELECT at a time
    viewer: Annotated[str, AfterValidator(_template)] = ""  #: URL with {study}, {series}; "": none


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
