"""Log lines on stderr: the event is a word, the facts stand beside it.

Series UIDs may be logged; names, patient IDs, birth dates and descriptions never are. What an
exception or another library says may quote a header, so it is not written: only which it is, and
where in the code.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_tb
from typing import Literal

import orjson

from tomodex.errors import TomodexError

#: What a LogRecord has of its own; everything else came in `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: What every line has, in this order.
_HEAD = ("time", "level", "logger", "event")

Form = Literal["json", "text"]


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(facts_of(record), default=str).decode()


class TextLines(logging.Formatter):
    """The same for a person: the facts as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        facts = facts_of(record)
        head = " ".join(str(facts[name]) for name in _HEAD)
        rest = [f"{name}={value}" for name, value in facts.items() if name not in _HEAD]
        return " ".join([head, *rest]).replace("\n", " ")


class OfOthers(logging.Handler):
    """Writes that a library has said something, and where; never what, which may quote a header."""

    def __init__(self, shown: logging.Handler) -> None:
        super().__init__(logging.WARNING)
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        said = logging.makeLogRecord(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": "library",
                "place": f"{Path(record.pathname).name}:{record.lineno}",
                "exc_info": record.exc_info,
            }
        )
        self._shown.emit(said)


def facts_of(record: logging.LogRecord) -> Mapping[str, object]:
    """Everything that a line says."""
    facts: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat("T", "milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    facts |= {key: value for key, value in vars(record).items() if key not in _OWN}
    if record.exc_info and record.exc_info[1]:
        facts["traceback"] = _traceback(record.exc_info[1])
    return facts


def log_to_stderr(level: str, form: Form = "json") -> None:
    """Send this package's log lines to stderr, from `level` up, and those of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logger = logging.getLogger("tomodex")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    # Where a library has set up nothing else, it would be written as it is.
    logging.lastResort = OfOthers(handler)
    # Libraries warn of odd headers on stderr, in plain text, and quote their values.
    warnings.filterwarnings("ignore", category=UserWarning)


def _traceback(error: BaseException) -> list[str]:
    """What went wrong and where, the outermost place first; only our own errors are quoted."""
    said = f": {error}" if isinstance(error, TomodexError) else ""
    frames = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    places = [f"{Path(code.co_filename).name}:{line} {code.co_name}" for code, line in frames]
    return [*places, f"{type(error).__name__}{said}"]
