"""A directory tree of DICOM files, and of archives that hold DICOM files.

Series are put together by Series Instance UID, wherever their files lie. Nothing below the folder
is ever written; what is learnt is kept in a catalogue elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path

from tomodex.errors import NotThere, TomodexError, Unavailable, Unsuitable
from tomodex.instance import read_instance
from tomodex.probe import Probe
from tomodex.registry import path_of
from tomodex.series import Listing, Series, series_from
from tomodex.sources import Progress, Window
from tomodex.sources.archive import extract, is_archive, members
from tomodex.sources.catalogue import (
    Catalogue,
    File,
    Found,
    Place,
    Remembered,
    Skipped,
    named_errors,
    require_listed,
)
from tomodex.sources.contents import as_found, as_it_is, read_members

#: Files that a process reads before it hands over what it found.
BATCH = 64

#: Files that are remembered in one transaction: what an interruption may cost.
TRANSACTION = 512

#: Starting processes takes about as long as reading this many files (0.6 ms each, measured).
WORTH_PROCESSES = 2_000

#: Entries of the folder that a probe counts at most.
LOOK = 10_000

#: What an archive counts for in that.
ARCHIVE_WEIGHT = 200


class FolderSource:
    """`folder:///data/archive`"""

    #: A window is found by looking at all files, so that days are not asked for one by one.
    lists_by_day = False

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
        self._free_text = free_text
        self._has_looked = False  # wholly, so that the catalogue holds what the folder does
        self._settings = f"free_text={free_text} key={pseudonymize('tomodex catalogue')}"
        name = hashlib.blake2b(os.fsencode(self._root), digest_size=8).hexdigest()
        with named_errors():
            self._catalogue = Catalogue(state / f"folder-{name}.db", self._root, pseudonymize)

    # --- Source ---------------------------------------------------------------------------------

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """List every series, by UID, after looking for files that are new, changed or gone.

        `progress` counts files looked at: all of them, also for a window. Only those that are new
        or changed are read, and one header of each series, for its description.
        """
        with named_errors():
            with self._catalogue.alone():
                self._look(progress or _silent)
            for series_uid in self._catalogue.series_uids():
                remembered = self._catalogue.instances(series_uid)
                if remembered and _is_within(window, remembered):
                    yield self._listing(series_uid, remembered)

    def describe(self, series_uid: str) -> Listing:
        """List one series as the last `find` saw it.

        Raises:
            NotThere: it is not in the folder, which this source has looked through.
            Unavailable: it is not known from the looks of others.
        """
        with named_errors():
            return self._listing(series_uid, self._known(series_uid))

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """The files of a series where they lie; those in archives are unpacked `into`."""
        with named_errors():
            places = [one.place for one in self._known(series.series_uid)]
        return self._files(places, into / "instances")

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances that refer to the series."""
        with named_errors():
            places = [place for place, _ in self._catalogue.segmentations(series.series_uid)]
        return self._files(places, into / "segmentations")

    def probe(self) -> Iterator[Probe]:
        """Whether the folder is there, can be listed, and holds anything."""
        try:
            count = sum(1 for _ in islice(os.scandir(self._root), LOOK))
        except OSError as refused:
            yield Probe(
                subject="folder",
                verdict="wrong",
                sentence=f"{self._root} cannot be listed: {refused.strerror}",
                advice="see that it is mounted, and that this user may read it",
            )
            return
        some = f"{count:,} entries" if count < LOOK else f"{LOOK:,} entries or more"
        yield Probe(
            subject="folder",
            verdict="ok" if count else "doubtful",
            sentence=f"{self._root} can be listed: {some}",
            advice="" if count else "see that it is mounted",
        )
        yield from self._probe_catalogue()

    def _probe_catalogue(self) -> Iterator[Probe]:
        try:
            with named_errors():
                known = self._catalogue.count()
        except TomodexError as error:
            advice = "delete folder-*.db in the data folder: it is made again"
            yield Probe(subject="catalogue", verdict="wrong", sentence=str(error), advice=advice)
        else:
            sentence = f"{known:,} files are known"
            yield Probe(subject="catalogue", verdict="ok", sentence=sentence)

    # --- what was left out ----------------------------------------------------------------------

    def skipped(self) -> dict[str, int]:
        """How many files hold no instance, by reason: not_dicom, unreadable, archive ..."""
        return dict(self._catalogue.skipped())

    def skipped_files(self, reason: str) -> Iterator[tuple[str, str]]:
        """Path and sentence of each file that was skipped for a reason. Paths may name patients."""
        return self._catalogue.skipped_files(reason)

    # --- looking --------------------------------------------------------------------------------

    def _look(self, progress: Progress) -> None:
        """Bring the catalogue up to what is in the folder."""
        if not self._root.is_dir():
            raise Unavailable(f"{self.url} is not there, or is no folder")
        self._catalogue.begin(self._settings)
        looked = _Counter(progress)
        changed = self._changed(looked)
        read = _read_all(changed, partial(_read, os.fsencode(self._root), self._free_text))
        while batch := list(islice(read, TRANSACTION)):
            self._catalogue.remember(batch)
        self._catalogue.end()
        self._has_looked = True
        progress(looked.count, looked.count)

    def _changed(self, looked: _Counter) -> Iterator[File]:
        """Files that the catalogue does not know as they are."""
        for found in _walk(os.fsencode(self._root)):
            if isinstance(found, File):
                looked.add_one()
                if not self._catalogue.knows(found):
                    yield found
            elif found == b"":
                raise Unavailable(f"{self.url} cannot be listed")
            else:
                self._catalogue.keep_below(found)
                yield File(found, b"", 0, 0)

    # --- listing --------------------------------------------------------------------------------

    def _known(self, series_uid: str) -> list[Remembered]:
        remembered = self._catalogue.instances(series_uid)
        if not remembered:
            if not self._has_looked:
                require_listed(self._catalogue, self.url)
            error = NotThere if self._has_looked else Unavailable
            raise error(f"{self.url} has no series {series_uid}, when it was listed last")
        return remembered

    def _listing(self, series_uid: str, remembered: Sequence[Remembered]) -> Listing:
        description = self._description(remembered[0].place)
        instances = tuple(replace(one.instance, description=description) for one in remembered)
        series = series_from(
            instances,
            [one.size for one in remembered],
            series_uid=series_uid,
            study_uid=min(one.study_uid for one in remembered),
            segmentation_uids=[uid for _, uid in self._catalogue.segmentations(series_uid)],
        )
        return Listing(series=series, instances=instances)

    def _description(self, place: Place) -> str:
        """Series Description, read again: it is free text, so it is not kept.

        Not from an archive: that could mean to unpack all of it. Nothing is lost but time: the
        series is judged again, from all its headers, when it is indexed.
        """
        if place.member >= 0:
            return ""
        try:
            instance = read_instance(self._root / place.path, _nobody)
        except (Unavailable, Unsuitable):
            return ""
        return instance.description if instance else ""

    def _files(self, places: Sequence[Place], into: Path) -> list[Path]:
        """Where the instances can be read, in this order; archives are unpacked once each."""
        files = []
        wanted: dict[Path, dict[int, Path]] = {}
        for number, place in enumerate(places):
            path = self._root / place.path
            if place.member >= 0:
                path = wanted.setdefault(path, {}).setdefault(
                    place.member, into / f"{number:06d}.dcm"
                )
            elif not path.is_file():
                raise Unavailable("a file of the series is gone since the folder was listed")
            files.append(path)
        if wanted:
            into.mkdir(parents=True, exist_ok=True)
        for archive, numbers in wanted.items():
            for file in numbers.values():
                file.unlink(missing_ok=True)
            extract(archive, numbers)
        return files


