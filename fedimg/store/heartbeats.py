"""Keep when each of the site's processes last said that it works: hub, consumer and workers."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import heartbeats

#: The kinds of processes.
HUB, CONSUMER, WORKER = "hub", "consumer", "worker"
#: Interval of a process's heartbeats, in seconds. Each is one small write.
INTERVAL = 30.0
#: A process whose last heartbeat is so many seconds old does not work.
SILENT_SECONDS = 120.0
#: Rows of processes that have been gone for so many seconds are deleted.
_KEPT_SECONDS = 30 * 86400.0


@dataclass(frozen=True)
class Heartbeat:
    """The time at which a process last said that it works: epoch seconds by its own clock.

    `name` tells the processes of one kind apart: a worker's name, or a host's. `heard` is when a
    hub or consumer last received a message of its bus, of any content; None if it never has.
    """

    kind: str
    name: str
    host: str
    pid: int
    at: float
    heard: float | None = None

    @property
    def fresh(self) -> bool:
        """True if the process works, as far as the heartbeat tells."""
        return time.time() - self.at < SILENT_SECONDS


class Heartbeats(Database):
    """The last heartbeat of each process."""

    def beat(self, kind: str, name: str = "", *, heard: float | None = None) -> None:
        """Record that this process works; `name` is by default the host's.

        `heard` is when this process last received a message, None if it has received none yet.
        """
        host, now = socket.gethostname(), time.time()
        values: dict[str, object] = {"host": host, "pid": os.getpid(), "at": now}
        if heard is not None:
            values["heard"] = heard
        with self.engine.begin() as connection:
            connection.execute(
                self.insert(heartbeats)
                .values(kind=kind, name=name or host, **values)
                .on_conflict_do_update(index_elements=["kind", "name"], set_=values)
            )
            connection.execute(
                sa.delete(heartbeats).where(
                    heartbeats.c.kind == kind, heartbeats.c.at < now - _KEPT_SECONDS
                )
            )

    def heartbeats(self, kind: str) -> list[Heartbeat]:
        """Return the last heartbeats of the processes of one kind, latest first."""
        query = (
            sa.select(heartbeats).where(heartbeats.c.kind == kind).order_by(heartbeats.c.at.desc())
        )
        with self.engine.connect() as connection:
            return [Heartbeat(**row) for row in connection.execute(query).mappings()]
