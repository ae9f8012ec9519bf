"""The outbox: messages that the bus has to take, kept until it was seen to."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.database import Database
from fedimg.rows import Announcement
from fedimg.tables import outbox as _outbox


class Outbox(Database):
    """The messages, in the order in which they came."""

    def announce(self, key: str, topic: str, body: dict[str, Any]) -> None:
        """Put a message in the outbox; one with the same key is there, or was sent, already."""
        self.write(
            self.insert(_outbox)
            .values(key=key, topic=topic, body=body, created=time.time())
            .on_conflict_do_nothing()
        )

    def unannounced(self, limit: int = 100) -> list[Announcement]:
        """Messages that the bus has not been seen to take, oldest first."""
        query = (
            sa.select(_outbox.c.id, _outbox.c.key, _outbox.c.topic, _outbox.c.body)
            .where(_outbox.c.announced.is_(None))
            .order_by(_outbox.c.id)
            .limit(limit)
        )
        with self.engine.connect() as connection:
            return [Announcement(**row) for row in connection.execute(query).mappings()]

    def announced(self, ids: Iterable[int]) -> None:
        """These messages were seen on the bus."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.id.in_(list(ids)), _outbox.c.announced.is_(None))
                .values(announced=time.time())
            )

    def forget_announced(self, before: float) -> int:
        """Forget the texts of what the bus took before this time; how many.

        That it was announced is remembered: a job that is retried says nothing twice.
        """
        with self.engine.begin() as connection:
            return connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.announced < before, sa.cast(_outbox.c.body, sa.Text) != "{}")
                .values(body={})
            ).rowcount
