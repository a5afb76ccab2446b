"""Mounts the pages and their own files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.staticfiles import StaticFiles

from tomodex.cohorts import Cohorts
from tomodex.web.answers import Asking
from tomodex.web.pages import search
from tomodex.web.pages.rendering import FOLDER, PageRoute, redirect, render, shell_of


def add_pages(app: FastAPI, cohorts: Cohorts) -> None:
    """Let the app show pages."""
    app.mount("/static", OwnFiles(directory=FOLDER / "static"), name="static")
    app.include_router(search_pages(cohorts))


class OwnFiles(StaticFiles):
    """Style and script of the pages: a browser keeps them, and asks whether they changed."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        answer = super().file_response(*args, **more)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def search_pages(cohorts: Cohorts) -> APIRouter:
    """The search."""
    router = APIRouter(include_in_schema=False, route_class=PageRoute)

    @router.get("/")
    def find(
        request: Request,
        asker: Asking,
        q: Annotated[str | None, Query()] = None,
        page: Annotated[int, Query(ge=1, le=search.MOST_PAGES)] = 1,
    ) -> Response:
        if not asker.may("count"):
            return redirect("/operations")
        shown = (
            search.start_page(cohorts, asker)
            if q is None
            else search.search_page(cohorts, asker, q, page, str(request.base_url).rstrip("/"))
        )
        return render("search.html", shell_of(request, "search", cohorts.totals(asker)), shown)

    return router
