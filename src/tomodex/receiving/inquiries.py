"""Asks an archive how many instances its series have: seldom, and never for long at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tomodex.errors import TomodexError, Unavailable
from tomodex.sources import Source
from tomodex.sources.spool_folder import Folder

log = logging.getLogger(__name__)

#: A series is asked about again after so many seconds, twice as many each further time.
FIRST_WAIT_S = 30.0

#: No further question is begun after so many seconds: one slow answer holds up nothing else.
TURN_S = 5.0


@dataclass(slots=True)
class Inquiry:
    """What the archive said of a series as it lies here, and when it is asked again."""

    changed_ns: int  #: of the folder: with a new instance, all of this is void
    next_s: float  #: since 1970
    wait_s: float = FIRST_WAIT_S
    sentence: str = ""  #: why it is not whole
    whole: bool = False  #: nobody has to be asked again
    confirmed: bool = False  #: whole, as the archive says


class Inquiries:
    """What one archive was asked about series that lie here.

    Args:
        here: how many instances of a series do.
        longest_s: between two questions about one series.
        now: seconds since 1970.
    """

    def __init__(
        self,
        archive: Source,
        here: Callable[[str], int],
        longest_s: float,
        now: Callable[[], float],
    ) -> None:
        self._archive = archive
        self._here = here
        self._longest_s = longest_s
        self._now = now
        self._inquiries: dict[str, Inquiry] = {}
        self._fault = ""  # of the settings, as it was last said

    def whole(self, folders: Iterable[Folder]) -> list[Folder]:
        """Those that are whole by what the archive says, or as it can never say."""
        folders = list(folders)
        self._ask_those_due(folders)
        return [folder for folder in folders if self._of(folder).whole]

    def confirmed(self, folder: Folder) -> bool:
        """Whether the archive has said that it has no more of it."""
        inquiry = self._inquiries.get(folder.series_uid)
        return bool(inquiry and inquiry.changed_ns == folder.changed_ns and inquiry.confirmed)

    def forget(self, series_uid: str) -> None:
        """It is put, or gone."""
        self._inquiries.pop(series_uid, None)

    def _of(self, folder: Folder) -> Inquiry:
        inquiry = self._inquiries.get(folder.series_uid)
        if inquiry is None or inquiry.changed_ns != folder.changed_ns:
            inquiry = Inquiry(folder.changed_ns, next_s=self._now())
            self._inquiries[folder.series_uid] = inquiry
        return inquiry

    def _ask_those_due(self, folders: Iterable[Folder]) -> None:
        due = [f for f in folders if not self._of(f).whole and self._of(f).next_s <= self._now()]
        begin = time.monotonic()
        # Who has waited for longest first: a silent archive keeps nobody from its turn.
        for folder in sorted(due, key=lambda f: self._of(f).next_s):
            self._ask(folder.series_uid, self._of(folder))
            if time.monotonic() - begin > TURN_S:
                return

    def _ask(self, series_uid: str, inquiry: Inquiry) -> None:
        try:
            expected = self._archive.describe(series_uid).series.instance_count
        except Unavailable as unavailable:
            self._wait(series_uid, inquiry, str(unavailable))
            return
        except TomodexError as error:
            self._say_fault(str(error))
            inquiry.whole = True  # by its quiet time, as if there were no archive to ask
            return
        here = self._here(series_uid)
        inquiry.whole = expected is None or here >= expected
        inquiry.confirmed = expected is not None and inquiry.whole
        if not inquiry.whole:
            self._wait(series_uid, inquiry, f"{here} of {expected} instances came")

    def _wait(self, series_uid: str, inquiry: Inquiry, sentence: str) -> None:
        """Ask again later, and say why, once for each reason."""
        inquiry.next_s = self._now() + inquiry.wait_s
        inquiry.wait_s = min(2 * inquiry.wait_s, self._longest_s)
        if inquiry.sentence != sentence:
            inquiry.sentence = sentence
            log.info("not whole", extra={"series_uid": series_uid, "sentence": sentence})

    def _say_fault(self, sentence: str) -> None:
        if self._fault != sentence:
            self._fault = sentence
            log.error("the archive cannot be asked", extra={"sentence": sentence})
