"""Weights of models on this machine: what is there, whether it is right, and how it gets there.

Nothing here is called while series are indexed: a machine without internet stays without.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Literal, cast
from urllib.parse import urlsplit

from tomodex.errors import Misconfigured, Unavailable, Unsuitable
from tomodex.nnunet.checkpoint import read_checkpoint
from tomodex.nnunet.model import read_model
from tomodex.segmenters.totalsegmentator.models import MODELS, TASKS, Model
from tomodex.sources.archive import Limits, extract, is_archive, members

Verdict = Literal["official", "unknown", "different", "broken"]
Progress = Callable[[int, int], None]  #: told how many bytes are there, and of how many

#: Of an archive with weights. The largest of TotalSegmentator's has 0.3 GB.
MAX_BYTES = 4 * 2**30
#: What of a trained-model folder is needed: nnU-Net leaves pictures and logs besides.
_NEEDED = re.compile(
    r"(?:^|/)(?P<dataset>Dataset\d{3}_[\w.-]{1,100})/(?P<model>\w{1,100}__\w{1,50}__\w{1,50})/"
    r"(?P<file>plans\.json|dataset\.json|fold_\d/checkpoint_final\.pth)$",
    re.ASCII,
)
_LIMITS = Limits(members=10_000, member_bytes=MAX_BYTES, total_bytes=4 * MAX_BYTES)
_TIMEOUT_S = 60.0
_CHUNK = 2**20
#: A broken connection is made again as long as each brings something, and so often at most.
_FRUITLESS = 3
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A trained model that lies on this machine."""

    number: int  #: of nnU-Net's data set
    name: str  #: of nnU-Net's data set
    folder: Path  #: with plans.json
    size_bytes: int  #: of its checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a look into an installed model says."""

    installed: Installed
    weights_sha256: str  #: of the checkpoint; "" where it is broken
    verdict: Verdict
    sentence: str  #: for a person


def list_weights(results: Path) -> list[Installed]:
    """The trained models in a folder of nnU-Net results, by number; nothing large is read."""
    found = (_installed(plans.parent) for plans in results.glob("Dataset*/*__*__*/plans.json"))
    return sorted(filter(None, found), key=lambda one: (one.number, str(one.folder)))


def verify_weights(results: Path) -> Iterator[Verified]:
    """Read each installed model, and compare its checkpoint with the published one's SHA-256."""
    for installed in list_weights(results):
        yield _verify(installed)


def models_named(text: str) -> tuple[Model, ...]:
    """The published models that "297", "total" (at 3 mm) or "total/1.5" names.

    Raises:
        Misconfigured: it names none.
    """
    if text.isdecimal() and int(text) in MODELS:
        return (MODELS[int(text)],)
    name, _, resolution = text.partition("/")
    for task in TASKS:
        if (task.name, task.resolution) == (name, resolution or "3"):
            return tuple(MODELS[number] for number in task.models)
    known = ", ".join(f"{task.name}/{task.resolution}" for task in TASKS)
    numbers = ", ".join(map(str, sorted(MODELS)))
    raise Misconfigured(f"no weights are called {text!r}; there are {known} and {numbers}")


def import_weights(given: Path, results: Path) -> list[str]:
    """Bring the models in a folder or archive into `results`; return the names of their data sets.

    Of an archive no path is used, only members called as nnU-Net calls its files, and no model is
    put in place before it was read. What is there already stays, if it is the same.

    Raises:
        Misconfigured: there is no model in it, one cannot be read, or another is in its place.
    """
    results.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".importing-", dir=results) as scratch:
        try:
            _unpack(given, Path(scratch))
        except (Unsuitable, Unavailable, OSError) as trouble:
            raise Misconfigured(f"{given}: {trouble}") from trouble
        folders = sorted(plans.parent for plans in Path(scratch).glob("*/*/plans.json"))
        if not folders:
            raise Misconfigured(
                f"{given}: there is no folder DatasetNNN_*/*__*__*/ with plans.json"
            )
        for folder in folders:
            _read(folder)
        for folder in folders:
            _put(folder, results / folder.parent.name / folder.name)
    return [folder.parent.name for folder in folders]


def fetch_weights(model: Model, results: Path, progress: Progress | None = None) -> None:
    """Download a published model into `results`; what an earlier attempt got is not fetched again.

    Raises:
        Unavailable: the server did not answer, or stopped in the middle; what came is kept.
        Misconfigured: it has no such file, or one of another SHA-256 than was published.
    """
    results.mkdir(parents=True, exist_ok=True)
    part = results / f".{model.name}.zip.part"
    _download(model.url, part, progress or (lambda done, of: None))
    with part.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if model.archive_sha256 not in ("", found):
        _forget(part)
        raise Misconfigured(
            f"{model.url} has the SHA-256 {found}, but {model.archive_sha256} was published;"
            " nothing was kept"
        )
    archive = part.with_suffix("")
    part.replace(archive)
    try:
        import_weights(archive, results)
    finally:
        archive.unlink()
        _forget(part)


# --- what is there ------------------------------------------------------------------------------


def _installed(folder: Path) -> Installed | None:
    number = re.match(r"Dataset(\d{3})_", folder.parent.name)
    if number is None:
        return None
    return Installed(
        number=int(number[1]),
        name=folder.parent.name,
        folder=folder,
        size_bytes=sum(f.stat().st_size for f in folder.glob("fold_*/checkpoint_final.pth")),
    )


