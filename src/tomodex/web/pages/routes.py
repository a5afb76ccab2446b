"""Mounts the pages and their own files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from tomodex.cohorts import Cohorts
from tomodex.errors import BadQuery, NotThere
from tomodex.library import Library
from tomodex.saved import LONGEST_NAME
from tomodex.web.answers import Asking
from tomodex.web.guard import form_of
from tomodex.web.pages import search
from tomodex.web.pages.cohorts import cohort_page, cohorts_page, compared_page
from tomodex.web.pages.operations import Operator, operations_page, retry
from tomodex.web.pages.rendering import (
    FOLDER,
    PageRoute,
    redirect,
    render,
    search_url,
    shell_of,
)
from tomodex.web.pages.series import series_page
from tomodex.web.pages.structures import structures_page
from tomodex.web.problems import problem, refusal_of

#: What only programs ask for.
PROGRAMS = ("/v1/", "/dicomweb/", "/metrics", "/static/")

Text = Annotated[str, Query(max_length=200)]
Id = Annotated[str, Path(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where a series can be looked at."""

    viewer: str  #: URL template of the site's viewer; "": there is none
    picture: Callable[[str], bytes | None]  #: PNG of a series by its UID; None: there is none


class OwnFiles(StaticFiles):
    """Style and script of the pages: a browser keeps them, and asks whether they changed."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        answer = super().file_response(*args, **more)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def add_pages(
    app: FastAPI, cohorts: Cohorts, library: Library, sight: Callable[[], Operator], links: Links
) -> None:
    """Let the app show pages; `sight` is what an operator looks at, as it is now."""
    app.mount("/static", OwnFiles(directory=FOLDER / "static"), name="static")
    app.include_router(search_pages(cohorts, links))
    app.include_router(cohort_pages(library))
    app.include_router(operations_pages(sight))
    app.add_exception_handler(HTTPException, _answer_where_nothing_is)


async def _answer_where_nothing_is(request: Request, error: Exception) -> Response:
    """An address that leads nowhere: a page for a person, a problem for a program."""
    refused = refusal_of(error)
    accepted = request.headers.get("accept", "")
    if "text/html" in accepted and not request.url.path.startswith(PROGRAMS):
        return render("error.html", shell_of(request, ""), refused, refused.status)
    return problem(refused)


def search_pages(cohorts: Cohorts, links: Links) -> APIRouter:
    """The search, one series, and the vocabulary."""
    router = APIRouter(include_in_schema=False, route_class=PageRoute)

    @router.get("/")
    def find(
        request: Request,
        asker: Asking,
        q: Annotated[str | None, Query()] = None,
        query: Annotated[str | None, Query()] = None,
        page: Annotated[int, Query(ge=1, le=search.MOST_PAGES)] = 1,
        sort: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        if not asker.may("count") and asker.may("operate"):
            return redirect("/operations")
        if q is None and query is not None:  # as it is called in the API
            return redirect(search_url(query, sort=sort))
        address = str(request.base_url).rstrip("/")
        shown = (
            search.start_page(cohorts)
            if q is None
            else search.search_page(cohorts, asker, q, page, sort, address)
        )
        return render("search.html", shell_of(request, "search", cohorts.totals(asker)), shown)

    @router.get("/structures")
    def vocabulary(request: Request, asker: Asking, text: Text = "") -> Response:
        shown = structures_page(cohorts, asker, text)
        return render("structures.html", shell_of(request, "structures"), shown)

    _add_series(router, cohorts, links)
    return router


def _add_series(router: APIRouter, cohorts: Cohorts, links: Links) -> None:
    """One series, and its picture."""

    @router.get("/series/{series_uid}")
    def one(request: Request, asker: Asking, series_uid: Id) -> Response:
        known = cohorts.one(asker, series_uid)
        picture = f"/series/{series_uid}/preview.png" if links.picture(series_uid) else ""
        shown = series_page(known, links.viewer, picture, cohorts.terminology)
        return render("series.html", shell_of(request, "search"), shown)

    @router.get("/series/{series_uid}/preview.png")
    def preview(asker: Asking, series_uid: Id) -> Response:
        picture = links.picture(cohorts.one(asker, series_uid).series_uid)
        if picture is None:
            raise NotThere("there is no picture of this series")
        return Response(picture, media_type="image/png")


def cohort_pages(library: Library) -> APIRouter:
    """Saved cohorts."""
    router = APIRouter(prefix="/cohorts", include_in_schema=False, route_class=PageRoute)

    @router.get("")
    def every(request: Request, asker: Asking) -> Response:
        return render("cohorts.html", shell_of(request, "cohorts"), cohorts_page(library, asker))

    @router.post("")
    async def save(request: Request, asker: Asking) -> Response:
        form = form_of(await request.body())
        name = form.get("name", "").strip()
        if not name or len(name) > LONGEST_NAME:
            raise BadQuery(f"a cohort needs a name of 1 to {LONGEST_NAME} characters")
        cohort = await run_in_threadpool(library.save, asker, name, form.get("query", ""))
        return redirect(f"/cohorts/{cohort.id}")

    @router.get("/{cohort_id}")
    def one(request: Request, asker: Asking, cohort_id: Id) -> Response:
        shown = cohort_page(library, asker, cohort_id)
        return render("cohort.html", shell_of(request, "cohorts"), shown)

    @router.get("/{cohort_id}/today")
    def today(request: Request, asker: Asking, cohort_id: Id) -> Response:
        shown = compared_page(library, asker, cohort_id)
        return render("cohort.html", shell_of(request, "cohorts"), shown)

    @router.post("/{cohort_id}/delete")
    def delete(asker: Asking, cohort_id: Id) -> Response:
        library.delete(asker, cohort_id)
        return redirect("/cohorts")

    return router


def operations_pages(sight: Callable[[], Operator]) -> APIRouter:
    """The queue, the archives and the sinks."""
    router = APIRouter(prefix="/operations", include_in_schema=False, route_class=PageRoute)

    @router.get("")
    def look(request: Request, asker: Asking) -> Response:
        shown = operations_page(asker, sight)
        return render("operations.html", shell_of(request, "operations"), shown)

    @router.post("/retry")
    async def again(request: Request, asker: Asking) -> Response:
        reason = form_of(await request.body()).get("reason", "")
        if not reason:
            raise BadQuery("say which failures are to be tried again")
        await run_in_threadpool(retry, asker, sight().queue, reason)
        return redirect("/operations")

    return router
