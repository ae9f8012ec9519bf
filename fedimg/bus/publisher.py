"""Define a publisher: a connection to a bus to which announcements are sent.

fedimg.bus.outbox_relay decides when a message is sent, and sent again.
"""

from __future__ import annotations

from typing import Any, Protocol

from fedimg.untrusted.quoting import QuotedError


class BusError(QuotedError):
    """A bus's own configuration is unusable; the text says what is missing."""


class BusUnavailable(QuotedError):
    """The bus accepts no messages at the moment; the text says why."""


class MessageRefused(QuotedError):
    """The bus, or the message's schema, will not take this message; the text says why."""


class MessageReturned(QuotedError):
    """The bus works, and did not take this message at present; the text says why."""


class Publisher(Protocol):
    """One connection to a bus, for the thread that opens it."""

    def send(self, topic: str, body: dict[str, Any], key: str) -> str:
        """Send a message and return its id, the same each time for one `key` if the bus allows.

        Raises BusUnavailable, MessageRefused, MessageReturned, or what encoding raises.
        """

    def confirmed(self, seconds: float) -> list[tuple[str, str, Any]]:
        """Return id, topic and body of each message confirmed since the last call.

        Waits up to `seconds` for the first message.
        """

    def close(self) -> None:
        """Close the connection."""
