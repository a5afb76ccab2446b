"""Logging in with a browser: a form that takes a token, and gives a cookie for some hours."""

from __future__ import annotations

import logging
from html import escape
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tomodex.admission import Askers, seal_of
from tomodex.web.guard import Patience, address_of, form_of
from tomodex.web.problems import Refused
from tomodex.web.sessions import COOKIE, Sessions

log = logging.getLogger(__name__)

#: Logins of one address a second; a person who mistypes is not held up, a program that guesses is.
LOGINS_PER_SECOND = 1.0

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in - Tomodex</title>
<link rel="stylesheet" href="/static/tomodex.css">
<main class="login">
<h1>Tomodex</h1>
{complaint}
<form method="post" action="/login">
<p><label for="token">Your token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="next" type="hidden" value="{after}">
<button>Log in</button></p>
</form>
{provider}
</main>
</html>
"""


def login_router(askers: Askers, sessions: Sessions) -> APIRouter:
    """The routes, for those who are known by a token."""
    router = APIRouter(include_in_schema=False)
    patience = Patience(LOGINS_PER_SECOND)

    @router.get("/login")
    def show(after: Annotated[str, Query(alias="next", max_length=4096)] = "/") -> Response:
        if askers.everybody:
            return RedirectResponse(local_path(after), HTTPStatus.SEE_OTHER)
        return login_page(after)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        patience.require(address_of(request))
        form = form_of(await request.body())
        token, after = form.get("token", "").strip(), form.get("next", "/")
        asker = askers.of_token(token)
        if asker is None:
            log.warning("login refused", extra={"client": address_of(request)})
            return login_page(after, "Nobody has this token.")
        log.info("logged in", extra={"asker": asker.name})
        answer = RedirectResponse(local_path(after), HTTPStatus.SEE_OTHER)
        give_cookie(request, answer, sessions.begin(asker, seal_of(token)))
        return answer

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return router


def login_page(after: str, complaint: str = "") -> Response:
    """The form; `after` is where a login leads."""
    page = PAGE.format(
        after=escape(local_path(after)),
        complaint=f'<p role="alert">{escape(complaint)}</p>' if complaint else "",
        provider="",
    )
    return HTMLResponse(page, HTTPStatus.UNAUTHORIZED if complaint else HTTPStatus.OK)


def wants_login(request: Request, refused: Refused) -> bool:
    """Whether somebody looks at a page, and is to log in to see it."""
    return (
        refused.status == HTTPStatus.UNAUTHORIZED
        and request.method == "GET"
        and "Authorization" not in request.headers
        and not request.url.path.startswith("/v1/")
        and "text/html" in request.headers.get("accept", "")
    )


def to_login(request: Request) -> Response:
    """The way to the login page, and from there to what was asked for."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(asked, safe='')}", HTTPStatus.SEE_OTHER)


def local_path(after: str) -> str:
    """The path if it is one of ours, else the first page: a link must lead nobody away."""
    foreign = not after.startswith("/") or after.startswith(("//", "/\\"))
    return "/" if foreign or not after.isprintable() or "\\" in after else after


def give_cookie(request: Request, answer: Response, cookie: str) -> None:
    """Have the browser keep who it is: out of reach of scripts, and sent to us from us alone."""
    answer.set_cookie(
        COOKIE,
        cookie,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
