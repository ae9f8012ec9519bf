"""Serve operators: the pages about jobs, metrics, and whether the site works."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedimg.config import Settings
from fedimg.store.reader import Reader
from fedimg.store.store import StoreError
from fedimg.web.guard import Guard
from fedimg.web.job_pages import Filter, InvalidFilter, error_page, job_page, jobs_page
from fedimg.web.metrics import exposition
from fedimg.web.readiness import problems

#: Headers of every answer: its state is of this moment, and a page needs nothing but its own files.
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
}


def operations(settings: Settings, reader: Reader) -> Guard:
    """Return the application for operators."""

    def start(_request: Request) -> Response:
        return RedirectResponse("/jobs")

    def jobs(request: Request) -> Response:
        asked = Filter.of(request.query_params)
        rows, count = reader.read(
            lambda store: store.newest_jobs(asked.limit, states=asked.states, since=asked.begin)
        )
        return HTMLResponse(jobs_page(rows, count, asked))

    def job(request: Request) -> Response:
        row = reader.read(lambda store: store.job(request.path_params["job"]))
        if row is None:
            raise HTTPException(404, "there is no job of this name")
        return HTMLResponse(job_page(row))

    def metrics(request: Request) -> Response:
        body, content_type = exposition(reader, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(_request: Request) -> Response:
        found = problems(reader, settings.bus)
        text = "".join(f"{each}\n" for each in found) or "ok\n"
        return PlainTextResponse(text, status_code=503 if found else 200)

    routes = [
        Route("/", start),
        Route("/jobs", jobs),
        Route("/jobs/{job}", job),
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Mount("/static", StaticFiles(packages=[("fedimg.web", "static")])),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            StoreError: _answer_503,
            InvalidFilter: _answer_400,
            HTTPException: _answer_error,
        },
    )
    return Guard(app, settings.web.hosts, _HEADERS)


def _answer_503(_request: Request, error: Exception) -> Response:
    return HTMLResponse(error_page(503, str(error)), status_code=503)


def _answer_400(_request: Request, error: Exception) -> Response:
    return HTMLResponse(error_page(400, str(error)), status_code=400)


def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return HTMLResponse(error_page(error.status_code, error.detail), error.status_code)