def _verify(installed: Installed) -> Verified:
    try:
        found = _read(installed.folder)
    except Misconfigured as broken:
        return Verified(
            installed=installed, weights_sha256="", verdict="broken", sentence=str(broken)
        )
    verdict, sentence = _judge(MODELS.get(installed.number), found)
    return Verified(installed=installed, weights_sha256=found, verdict=verdict, sentence=sentence)


def _read(folder: Path) -> str:
    """The SHA-256 of the checkpoint of a model that can be read to its last weight."""
    model = read_model(folder)
    read_checkpoint(model.checkpoint, model.weights_sha256)
    return model.weights_sha256


def _judge(published: Model | None, found: str) -> tuple[Verdict, str]:
    if published is None:
        return "unknown", "this model is none of TotalSegmentator's that we know"
    if not published.checkpoint_sha256:
        return "unknown", f"the checksum of {published.release} is not known to us; compare {found}"
    if published.checkpoint_sha256 == found:
        return "official", f"as published in {published.release}"
    return "different", f"has {found}; {published.release} has {published.checkpoint_sha256}"


# --- import -------------------------------------------------------------------------------------


def _unpack(given: Path, scratch: Path) -> None:
    """The needed files of all models in `given`, to scratch/DatasetNNN_.../trainer__.../..."""
    if given.is_dir():
        for path in sorted(given.rglob("*")):
            target = _target(path.absolute().as_posix(), scratch)
            if target is not None and path.is_file():
                shutil.copyfile(path, target)
    elif is_archive(given.name):
        wanted: dict[int, Path] = {}
        for member in members(given, _LIMITS):
            target = _target(member.name.replace("\\", "/"), scratch)
            if target is not None and target not in wanted.values():
                wanted[member.number] = target
        if wanted:
            extract(given, wanted, _LIMITS)
    else:
        raise Misconfigured(f"{given} is neither a folder nor a .zip or .tar archive")


def _target(name: str, scratch: Path) -> Path | None:
    """Where a file of that name goes, None if it is not needed."""
    match = _NEEDED.search(name)
    if match is None:
        return None
    target = scratch / match["dataset"] / match["model"] / match["file"]
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _put(folder: Path, place: Path) -> None:
    """Move a model to its place in one step."""
    if place.exists():
        same = (place / "plans.json").is_file() and (
            read_model(place).weights_sha256 == read_model(folder).weights_sha256
        )
        if not same:
            raise Misconfigured(f"{place} is there with other weights; remove it first")
        return
    place.parent.mkdir(exist_ok=True)
    folder.replace(place)


# --- fetch --------------------------------------------------------------------------------------


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, but not from https to anything else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise Misconfigured(f"{req.full_url} redirects to something that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, part: Path, progress: Progress) -> None:
    """Bring `part` to what the server has, from where an earlier attempt stopped."""
    fruitless = 0
    for attempt in range(1, _ATTEMPTS + 1):
        before = _size(part)
        try:
            _download_on(url, part, progress)
            return
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code == 416:  # what is kept is longer than what the server has
                _forget(part)
            elif refused.code < 500:
                raise Misconfigured(f"{url}: the server says {refused.code}") from refused
            trouble: Exception = refused
        except (OSError, HTTPException) as broken:
            trouble = broken
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == _FRUITLESS or attempt == _ATTEMPTS:
            raise Unavailable(f"{url}: {trouble}; what came is kept") from trouble


def _download_on(url: str, part: Path, progress: Progress) -> None:
    kept = _kept(part)
    headers = {"User-Agent": "tomodex", "Accept-Encoding": "identity"}
    if kept:
        # Should the file have changed meanwhile, the server sends all of it.
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": kept["validator"]}
    opener = urllib.request.build_opener(_SameSafety)
    request = urllib.request.Request(url, headers=headers)
    with cast(HTTPResponse, opener.open(request, timeout=_TIMEOUT_S)) as response:
        begin = _begin(response)
        total = begin + int(response.headers.get("Content-Length") or 0)
        if total > MAX_BYTES:
            raise Misconfigured(f"{url}: {total} bytes are more than {MAX_BYTES}")
        _remember(part, response)
        with part.open("r+b" if begin else "wb") as stream:
            stream.seek(begin)
            _copy(response, stream, total, progress)
        if total > begin and _size(part) != total:
            raise OSError(f"the connection ended at {_size(part)} of {total} bytes")


def _copy(response: HTTPResponse, stream: IO[bytes], total: int, progress: Progress) -> None:
    while chunk := response.read(_CHUNK):
        stream.write(chunk)
        if stream.tell() > MAX_BYTES:
            raise Misconfigured(f"more than {MAX_BYTES} bytes came")
        progress(stream.tell(), total)


def _begin(response: HTTPResponse) -> int:
    """At which byte of the file the answer begins."""
    if response.status != 206:
        return 0
    said = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if said is None:
        raise OSError("an answer in part does not say which part it is")
    return int(said[1])


def _kept(part: Path) -> Mapping[str, str]:
    """What is known of the file that `part` is the beginning of; empty where nothing is."""
    try:
        found = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    return found if _size(part) and isinstance(found, dict) and found.get("validator") else {}


def _remember(part: Path, response: HTTPResponse) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag cannot tell whether bytes are the same (RFC 9110 13.1.5).
    strong = "" if tag.startswith("W/") else tag
    _note(part).write_text(json.dumps({"validator": strong}))


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
