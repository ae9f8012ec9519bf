"""A publisher: one connection to a bus that announcements go to, whichever bus it is.

What is sent when, and sent again, is fedimg.bus.outbox_relay's to say.
"""

from __future__ import annotations

from typing import Any, Protocol

from fedimg.untrusted.quoting import QuotedError


class BusError(QuotedError):
    """A bus's own configuration does not lead to it; the text says what is missing."""


class BusUnavailable(QuotedError):
    """The bus takes nothing at the moment; the text says why."""


class Publisher(Protocol):
    """One connection to a bus, for the thread that makes it."""

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Hand over a message and return its id, which for one `key` is one where the bus lets it.

        Raises BusUnavailable, or what encoding raises.
        """

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """Id, topic and body of each message that the bus has been seen to take since.

        Waits up to `seconds` for the first.
        """

    def close(self) -> None:
        """Let go of the connection."""
