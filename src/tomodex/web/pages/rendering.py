"""Makes HTML of what a page shows: templates, numbers for people, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tomodex.access import Asker
from tomodex.errors import TomodexError
from tomodex.search import Totals
from tomodex.web.guard import asker_of, csrf_of
from tomodex.web.pages.drawing import BEHIND, SKIN
from tomodex.web.pages.structures import also_called
from tomodex.web.problems import Refused, refusal_of

FOLDER = Path(__file__).parent

#: Ours alone: no script, style or picture of others, nothing written into the page, no frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}

#: Bytes have decimal units, as disks and networks have.
SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """What is around every page."""

    here: str  #: key of the page, such as "search"
    asker: Asker
    csrf: str  #: what a form has to send back; "": nothing, as nobody has logged in
    totals: Totals | None  #: how much there is; None: not theirs to know

    @property
    def rows(self) -> bool:
        """Whether they may see single series."""
        return self.asker.may("rows")


def shell_of(request: Request, here: str, totals: Totals | None = None) -> Shell:
    """What is around a page for who asks."""
    return Shell(here=here, asker=asker_of(request), csrf=csrf_of(request), totals=totals)


def render(
    template: str, shell: Shell, page: object, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    """The page as HTML."""
    text = _environment().get_template(template).render(shell=shell, page=page)
    return HTMLResponse(text, status, HEADERS)


def render_alone(template: str, status: HTTPStatus, **facts: object) -> Response:
    """A page for who is not known yet, with nothing around it."""
    return HTMLResponse(_environment().get_template(template).render(**facts), status, HEADERS)


def redirect(path: str) -> Response:
    """The way to another of our pages, also after a form was sent."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER)


class PageRoute(APIRoute):
    """A route whose errors are pages too, and that says of a page what it would be (HEAD)."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        methods = set(self.methods or ())
        self.methods = methods | {"HEAD"} if "GET" in methods else methods

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_or_say_why(request: Request) -> Response:
            try:
                return await answer(request)
            except (TomodexError, Refused, RequestValidationError) as error:
                refused = refusal_of(error)
                if refused.status == HTTPStatus.UNAUTHORIZED:
                    raise
                return render("error.html", shell_of(request, ""), refused, refused.status)

        return answer_or_say_why


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "size": size,
        "moment": moment,
        "span": span,
        "percent": percent,
        "short": short,
    }
    environment.globals |= {
        "search": search_url,
        "also_called": also_called,
        "skin": SKIN,
        "behind": BEHIND,
    }
    return environment


def search_url(text: str, page: int = 1, sort: str = "") -> str:
    """The address of a search; `sort` "" is newest study first."""
    more = {"sort": sort} if sort else {}
    if page > 1:
        more["page"] = str(page)
    return f"/?{urlencode({'q': text, **more})}"


def number(value: float) -> str:
    """1204 as "1,204"."""
    return f"{value:,.0f}"


def short(uid: str) -> str:
    """The two ends of a UID, where all of it stands elsewhere."""
    return uid if len(uid) <= 24 else f"{uid[:12]}\N{HORIZONTAL ELLIPSIS}{uid[-10:]}"


def percent(share: float) -> str:
    """0.25 as "25%", for the width of a bar."""
    return f"{100 * share:.4g}%"


def size(count: int) -> str:
    """Bytes in the unit that people would use: "1.4 TB"."""
    value, unit = float(count), SIZES[0]
    for unit in SIZES:
        if value < 999.5 or unit == SIZES[-1]:
            break
        value /= 1000
    digits = 1 if value < 9.95 and unit != SIZES[0] else 0
    return f"{value:,.{digits}f} {unit}"


def moment(value: str | datetime) -> str:
    """When something was, in universal time: "2026-11-23 06:10 UTC"."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def span(seconds: float) -> str:
    """How long something takes: "43 min", "5 h", "12 days"."""
    for unit, length, until in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172800.0)):
        if seconds < until:
            return f"{seconds / length:.0f} {unit}"
    days = seconds / 86400
    return f"{days:.0f} days" if days < 730 else f"{days / 365.25:.1f} years"
