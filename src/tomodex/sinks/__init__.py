"""Where annotated series go, besides the index.

    ndjson:      one JSON line per series   ndjson.py
    fhir+https:  a FHIR R5 server           fhir.py
    dicom+file:  DICOM reports in a folder  dicom.py
    kafka:       a topic                    kafka.py

    dicomweb+https: dimse:  the same into an archive, by STOW-RS or C-STORE

The scheme of a URL picks one of these; see `registry.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from tomodex.annotation import AnnotatedSeries
from tomodex.probe import Probe
from tomodex.registry import open_adapter

ADAPTERS = {
    "ndjson": "tomodex.sinks.ndjson:NdjsonSink",
    "fhir+https": "tomodex.sinks.fhir:FhirSink",
    "fhir+http": "tomodex.sinks.fhir:FhirSink",
    "kafka": "tomodex.sinks.kafka:KafkaSink",
    "dicom+file": "tomodex.sinks.dicom:DicomFileSink",
    "dicomweb+https": "tomodex.sinks.dicom:DicomArchiveSink",
    "dicomweb+http": "tomodex.sinks.dicom:DicomArchiveSink",
    "dimse": "tomodex.sinks.dicom:DicomArchiveSink",
}


class Sink(Protocol):
    """Takes each series any number of times; the last one counts."""

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Write these, and return when they are safe.

        Raises:
            Unavailable: the other side did not take them; nothing was written.
        """

    def erase(self, series_uids: Sequence[str]) -> None:
        """Forget these, which the archive no longer has."""

    def probe(self) -> Iterator[Probe]:
        """Look whether it can be used, for `tomodex doctor`; raises nothing of its own."""

    def close(self) -> None:
        """Give back what it holds open."""


@runtime_checkable
class Ordered(Protocol):
    """A sink that keeps the later of two entries of the feed, in whichever order they come.

    Two that deliver to it at once, the one of them held up for a while, do no harm.
    """

    def write_entries(self, entries: Mapping[int, AnnotatedSeries]) -> None:
        """As `write`, by the entries' places in the feed, unless something later is there."""

    def erase_entries(self, entries: Mapping[int, str]) -> None:
        """As `erase`, by the tombstones' places in the feed, unless something later is there."""


def open_sink(url: str, state: Path | None = None) -> Sink:
    """Open the sink that `url` names; `state` is a folder to remember things in, None: memory."""
    return cast(Sink, open_adapter("sink", url, ADAPTERS, state=state))
