"""An archive over a network, as far as its listing goes: what it holds stands in a file.

A test changes the file while other processes list it. `{"series": {uid: date}, "down": ""}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tomodex.errors import NotThere, Suspended, Unavailable
from tomodex.options import without_query
from tomodex.probe import Probe
from tomodex.registry import path_of
from tomodex.series import Listing, Series

#: For `tomodex.sources.ADAPTERS`.
ADAPTER = "tests.archives:FileArchive"


class FileArchive:
    """`test:///path/archive.json`; each listing of a window is noted beside it."""

    def __init__(self, url: str, **context: object) -> None:
        self.url = without_query(url)
        self._file = path_of(self.url)

    def find(self, progress=None, window=None) -> Iterator[Listing]:
        held = json.loads(self._file.read_text())
        self._note(window)
        if held.get("down") == "suspended":
            until = datetime.now(UTC) + timedelta(seconds=held.get("for_s", 60))
            raise Suspended("these are not its hours", source=self.url, until=until)
        for uid, day in held["series"].items():
            if window is None or window.first.isoformat() <= day <= window.last.isoformat():
                yield listing_of(uid, day)
        if held.get("down") and (window is None or window.first.isoformat() == held.get("on", "")):
            raise Unavailable(held["down"])

    def describe(self, series_uid: str) -> Listing:
        held = json.loads(self._file.read_text())["series"]
        if series_uid not in held:
            raise NotThere(f"no series {series_uid}")
        return listing_of(series_uid, held[series_uid])

    def skipped(self) -> Mapping[str, int]:
        return {}

    def probe(self) -> Iterator[Probe]:
        yield Probe(subject="archive", verdict="ok", sentence="answers")

    def _note(self, window) -> None:
        with self._file.with_suffix(".log").open("a") as log:
            log.write(f"{window.first} {window.last}\n" if window else "all\n")


def listing_of(uid: str, day: str) -> Listing:
    return Listing(
        series=Series(
            series_uid=uid,
            study_uid=f"{uid}.0",
            patient="p",
            modality="CT",
            instance_count=120,
            fingerprint="120",
            attributes={"StudyDate": day, "Modality": "CT"},
        )
    )


def hold(file: Path, series: Mapping[str, str], **more: object) -> None:
    """Let the archive hold these series, by UID and StudyDate, from now on."""
    half = file.with_suffix(".half")
    half.write_text(json.dumps({"series": dict(series), **more}))
    half.rename(file)


def asked(file: Path) -> list[str]:
    """What it was asked for so far: first and last day of each window, or "all"."""
    log = file.with_suffix(".log")
    return log.read_text().splitlines() if log.exists() else []
