"""The one place where adapters are opened and put together, from the settings."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlencode, urlsplit

from tomodex.annotation import AnnotatedSeries
from tomodex.answered import AnsweredCrowds
from tomodex.auditlog import AuditLog
from tomodex.bounds import Bounds, Expect, allowed_bytes, ignore
from tomodex.cohorts import Cohorts
from tomodex.disclosure import Disclosure
from tomodex.errors import BadQuery, Misconfigured, Unavailable
from tomodex.exclusions import Exclusions, excluding, take_over
from tomodex.identities import Identities, remembering
from tomodex.indexes import Index, Resident, open_index
from tomodex.instance import read_instance
from tomodex.library import Library
from tomodex.logbook import Logbook
from tomodex.operations import Operations
from tomodex.options import is_bare, without_query
from tomodex.pipeline import Tools, annotate_series
from tomodex.places import (
    bridged_destination,
    in_any_bucket,
    require_place,
    url_of,
    with_the_bucket,
)
from tomodex.preview import Heads, Previews, draw_preview
from tomodex.pseudonym import audit_mark, load_key, pseudonymizer
from tomodex.queues import Movable, Queue, Task, open_queue
from tomodex.registry import path_of
from tomodex.saved import SavedCohorts
from tomodex.segmentation import Segmentation
from tomodex.segmenters import open_segmenter
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.sinks import Sink, open_sink
from tomodex.sources import Source, open_source
from tomodex.sources.archive import SUFFIXES, is_archive
from tomodex.sources.gate import Suspension, suspensions
from tomodex.stores import Store, open_store
from tomodex.terminology import load_terminology

log = logging.getLogger(__name__)

#: Name of the cursor of what forgets previews.
PREVIEWS = "previews:"

#: Sources that a worker keeps open.
OPEN_SOURCES = 16


def source_url(given: str) -> str:
    """A source's URL; a plain path is a folder.

    Raises:
        Misconfigured: the folder is not there.
    """
    url = url_of(given)
    if url != given and not path_of(url).is_dir():
        raise Misconfigured(
            f"{given} is not a folder; a source is a folder, also with archives in it, a URL, or "
            "a name that the settings give one"
        )
    return url


def configured_url(settings: Settings, given: str) -> str:
    """The URL, with all its options, of what a person or a task calls a source.

    A name is looked up in the settings. A URL without options, as tasks carry it, gets those of the
    configured source with that URL; one that has options of its own is left as it is.

    Raises:
        Misconfigured: it is neither; or two configured sources differ in their options only, so
            that nobody could tell whose a task is.
    """
    if given in settings.sources:
        return source_url(settings.sources[given])
    url = source_url(given)
    if urlsplit(url).query:
        return url
    same = _with_the_url(settings, url) or with_the_bucket(settings.sources, url)
    if len(same) > 1:
        raise Misconfigured(
            f"the sources {', '.join(same)} have the same URL but for their options, so tasks "
            "cannot tell them apart"
        )
    if not same:
        return in_any_bucket(settings, url) or url
    options = urlsplit(url_of(settings.sources[same[0]])).query
    return f"{url}?{options}" if options else url


def task_source(settings: Settings, given: str) -> str:
    """What a task calls a configured source: its URL without options.

    Somebody outside may name it, so nothing else may be meant, but one object in a configured
    bucket.

    Raises:
        BadQuery: it is not configured.
    """
    if given in settings.sources:
        return without_query(url_of(settings.sources[given]))
    if is_bare(given) and _with_the_url(settings, given):
        return given
    if is_bare(given) and (
        with_the_bucket(settings.sources, given) or in_any_bucket(settings, given)
    ):
        if not is_archive(urlsplit(given).path):
            raise BadQuery(
                f"{given[:200]} is no archive by its name; an object that is ordered by itself "
                f"ends in one of {', '.join(SUFFIXES)}"
            )
        return given
    known = ", ".join(sorted(settings.sources)) or "none"
    raise BadQuery(f"{given[:200]} is not a configured source; configured are: {known}")


def avoided_sources(settings: Settings) -> frozenset[str]:
    """What tasks call the sources that workers of these settings leave to others."""
    named = (settings.sources.get(given, given) for given in settings.avoid)
    return frozenset(without_query(url_of(url)) for url in named)


def lasting_url(settings: Settings, given: str) -> str:
    """The URL without options by which workers of later runs find this source, and its options.

    Raises:
        Misconfigured: it has options that only this command line knows.
    """
    url = configured_url(settings, given)
    bare = without_query(url)
    if url not in (bare, configured_url(settings, bare)):
        raise Misconfigured(
            f"the workers would not know the options of {bare}: give it a name under [sources] in "
            "the settings"
        )
    return bare


def with_source(settings: Settings, given: str) -> Settings:
    """Settings whose workers open this source as it was given, options included.

    Raises:
        Misconfigured: as `configured_url`.
    """
    url = configured_url(settings, given)
    same = _with_the_url(settings, without_query(url))
    others = {name: u for name, u in settings.sources.items() if name not in same}
    name = same[0] if same else without_query(url)
    return settings.model_copy(update={"sources": {**others, name: url}})


def _with_the_url(settings: Settings, bare: str) -> list[str]:
    """Names of the configured sources that have this URL without its options."""
    return sorted(name for name, u in settings.sources.items() if without_query(url_of(u)) == bare)


def source_of(settings: Settings, given: str) -> Source:
    """The archive that a name or URL means, which gives pseudonyms only."""
    _make_data_folder(settings.data)
    return open_source(
        configured_url(settings, given),
        pseudonymize=pseudonymizer_of(settings),
        state=settings.data,
        free_text=settings.free_text,
    )


def pseudonymizer_of(settings: Settings) -> Callable[[str], str]:
    """The site's pseudonyms, remembered with whose they are where it asks for that."""
    pseudonymize = pseudonymizer(load_key(settings.key_file))
    identities = identities_of(settings)
    return remembering(pseudonymize, identities) if identities else pseudonymize


