"""Why a series is wanted or not: every rule, for a known series or for files nobody indexed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tomodex.errors import BadQuery
from tomodex.selection import Selection, load_rules, select
from tomodex.series import Listing
from tomodex.settings import Settings
from tomodex.wiring import queue_of, source_of, source_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The verdict on one series, with what led to it."""

    listing: Listing
    selection: Selection

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        chosen, series = self.selection, self.listing.series
        verdict = "wanted" if chosen.wanted else f"{chosen.reason}: {chosen.sentence}"
        return f"{series.series_uid} ({series.instance_count} instances): {verdict}"

    @property
    def summary(self) -> dict[str, object]:
        """The verdict and all that led to it, for a program."""
        return {
            "series_uid": self.listing.series.series_uid,
            "wanted": self.selection.wanted,
            "reason": self.selection.reason,
            "sentence": self.selection.sentence,
            "left_out": dict(self.selection.left_out),
            "checks": self.selection.checks,
        }


def explain(settings: Settings, series_or_path: str) -> Iterator[Explanation]:
    """Judge a series that was listed before, or every series of a folder or file.

    Raises:
        BadQuery: no such series is known, and no such path is there, or one without DICOM.
    """
    rules = load_rules(settings.rules)
    path = Path(series_or_path).expanduser()
    listings = _in_path(settings, path) if path.exists() else _known(settings, series_or_path)
    found = False
    for listing in listings:
        found = True
        yield Explanation(listing=listing, selection=select(listing, rules))
    if not found:
        raise BadQuery(f"{series_or_path} holds no DICOM instance")


def _known(settings: Settings, series_uid: str) -> Iterator[Listing]:
    states = queue_of(settings).states(series_uid)
    if not states:
        raise BadQuery(f"no series {series_uid} was listed, and no such path is there")
    yield source_of(settings, states[0].source).describe(series_uid)


def _in_path(settings: Settings, path: Path) -> Iterator[Listing]:
    """Every series of a folder, or those that a file belongs to, remembering nothing."""
    folder = path if path.is_dir() else path.absolute().parent
    with TemporaryDirectory(prefix="tomodex-") as scratch:
        aside = settings.model_copy(update={"data": Path(scratch), "pseudonym_key_file": None})
        for listing in source_of(aside, source_url(str(folder))).find():
            if path.is_dir() or _holds(listing, path.absolute()):
                yield listing


def _holds(listing: Listing, path: Path) -> bool:
    """Whether a file, or a member of an archive, is one of a series' instances."""
    return any(i.path == str(path) or i.path.startswith(f"{path}!") for i in listing.instances)
