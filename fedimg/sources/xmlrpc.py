"""Call XML-RPC methods anonymously, with limits on time and size."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import requests

from fedimg.sources import http, xmlrpc_answer
from fedimg.sources.http import NoAnswer
from fedimg.untrusted.quoting import one_line

#: Largest answer that is read, in bytes. The archives of a large build take some 100 KiB.
ANSWER_LIMIT = 16 * 1024 * 1024


#: Bounds of parsing an answer.
BOUNDS = xmlrpc_answer.Bounds()


class Garbled(NoAnswer):
    """The server's answer is complete but not readable; a second call would return the same."""


class XMLRPCClient:
    """Calls one XML-RPC address.

    Args:
        address: an http or https URL; certificates of https are verified.
        timeout: seconds to wait for a connection, for the next bytes, and for a whole answer each.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self._address = address
        self._timeout = timeout

    def call(self, method: str, *params: Any) -> Any:
        """Call a method and return its result.

        Raises xmlrpc.client.Fault when the server answers with a fault, NoAnswer when there is no
        readable answer.
        """
        return self._call(method, *params)[0]

    def dated(self, method: str, *params: Any) -> tuple[Any, float | None]:
        """Call a method; return its result and the server's time, None without a Date header."""
        value, date = self._call(method, *params)
        try:
            return value, http.seconds_of(date)
        except ValueError:
            return value, None

    def clock(self) -> float:
        """Return the server's time, in seconds since the epoch: the Date of an answer.

        RFC 9110 requires the header of every server with a clock, in whole seconds. Raises like
        `call`.
        """
        _, date = self._call("getAPIVersion")
        try:
            return http.seconds_of(date)
        except ValueError as error:
            raise NoAnswer(
                f"the answer of {self._address} has no valid Date header: {error}"
            ) from error

    def _call(self, method: str, *params: Any) -> tuple[Any, str | None]:
        """Return the method's result, and the answer's Date header."""
        answer, date = self._post(xmlrpc.client.dumps(params, method, allow_none=True).encode())
        try:
            return http.parsed(answer, lambda document: xmlrpc_answer.value(document, BOUNDS)), date
        except xmlrpc_answer.Malformed as error:
            # Anything else may be an error page, of a proxy for example.
            complete = answer.startswith(b"<?xml") and answer.rstrip().endswith(
                b"</methodResponse>"
            )
            raise (Garbled if complete else NoAnswer)(
                f"the answer of {self._address} to {method} cannot be read: {error}"
            ) from error

    def _post(self, document: bytes) -> tuple[bytes, str | None]:
        with (
            http.limited_session(self._address, self._timeout) as session,
            session.post(
                self._address,
                document,
                headers={**http.HEADERS, "Content-Type": "text/xml"},
                timeout=self._timeout,
                stream=True,
                # A redirected POST becomes a GET, to which a server answers with a web page.
                allow_redirects=False,
            ) as response,
        ):
            if response.status_code != requests.codes.ok:
                phrase = one_line(response.reason or "")
                raise NoAnswer(
                    f"{self._address} answers {response.status_code} {phrase}"
                    + (", a redirect, which is not followed" if response.next else "")
                )
            answer = http.body(response, ANSWER_LIMIT)
        return answer, response.headers.get("Date")
