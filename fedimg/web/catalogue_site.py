"""Serve the catalogue's directory to everybody."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from fedimg.config import Settings
from fedimg.web.guard import Guard

#: Headers of every answer. Other sites may read the files, and any page may link to them.
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
#: The directories whose files never change (docs/catalogue.md).
_IMMUTABLE = ("builds", "composes", "tasks", "uploads")
_FOR_EVER = "public, max-age=31536000, immutable"
#: A client asks each time whether a file has changed, and gets it only then.
_ASK = "no-cache"

for suffix, media_type in ((".atom", "application/atom+xml"), (".jsonl", "application/jsonl")):
    mimetypes.add_type(media_type, suffix)


class _Files(StaticFiles):
    """The files of a directory, which may not exist yet, without those that begin with a dot."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory, html=True, check_dir=False)

    async def check_config(self) -> None:
        """Accept a directory that the worker has not written yet."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the answer for a path below the directory."""
        parts = Path(path).parts
        if any(part.startswith(".") for part in parts if part != "."):
            # Unfinished files, and the lock of the writers.
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        if response.status_code in (200, 304):
            immutable = parts[:1] and parts[0] in _IMMUTABLE
            response.headers["Cache-Control"] = _FOR_EVER if immutable else _ASK
        return response


def catalogue_site(settings: Settings) -> Guard:
    """Return the application for everybody. `catalogue.directory` has to be set."""
    files = _Files(Path(os.fspath(settings.catalogue.directory)))
    app = Starlette(routes=[Mount("/", files)], exception_handlers={HTTPException: _answer_error})
    return Guard(app, settings.web.hosts, _HEADERS)


def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)
