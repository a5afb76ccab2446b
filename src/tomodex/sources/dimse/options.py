"""Whom a `dimse://` URL names, and what it can set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field

from tomodex.errors import Misconfigured
from tomodex.options import read_options, without_query
from tomodex.sources.gate import GateOptions

#: PS3.5 6.2, AE: up to 16 characters, no backslash and no control characters.
AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)


def _split(text: object) -> object:
    return tuple(part.strip() for part in text.split(",")) if isinstance(text, str) else text


def _no_auto(text: object) -> object:
    return None if text == "auto" else text


class DimseOptions(GateOptions):
    """What the URL of a PACS can set."""

    retrieve: Literal["auto", "get", "move"] = "auto"  #: auto: C-GET where the PACS offers it
    #: Where the PACS sends to when asked by C-MOVE: one port of this machine for each AE title.
    move_port: Annotated[tuple[int, ...], BeforeValidator(_split)] = ()
    #: What those ports are called in the PACS; empty: the calling AE title, on one port.
    move_aet: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    move_plain: bool = False  #: let images come to those ports in plain text though `tls` is set
    move_address: str = "0.0.0.0"  #: which of this machine's addresses those ports are opened on
    tls: Literal["no", "yes", "any-name"] = "no"  #: any-name: the certificate may name another host
    ca: Path | None = None  #: certificates of authorities to trust, PEM; None: the usual ones
    cert: Path | None = None  #: our certificate, PEM, for a PACS that asks who we are
    key: Path | None = None  #: its private key, PEM; None: it is in `cert`
    #: Answers that the PACS gives to one question at most; None (auto): find out.
    answer_limit: Annotated[int | None, BeforeValidator(_no_auto)] = Field(None, ge=2)
    window_days: int = Field(3660, ge=1, le=36_600)  #: days asked about at once, at most
    relational: bool = False  #: ask for all series of a day at once, not study by study
    connect_s: float = Field(15, gt=0, le=300)  #: until an association is accepted or refused
    answer_s: float = Field(120, gt=0, le=3600)  #: until the next sign of life
    transfer_s: float = Field(3600, gt=0, le=86_400)  #: for one question, or one series


def options_of(url: str) -> DimseOptions:
    """What a URL sets.

    Raises:
        Misconfigured: an option is unknown, has a value that it does not take, or contradicts
            another.
    """
    options = read_options(url, DimseOptions)
    for title in options.move_aet:
        require_title(title, "move_aet")
    for is_so, sentence in (
        (
            bool(options.move_aet) and len(options.move_aet) != len(options.move_port),
            "move_aet and move_port name as many titles as ports, in one order",
        ),
        (
            not options.move_aet and len(options.move_port) > 1,
            "several ports of move_port need a title each in move_aet",
        ),
        (
            options.retrieve == "move" and not options.move_port,
            "retrieve=move needs move_port, where the PACS is to send to",
        ),
        (
            options.tls != "no"
            and options.retrieve != "get"
            and bool(options.move_port)
            # The PACS opens that connection itself, and our port does not take TLS.
            and not options.move_plain,
            "by C-MOVE images would come as plain text, though tls is set; use retrieve=get, or "
            "say move_plain=yes if nobody else can listen",
        ),
        (
            options.tls == "no" and bool(options.ca or options.cert or options.key),
            "ca, cert and key do nothing without tls=yes",
        ),
    ):
        if is_so:
            raise Misconfigured(f"{without_query(url)}: {sentence}")
    return options


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A PACS, and who we are to it."""

    url: str  #: without options
    host: str
    port: int
    called: str  #: its AE title
    calling: str  #: ours

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


def peer_of(url: str) -> Peer:
    """The PACS that `dimse://CALLING@host:port/CALLED` names.

    Raises:
        Misconfigured: something is missing, or no AE title.
    """
    parts = urlsplit(url)
    form = f"{without_query(url)} is not of the form dimse://OUR_AE@host:port/PACS_AE"
    try:
        port = parts.port
    except ValueError:
        raise Misconfigured(form) from None
    called, calling = unquote(parts.path.strip("/")), unquote(parts.username or "")
    if not (parts.hostname and port):
        raise Misconfigured(form)
    for title in (called, calling):
        require_title(title, form)
    return Peer(
        url=without_query(url), host=parts.hostname, port=port, called=called, calling=calling
    )


def require_title(title: str, where: str) -> None:
    """Raise Misconfigured unless it can be an AE title."""
    if not AE_TITLE.fullmatch(title) or not title.strip():
        raise Misconfigured(f"{where}: an AE title has 1 to 16 characters, not {title!r}")
