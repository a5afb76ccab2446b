"""What the query of an adapter's URL sets, and where its secrets are.

    dimse://TOMODEX@pacs:11112/ARCHIVE?associations=2&hours=19:00-06:00
    dicomweb+https://pacs.example/dicom-web?token=file:/run/secrets/pacs

URLs are logged, shown and kept with results. So a secret is never in one: it is named there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from tomodex.errors import Misconfigured


class Options(BaseModel):
    """Base of what an adapter can be asked for; each field is an option of its URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_O = TypeVar("_O", bound=Options)


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: `file:/run/secrets/pacs` or `env:PACS_PASSWORD`."""

    place: str

    def read(self) -> str:
        """The secret itself, without the line break that editors put at its end.

        Raises:
            Misconfigured: it is not there, or empty.
        """
        kind, _, name = self.place.partition(":")
        found = os.environ.get(name, "") if kind == "env" else _read(Path(name))
        if not found:
            raise Misconfigured(f"the secret {self.place} is empty or not set")
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls._named, core_schema.str_schema())

    @classmethod
    def _named(cls, place: str) -> Secret:
        if place.partition(":")[0] not in ("file", "env") or place.endswith(":"):
            # Not quoted: somebody may have written the secret itself.
            raise ValueError("a secret is named, as file:/run/secrets/pacs or env:PACS_PASSWORD")
        return cls(place)


def read_options(url: str, kind: type[_O]) -> _O:
    """The options in `url`, as `scheme://place?name=value&other=value`.

    Raises:
        Misconfigured: one is unknown, given twice, or has a value that it does not take; or the
            URL holds a password.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise Misconfigured(
            f"{without_query(url)}: a password has no place in a URL; name where it is, as "
            "?password=file:/run/secrets/pacs"
        )
    given = parse_qs(parts.query, keep_blank_values=True)
    twice = sorted(name for name, values in given.items() if len(values) > 1)
    if twice:
        raise Misconfigured(f"{without_query(url)}: {twice[0]} is given twice")
    try:
        return kind.model_validate({name: value for name, (value,) in given.items()})
    except ValidationError as wrong:
        known = ", ".join(kind.model_fields)
        found = "; ".join(_said(e["loc"], e["msg"]) for e in wrong.errors())
        # Not chained: pydantic's own text quotes the values.
        shown = without_query(url).removesuffix(":")  # `phantom:` is a whole URL
        raise Misconfigured(f"{shown}: {found} (options are {known})") from None


def _said(place: tuple[int | str, ...], message: str) -> str:
    # What is wrong with options together has no place of its own.
    return f"{place[0]}: {message}" if place else message


def without_query(url: str) -> str:
    """The URL as it may be shown and kept: no options, no password."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    bare = parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}", query="")
    # `geturl` takes the slashes of a URL without host for nothing, as in folder:///data.
    if "://" in url and not bare.netloc:
        return f"{bare.scheme}://{bare.path}"
    return bare.geturl()


def is_bare(url: str) -> bool:
    """Whether it is a URL without options, password or fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket
        return False
    return bool(parts.scheme and "://" in url) and without_query(url) == url and not parts.fragment


def _read(file: Path) -> str:
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, ValueError) as refused:
        why = refused.strerror if isinstance(refused, OSError) else "not text"
        raise Misconfigured(f"cannot read the secret in {file}: {why}") from refused