def identities_of(settings: Settings) -> Identities | None:
    """Whose pseudonyms are; None: the site does not keep it."""
    if not settings.access.identities:
        return None
    _make_data_folder(settings.data)
    return Identities(settings.access.identities_file or settings.data / "identities.db")


def exclusions_of(settings: Settings, queue: Queue) -> Exclusions:
    """Patients who are not to be indexed, as the queue keeps them."""

    def key() -> bytes:
        return hmac.digest(load_key(settings.key_file), b"exclusions", "sha256")

    return Exclusions(queue, key)


def left_alone(settings: Settings) -> list[Suspension]:
    """Archives that nobody asks now, as far as this machine knows."""
    return suspensions(settings.data)


def queue_of(settings: Settings) -> Queue:
    """The queue, made on first use, which takes nothing of patients who are excluded.

    Raises:
        Misconfigured: only a part of another queue was copied into it.
    """
    queue = copied_queue_of(settings)
    if isinstance(queue, Movable) and (copied := queue.copied()):
        queue.close()
        raise Misconfigured(
            f"{copied.origin} was copied into the queue only in part: say `tomodex queue copy` "
            "again, with the settings as they were, and it goes on"
        )
    return queue


def copied_queue_of(settings: Settings) -> Queue:
    """The same, also while another one is copied into it."""
    _make_data_folder(settings.data)
    queue = open_queue(settings.queue_url, settings.data)
    former = settings.data / "exclusions.db"
    if former.exists():
        take_over(former, queue)
    return excluding(queue, exclusions_of(settings, queue))


def logbook_of(settings: Settings) -> Logbook:
    """What was listed of each archive, day by day."""
    _make_data_folder(settings.data)
    return Logbook(settings.data / "discovery.db")


def index_of(settings: Settings) -> Index:
    """The index, made on first use."""
    _make_data_folder(settings.data)
    return open_index(settings.index_url)


def cohorts_of(settings: Settings) -> Cohorts:
    """What answers questions of people."""
    return _cohorts_of(settings, index_of(settings))


def lasting_cohorts_of(settings: Settings) -> Cohorts:
    """The same for a process that answers for long, from memory where its index can."""
    index = index_of(settings)
    if isinstance(index, Resident):
        index.keep_resident()
    return _cohorts_of(settings, index)


class _QueueWhenAsked:
    """A queue that is opened when it is first asked: most questions are about the index alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _queue(self) -> Queue:
        return queue_of(self._settings)

    def __getattr__(self, name: str) -> object:
        return getattr(self._queue, name)


def _cohorts_of(settings: Settings, index: Index) -> Cohorts:
    return Cohorts(
        index,
        load_terminology(),
        cast(Queue, _QueueWhenAsked(settings)),
        disclosure_of(settings),
        audit_of(settings),
    )


def disclosure_of(settings: Settings) -> Disclosure:
    """What decides what viewers are told."""
    _make_data_folder(settings.data)
    access = settings.access
    answered = AnsweredCrowds(settings.data / "answered.db", access.questions_a_day)
    key = hmac.digest(load_key(settings.key_file), b"disclosure", "sha256")
    return Disclosure(key, access.fewest_patients, answered)


def audit_of(settings: Settings) -> AuditLog:
    """Who asked what, and what became known to them."""
    _make_data_folder(settings.data)
    return AuditLog(settings.data / "audit.jsonl", partial(audit_mark, settings.key_file))


def library_of(settings: Settings, cohorts: Cohorts) -> Library:
    """What people take away from a search; saved cohorts lie in the data folder."""
    _make_data_folder(settings.data)
    return Library(cohorts, saved_of(settings), audit_of(settings))


def saved_of(settings: Settings) -> SavedCohorts:
    """The frozen lists, for whoever has to take an erased patient out of them."""
    return SavedCohorts(settings.data / "saved.db")


def store_of(settings: Settings, given: str) -> Store:
    """Where files are put: a configured destination or a folder in one, a URL or a folder.

    Raises:
        BadQuery: it is a word that is like none of these, or a URL cut short.
    """
    known = bridged_destination(settings, given)
    if not known:
        require_place(settings, given)
    _make_data_folder(settings.data)
    return open_store(url_of(known or given), settings.data)


def operations_of(settings: Settings) -> Operations:
    """What somebody asked for that takes long."""
    _make_data_folder(settings.data)
    return Operations(settings.data / "operations.db")


def require_data(settings: Settings) -> None:
    """Refuse to answer from where nothing was ever indexed, such as the wrong folder.

    Raises:
        Misconfigured: the data folder is not there, and the settings name no other place.
    """
    if not (settings.data.is_dir() or settings.queue or settings.index):
        raise Misconfigured(
            f"nothing was indexed in {settings.data}, which is not there; `tomodex index SOURCE` "
            "makes it, `tomodex --data FOLDER` names another"
        )


def _make_data_folder(folder: Path) -> None:
    """Make it for its owner only: what lies in it holds UIDs, dates and pseudonyms."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as refused:
        raise Misconfigured(f"cannot make the folder {folder}: {refused.strerror}") from refused


