"""Who works on the database, and on what: the rows by which workers know of each other.

That a worker lives is for fedimg.worker.lease to say.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import running, workers


@dataclass(frozen=True)
class RegisteredWorker:
    """One worker as its operator sees it; `started` is in seconds since the epoch.

    A worker that is `draining` takes no new job, and ends when those that it has are done. `jobs`
    are what it works on, by name and run. `steps` says which steps it knows
    (fedimg.worker.executor.VERSION).
    """

    name: str
    host: str
    pid: int
    version: str
    started: float
    draining: bool
    steps: int | None = None
    jobs: list[tuple[str, int]] = field(default_factory=list)

    @property
    def knows(self) -> int:
        """Which steps it knows. A version that did not say so was of the first."""
        return self.steps or 1


class Registry:
    """The workers' rows, of live ones and of those whose jobs nobody has taken over yet."""

    def __init__(self, store: Store) -> None:
        self._engine = store.engine
        self._insert = store.insert

    def enter(self, name: str, version: str, steps: int) -> None:
        """This process begins to work under a name, with nothing under way."""
        values = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version,
            "started": time.time(),
            "draining": False,
            "steps": steps,
        }
        with self._engine.begin() as connection:
            connection.execute(
                self._insert(workers)
                .values(name=name, **values)
                .on_conflict_do_update(index_elements=["name"], set_=values)
            )
            connection.execute(sa.delete(running).where(running.c.worker == name))

    def leave(self, name: str) -> None:
        """Nobody works under this name, and nothing of it is left to take over."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(running).where(running.c.worker == name))
            connection.execute(sa.delete(workers).where(workers.c.name == name))

    def drop_runs(self, name: str) -> None:
        """What a dead worker had under way, nobody has any more."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(running).where(running.c.worker == name))

    def all(self) -> list[RegisteredWorker]:
        """Every worker, by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(workers).order_by(workers.c.name)).mappings().all()
            runs = connection.execute(sa.select(running).order_by(running.c.job)).all()
        return [
            RegisteredWorker(
                **row, jobs=[(run.job, run.run) for run in runs if run.worker == row["name"]]
            )
            for row in rows
        ]

    def drain(self, name: str) -> bool:
        """Have a worker take no new job; False when there is none of that name."""
        with self._engine.begin() as connection:
            return bool(
                connection.execute(
                    sa.update(workers).where(workers.c.name == name).values(draining=True)
                ).rowcount
            )

    # What is under way

    def begin(self, name: str, job: str, run: int) -> None:
        """A worker has a run in its hands."""
        values = {"worker": name, "stop": False}
        with self._engine.begin() as connection:
            connection.execute(
                self._insert(running)
                .values(job=job, run=run, **values)
                .on_conflict_do_update(index_elements=["job", "run"], set_=values)
            )

    def end(self, name: str, job: str, run: int) -> None:
        """A worker has let go of a run, unless another has it by now."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(running).where(
                    running.c.job == job, running.c.run == run, running.c.worker == name
                )
            )

    def stop_elsewhere(self, name: str, job: str, run: int) -> bool:
        """Have another worker break off a run; False when none has it."""
        with self._engine.begin() as connection:
            return bool(
                connection.execute(
                    sa.update(running)
                    .where(running.c.job == job, running.c.run == run, running.c.worker != name)
                    .values(stop=True)
                ).rowcount
            )

    def to_stop(self, name: str) -> list[tuple[str, int]]:
        """The runs that a worker has to break off."""
        query = sa.select(running.c.job, running.c.run).where(
            running.c.worker == name, running.c.stop
        )
        with self._engine.connect() as connection:
            return [(row.job, row.run) for row in connection.execute(query)]
