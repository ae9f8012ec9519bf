"""Count the bus messages that were rejected because no trusted certificate signed them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.rows import RejectionRow
from fedimg.store.tables import refused

#: How long the counts are kept, in seconds.
REJECTIONS_KEPT_SECONDS = 30 * 86400


class Rejections(Database):
    """The counts of rejected messages, by fault and time."""

    def count_rejected(self, counts: Mapping[str, int]) -> None:
        """Add the numbers of rejected messages, by fault, and delete counts that are too old."""
        now = time.time()
        rows = [{"fault": fault, "count": count, "at": now} for fault, count in counts.items()]
        with self.engine.begin() as connection:
            too_old = refused.c.at < now - REJECTIONS_KEPT_SECONDS
            connection.execute(sa.delete(refused).where(too_old))
            connection.execute(sa.insert(refused), rows)

    def rejected(self, since: float) -> list[RejectionRow]:
        """Return a row for each fault of messages rejected since a time, in epoch seconds."""
        total, last = sa.func.sum(refused.c.count), sa.func.max(refused.c.at)
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(refused.c.fault, total, last)
                .where(refused.c.at >= since)
                .group_by(refused.c.fault)
                .order_by(refused.c.fault)
            ).all()
        return [RejectionRow(fault, int(count), at) for fault, count, at in rows]
