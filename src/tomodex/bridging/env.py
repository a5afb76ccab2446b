"""The settings of the IMPETUS CT Indexer, its `.env`, as ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tomodex.errors import Misconfigured

#: Settings of ours by the names that it has for them, in every mode and in each.
NAMES = {"servers": "BOOTSTRAP_SERVER", "errors": "ERROR_TOPIC_NAME"}
NAMES_OF_MODE: Mapping[str, Mapping[str, str]] = {
    "index": {
        "tasks": "INCOMING_INDEX_TOPIC_NAME",
        "results": "OUTGOING_INDEX_TOPIC_NAME",
        "group": "INDEX_CONSUMER_GROUP",
    },
    "segmentation": {
        "mask_tasks": "INCOMING_SEGMENTATION_TOPIC_NAME",
        "mask_results": "OUTGOING_SEGMENTATION_TOPIC_NAME",
        "group": "SEGMENTATION_CONSUMER_GROUP",
    },
}

#: What it tells every store, as some take no other.
REGION = "eu-central-1"

#: What its template has for them.
USUAL = {"mask_tasks": "impetus.ct-indexer.segmentation", "group": "ct-indexer-segmentation-grp-0"}


def read_env(file: Path) -> dict[str, Any]:
    """Settings of ours for the predecessor's `.env`; what it says joins the environment.

    Raises:
        Misconfigured: it cannot be read, or `settings_of_env` does not take it.
    """
    from dotenv import dotenv_values

    if not file.is_file():
        raise Misconfigured(f"{file} is not a file")
    said = {name: value for name, value in dotenv_values(file).items() if value is not None}
    # The environment counts more, as it did there. Workers find the keys of the store in it.
    given = {**said, **{name: os.environ[name] for name in said if name in os.environ}}
    os.environ.update(given)
    return settings_of_env(given)


def settings_of_env(given: Mapping[str, str]) -> dict[str, Any]:
    """What the predecessor's `.env` says, as settings of ours.

    Raises:
        Misconfigured: it knows no such mode, or does not say where Kafka is.
    """
    mode = given.get("MODUS", "index")
    if mode not in NAMES_OF_MODE:
        raise Misconfigured(f"MODUS is {mode}; it is one of {', '.join(NAMES_OF_MODE)}")
    if not given.get("BOOTSTRAP_SERVER"):
        raise Misconfigured("BOOTSTRAP_SERVER is not set: no broker is named")
    names = {**NAMES, **NAMES_OF_MODE[mode]}
    bridge = {ours: given[theirs] for ours, theirs in names.items() if given.get(theirs)}
    if mode == "segmentation":
        bridge = {**USUAL, **bridge, "tasks": ""}
    if given.get("S3_ENDPOINT"):
        bridge["store"] = _store(given)
    return {"bridge": bridge}


def _store(given: Mapping[str, str]) -> str:
    """Its object store; the keys stay where they are, in the environment."""
    secure = given.get("SSL_ON", "True").strip().casefold() == "true"
    options = {
        "endpoint": f"{'https' if secure else 'http'}://{given['S3_ENDPOINT']}",
        "key": "env:S3_ACCESS_KEY",
        "secret": "env:S3_SECRET_KEY",
        "layout": "archives",
        "region": REGION,
        **({} if secure else {"insecure": "true"}),
    }
    return f"s3:?{urlencode(options)}"
