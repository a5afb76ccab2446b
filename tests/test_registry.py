from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tomodex import registry
from tomodex.errors import Misconfigured
from tomodex.registry import open_adapter, path_of

KNOWN = {"fine": "builtins:str", "gone": "no_such_library:Thing"}


def test_the_scheme_picks_the_adapter():
    assert open_adapter("source", "fine:///data", KNOWN) == "fine:///data"


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(Misconfigured, match=r"no source for 'ftp://x'; known: fine, gone"):
        open_adapter("source", "ftp://x", KNOWN)


def test_a_missing_library_names_the_extra():
    with pytest.raises(
        Misconfigured, match=r"needs no_such_library; pip install 'tomodex\[gone\]'"
    ):
        open_adapter("source", "gone:", KNOWN)


def test_another_package_adds_a_scheme_but_takes_none_away(monkeypatch):
    added = [
        EntryPoint("other", "builtins:repr", "tomodex.source"),
        EntryPoint("fine", "builtins:repr", "tomodex.source"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: added)
    assert open_adapter("source", "other:x", KNOWN) == "'other:x'"
    assert open_adapter("source", "fine:x", KNOWN) == "fine:x"


@pytest.mark.parametrize(
    ("url", "path"),
    [("folder:///data/a%20b", "/data/a b"), ("folder://rel/x", "rel/x"), ("sqlite:", ".")],
)
def test_a_url_names_a_path(url, path):
    assert path_of(url) == Path(path)
