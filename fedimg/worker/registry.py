"""Register the workers of a database and the runs that each of them works on.

A row does not tell whether its worker is running: `fedimg.worker.lease` does.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from fedimg.store.database import Database
from fedimg.store.tables import runs, workers


@dataclass(frozen=True)
class RegisteredWorker:
    """A row of the registry; `started` is in seconds since the epoch.

    A worker that is `draining` takes no new job, and exits when its jobs have ended. `jobs` holds
    the job and run numbers that it works on. `steps` is its version of the steps
    (fedimg.worker.executor.VERSION). `to_stop` holds those of its runs that it has to stop.
    """

    name: str
    host: str
    pid: int
    version: str
    started: float
    draining: bool
    steps: int | None = None
    jobs: list[tuple[str, int]] = field(default_factory=list)
    to_stop: list[tuple[str, int]] = field(default_factory=list)

    @property
    def knows(self) -> int:
        """The version of the steps; workers that registered none have version 1."""
        return self.steps or 1


class Registry:
    """The rows of running workers, and of dead ones until their jobs are taken over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enter(self, name: str, version: str, steps: int) -> None:
        """Register this process as the worker `name`, with no runs."""
        values = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version,
            "started": time.time(),
            "draining": False,
            "steps": steps,
        }
        with self._database.engine.begin() as connection:
            connection.execute(
                self._database.insert(workers)
                .values(name=name, **values)
                .on_conflict_do_update(index_elements=["name"], set_=values)
            )
            connection.execute(sa.delete(runs).where(runs.c.worker == name))

    def leave(self, name: str) -> None:
        """Remove a worker and its runs."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(runs).where(runs.c.worker == name))
            connection.execute(sa.delete(workers).where(workers.c.name == name))

    def drop_runs(self, name: str) -> None:
        """Remove the runs of a dead worker."""
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(runs).where(runs.c.worker == name))

    def all(self) -> list[RegisteredWorker]:
        """Return every worker, sorted by name."""
        with self._database.engine.connect() as connection:
            return self.all_in(connection)

    def all_in(self, connection: sa.Connection) -> list[RegisteredWorker]:
        """Return every worker, sorted by name, read in a transaction of the caller."""
        rows = connection.execute(sa.select(workers).order_by(workers.c.name)).mappings().all()
        run_rows = connection.execute(sa.select(runs).order_by(runs.c.job)).all()

        def runs_of(worker: str, *, to_stop: bool) -> list[tuple[str, int]]:
            return [
                (run.job, run.run)
                for run in run_rows
                if run.worker == worker and (run.stop or not to_stop)
            ]

        return [
            RegisteredWorker(
                **row,
                jobs=runs_of(row["name"], to_stop=False),
                to_stop=runs_of(row["name"], to_stop=True),
            )
            for row in rows
        ]

    def signs(self) -> list[sa.ColumnElement[Any]]:
        """Return columns that change when a worker enters or leaves, or has to drain."""
        draining = sa.func.sum(sa.cast(workers.c.draining, sa.Integer))
        return [
            sa.select(column).scalar_subquery()
            for column in (sa.func.count(workers.c.name), sa.func.sum(workers.c.started), draining)
        ]

    def stops(self, name: str) -> sa.ColumnElement[bool]:
        """Return the condition that a worker has to stop a run."""
        return sa.exists(runs.c.job).where(runs.c.worker == name, runs.c.stop)

    def drain(self, name: str) -> bool:
        """Request that a worker takes no new job; return False if there is no such worker."""
        with self._database.engine.begin() as connection:
            return bool(
                connection.execute(
                    sa.update(workers).where(workers.c.name == name).values(draining=True)
                ).rowcount
            )

    # Runs

    def begin(self, name: str, job: str, run: int) -> None:
        """Record that a worker works on a run."""
        values = {"worker": name, "stop": False}
        with self._database.engine.begin() as connection:
            connection.execute(
                self._database.insert(runs)
                .values(job=job, run=run, **values)
                .on_conflict_do_update(index_elements=["job", "run"], set_=values)
            )

    def end(self, name: str, job: str, run: int) -> None:
        """Remove a worker's run, unless another worker has taken it over."""
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.delete(runs).where(runs.c.job == job, runs.c.run == run, runs.c.worker == name)
            )

    def stop_elsewhere(self, name: str, job: str, run: int) -> bool:
        """Request that another worker stops a run; return False if none works on it."""
        with self._database.engine.begin() as connection:
            return bool(
                connection.execute(
                    sa.update(runs)
                    .where(runs.c.job == job, runs.c.run == run, runs.c.worker != name)
                    .values(stop=True)
                ).rowcount
            )
