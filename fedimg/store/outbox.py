"""Keeps the messages of the outbox until each of the site's buses has confirmed them."""

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
    """The messages, in the order in which they were announced."""

    #: How many messages this process has announced: a relay that sees no new one may rest.
    announcements = 0

    def announce(self, key: str, topic: str, body: dict[str, Any]) -> None:
        """Put a message in the outbox, unless one with the same key was put there before."""
        self.write(
            self.insert(_outbox)
            .values(key=key, topic=topic, body=body, created=time.time())
            .on_conflict_do_nothing()
        )
        self.announcements += 1

    def unannounced(self, limit: int = 100, bus: str = "") -> list[Announcement]:
        """Return at most `limit` messages, oldest first, that not every bus has confirmed.

        With `bus`, return those that this bus has not confirmed.
        """
        query = (
            sa.select(_outbox.c.id, _outbox.c.key, _outbox.c.topic, _outbox.c.body)
            .where(_outbox.c.announced.is_(None))
            .order_by(_outbox.c.id)
            .limit(limit)
        )
        if bus:
            confirmed = sa.select(_delivered.c.id).where(_delivered.c.bus == bus)
            query = query.where(_outbox.c.id.not_in(confirmed))
        with self.engine.connect() as connection:
            return [Announcement(**row) for row in connection.execute(query).mappings()]

    def waiting_messages(self) -> tuple[int, float] | None:
        """Return how many messages not every bus has confirmed, and since when the oldest waits.

        The time is in seconds since the epoch. Return None if no message waits.
        """
        query = sa.select(sa.func.count(), sa.func.min(_outbox.c.created)).where(
            _outbox.c.announced.is_(None)
        )
        with self.engine.connect() as connection:
            count, oldest = connection.execute(query).one()
        return (int(count), float(oldest)) if count else None

    def delivered(self, ids: Iterable[int], bus: str, buses: Collection[str]) -> None:
        """Record that `bus` has confirmed messages; those that all `buses` have are announced.

        `buses` are the site's. Without `ids`, messages that waited only for a bus that the site no
        longer has become announced.
        """
        now = time.time()
        rows = [{"id": each, "bus": bus, "at": now} for each in ids]
        confirmed = (
            sa.select(_delivered.c.id)
            .where(_delivered.c.bus.in_(list(buses)))
            .group_by(_delivered.c.id)
            .having(sa.func.count() == len(buses))
        )
        with self.engine.begin() as connection:
            # One bus's relay at a time: the second of two has to see the rows of the first.
            self.lock(connection, "delivered")
            if rows:
                connection.execute(self.insert(_delivered).on_conflict_do_nothing(), rows)
            connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.announced.is_(None), _outbox.c.id.in_(confirmed))
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
        """Delete the bodies of messages announced before a time; return how many.

        `before` is in seconds since the epoch. The keys stay, so that a job that runs again
        announces nothing twice.
        """
        with self.engine.begin() as connection:
            return connection.execute(
                sa.update(_outbox)
                .where(_outbox.c.announced < before, sa.cast(_outbox.c.body, sa.Text) != "{}")
                .values(body={})
            ).rowcount
