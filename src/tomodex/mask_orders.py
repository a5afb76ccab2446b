"""Orders of masks: who may have which masks put where, and who makes them.

A person orders with `tomodex segment` and waits. A program orders over HTTP, is given an operation
to look at, and a process beside the workers makes the masks: it holds models of its own, so that no
order waits for the series of a back-fill.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from tomodex.access import OWNER, Asker
from tomodex.errors import (
    BadQuery,
    Misconfigured,
    Suspended,
    TomodexError,
    Unavailable,
    Unsuitable,
)
from tomodex.logs import log_to_stderr
from tomodex.operations import Operation, Operations
from tomodex.pipeline import Tools
from tomodex.places import bridged_destination, destination_url, no_destination
from tomodex.segmenting import Delivered, Form, Wish, resolve_structures, segment_series
from tomodex.series import Series
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import (
    audit_of,
    operations_of,
    queue_of,
    source_of,
    source_url,
    store_of,
    task_source,
    tools_of,
)
from tomodex.worker import Stop, describe

log = logging.getLogger(__name__)

#: What operations of this kind are called.
KIND: Final = "segment"

#: Short, as it is how long an order of a dead process waits; a live one renews it in time.
LEASE_S = 30.0

#: Between two looks for an order.
IDLE_S = 1.0

#: What does not answer is asked again after so long, and then after so much longer.
REST_S, REST_FACTOR = 60.0, 15.0

#: Whoever may write to the topic of the predecessor's segmentation mode, which gave them masks.
BRIDGE = Asker(name="bridge", roles=frozenset({"researcher"}))

#: PS3.5 9.1; over HTTP nothing else is a series, above all no path.
UID = r"[0-9.]{1,64}"

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Order(BaseModel):
    """Masks of one series."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "series": "1.2.840.113619.2.1.3",
                    "structures": ["liver", "left kidney"],
                    "forms": ["seg", "sr"],
                    "to": "research",
                }
            ]
        },
    )

    series: str = Field(max_length=4096, description="Its Series Instance UID.")
    source: str = Field(
        default="",
        max_length=2048,
        description="Name of its source; empty: the one that listed it.",
    )
    structures: tuple[Name, ...] = Field(
        default=("all",),
        max_length=500,
        description="Such as liver, or left kidney; all for everything.",
    )
    forms: tuple[Form, ...] = Field(default=("seg",), min_length=1, description="In which form.")
    files: Literal["together", "each"] = Field(
        default="together", description="each: one NIfTI or NRRD file for each structure."
    )
    packing: Literal["native", "rle", "deflated"] = Field(
        default="native", description="How the pixels of DICOM SEG are packed."
    )
    folder: Literal["series", "none"] = Field(
        default="series",
        description="series: the files lie in a folder with the Series Instance UID as its name.",
    )
    to: str = Field(max_length=2048, description="Where they are put.")

    @property
    def wish(self) -> Wish:
        """Raises BadQuery: nothing can be made like this."""
        return Wish(
            structures=resolve_structures(self.structures, load_terminology()),
            forms=self.forms,
            files=self.files,
            packing=self.packing,
            folder=self.folder,
        )


def deliver_order(settings: Settings, order: Order) -> Delivered:
    """Make the masks that are ordered, now, for whoever has the data folder in their hands.

    Raises:
        BadQuery: no such series is known, or a structure or form.
        Unsuitable: the series makes no volume, or nothing wanted was found.
        Unavailable: source or destination does not answer.
    """
    require_order(settings, order)
    audit_of(settings).write(OWNER, KIND, ",".join(order.structures), **_facts(order))
    return Maker(settings).make(order, datetime.now(UTC))


def require_order(settings: Settings, order: Order) -> None:
    """Raises BadQuery: something in the order means nothing, so that nobody need wait for it."""
    _ = order.wish
    if not Path(order.series).expanduser().is_dir():
        _known_source(settings, order)


