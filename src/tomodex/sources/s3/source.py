"""A bucket, or a part of one, as a source of series.

What is learnt of its objects is kept in a catalogue as that of a folder is, by their keys and
ETags: listed again, only new and changed objects are read.
"""

from __future__ import annotations

import hashlib
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

from tomodex.errors import NotThere, TomodexError, Unavailable, Unsuitable
from tomodex.instance import SEGMENTATIONS, Instance, read_instance, read_instance_from
from tomodex.options import read_options, without_query
from tomodex.probe import Probe
from tomodex.series import Listing, Series, series_from
from tomodex.sources import Progress, Window
from tomodex.sources.archive import Member, is_archive, members_of, take, write_member
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
from tomodex.sources.gate import Gate
from tomodex.sources.s3.bucket import Bucket, Gone, Object, S3Options
from tomodex.sources.s3.stream import ObjectStream

#: Objects that are remembered in one transaction: what an interruption may cost.
TRANSACTION = 512

#: Two clocks further apart than this, and signatures are soon refused (after 15 minutes).
SKEW_S = 60.0

#: The number of a member that stands for all of an archive.
WHOLE = -1

_Read = tuple[File, list[Found | Skipped]]


class S3Source:
    """`s3://bucket/prefix?endpoint=https://s3.example:9000&layout=archives`"""

    #: A window is found by looking at all keys, so that days are not asked for one by one.
    lists_by_day = False

    def __init__(
        self,
        url: str,
        *,
        pseudonymize: Callable[[str], str],
        state: Path,
        free_text: bool = False,
    ) -> None:
        self.url = without_query(url)
        self._options = read_options(url, S3Options)
        parts = urlsplit(self.url)
        self._is_object = is_archive(parts.path)
        # Objects may be sources of their own, millions of them: the store is one.
        store = f"s3://{parts.netloc}" if self._is_object else self.url
        self._bucket = Bucket(url, self._options, Gate(store, state, self._options))
        self._free_text = free_text
        self._has_looked = False  # wholly, so that the catalogue holds what the bucket does
        self._settings = (
            f"layout={self._options.layout} free_text={free_text} "
            f"key={pseudonymize('tomodex catalogue')}"
        )
        with named_errors():
            self._catalogue = Catalogue(self._catalogue_file(state), Path("/"), pseudonymize)

    def _catalogue_file(self, state: Path) -> Path:
        """Where the catalogue is; that of a single object is not kept."""
        if self._is_object:
            folder = mkdtemp(prefix="tomodex-s3-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return Path(folder, "catalogue.db")
        # Another endpoint may have a bucket of the same name.
        name = hashlib.blake2b(f"{self._options.endpoint} {self.url}".encode(), digest_size=8)
        return state / f"s3-{name.hexdigest()}.db"

    # --- Source ---------------------------------------------------------------------------------

    def find(
        self, progress: Progress | None = None, window: Window | None = None
    ) -> Iterator[Listing]:
        """List every series, by UID, after looking for objects that are new, changed or gone.

        `progress` counts objects looked at: all of them, also for a window.
        """
        with named_errors():
            with self._catalogue.alone():
                self._look(progress or _silent)
            for series_uid in self._catalogue.series_uids():
                if remembered := self._catalogue.instances(series_uid):
                    listing = self._listing(series_uid, remembered)
                    if window is None or _is_within(window, listing.series):
                        yield listing

    def describe(self, series_uid: str) -> Listing:
        """List one series as the last `find` saw it.

        Raises:
            NotThere: it is not in the bucket, which this source has looked through.
            Unavailable: it is not known from the looks of others, or may be in an object that
                cannot be had.
        """
        with named_errors():
            return self._listing(series_uid, self._known(series_uid))

    def retrieve(self, series: Series, into: Path) -> Sequence[Path]:
        """The instances of a series in files `into`; objects that are archives are unpacked."""
        with named_errors():
            places = [one.place for one in self._known(series.series_uid)]

        def is_wanted(instance: Instance) -> bool:
            return instance.series_uid in (series.series_uid, "")

        return self._files(places, into / "instances", is_wanted)

    def retrieve_segmentations(self, series: Series, into: Path) -> Sequence[Path]:
        """The same for the DICOM SEG instances that refer to the series."""
        with named_errors():
            places = [place for place, _ in self._catalogue.segmentations(series.series_uid)]

        def is_wanted(instance: Instance) -> bool:
            return instance.sop_class in SEGMENTATIONS

        return self._files(places, into / "segmentations", is_wanted)

    def skipped(self) -> Mapping[str, int]:
        """How many objects hold no instance, by reason: not_dicom, unreadable, archive ..."""
        return dict(self._catalogue.skipped())

    def probe(self) -> Iterator[Probe]:
        """Whether it answers, and lets us list and read."""
        try:
            some = list(islice(self._bucket.objects(), 1000))
        except TomodexError as wrong:
            advice = "try `aws s3 ls` with the same endpoint and credentials on this machine"
            yield Probe(subject="list", verdict="wrong", sentence=str(wrong), advice=advice)
            return
        yield Probe(
            subject="list",
            verdict="ok" if some else "doubtful",
            sentence=f"{len(some)}{' or more' if len(some) == 1000 else ''} objects",
            advice="" if some else "see that bucket and prefix are the right ones",
        )
        yield from self._probe_reading(some)
        yield _clock(self._bucket.clock_skew_s)

    def _probe_reading(self, some: Sequence[Object]) -> Iterator[Probe]:
        one = next((one for one in some if one.size), None)
        if one is None:
            return
        try:
            size = len(self._bucket.piece(one.key, 0, 1024).data)
            yield Probe(subject="read", verdict="ok", sentence=f"{size} bytes of an object")
        except TomodexError as wrong:
            advice = "permit GetObject as well as ListBucket"
            yield Probe(subject="read", verdict="wrong", sentence=str(wrong), advice=advice)

    # --- looking --------------------------------------------------------------------------------

    def _look(self, progress: Progress) -> None:
        """Bring the catalogue up to what is in the bucket."""
        self._catalogue.begin(self._settings)
        count = 0

        def changed() -> Iterator[tuple[Object, File]]:
            nonlocal count
            for one in self._bucket.objects():
                count += 1
                if count % 256 == 0:
                    progress(count, None)
                if not self._catalogue.knows(file := _file(one)):
                    yield one, file

        read = self._read_all(changed())
        while batch := list(islice(read, TRANSACTION)):
            self._catalogue.remember(batch)
        self._catalogue.end()
        self._has_looked = True
        progress(count, count)

    def _read_all(self, objects: Iterator[tuple[Object, File]]) -> Iterator[_Read]:
        """Read objects, as many at once as the store may be asked for; it is what is waited for."""
        running: deque[Future[_Read]] = deque()
        pool = ThreadPoolExecutor(self._options.simultaneous)
        try:
            for one, file in objects:
                running.append(pool.submit(self._read, one, file))
                if len(running) >= 4 * self._options.simultaneous:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, one: Object, file: File) -> _Read:
        """What an object holds, or why nothing."""
        try:
            return file, list(self._contents(one))
        except Unsuitable as unsuitable:
            return file, [Skipped(WHOLE, "", unsuitable.reason, unsuitable.sentence)]
        except Gone as gone:
            # With another time than it has, so that it is read again next time.
            return file._replace(mtime_ns=-1), [Skipped(WHOLE, "", "unreadable", str(gone))]

    def _contents(self, one: Object) -> Iterator[Found | Skipped]:
        if one.size == 0:
            yield Skipped(WHOLE, "", "not_dicom", "it is empty")
        elif not is_archive(one.key):
            stream = cast(BinaryIO, ObjectStream(self._bucket, one.key))
            instance = read_instance_from(stream, one.key, as_it_is, self._free_text)
            yield as_found(instance, WHOLE, "", one.size, self._inside(one.key)[0])
        elif self._options.layout == "archives":
            yield self._first_of(one)
        else:
            yield from self._instances(one.key)

    def _first_of(self, one: Object) -> Found | Skipped:
        """The first instance of an archive, which stands for all of them."""
        reason, sentence = "not_dicom", "an archive without instances"
        for member in self._instances(one.key):
            if isinstance(member, Found):
                # Nothing but the ETag tells that something else in the archive has changed.
                return member._replace(member=WHOLE, name="", size=_number(one.etag))
            reason, sentence = member.reason, member.sentence
        return Skipped(WHOLE, "", reason, sentence)

    def _instances(self, key: str) -> Iterator[Found | Skipped]:
        return read_members(self._members(key), "/".join(self._inside(key)), self._free_text)

    def _inside(self, key: str) -> tuple[str, str]:
        """Folder and name of an object below the prefix: as those of a file in a folder."""
        folder, _, name = key.rpartition("/")
        if key == self._bucket.prefix:
            return "", name
        return folder.removeprefix(self._bucket.prefix.rstrip("/")).removeprefix("/"), name

    def _members(self, key: str) -> Iterator[Member]:
        stream = ObjectStream(self._bucket, key)
        return members_of(cast(BinaryIO, stream), key, stream.size)

    # --- listing --------------------------------------------------------------------------------

    def _known(self, series_uid: str) -> list[Remembered]:
        remembered = self._catalogue.instances(series_uid)
        if not remembered and self._is_object:
            # Looking at all there is costs no more than asking for it.
            with self._catalogue.alone():
                self._look(_silent)
            remembered = self._catalogue.instances(series_uid)
        if not remembered:
            if not self._has_looked:
                require_listed(self._catalogue, self.url)
            is_sure = self._has_looked and "unreadable" not in self._catalogue.skipped()
            error = NotThere if is_sure else Unavailable
            raise error(f"{self.url} has no series {series_uid}, when it was listed last")
        return remembered

    def _listing(self, series_uid: str, remembered: Sequence[Remembered]) -> Listing:
        instances = tuple(_named(one) for one in remembered)
        series = series_from(
            instances,
            [one.size for one in remembered],
            series_uid=series_uid,
            study_uid=min(one.study_uid for one in remembered),
            segmentation_uids=[uid for _, uid in self._catalogue.segmentations(series_uid)],
        )
        if any(_is_whole(one.place) for one in remembered):
            return Listing(series=replace(series, instance_count=None))
        return Listing(series=series, instances=instances)

    # --- retrieving -----------------------------------------------------------------------------

    def _files(
        self, places: Sequence[Place], into: Path, is_wanted: Callable[[Instance], bool]
    ) -> list[Path]:
        """Where the instances are now, each archive unpacked once.

        Raises:
            Unsuitable: an archive is broken ("archive").
            Unavailable: an object is gone, the store did not answer, or the disk is full.
        """
        files: list[Path] = []
        by_key: dict[str, list[int]] = {}
        for place in places:
            by_key.setdefault(_key(place.path), []).append(place.member)
        if places:
            into.mkdir(parents=True, exist_ok=True)
        try:
            for number, (key, numbers) in enumerate(by_key.items()):
                files += self._fetch(key, numbers, into / f"{number:06d}", is_wanted)
        except (OSError, TomodexError) as failed:
            for file in into.glob("*"):
                file.unlink()
            if isinstance(failed, OSError):
                sentence = f"cannot write to {into}: {failed.strerror}"
                raise Unavailable(sentence) from failed
            raise
        return files

    def _fetch(
        self, key: str, numbers: Sequence[int], into: Path, is_wanted: Callable[[Instance], bool]
    ) -> list[Path]:
        """The instances of one object in files whose names begin as `into` does."""
        for old in into.parent.glob(f"{into.name}*"):
            old.unlink()
        if not is_archive(key):
            file = into.with_suffix(".dcm")
            self._bucket.save(key, file)
            return [file]
        if WHOLE in numbers:
            return self._unpack(key, into, is_wanted)
        wanted = {number: Path(f"{into}-{number:06d}.dcm") for number in numbers}
        take(self._members(key), wanted)
        return list(wanted.values())

    def _unpack(self, key: str, into: Path, is_wanted: Callable[[Instance], bool]) -> list[Path]:
        """Those instances of an archive that are wanted; it was only begun when it was listed."""
        files = []
        for member in self._members(key):
            file = Path(f"{into}-{member.number:06d}.dcm")
            write_member(member, file)
            if _is_wanted(file, is_wanted):
                files.append(file)
            else:
                file.unlink()
        if not files:
            raise Unavailable(f"{self.url}: an archive changed since it was listed")
        return files


