"""What a person or a task calls the place of files, and which URL is meant by it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tomodex.errors import BadQuery
from tomodex.options import is_bare, without_query
from tomodex.registry import path_of
from tomodex.settings import Settings


def url_of(given: str) -> str:
    """A URL as it is; a path as that of a folder."""
    if urlsplit(given).scheme and "://" in given:
        return given
    return f"folder://{quote(str(Path(given).expanduser().absolute()))}"


def destination_url(settings: Settings, given: str) -> str:
    """The URL, with its options, of a configured destination or of a folder in a bucket of one.

    Somebody outside may name it; "": it is not configured, or nobody could tell which one it is.
    """
    if given in settings.destinations:
        return settings.destinations[given]
    if not is_bare(given):
        return ""
    around = with_the_bucket(settings.destinations, f"{given.rstrip('/')}/")
    if len(around) != 1:
        return ""
    options = urlsplit(settings.destinations[around[0]]).query
    return f"{given}?{options}" if options else given


def bridged_destination(settings: Settings, given: str) -> str:
    """The same for a task that came over the bridge, which may name any bucket of its store."""
    known = destination_url(settings, given)
    return known or (in_any_bucket(settings, given) if is_bare(given) else "")


def destination_folder(settings: Settings, name: str) -> Path | None:
    """The folder that a configured destination is; None: it is somewhere else."""
    url = url_of(settings.destinations[name])
    return path_of(url) if urlsplit(url).scheme == "folder" else None


def require_place(settings: Settings, given: str) -> None:
    """Refuse to make a folder of what was hardly meant as one.

    Raises:
        BadQuery: it is no folder, and no URL, but a word or begins like one.
    """
    if Path(given).expanduser().is_dir():
        return
    if told := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", given):
        scheme, slashes, rest = told.groups()
        if scheme.casefold() == "file":
            raise BadQuery(f"{given[:200]}: a folder has no scheme; did you mean /{rest[:200]}?")
        if slashes != "//" and slashes != "///":
            meant = f"{scheme}://{rest[:200]}"
            raise BadQuery(f"{given[:200]} is no URL; did you mean {meant}?", suggestions=(meant,))
    elif settings.destinations and os.sep not in given:
        raise no_destination(settings, given)


def no_destination(settings: Settings, given: str) -> BadQuery:
    """What is said of a name that no destination has."""
    near = tuple(get_close_matches(given[:200], settings.destinations, n=3, cutoff=0.5))
    known = ", ".join(sorted(settings.destinations)) or "none"
    meant = f"; did you mean {', '.join(near)}?" if near else f"; configured are: {known}"
    return BadQuery(f"{given[:200]} is no configured destination{meant}", suggestions=near)


def with_the_bucket(places: Mapping[str, str], url: str) -> list[str]:
    """Name of the configured bucket, or of the smallest part of one, that an object lies in."""
    path = unquote(urlsplit(url).path)
    if not url.startswith("s3://") or any(part in (".", "..") for part in path.split("/")):
        return []
    above = {name: f"{without_query(u).rstrip('/')}/" for name, u in places.items()}
    around = [name for name, prefix in above.items() if url.startswith(prefix)]
    longest = max((len(above[name]) for name in around), default=0)
    return sorted(name for name in around if len(above[name]) == longest)


def in_any_bucket(settings: Settings, url: str) -> str:
    """The URL with the options of the store whose every bucket tasks may name; "": there is none.

    The predecessor's tasks name a bucket each, and its settings none.
    """
    parts = urlsplit(url)
    if not settings.bridge.store or parts.scheme != "s3" or not parts.netloc:
        return ""
    if any(part in (".", "..") for part in unquote(parts.path).split("/")):
        return ""
    return f"{url}?{urlsplit(settings.bridge.store).query}"