def _is_within(window: Window | None, remembered: Sequence[Remembered]) -> bool:
    """Whether the study is of the window's days; one without a date is of none."""
    if window is None:
        return True
    dates = {str(one.instance.attributes.get("StudyDate", "")) for one in remembered}
    return any(window.first.isoformat() <= day <= window.last.isoformat() for day in dates)


class _Counter:
    """Counts files, and says so now and then."""

    def __init__(self, progress: Progress) -> None:
        self.count = 0
        self._progress = progress

    def add_one(self) -> None:
        self.count += 1
        if self.count % 256 == 0:
            self._progress(self.count, None)


def _silent(done: int, total: int | None) -> None:
    """Progress that nobody asked for."""


def _nobody(identifier: str) -> str:
    """A pseudonym that nobody looks at."""
    return ""


# --- walking ------------------------------------------------------------------------------------


def _walk(root: bytes) -> Iterator[File | bytes]:
    """Every file below `root`; for a folder that cannot be listed, its path within `root`.

    Links are followed to files within `root`, never to folders: what a link shows twice would be
    listed twice, and what lies outside was not asked for.
    """
    real = os.path.realpath(root)
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118  bytes
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(os.path.join(folder, entry.name))  # noqa: PTH118  bytes
                    elif file := _file(entry, folder, real):
                        yield file
        except OSError:
            yield folder


