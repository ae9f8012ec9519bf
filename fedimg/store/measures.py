"""Measure the state of a site in the database, for metrics and alerts: counts, times, durations.

What is measured is bounded, so that it costs little however long the site has run: steps of the
last runs, and publications of the last half year.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.editions import edition
from fedimg.store.database import Database
from fedimg.store.outbox import waiting
from fedimg.store.parked import count_parked
from fedimg.store.rows import ENDED, LIVE
from fedimg.store.tables import (
    amis,
    changes,
    deferred_entries,
    heartbeats,
    jobs,
    list_readings,
    outages,
    outbox,
    regions,
    verified,
)

#: The durations of steps are those of so many runs, the last that ended.
RUNS = 100
#: Publications are looked for in jobs that changed in so many days.
PUBLISHED_DAYS = 180
#: Processes that have been silent for so many seconds are not measured any more.
_PROCESS_SECONDS = 86400.0
#: How the detail of a region begins in which a job waits for EC2 (fedimg.aws.client.waiter).
_WAITING = "waiting"
#: The workflow of a run of a job (fedimg.jobs.queue.PUBLISH).
_RUN = "fedimg.publish"


@dataclass(frozen=True)
class Process:
    """A process of the site: the times of its last sign of life and of its last message.

    Times are in seconds since the epoch, by its own clock.
    """

    kind: str
    name: str
    at: float
    heard: float | None


@dataclass(frozen=True)
class Waiting:
    """The number of things that wait, and when the oldest began, in seconds since the epoch."""

    count: int
    oldest: float | None


@dataclass(frozen=True)
class RegionRecord:
    """The last comparison of a region: its time, differences, public AMIs and their quota."""

    region: str
    at: float
    failed: bool
    differences: int
    public_amis: int | None
    quota: float | None


@dataclass(frozen=True)
class Measures:
    """The state of a site at `now`; times are in seconds since the epoch, durations in seconds.

    `jobs` counts the jobs of each state. `steps` has the durations of each step, without its
    region, in the last RUNS runs. `listed` has the time at which each list was last read to its
    end. `waits` counts the jobs that wait for EC2, by region, and `changes` the unfinished changes
    of AMIs, by region and by what they do. `published` has the time of the last publication by
    release and architecture.
    """

    now: float
    jobs: Mapping[str, int]
    live: Waiting
    steps: Mapping[str, list[float]]
    outbox: Waiting
    parked: int
    processes: list[Process]
    listed: Mapping[str, float]
    deferred: int
    away: Mapping[str, float]
    waits: Mapping[str, int]
    regions: list[RegionRecord]
    changes: Mapping[tuple[str, str], int]
    published: Mapping[tuple[str, str], float]


def measure(database: Database) -> Measures:
    """Return the measures, read in one transaction."""
    now = time.time()
    with database.engine.connect() as connection:
        counts = dict.fromkeys((*LIVE, *ENDED), 0)
        states = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        counts |= {state: int(count) for state, count in connection.execute(states)}
        return Measures(
            now=now,
            jobs=counts,
            live=_live(database, connection),
            steps=_steps(database, connection),
            outbox=_waiting(connection, outbox.c.created, waiting()),
            parked=int(connection.execute(count_parked()).scalar_one()),
            processes=_processes(connection, now),
            listed=_listed(connection),
            deferred=_waiting(connection, deferred_entries.c.asked, sa.true()).count,
            away={
                row.region: float(row.since)
                for row in connection.execute(
                    sa.select(outages.c.region, outages.c.since).where(outages.c.back.is_(None))
                )
            },
            waits=_waits(connection),
            regions=_regions(connection),
            changes=_changes(connection),
            published=_published(connection, now),
        )


def _waiting(
    connection: sa.Connection, time: sa.ColumnElement[float], condition: sa.ColumnElement[bool]
) -> Waiting:
    query = sa.select(sa.func.count(), sa.func.min(time)).where(condition)
    count, oldest = connection.execute(query).one()
    return Waiting(int(count), None if oldest is None else float(oldest))


def _queue_table(database: Database, name: str, *columns: str) -> sa.TableClause:
    """Return a table of the queue's library, which has a schema of its own in a PostgreSQL."""
    schema = "dbos" if database.shared else None
    return sa.table(name, *(sa.column(each) for each in columns), schema=schema)


