"""The outbox: messages that each of the buses has to take, kept until it was seen to."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.rows import Announcement
from fedimg.store.tables import delivered as _delivered
from fedimg.store.tables import outbox as _outbox


class Outbox(Database):
    """The messages, in the order in which they came."""

    def announce(self, key: str, topic: str, body: dict[str, Any]) -> None:
        """Put a message in the outbox; one with the same key is there, or was sent, already."""
        self.write(
            self.insert(_outbox)
            .values(key=key, topic=topic, body=body, created=time.time())
            .on_conflict_do_nothing()
        )

    def unannounced(self, limit: int = 100, bus: str = "") -> list[Announcement]:
        """Messages that not every bus has been seen to take, or not this one, oldest first."""
        query = (
            sa.select(_outbox.c.id, _outbox.c.key, _outbox.c.topic, _outbox.c.body)
            .where(_outbox.c.announced.is_(None))
            .order_by(_outbox.c.id)
            .limit(limit)
        )
        if bus:
            taken = sa.select(_delivered.c.id).where(_delivered.c.bus == bus)
            query = query.where(_outbox.c.id.not_in(taken))
        with self.engine.connect() as connection:
            return [Announcement(**row) for row in connection.execute(query).mappings()]

    def announced(self, ids: Iterable[int]) -> None:
        """These messages were seen on every bus."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.id.in_(list(ids)), _outbox.c.announced.is_(None))
                .values(announced=time.time())
            )

    def delivered(self, ids: Iterable[int], bus: str, buses: Collection[str]) -> None:
        """One of the site's `buses` has taken these; what all have taken is announced.

        Without `ids`, what waits for a bus that the site has no more is not waited for.
        """
        now = time.time()
        rows = [{"id": each, "bus": bus, "at": now} for each in ids]
        taken = (
            sa.select(_delivered.c.id)
            .where(_delivered.c.bus.in_(list(buses)))
            .group_by(_delivered.c.id)
            .having(sa.func.count() == len(buses))
        )
        with self.engine.begin() as connection:
            # One bus's messenger at a time: the last of two has to see what the first has noted.
            self.serialise(connection, "delivered")
            if rows:
                connection.execute(self.insert(_delivered).on_conflict_do_nothing(), rows)
            connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.announced.is_(None), _outbox.c.id.in_(taken))
                .values(announced=now)
            )
            connection.execute(
                sa.delete(_delivered).where(
                    _delivered.c.id.in_(
                        sa.select(_outbox.c.id).where(_outbox.c.announced.is_not(None))
                    )
                )
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
