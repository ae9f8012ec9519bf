"""Counts the bus messages that were rejected because no trusted certificate signed them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.rows import RejectionRow
from fedimg.store.tables import refused as _refused

#: How long the counts are kept, in seconds.
REFUSED_KEPT = 30 * 86400


class Rejections(Database):
    """The counts of rejected messages, by fault and time."""

    def note_refused(self, counts: Mapping[str, int]) -> None:
        """Add the numbers of rejected messages, by fault, and delete counts that are too old."""
        now = time.time()
        rows = [{"fault": fault, "count": count, "at": now} for fault, count in counts.items()]
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_refused).where(_refused.c.at < now - REFUSED_KEPT))
            connection.execute(sa.insert(_refused), rows)

    def refused(self, since: float) -> list[RejectionRow]:
        """Return a row for each fault of messages rejected since a time, in epoch seconds."""
        total, last = sa.func.sum(_refused.c.count), sa.func.max(_refused.c.at)
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(_refused.c.fault, total, last)
                .where(_refused.c.at >= since)
                .group_by(_refused.c.fault)
                .order_by(_refused.c.fault)
            ).all()
        return [RejectionRow(fault, int(count), at) for fault, count, at in rows]
