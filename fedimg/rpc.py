"""An anonymous XML-RPC client with limits on time and size; what is asked is the caller's."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import requests

from fedimg import web
from fedimg.exceptions import exhausted
from fedimg.web import NoAnswer

#: The largest answer that is read, in bytes. A busy build's archives take some 100 KiB.
ANSWER_LIMIT = 16 * 1024 * 1024


class Garbled(NoAnswer):
    """The answer is the server's own, and holds what XML forbids: asked anew, it will be again."""


class Client:
    """Calls one XML-RPC address.

    Args:
        address: an http or https URL; certificates of https are verified.
        timeout: seconds to wait for a connection, for the next bytes, and for a whole answer.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._address = address
        self._timeout = timeout

    def call(self, method: str, *params: Any) -> Any:
        """What the method returns.

        Raises xmlrpc.client.Fault when the server says no, NoAnswer when nothing usable came.
        """
        return self._ask(method, *params)[0]

    def clock(self) -> float:
        """What time it is by the server, in seconds since the epoch: the Date of an answer.

        RFC 9110 asks it of every server that has a clock, in whole seconds. Raises like `call`.
        """
        _, date = self._ask("getAPIVersion")
        try:
            return web.seconds_of(date)
        except ValueError as error:
            raise NoAnswer(
                f"{self._address} does not tell the time: its answer's Date {error}"
            ) from error

    def _ask(self, method: str, *params: Any) -> tuple[Any, str | None]:
        """What the method returns, and the answer's Date."""
        answer = ""
        try:
            answer, date = self._post(xmlrpc.client.dumps(params, method, allow_none=True).encode())
            (value,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
        except (xmlrpc.client.Fault, NoAnswer):
            raise
        except Exception as error:
            if exhausted(error):
                raise
            # A proxy's error page, say; the parser raises nearly anything on what is no XML-RPC.
            whole = answer.startswith("<?xml") and answer.rstrip().endswith("</methodResponse>")
            raise (Garbled if whole else NoAnswer)(
                f"{self._address} answered {method} with something that is not XML-RPC: {error!r}"
            ) from error
        return value, date

    def _post(self, document: bytes) -> tuple[str, str | None]:
        with (
            web.asking(self._address, self._timeout) as session,
            session.post(
                self._address,
                document,
                headers={**web.HEADERS, "Content-Type": "text/xml"},
                timeout=self._timeout,
                stream=True,
                # A redirected POST becomes a GET, whose answer would be a page for people.
                allow_redirects=False,
            ) as response,
        ):
            if response.status_code != requests.codes.ok:
                raise NoAnswer(
                    f"{self._address} answers {response.status_code} {response.reason}"
                    + (f" to {response.next.url}" if response.next else "")
                )
            answer = web.body(response, ANSWER_LIMIT)
        return answer.decode(), response.headers.get("Date")
