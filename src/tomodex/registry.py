"""Finds the adapter for a URL: the scheme names it, the rest configures it.

A port keeps a table of its own adapters; other packages add theirs under the entry point
group ``tomodex.<port>``. Both take the same road, and are imported only when named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tomodex.errors import Misconfigured


def open_adapter(port: str, url: str, known: Mapping[str, str], **context: object) -> Any:
    """Call the factory that `known` (scheme -> "module:name") or an entry point has for `url`.

    Raises:
        Misconfigured: no adapter has that scheme, or what it needs is not installed.
    """
    return find_adapter(port, url, known)(url, **context)


def find_adapter(port: str, url: str, known: Mapping[str, str]) -> Callable[..., Any]:
    """The factory for `url`, not yet called; raises as `open_adapter` does."""
    scheme = urlsplit(url).scheme
    others = {e.name: e.value for e in entry_points(group=f"tomodex.{port}")}
    table = {**others, **known}
    if scheme not in table:
        raise Misconfigured(f"no {port} for {url!r}; known: {', '.join(sorted(table))}")
    module, _, name = table[scheme].partition(":")
    try:
        factory: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError as missing:
        extra = scheme.partition("+")[0]
        raise Misconfigured(
            f"{scheme}: needs {missing.name}; pip install 'tomodex[{extra}]'"
        ) from missing
    return factory


def path_of(url: str) -> Path:
    """The file or folder that a `scheme:///path` URL names; empty path for `scheme:`."""
    parts = urlsplit(url)
    return Path(unquote(parts.netloc + parts.path))
