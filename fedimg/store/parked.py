"""Keep which messages of the outbox a bus refuses: they wait for an operator."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.store.outbox import Outbox
from fedimg.store.tables import outbox, parked


@dataclass(frozen=True)
class ParkedMessage:
    """A message that a bus refuses, by its number in the outbox, and why.

    `at` is when it was refused, in seconds since the epoch.
    """

    id: int
    bus: str
    at: float
    reason: str
    key: str
    topic: str
    body: dict[str, Any]


class Parked:
    """The messages that are not sent before an operator has them sent again or dropped."""

    def __init__(self, store: Outbox) -> None:
        self._store = store

    def park(self, message: int, bus: str, reason: str) -> None:
        """Record that a bus refuses a message, and why."""
        self._store.write(
            self._store.insert(parked)
            .values(id=message, bus=bus, at=time.time(), reason=reason)
            .on_conflict_do_nothing()
        )

    def all(self) -> list[ParkedMessage]:
        """Return the parked messages, oldest first."""
        query = (
            sa.select(parked, outbox.c.key, outbox.c.topic, outbox.c.body)
            .join(outbox, outbox.c.id == parked.c.id)
            .order_by(parked.c.id, parked.c.bus)
        )
        with self._store.engine.connect() as connection:
            return [ParkedMessage(**row) for row in connection.execute(query).mappings()]

    def count(self) -> int:
        """Return how many messages are parked."""
        with self._store.engine.connect() as connection:
            return int(connection.execute(count_parked()).scalar_one())

    def resend(self, messages: Collection[int]) -> None:
        """Have messages sent again."""
        self._store.write(sa.delete(parked).where(parked.c.id.in_(messages)))

    def drop(self, messages: Sequence[ParkedMessage], buses: Collection[str]) -> None:
        """Give messages up: they count as sent to the buses that refuse them.

        `buses` are the site's.
        """
        for message in messages:
            # Recorded first: what is neither parked nor delivered is sent.
            self._store.delivered([message.id], message.bus, buses)
            self._store.write(
                sa.delete(parked).where(parked.c.id == message.id, parked.c.bus == message.bus)
            )


def count_parked() -> sa.Select[Any]:
    """Return the query for the number of parked messages."""
    return sa.select(sa.func.count(parked.c.id.distinct()))
