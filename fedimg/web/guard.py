"""Refuse requests that no page answers, and give every answer the headers of a careful site."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The methods that are answered.
_METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::\d{1,5})?")
#: Headers of every answer.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Lets GET and HEAD requests for known hosts through.

    Args:
        app: what answers them.
        hosts: names and addresses that a Host header may hold, in lower case, without ports.
        headers: further headers of every answer, which an answer's own headers replace.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], headers: Mapping[str, str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._headers = {**_HEADERS, **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            # No page speaks another protocol, such as WebSocket.
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        names = Headers(scope=scope).getlist("host")
        if len(names) != 1 or _host(names[0]) not in self._hosts:
            return PlainTextResponse(
                "This site is not served under this name; web.hosts in fedimg.toml lists the "
                "names.\n",
                status_code=400,
            )
        if scope["method"] not in _METHODS:
            return PlainTextResponse(
                "Only GET and HEAD are answered.\n",
                status_code=405,
                headers={"Allow": ", ".join(_METHODS)},
            )
        return None


def _host(text: str) -> str:
    """Return the host of a Host header in lower case, without port and brackets; else empty."""
    found = _HOST.fullmatch(text)
    return (found[1] or found[2]).lower() if found else ""
