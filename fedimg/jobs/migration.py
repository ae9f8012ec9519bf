"""Move all records and queued work from the file in the state directory to a PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fedimg.jobs.queue import JobQueue
from fedimg.store import tables
from fedimg.store.database import StoreError
from fedimg.store.rows import CLEANING
from fedimg.store.store import Store

#: Tables that describe running workers; their rows are not copied.
_TRANSIENT = {
    tables.workers.name,
    tables.runs.name,
    tables.semaphores.name,
    tables.heartbeats.name,
}
_BATCH_ROWS = 500


class MoveRefused(StoreError):
    """The database cannot be moved now; the text says what has to be done first."""


@dataclass(frozen=True)
class Moved:
    """The numbers of jobs, AMIs and messages that were copied, and of entries and runs queued."""

    jobs: int
    amis: int
    messages: int
    queued: int


def move(source: Store, target: Store) -> Moved:
    """Copy all rows into a database without jobs, in one transaction, and queue what is queued.

    No worker may be running. The recorded steps of ended jobs are not copied: nothing reads them.
    Raises MoveRefused while a job is running, or when the target has jobs of its own.
    """
    _refuse_live(source)
    if target.jobs():
        raise MoveRefused(
            f"cannot move to the database {target.address}: it has jobs already; move to a new one"
        )
    queue = JobQueue(target)
    counts: dict[str, int] = {}
    queued = 0
    try:
        # A transaction that only reads would let the hub write to the source meanwhile.
        with source.engine.connect() as reading, target.engine.begin() as writing:
            reading.exec_driver_sql("BEGIN IMMEDIATE")
            for table in tables.metadata.sorted_tables:
                if table.name not in _TRANSIENT:
                    counts[table.name] = _copy(reading, writing, table)
            for row in source.jobs(["queued"]):
                queue.queue_again(writing, row.job, row.run)
                queued += 1
        waiting = _entries(source)
        for entry in waiting:
            queue.enqueue_entry(entry)
    finally:
        queue.close()
    return Moved(
        counts[tables.jobs.name],
        counts[tables.amis.name],
        counts[tables.outbox.name],
        queued + len(waiting),
    )


def _refuse_live(source: Store) -> None:
    live = [
        f"{row.job} ({row.step})"
        for row in source.jobs()
        if row.state == "running" or row.step == CLEANING
    ]
    if live:
        raise MoveRefused(
            f"cannot move the database while jobs are running ({', '.join(live)}): run "
            "'fedimg drain worker', wait until the worker has ended, and try again"
        )


def _entries(source: Store) -> list[str]:
    """Return the entries that wait in the intake queue."""
    queue = JobQueue(source)
    try:
        return queue.entries()
    finally:
        queue.close()


def _copy(reading: sa.Connection, writing: sa.Connection, table: sa.Table) -> int:
    """Copy every row of a table with its primary key; return how many."""
    rows = reading.execute(sa.select(table).order_by(*table.primary_key)).mappings()
    count = 0
    for batch in _batches(dict(row) for row in rows):
        writing.execute(sa.insert(table), batch)
        count += len(batch)
    (key, *_) = table.primary_key
    if count and key.autoincrement is True:
        # New rows get numbers after the copied ones.
        sequence = sa.func.pg_get_serial_sequence(table.name, key.name)
        writing.execute(
            sa.select(sa.func.setval(sequence, sa.select(sa.func.max(key)).scalar_subquery()))
        )
    return count


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
