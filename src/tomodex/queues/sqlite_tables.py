"""What the parts of the queue in SQLite need of one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import apsw


class Tables(ABC):
    """The file, to be read and written."""

    @abstractmethod
    def _read(self, sql: str, facts: apsw.Bindings) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _writing_durably(self) -> AbstractContextManager[apsw.Connection]: ...

    @abstractmethod
    def _source_id(self, db: apsw.Connection, url: str) -> int: ...

    @abstractmethod
    def _now_ms(self) -> int: ...
