"""Where series come from.

    folder:                         DICOM files and archives of them in a directory   folder.py
    spool:                          what others push to `tomodex receive`             spool.py
    dicomweb+https: dicomweb+http:  servers of QIDO-RS and WADO-RS                    dicomweb/
    dimse:                          a PACS, by C-FIND and C-GET or C-MOVE             dimse/
    s3:                             a bucket with instances, or archives of them      s3/

The scheme of a URL picks one of these; see `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol, cast

from tomodex.probe import Probe
from tomodex.registry import open_adapter
from tomodex.series import Listing, Series

ADAPTERS = {
    "folder": "tomodex.sources.folder:FolderSource",
    "spool": "tomodex.sources.spool:SpoolSource",
    "dimse": "tomodex.sources.dimse.source:DimseSource",
    "dicomweb+https": "tomodex.sources.dicomweb.source:DicomWebSource",
    "dicomweb+http": "tomodex.sources.dicomweb.source:DicomWebSource",
    "s3": "tomodex.sources.s3.source:S3Source",
}


class Progress(Protocol):
    """Is told how far a long listing is; `total` is None while nobody knows."""

    def __call__(self, done: int, total: int | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Studies from one day to another, both included, by their StudyDate (0008,0020)."""

    first: date
    last: date


class Source(Protocol):
    """An archive to read from; nothing in it is ever changed."""

    url: str  #: what it was opened with, without secrets

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """List every series it holds, one at a time; with a window, those of its studies alone.

        What is listed is all there is: an archive that caps its answers is asked again in parts.
        A study without date is in no window.

        Raises:
            Unavailable: the archive did not answer, or not wholly.
        """

    def describe(self, series_uid: str) -> Listing:
        """List one series, with its headers where the archive shows them.

        Raises:
            Unavailable: the archive does not have it, or did not answer.
        """

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """Put the instances of a series where they can be read, and return their files.

        Files that lie on this machine already are returned as they are; the rest goes `into`.

        Raises:
            Unavailable: the archive did not answer, or sent fewer instances than it announced.
        """

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances of the archive that refer to the series."""

    def skipped(self) -> Mapping[str, int]:
        """How many files or objects of the last `find` hold no instance, by reason."""

    def probe(self) -> Iterator[Probe]:
        """Look whether it can be used, for `tomodex doctor`; raises nothing of its own."""


def open_source(url: str, **context: object) -> Source:
    """Open the source that `url` names.

    `context` is what every source gets from the wiring: `pseudonymize` (identifier -> pseudonym),
    `state` (a folder of its own to remember things in), `free_text` (read descriptions too).
    """
    return cast(Source, open_adapter("source", url, ADAPTERS, **context))


Pseudonymize = Callable[[str], str]
