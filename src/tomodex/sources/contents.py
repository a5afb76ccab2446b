"""What a file or an archive of them holds, ready for the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from tomodex.errors import Unsuitable
from tomodex.instance import MEDIA_STORAGE_DIRECTORY, Instance, read_instance_from
from tomodex.series import derived_uids
from tomodex.sources.archive import Member, is_archive, reading
from tomodex.sources.catalogue import Found, Skipped, pack


def read_members(
    listed: Iterable[Member], inside: str, free_text: bool
) -> Iterator[Found | Skipped]:
    """The instances in an archive, as far as it can be read; `inside` is its path for people."""
    number = -1
    try:
        for member in listed:
            number = member.number
            # Its name may be anything; what is kept of it is shown to people and stored as text.
            name = member.name.encode(errors="replace").decode()[-1024:]
            if is_archive(name):
                yield Skipped(number, name, "nested_archive", "an archive within an archive")
                continue
            try:
                with reading(), member.open() as stream:
                    instance = read_instance_from(stream, name, as_it_is, free_text)
            except Unsuitable as unsuitable:
                yield Skipped(number, name, unsuitable.reason, unsuitable.sentence)
                continue
            yield as_found(
                instance, number, name, member.size, f"{inside}!{PurePosixPath(name).parent}"
            )
    except Unsuitable as broken:
        yield Skipped(number + 1, "", "archive", str(broken))


def as_found(
    instance: Instance | None, member: int, name: str, size: int, folder: str
) -> Found | Skipped:
    """An instance in a file or member, or why there is none; `folder` tells series without UID."""
    if instance is None:
        return Skipped(member, name, "not_dicom", "")
    if instance.sop_class == MEDIA_STORAGE_DIRECTORY:
        return Skipped(member, name, "dicomdir", "its files are listed by themselves")
    series_uid, study_uid = derived_uids(instance, folder.encode(errors="replace").decode())
    shared, own = pack(instance)
    return Found(
        member=member,
        name=name,
        size=size,
        series_uid=series_uid,
        study_uid=study_uid,
        patient=instance.patient,
        sop_uid=instance.sop_uid,
        sop_class=instance.sop_class,
        references=instance.references,
        referenced_sop_uids=instance.referenced_sop_uids,
        shared=shared,
        own=own,
    )


def as_it_is(identifier: str) -> str:
    """Identifiers stay what they are until the catalogue, which holds the key, replaces them."""
    return identifier