def _file(entry: os.DirEntry[bytes], folder: bytes, real_root: bytes) -> File | None:
    """A regular file, or a link to one within the root; None for anything else."""
    try:
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not target.startswith(real_root + b"/"):
                return None
        status = entry.stat()
    except OSError:  # it went away, or the link points nowhere
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return File(folder, entry.name, status.st_size, status.st_mtime_ns)


# --- reading ------------------------------------------------------------------------------------

_Read = tuple[File, list[Found | Skipped]]


def _read_all(files: Iterator[File], read: Callable[[File], _Read]) -> Iterator[_Read]:
    """Read files, in as many processes as there are cores if there are enough of them."""
    first: list[File] = []
    weight = 0
    for file in files:
        first.append(file)
        weight += ARCHIVE_WEIGHT if is_archive(os.fsdecode(file.name)) else 1
        if weight >= WORTH_PROCESSES:
            yield from _read_in_processes(first, files, read)
            return
    yield from map(read, first)


def _read_in_processes(
    first: Iterable[File], rest: Iterator[File], read: Callable[[File], _Read]
) -> Iterator[_Read]:
    """The same with processes: Python reads headers on one core only, whatever its threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Not forked: the caller may have threads, whose locks would stay closed in a copy.
    pool = ProcessPoolExecutor(cores, get_context("spawn"), initializer=_follow_parent)
    running: deque[Future[list[_Read]]] = deque()
    try:
        for batch in _batches(first, rest):
            running.append(pool.submit(_read_batch, read, batch))
            if len(running) >= 4 * (cores or 1):
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    except BrokenProcessPool as died:
        raise Unavailable("a process that reads headers died; list the folder again") from died
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Let the parent answer Ctrl-C, and end when it ends, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _batches(first: Iterable[File], rest: Iterator[File]) -> Iterator[list[File]]:
    """Files in batches; an archive, which may hold many, goes alone."""
    batch: list[File] = []
    for files in (first, rest):
        for file in files:
            if is_archive(os.fsdecode(file.name)):
                yield [file]
                continue
            batch.append(file)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _read_batch(read: Callable[[File], _Read], files: Sequence[File]) -> list[_Read]:
    return [read(file) for file in files]


def _read(root: bytes, free_text: bool, file: File) -> _Read:
    """What a file holds: an instance, those in an archive, or why nothing."""
    if not file.name:
        return file, [Skipped(-1, "", "unreadable", "the folder cannot be listed")]
    path = Path(os.fsdecode(root), os.fsdecode(file.folder), os.fsdecode(file.name))
    if is_archive(path.name):
        return file, list(_read_archive(path, os.fsdecode(file.folder), free_text))
    try:
        instance = read_instance(path, as_it_is, free_text)
    except Unsuitable as unsuitable:
        return file, [Skipped(-1, "", unsuitable.reason, unsuitable.sentence)]
    except Unavailable as unavailable:
        return file, [Skipped(-1, "", "unreadable", str(unavailable))]
    return file, [as_found(instance, -1, "", file.size, os.fsdecode(file.folder))]


def _read_archive(path: Path, folder: str, free_text: bool) -> Iterator[Found | Skipped]:
    """The instances in an archive, as far as it can be read."""
    try:
        yield from read_members(members(path), f"{folder}/{path.name}", free_text)
    except Unavailable as unavailable:
        yield Skipped(0, "", "archive", str(unavailable))