def _facts(order: Order) -> dict[str, str]:
    """What the audit log keeps of an order."""
    forms = ",".join(order.forms)
    return {"series_uid": order.series, "forms": forms, "to": order.to.partition("?")[0]}


# --- making them ----------------------------------------------------------------------------------


class Maker:
    """Makes masks, and keeps the models open from one order to the next."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tools: Tools | None = None

    def make(self, order: Order, at: datetime) -> Delivered:
        """Make what is ordered; raises as `segment_series`, and BadQuery as `require_order`.

        Args:
            at: when it was ordered.
        """
        wish, store = order.wish, store_of(self._settings, order.to)
        try:
            with self._located(order) as (series, tools):
                name = self._settings.configuration
                return segment_series(series, tools, wish, store, name, at)
        finally:
            store.close()

    @contextmanager
    def _located(self, order: Order) -> Iterator[tuple[Series, Tools]]:
        """The series, and tools that can fetch it."""
        folder = Path(order.series).expanduser()
        if folder.is_dir():
            with _in_folder(self._settings, folder) as (series, aside, url):
                yield series, self._tools_for(aside, url)
            return
        url = _known_source(self._settings, order)
        tools = self._tools_for(self._settings, url)
        yield _known_series(self._settings, order, tools), tools

    def _tools_for(self, settings: Settings, url: str) -> Tools:
        """Tools with the models that are open already."""
        if self._tools is None:
            self._tools = tools_of(settings, url)
        return replace(self._tools, source=source_of(settings, url))


@contextmanager
def _in_folder(settings: Settings, folder: Path) -> Iterator[tuple[Series, Settings, str]]:
    """The one series in a folder, remembering nothing of it."""
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        aside = settings.model_copy(update={"data": Path(scratch), "pseudonym_key_file": None})
        url = source_url(str(folder))
        found = [one.series for one in source_of(aside, url).find()]
        wanted = [one for one in found if one.modality != "SEG"]
        if len(wanted) != 1:
            uids = ", ".join(one.series_uid for one in wanted[:5]) or "none"
            raise BadQuery(
                f"{folder} holds {len(wanted)} series ({uids}); name one by its UID, with "
                f"--source {folder}"
            )
        yield wanted[0], aside, url


def _known_source(settings: Settings, order: Order) -> str:
    """The source of a series: the one that is named, or that listed it."""
    if order.source:
        return order.source
    states = queue_of(settings).states(order.series)
    if not states:
        raise BadQuery(f"no series {order.series[:64]} was listed; name its source")
    return states[0].source


def _known_series(settings: Settings, order: Order, tools: Tools) -> Series:
    """The series as its source listed it, or lists it now."""
    source = tools.source
    for state in queue_of(settings).states(order.series):
        if state.source == source.url and state.series.study_uid:
            return state.series
    try:
        return source.describe(order.series).series
    except Unavailable:
        # A folder knows only what it has looked through; any other source was asked.
        if urlsplit(source.url).scheme != "folder":
            raise
    found = (one.series for one in source.find() if one.series.series_uid == order.series)
    series = next(found, None)
    if series is None:
        raise BadQuery(f"{source.url} holds no series {order.series[:64]}")
    return series


# --- over HTTP ------------------------------------------------------------------------------------


def place_order(settings: Settings, order: Order, asker: Asker, key: str = "") -> Operation:
    """Remember an order of somebody outside; with a key that they used before, it is that order.

    Raises:
        Forbidden, BadQuery: as `require_placeable`.
    """
    require_placeable(settings, order, asker)
    audit_of(settings).write(asker, KIND, ",".join(order.structures), **_facts(order))
    return operations_of(settings).put(KIND, order.model_dump_json(), asker.name, key)


def place_bridged(settings: Settings, order: Order, key: str) -> Operation:
    """Remember an order that came over the bridge from the predecessor's topic.

    Raises:
        BadQuery: as `require_placeable`.
    """
    require_placeable(settings, order, BRIDGE, bridged_destination)
    audit_of(settings).write(BRIDGE, KIND, ",".join(order.structures), **_facts(order))
    return operations_of(settings).put(KIND, order.model_dump_json(), BRIDGE.name, key)


def require_placeable(
    settings: Settings,
    order: Order,
    asker: Asker,
    known: Callable[[Settings, str], str] = destination_url,
) -> None:
    """Whoever is outside may name what is configured and nothing else.

    Args:
        known: the URL of a destination that may be named; "": it may not.

    Raises:
        Forbidden: they may not see single series, so not their masks either.
        BadQuery: something in the order means nothing here.
    """
    asker.require("rows")
    if not re.fullmatch(UID, order.series):
        raise BadQuery("series is a Series Instance UID")
    if not known(settings, order.to):
        raise no_destination(settings, order.to)
    if order.source:
        task_source(settings, order.source)
    elif not queue_of(settings).states(order.series):
        raise BadQuery(f"no series {order.series[:64]} is known; name its source")
    _ = order.wish


def be_maker(settings: Settings, name: str, stop: Stop) -> None:
    """What the process does that makes the masks of orders."""
    log_to_stderr(settings.log_level, settings.log_format)
    operations, maker = operations_of(settings), Maker(settings)
    while not stop():
        if not make_next(operations, maker.make):
            _rest(IDLE_S, stop)


def make_next(operations: Operations, make: Callable[[Order, datetime], Delivered]) -> bool:
    """Make what was ordered first; False if nothing is to be done now."""
    held = operations.lease({KIND}, LEASE_S)
    if held is None:
        return False
    try:
        with _renewed(operations, held):
            order = Order.model_validate_json(held.request)
            delivered = make(order, datetime.fromisoformat(held.created))
    except (Unsuitable, BadQuery, Misconfigured) as wrong:
        operations.fail(held, str(wrong))
    except Unavailable as unavailable:
        _put_off(operations, held, unavailable)
    except (KeyboardInterrupt, SystemExit):
        operations.give_back(held)
        raise
    except Exception as bug:  # noqa: BLE001 - one bad series must not end who makes the others
        operations.fail(held, describe(bug))
    else:
        operations.finish(held, _result(delivered))
    return True


def _put_off(operations: Operations, held: Operation, unavailable: Unavailable) -> None:
    """Let nobody take an order up for a while; others go on. It counts as an attempt."""
    rest_s = REST_S * REST_FACTOR ** (held.attempt - 1)
    if isinstance(unavailable, Suspended):
        rest_s = max(rest_s, (unavailable.until - datetime.now(UTC)).total_seconds())
    operations.complain(held, f"attempt {held.attempt}: {unavailable}")
    operations.report(held, 0, 1, rest_s)
    facts = {"operation": held.id, "sentence": str(unavailable), "seconds": round(rest_s)}
    log.warning("unavailable", extra=facts)


def _result(delivered: Delivered) -> dict[str, str]:
    """What who ordered is told; where it lies on our disk, they need not know."""
    return {
        "series": delivered.series_uid,
        "structures": ",".join(delivered.structures),
        "missing": ",".join(delivered.missing),
        "files": ",".join(place.rpartition("/")[2] for place in delivered.places),
        "algorithm": delivered.algorithm,
        "loading_s": f"{delivered.loading_s:.3f}",
        "total_s": f"{delivered.total_s:.3f}",
    }


@contextmanager
def _renewed(operations: Operations, held: Operation) -> Iterator[None]:
    """Hold an order for as long as the work on it takes."""
    done = Event()

    def renew() -> None:
        while not done.wait(LEASE_S / 3):
            try:
                operations.report(held, 0, 1, LEASE_S)
            except TomodexError as error:  # the next one may come in time yet
                log.warning("not renewed", extra={"operation": held.id, "sentence": str(error)})

    beat = Thread(target=renew, daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()


def _rest(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop():
        time.sleep(0.1)
