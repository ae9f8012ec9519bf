"""How many messages of the bus were not believed, as nobody vouched for them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.rows import RejectionRow
from fedimg.store.tables import refused as _refused

#: How long, in seconds, it is remembered that messages were refused.
REFUSED_KEPT = 30 * 86400


class Rejections(Database):
    """The counts, by fault and time."""

    def note_refused(self, counts: Mapping[str, int]) -> None:
        """Count messages of the bus that were not believed, by their fault."""
        now = time.time()
        rows = [{"fault": fault, "count": count, "at": now} for fault, count in counts.items()]
        with self.engine.begin() as connection:
            connection.execute(sa.delete(_refused).where(_refused.c.at < now - REFUSED_KEPT))
            connection.execute(sa.insert(_refused), rows)

    def refused(self, since: float) -> list[RejectionRow]:
        """What was refused since a time, in seconds since the epoch; by fault."""
        total, last = sa.func.sum(_refused.c.count), sa.func.max(_refused.c.at)
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(_refused.c.fault, total, last)
                .where(_refused.c.at >= since)
                .group_by(_refused.c.fault)
                .order_by(_refused.c.fault)
            ).all()
        return [RejectionRow(fault, int(count), at) for fault, count, at in rows]
