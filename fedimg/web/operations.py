"""Serve operators: metrics, and whether the site works."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fedimg.config import Settings
from fedimg.store.reader import Reader
from fedimg.web.guard import Guard
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
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]
    return Guard(Starlette(routes=routes), settings.web.hosts, _HEADERS)
