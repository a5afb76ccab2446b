"""Errors, named after what whoever catches them should do.

    Unsuitable     leave this series out, say why, go on          -> task "rejected"
    Unavailable    try again later, nothing is wrong with it      -> task "ready" again
    NotThere       the same, but the archive did answer: it has no such series
    Suspended      the same, and do not ask before a given time   -> task given back untried
    Misconfigured  tell the operator and stop                     -> exit code 2
    BadQuery       tell the person searching what to change       -> exit code 2, HTTP 400
    Forbidden      tell who asks that they may not                -> exit code 2, HTTP 403

Anything else that is raised is a bug: the task is "failed", with its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime


class TomodexError(Exception):
    """Base of every error this package raises on purpose."""


class Unsuitable(TomodexError):
    """The series cannot be indexed, now or later; the message says what is wrong with it."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason  #: stable code of `selection.REASONS`, such as "missing_slice"
        self.sentence = sentence  #: for a person; numbers and units, never patient data


class Unavailable(TomodexError):
    """A system outside did not answer as agreed; the same call may work later."""


class Suspended(Unavailable):
    """Nobody asks this archive now: it did not answer, or these are not its hours."""

    def __init__(self, sentence: str, *, source: str, until: datetime) -> None:
        super().__init__(sentence)
        self.source = source  #: its URL, without secrets
        self.until = until  #: with offset; asked again from then on


class Elsewhere(Suspended):
    """Only workers of another data folder can read this archive: leave it to them."""


class NotThere(Unavailable):
    """The archive answered, and does not have what was asked for."""


class Misconfigured(TomodexError):
    """A setting is missing, contradictory, or needs an extra that is not installed."""

    def __init__(self, sentence: str, *, commands: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.commands = commands  #: what whoever may can type against it, for `tomodex doctor`


class BadQuery(TomodexError):
    """A search asks for something the index does not know; the message offers what it does."""

    def __init__(
        self,
        sentence: str,
        *,
        place: tuple[int, int] | None = None,
        suggestions: tuple[str, ...] = (),
    ) -> None:
        super().__init__(sentence)
        self.place = place  #: (start, end) in the text of the search; None: all of it
        self.suggestions = suggestions  #: what was probably meant there


class Forbidden(TomodexError):
    """Who asks may not do or learn this; the message says which role may."""
