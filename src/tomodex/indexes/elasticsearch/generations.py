"""The indexes on the server that have been ours one after another, and which of them is searched.

An alias, the name in the URL, leads to the one that is searched. While that is made anew, a second
alias, the name with `-next`, leads to the one that is being filled. It takes the place of the
first in one step of the server's. Then a third, the name with `-old`, leads to that one, for as
long as somebody may be reading it who began before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from opensearchpy.exceptions import RequestError

from tomodex.errors import Misconfigured
from tomodex.indexes.elasticsearch.documents import MAPPINGS, SETTINGS, VERSION
from tomodex.indexes.elasticsearch.server import Server

#: Seconds for which an index is left to those who still read it; they may be longer at it than a
#: point in time is kept, but not between two requests.
LEFT_S = 600

#: While an index is filled nobody searches it, and it can be filled again.
_FILLING: Mapping[str, object] = {
    "index.refresh_interval": "-1",
    "index.number_of_replicas": 0,
}


class Generations:
    """The indexes behind the two aliases of a server's name."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.searched = server.name  #: alias
        self.filled = f"{server.name}-next"  #: alias
        self.left = f"{server.name}-old"  #: alias
        self._checked = False

    def ensure(self) -> None:
        """Make an index where there is none.

        Raises:
            Misconfigured: there is one of another version.
        """
        if self._checked:
            return
        behind = self._behind(self.searched)
        if not any(map(self._is_of_ours, behind)):
            if behind:
                raise Misconfigured(
                    f"the index {self.searched} was made by another version of Tomodex; `tomodex "
                    "rebuild` makes it anew from the results"
                )
            self._create(f"{self.searched}-{VERSION}", self.searched, self._settings())
        self._checked = True

    def written(self) -> str:
        """The alias of what is to be written to now."""
        if self._behind(self.filled):
            return self.filled
        self.ensure()
        return self.searched

    def all(self) -> Sequence[str]:
        """The aliases that there are, in which nothing may be left of what is erased."""
        aliases = (self.searched, self.filled, self.left)
        if there := [alias for alias in aliases if self._behind(alias)]:
            return there
        self.ensure()
        return [self.searched]

    def is_filling(self) -> bool:
        """Whether an index is being made anew, or somebody has left off making it."""
        return bool(self._behind(self.filled))

    def clear(self) -> None:
        """Have one empty index."""
        for alias in (self.searched, self.filled, self.left):
            self._delete(self._behind(alias))
        self._checked = False
        self.ensure()

    def renew(self) -> None:
        """Begin to fill another one, in place of any that was begun and left."""
        self._delete(self._behind(self.filled))
        name = f"{self.searched}-{VERSION}-{uuid4().hex[:8]}"
        self._create(name, self.filled, {**self._settings(), **_FILLING})

    def complete(self) -> None:
        """Search the one that was filled from now on, if there is one; remove what nobody reads."""
        if filled := self._behind(self.filled):
            self._exchange(filled, self._behind(self.searched))
            self._checked = True
        self._delete([name for name in self._behind(self.left) if self._is_read_by_nobody(name)])

    def _exchange(self, filled: Sequence[str], searched: Sequence[str]) -> None:
        ours = self._settings()
        actions = [
            *_moved(searched, self.searched, self.left),
            *_moved(filled, self.filled, self.searched),
        ]
        with self._server.asked() as client:
            client.indices.put_settings(index=self.filled, body={n: ours[n] for n in _FILLING})
            client.indices.refresh(index=self.filled)
            for name in searched:
                # Before it is left: without it nobody would know when to remove it.
                meta = {"_meta": {"left_s": time.time()}}
                client.indices.put_mapping(index=name, body=meta)
            client.indices.update_aliases(body={"actions": actions})

    def _is_read_by_nobody(self, name: str) -> bool:
        with self._server.asked() as client:
            mapping = client.indices.get_mapping(index=name)[name]["mappings"]
        return bool(time.time() - mapping["_meta"]["left_s"] > LEFT_S)

    def _is_of_ours(self, name: str) -> bool:
        return name.startswith(f"{self.searched}-{VERSION}")

    def _behind(self, alias: str) -> Sequence[str]:
        """Names of the indexes that an alias leads to."""
        with self._server.asked() as client:
            # By a pattern, as a server answers 404 where one of several names is not there; and of
            # our indexes only, as we may not know of others.
            ours = f"{self.searched}*"
            known = client.indices.get_alias(index=ours, name=ours)
        return sorted(name for name, about in known.items() if alias in about["aliases"])

    def _settings(self) -> Mapping[str, object]:
        options = self._server.options
        return {
            **SETTINGS,
            "index.number_of_shards": options.shards,
            "index.number_of_replicas": options.replicas,
            "index.refresh_interval": f"{options.refresh_s}s",
        }

    def _create(self, name: str, alias: str, settings: Mapping[str, object]) -> None:
        body: Any = {"settings": settings, "mappings": MAPPINGS, "aliases": {alias: {}}}
        with self._server.asked() as client:
            try:
                client.indices.create(index=name, body=body)
            except RequestError as refused:
                # Another process may have been first.
                if refused.error != "resource_already_exists_exception":
                    raise

    def _delete(self, names: Sequence[str]) -> None:
        with self._server.asked() as client:
            for name in names:
                client.indices.delete(index=name)


def _moved(names: Sequence[str], before: str, after: str) -> list[Mapping[str, object]]:
    """Actions by which these are behind another alias than before."""
    return [
        {kind: {"index": name, "alias": alias}}
        for name in names
        for kind, alias in (("remove", before), ("add", after))
    ]
