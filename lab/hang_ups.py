"""Servers whose clients may go away at any moment, without a word on the site's terminal."""

import socketserver
import sys
from typing import Any


class IgnoresHangUps(socketserver.BaseServer):
    """A base of a server that prints the traceback of any other failure of a request alone.

    A worker that is killed resets its connections; that is no fault of the lab's.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the failure of a request, unless its client went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