def consumers_of(settings: Settings) -> dict[str, Sink]:
    """Everything that the results feed is delivered to, by the name of its cursor."""
    return {name: opened() for name, opened in consumer_openers(settings).items()}


def consumer_openers(settings: Settings) -> dict[str, Callable[[], Sink]]:
    """The same, to be opened one by one."""
    return {
        settings.index_url: partial(index_of, settings),
        **{url: partial(open_sink, url, settings.data) for url in settings.sinks},
        **({PREVIEWS: partial(previews_of, settings)} if _has_previews(settings) else {}),
    }


def previews_of(settings: Settings) -> Previews:
    """The pictures of series, if any were made."""
    return Previews(settings.data / "previews", settings.preview)


def _has_previews(settings: Settings) -> bool:
    """Whether there are pictures, or will be: those of a former setting are forgotten too."""
    return settings.preview != "off" or (settings.data / "previews").is_dir()


def _shower(settings: Settings) -> Callable[[str, Segmentation], None] | None:
    """What keeps the picture of a series; None: the site wants none."""
    if settings.preview == "off":
        return None
    previews, heads = previews_of(settings), cast(Heads, settings.preview.removeprefix("heads "))

    def show(series_uid: str, segmentation: Segmentation) -> None:
        picture = draw_preview(segmentation, heads)
        try:
            if picture is None:
                previews.erase([series_uid])
            else:
                previews.put(series_uid, picture)
        except Unavailable as full:  # a picture is no reason to do without the series
            log.warning("no preview", extra={"series": series_uid, "sentence": str(full)})

    return show


def consumer_names(settings: Settings) -> tuple[str, ...]:
    """Names of everything that the results feed is delivered to."""
    previews = (PREVIEWS,) if _has_previews(settings) else ()
    return (settings.index_url, *settings.sinks, *previews)


def segmenter_urls(settings: Settings) -> tuple[str, ...]:
    """The segmenters, with what the settings say of all of their kind."""
    return tuple(_with_places(url, settings) for url in settings.segmenters)


def weights_folder(settings: Settings) -> Path:
    """Where published models lie on this machine, or will."""
    from tomodex.segmenters.totalsegmentator.models import find_results

    return find_results(settings.weights)


def _with_places(url: str, settings: Settings) -> str:
    """The URL with the places on this machine that it needs and does not say itself."""
    places = {
        "totalsegmentator": {"weights": settings.weights},
        "reference": {"weights": settings.weights, "python": settings.reference_python},
    }
    parts = urlsplit(url)
    said = parse_qs(parts.query)
    more = {
        name: str(place.absolute())
        for name, place in places.get(parts.scheme, {}).items()
        if place is not None and name not in said
    }
    return parts._replace(query="&".join(filter(None, (parts.query, urlencode(more))))).geturl()


def tools_of(settings: Settings, url: str) -> Tools:
    """What a worker needs for the series of one source."""
    return Tools(
        source=source_of(settings, url),
        read=partial(
            read_instance,
            pseudonymize=pseudonymizer_of(settings),
            free_text=settings.free_text,
        ),
        rules=load_rules(settings.rules),
        segmenters=tuple(open_segmenter(url) for url in segmenter_urls(settings)),
        terminology=load_terminology(),
        show=_shower(settings),
    )


def bounds_of(settings: Settings) -> Bounds:
    """What a series may take of a worker."""
    memory = allowed_bytes(settings.memory_gib, settings.workers)
    return Bounds(settings.deadline_s, settings.deadline_factor, memory)


def annotator_of(settings: Settings, expect: Expect = ignore) -> Callable[[Task], AnnotatedSeries]:
    """What a worker does with a task; models are opened once, sources when they are needed.

    A series that a worker did not survive is treated gently: its pixels are decoded by one thread.
    """
    opened: list[Tools] = []

    # Objects of a bucket are sources of their own, so not all stay open.
    @lru_cache(maxsize=OPEN_SOURCES)
    def source(url: str) -> Source:
        return source_of(settings, url)

    def annotate(task: Task) -> AnnotatedSeries:
        if not opened:
            opened.append(replace(tools_of(settings, task.source), expect=expect))
        threads = None if task.attempt == 1 else 1
        tools = replace(opened[0], source=source(task.source), threads=threads)
        return annotate_series(task.series, tools, task.configuration)

    return annotate