def _is_wanted(file: Path, is_wanted: Callable[[Instance], bool]) -> bool:
    """Whether a file is one of the instances; a broken one is judged when it is opened."""
    try:
        instance = read_instance(file, as_it_is)
    except Unsuitable:
        return True
    return instance is not None and is_wanted(instance)


def _is_within(window: Window, series: Series) -> bool:
    day = str(series.attributes.get("StudyDate", ""))
    return window.first.isoformat() <= day <= window.last.isoformat()


def _clock(skew_s: float | None) -> Probe:
    if skew_s is None:
        return Probe(subject="clock", verdict="ok", sentence="the store does not say its time")
    return Probe(
        subject="clock",
        verdict="ok" if skew_s <= SKEW_S else "doubtful",
        sentence=f"{skew_s:.0f} s apart",
        advice="" if skew_s <= SKEW_S else "let both take their time from the same NTP server",
    )


def _silent(done: int, total: int | None) -> None:
    """Progress that nobody asked for."""


# --- keys as the catalogue knows them -----------------------------------------------------------


def _file(one: Object) -> File:
    """An object as a file of the catalogue: its key whatever is in it, its ETag as a time."""
    name = one.key.rpartition("/")[2]
    folder = one.key.removesuffix(name) if name else one.key
    return File(_quoted(folder), _quoted(name), one.size, _number(one.etag))


def _quoted(text: str) -> bytes:
    """Part of a key as one name of a file, so that "..", "//" and the like stay what they are."""
    return quote(text, safe="").replace(".", "%2E").encode() or b"%"


def _key(path: Path) -> str:
    return "".join("" if part == "%" else unquote(part) for part in path.parts)


def _is_whole(place: Place) -> bool:
    """Whether it is an archive of which only the first instance is known."""
    return place.member == WHOLE and is_archive(_key(place.path))


def _named(one: Remembered) -> Instance:
    """An instance under the key of its object."""
    key = _key(one.place.path)
    inside = one.instance.path.partition("!")[2]
    return replace(one.instance, path=f"{key}!{inside}" if inside else key)


def _number(etag: str) -> int:
    """63 bits that change with an ETag."""
    return int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "big") >> 1
