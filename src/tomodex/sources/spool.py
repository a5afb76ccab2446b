"""Series that others push to us: what `tomodex receive` keeps in a folder until they are indexed.

A series is found here by its UID and never listed with all others: what lies here comes and goes,
and whatever is whole has been put into the queue by the receiver.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from tomodex.errors import Elsewhere, Misconfigured, NotThere, Unavailable, Unsuitable
from tomodex.instance import SEGMENTATIONS, Instance, read_instance
from tomodex.probe import Probe
from tomodex.registry import path_of
from tomodex.series import Listing, Series, derived_uids, series_from
from tomodex.sources import Progress, Window
from tomodex.sources.spool_folder import Spool

#: After so long a worker looks again whether there is a spool.
NOT_HERE = timedelta(minutes=5)

#: Below this, `doctor` speaks of the disk: 20,000 slices of CT.
LITTLE_BYTES = 10 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A series as it lies in the spool."""

    listing: Listing
    content: str  #: fingerprint of the instances alone
    segmentations: frozenset[str]  #: SOP Instance UIDs of those here that speak of it


class SpoolSource:
    """`spool:///srv/tomodex/spool`"""

    def __init__(
        self,
        url: str,
        *,
        pseudonymize: Callable[[str], str],
        state: Path,
        free_text: bool = False,
    ) -> None:
        self.url = url
        self._root = path_of(url).absolute()
        self._pseudonymize = pseudonymize
        self._free_text = free_text
        self._opened: Spool | None = None

    # --- Source ---------------------------------------------------------------------------------

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """Nothing: whoever asked would take what has left for deleted.

        Raises:
            Misconfigured: always.
        """
        raise Misconfigured(
            f"{self.url} is a spool, which `tomodex receive` puts into the queue by itself, series "
            "by series; there is nothing to discover"
        )

    def describe(self, series_uid: str) -> Listing:
        """List one series, with its headers.

        Raises:
            NotThere: none of its files lies here.
            Unavailable: none that lies here can be read, or the spool is gone.
        """
        seen = self.see(series_uid)
        if seen is None:
            error = Unavailable if self._spool().files(series_uid) else NotThere
            raise error(f"{self.url} has no series {series_uid}; push it again")
        return seen.listing

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """The files of a series where they lie.

        Raises:
            Elsewhere: there is no spool here, so who has received it is another machine.
            Unavailable: the series is not in it any more.
        """
        if not self._root.is_dir():
            raise Elsewhere(
                f"{self._root} is not on this machine; its series are for who received them",
                source=self.url,
                until=datetime.now(UTC) + NOT_HERE,
            )
        files = self._spool().files(series.series_uid)
        if not files:
            raise Unavailable(f"{self.url} has no series {series.series_uid} any more")
        return files

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances that refer to the series."""
        instances = [instance for instance, _ in self._read_all(series.series_uid)]
        found = self._segmentations(series.series_uid, instances)
        return [found[uid] for uid in sorted(found)]

    def skipped(self) -> Mapping[str, int]:
        """Nothing: what is no DICOM was refused when it came."""
        return {}

    def probe(self) -> Iterator[Probe]:
        """How much lies here, and how much more can."""
        if not self._root.is_dir():
            yield Probe(
                subject="spool",
                verdict="wrong",
                sentence=f"{self._root} is not there",
                advice="start `tomodex receive`, which makes it, or correct its setting `spool`",
            )
            return
        try:
            waiting = sum(1 for _ in self._spool().folders())
            free = shutil.disk_usage(self._root).free
        except (Misconfigured, Unavailable, OSError) as refused:
            yield Probe(
                subject="spool",
                verdict="wrong",
                sentence=f"{self._root} cannot be used: {refused}",
                advice="let the user that runs Tomodex read and write it",
            )
            return
        little = free < LITTLE_BYTES
        yield Probe(
            subject="spool",
            verdict="doubtful" if little else "ok",
            sentence=f"{waiting:,} series lie in {self._root}; {free / 2**30:,.1f} GiB are free",
            advice="make room: the receiver refuses what it cannot keep" if little else "",
        )

    # --- reading --------------------------------------------------------------------------------

    def see(self, series_uid: str) -> Seen | None:
        """A series as it lies here; None if nothing of it can be read."""
        read = self._read_all(series_uid)
        if not read:
            return None
        instances, sizes = tuple(one for one, _ in read), [size for _, size in read]
        segmentations = frozenset(self._segmentations(series_uid, instances))
        describe = partial(
            series_from,
            instances,
            sizes,
            series_uid=series_uid,
            study_uid=min(derived_uids(instance, "")[1] for instance in instances),
        )
        return Seen(
            listing=Listing(
                series=describe(segmentation_uids=sorted(segmentations)), instances=instances
            ),
            content=describe().fingerprint,
            segmentations=segmentations,
        )

    def _read_all(self, series_uid: str) -> list[tuple[Instance, int]]:
        """The headers of a series that can be read, each with the size of its file, bytes."""
        return list(self._read(self._spool().files(series_uid)))

    def _read(self, files: Sequence[Path]) -> Iterator[tuple[Instance, int]]:
        for file in files:
            try:
                instance = read_instance(file, self._pseudonymize, self._free_text)
            except Unsuitable:  # the others may make a volume; if not, that is what is reported
                continue
            if instance is not None:
                yield instance, file.stat().st_size

    def _segmentations(self, series_uid: str, instances: Sequence[Instance]) -> dict[str, Path]:
        """The segmentations here that speak of the series, by SOP Instance UID."""
        sop_uids = {instance.sop_uid for instance in instances}
        names = [series_uid, *(f"sop:{uid}" for uid in sop_uids)]
        found: dict[str, Path] = {}
        for by in self._spool().referring(names):
            for instance, _ in self._read_all(by):
                named = series_uid in instance.references
                if named or not sop_uids.isdisjoint(instance.referenced_sop_uids):
                    found[instance.sop_uid] = Path(instance.path)
        return found

    def _spool(self) -> Spool:
        if self._opened is None:
            if not self._root.is_dir():
                raise Unavailable(f"{self.url} is not there")
            self._opened = Spool(self._root)
        return self._opened


def references_of(instances: Sequence[Instance]) -> list[str]:
    """What segmentations speak of, as `Spool.refer` takes it; nothing of other instances."""
    named = {
        name
        for instance in instances
        if instance.sop_class in SEGMENTATIONS
        for name in (
            *instance.references,
            *(f"sop:{uid}" for uid in instance.referenced_sop_uids),
        )
    }
    return sorted(named)