def _live(database: Database, connection: sa.Connection) -> Waiting:
    """Return the live jobs, and when the present run of the oldest was queued.

    A job that a person retries after weeks is as old as its new run.
    """
    flows = _queue_table(database, "workflow_status", "workflow_uuid", "created_at")
    key = sa.literal(f"{_RUN}:") + jobs.c.job + ":" + sa.cast(jobs.c.run, sa.String)
    queued = sa.func.coalesce(flows.c.created_at / 1000.0, jobs.c.created)
    query = (
        sa.select(sa.func.count(), sa.func.min(queued))
        .select_from(jobs.outerjoin(flows, flows.c.workflow_uuid == key))
        .where(jobs.c.state.in_(LIVE))
    )
    count, oldest = connection.execute(query).one()
    return Waiting(int(count), None if oldest is None else float(oldest))


def _steps(database: Database, connection: sa.Connection) -> dict[str, list[float]]:
    flows = _queue_table(database, "workflow_status", "workflow_uuid", "name", "completed_at")
    outputs = _queue_table(
        database,
        "operation_outputs",
        "workflow_uuid",
        "function_name",
        "started_at_epoch_ms",
        "completed_at_epoch_ms",
    )
    last = (
        sa.select(flows.c.workflow_uuid)
        .where(flows.c.name == _RUN, flows.c.completed_at.is_not(None))
        .order_by(flows.c.completed_at.desc())
        .limit(RUNS)
    )
    began, ended = outputs.c.started_at_epoch_ms, outputs.c.completed_at_epoch_ms
    query = sa.select(outputs.c.function_name, ended - began).where(
        outputs.c.workflow_uuid.in_(last), began.is_not(None), ended.is_not(None)
    )
    steps: defaultdict[str, list[float]] = defaultdict(list)
    for name, milliseconds in connection.execute(query):
        # `publish:us-east-1` is the step `publish`.
        steps[str(name).partition(":")[0]].append(max(0.0, float(milliseconds) / 1000))
    return dict(steps)


def _processes(connection: sa.Connection, now: float) -> list[Process]:
    query = (
        sa.select(heartbeats.c.kind, heartbeats.c.name, heartbeats.c.at, heartbeats.c.heard)
        .where(heartbeats.c.at > now - _PROCESS_SECONDS)
        .order_by(heartbeats.c.kind, heartbeats.c.name)
    )
    return [Process(*row) for row in connection.execute(query)]


def _listed(connection: sa.Connection) -> dict[str, float]:
    succeeded = list_readings.c.succeeded
    query = sa.select(list_readings.c.list, succeeded).where(succeeded.is_not(None))
    return {name: float(at) for name, at in connection.execute(query)}


def _waits(connection: sa.Connection) -> dict[str, int]:
    live = sa.select(jobs.c.job).where(jobs.c.state.in_(LIVE))
    query = (
        sa.select(regions.c.region, sa.func.count())
        .where(regions.c.job.in_(live))
        .where(regions.c.detail.startswith(_WAITING))
        .group_by(regions.c.region)
    )
    return {region: int(count) for region, count in connection.execute(query)}


def _changes(connection: sa.Connection) -> dict[tuple[str, str], int]:
    key = (changes.c.region, changes.c.what)
    query = sa.select(*key, sa.func.count()).group_by(*key)
    return {(region, what): int(count) for region, what, count in connection.execute(query)}


def _regions(connection: sa.Connection) -> list[RegionRecord]:
    rows = connection.execute(sa.select(verified).order_by(verified.c.region)).all()
    return [
        RegionRecord(
            row.region,
            row.at,
            row.error is not None,
            len(row.differences or ()),
            row.public_amis,
            row.quota,
        )
        for row in rows
    ]


def _published(connection: sa.Connection, now: float) -> dict[tuple[str, str], float]:
    """Return when an image of a release was last published, by release and architecture.

    Scratch builds and uploads belong to no release.
    """
    last = (
        sa.select(sa.func.max(amis.c.published_at))
        .where(amis.c.job == jobs.c.job)
        .scalar_subquery()
    )
    # A row of ten thousand: reading each as a RawImage would check its URL again.
    query = sa.select(jobs.c.image, jobs.c.raw_image, last).where(
        jobs.c.updated > now - PUBLISHED_DAYS * 86400, last.is_not(None)
    )
    found: dict[tuple[str, str], float] = {}
    for image, raw_image, at in connection.execute(query):
        if of := edition(image, raw_image["source"], raw_image["build"]):
            key = (of.release, raw_image["architecture"])
            found[key] = max(found.get(key, 0.0), float(at))
    return found
