"""Keep the messages of the outbox until each of the site's buses has confirmed them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.rows import Announcement
from fedimg.store.tables import delivered, outbox, parked


class Outbox(Database):
    """The messages, in the order in which they were announced."""

    #: How many messages this process has announced: a relay that sees no new one may rest.
    announcements = 0

    def announce(
        self,
        key: str,
        topic: str,
        body: dict[str, Any],
        connection: sa.Connection | None = None,
    ) -> None:
        """Put a message in the outbox, unless one with the same key was put there before.

        With `connection`, this is a part of its transaction.
        """
        added = self.announcing(key, topic, body)
        if connection is None:
            self.write(added)
        else:
            connection.execute(added)
        self.announcements += 1

    def announcing(self, key: str, topic: str, body: dict[str, Any]) -> sa.Insert:
        """Return the statement by which `announce` puts a message in the outbox."""
        added: sa.Insert = (
            self.insert(outbox)
            .values(key=key, topic=topic, body=body, created=time.time())
            .on_conflict_do_nothing()
        )
        return added

    def unannounced(self, limit: int = 100, bus: str = "") -> list[Announcement]:
        """Return at most `limit` messages, oldest first, that not every bus has confirmed.

        With `bus`, return those that this bus has not confirmed and does not refuse.
        """
        query = (
            sa.select(outbox.c.id, outbox.c.key, outbox.c.topic, outbox.c.body)
            .where(outbox.c.announced.is_(None))
            .order_by(outbox.c.id)
            .limit(limit)
        )
        if bus:
            confirmed = sa.select(delivered.c.id).where(delivered.c.bus == bus)
            refused = sa.select(parked.c.id).where(parked.c.bus == bus)
            query = query.where(outbox.c.id.not_in(confirmed), outbox.c.id.not_in(refused))
        with self.engine.connect() as connection:
            return [Announcement(**row) for row in connection.execute(query).mappings()]

    def waiting_messages(self) -> tuple[int, float] | None:
        """Return how many messages not every bus has confirmed, and since when the oldest waits.

        Those that a bus refuses are not among them. The time is in seconds since the epoch. Return
        None if no message waits.
        """
        query = sa.select(sa.func.count(), sa.func.min(outbox.c.created)).where(waiting())
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
            sa.select(delivered.c.id)
            .where(delivered.c.bus.in_(list(buses)))
            .group_by(delivered.c.id)
            .having(sa.func.count() == len(buses))
        )
        with self.engine.begin() as connection:
            # One bus's relay at a time: the second of two has to see the rows of the first.
            self.lock(connection, "delivered")
            if rows:
                connection.execute(self.insert(delivered).on_conflict_do_nothing(), rows)
            connection.execute(
                sa.update(outbox)
                .where(outbox.c.announced.is_(None), outbox.c.id.in_(confirmed))
                .values(announced=now)
            )
            connection.execute(
                sa.delete(delivered).where(
                    delivered.c.id.in_(
                        sa.select(outbox.c.id).where(outbox.c.announced.is_not(None))
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
                sa.update(outbox)
                .where(
                    outbox.c.announced < before,
                    sa.cast(outbox.c.body, sa.Text) != "{}",
                )
                .values(body={})
            ).rowcount


def waiting() -> sa.ColumnElement[bool]:
    """Return the condition that a message waits: no bus refuses it, and not all have taken it."""
    return outbox.c.announced.is_(None) & outbox.c.id.not_in(sa.select(parked.c.id))
