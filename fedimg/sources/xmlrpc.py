"""An anonymous XML-RPC client with limits on time and size; what is asked is the caller's."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import requests

from fedimg.sources import http, xmlrpc_answer
from fedimg.sources.http import NoAnswer
from fedimg.untrusted.quoting import one_line

#: The largest answer that is read, in bytes. A busy build's archives take some 100 KiB.
ANSWER_LIMIT = 16 * 1024 * 1024


#: What reading an answer may take.
BOUNDS = xmlrpc_answer.Bounds()


class Garbled(NoAnswer):
    """The answer is the server's own, and is none that is read: asked anew, it will be the same."""


class XMLRPCClient:
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

    def dated(self, method: str, *params: Any) -> tuple[Any, float | None]:
        """What the method returns, and what time it is by the server; None when it does not say."""
        value, date = self._ask(method, *params)
        try:
            return value, http.seconds_of(date)
        except ValueError:
            return value, None

    def clock(self) -> float:
        """What time it is by the server, in seconds since the epoch: the Date of an answer.

        RFC 9110 asks it of every server that has a clock, in whole seconds. Raises like `call`.
        """
        _, date = self._ask("getAPIVersion")
        try:
            return http.seconds_of(date)
        except ValueError as error:
            raise NoAnswer(
                f"{self._address} does not tell the time: its answer's Date {error}"
            ) from error

    def _ask(self, method: str, *params: Any) -> tuple[Any, str | None]:
        """What the method returns, and the answer's Date."""
        answer, date = self._post(xmlrpc.client.dumps(params, method, allow_none=True).encode())
        try:
            return http.parsed(answer, lambda document: xmlrpc_answer.value(document, BOUNDS)), date
        except xmlrpc_answer.Malformed as error:
            # A proxy's error page, say, or the hub's own.
            whole = answer.startswith(b"<?xml") and answer.rstrip().endswith(b"</methodResponse>")
            raise (Garbled if whole else NoAnswer)(
                f"{self._address} answered {method} with something that is not read: {error}"
            ) from error

    def _post(self, document: bytes) -> tuple[bytes, str | None]:
        with (
            http.asking(self._address, self._timeout) as session,
            session.post(
                self._address,
                document,
                headers={**http.HEADERS, "Content-Type": "text/xml"},
                timeout=self._timeout,
                stream=True,
                # A redirected POST becomes a GET, whose answer would be a page for people.
                allow_redirects=False,
            ) as response,
        ):
            if response.status_code != requests.codes.ok:
                said = one_line(response.reason or "")
                raise NoAnswer(
                    f"{self._address} answers {response.status_code} {said}"
                    + (" to another address" if response.next else "")
                )
            answer = http.body(response, ANSWER_LIMIT)
        return answer, response.headers.get("Date")
