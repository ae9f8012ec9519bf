"""Check what runs: hub, consumer and worker, the database, the outbox, and how the jobs fare."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime

import sqlalchemy as sa

from fedimg.cli.output import ago
from fedimg.config import FEDMSG, FEDORA_MESSAGING, Settings
from fedimg.diagnostics import Finding, Status
from fedimg.process import permissions
from fedimg.store.heartbeats import CONSUMER, HUB, WORKER, Heartbeat
from fedimg.store.parked import Parked
from fedimg.store.rows import JobRow
from fedimg.store.store import Store, StoreError
from fedimg.untrusted.quoting import one_line

#: A message that waits for so many seconds is a warning.
_OUTBOX_SECONDS = 600.0
#: Jobs that ended badly are reported for so many days.
_JOB_DAYS = 7
#: How many jobs a finding names.
_NAMED = 5
#: How many faults of a damaged file are asked for.
_FAULTS = 5
#: How an error about a failed clean-up begins (fedimg.worker.job_cleanup).
_UNCLEAN = "clean-up failed: "
_LISTENERS = {
    FEDMSG: (HUB, "fedmsg-hub", "fedmsg-hub"),
    FEDORA_MESSAGING: (CONSUMER, "the consumer of fedora-messaging", "fedimg-consumer"),
}


def running(settings: Settings) -> list[Finding]:
    """Return the findings about what runs; one alone if the site has no database yet."""
    if not has_database(settings):
        text = "nothing has run here yet: there is no database"
        return [Finding("running", Status.OK, text, "start the units when this check is green")]
    try:
        store = Store(settings.state_directory, settings.database)
    except StoreError:
        # The finding about the state directory, or the database, says so.
        return []
    with closing(store):
        if damaged := _damage(store):
            return [damaged]
        listeners = [listener(store, *_LISTENERS[bus]) for bus in dict.fromkeys(settings.bus)]
        return [*listeners, worker(store), outbox(store), jobs(store.jobs())]


def has_database(settings: Settings) -> bool:
    """Return whether the site has a database, without creating one."""
    # Opening would create the file, owned by whoever runs this command.
    return bool(settings.database) or (settings.state_directory / permissions.DATABASE).exists()


def _damage(store: Store) -> Finding | None:
    """Return the finding about a damaged database file; None if the file is sound."""
    if store.shared:
        return None
    try:
        with store.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"PRAGMA quick_check({_FAULTS})").scalars().all()
        faults = [] if rows == ["ok"] else [str(row) for row in rows]
    except sa.exc.DatabaseError as error:
        faults = [str(error.orig)]
    if not faults:
        return None
    return Finding(
        "database file",
        Status.PROBLEM,
        f"{store.address} is damaged: {one_line('; '.join(faults))}",
        "stop hub and worker, keep the file, and restore the last backup: docs/faq.md",
    )


def listener(store: Store, kind: str, program: str, unit: str) -> Finding:
    """Check that a process that receives announcements works."""
    name = f"{kind}, running"
    beats = store.heartbeats(kind)
    hint = f"start it: 'systemctl start {unit}'; its log says why it ended"
    if not beats:
        text = f"{program} has never run on this database: no announcement is received"
        return Finding(name, Status.PROBLEM, text, hint)
    if not beats[0].fresh:
        text = f"{program} {_silent(beats[0])}: no announcement is received"
        return Finding(name, Status.PROBLEM, text, hint)
    return Finding(name, Status.OK, f"{program} works on {_hosts(beats)}")


def worker(store: Store) -> Finding:
    """Check that a worker runs, and that every running worker still works."""
    from fedimg.worker.lease import ALONE, living
    from fedimg.worker.registry import Registry

    name, hint = "worker, running", "start it: 'systemctl start fedimg-worker'"
    names = [each.name for each in Registry(store).all()] if store.shared else [ALONE]
    alive = living(store, names)
    if not alive:
        return Finding(name, Status.PROBLEM, "no worker is running: jobs wait", hint)
    beats = [beat for beat in store.heartbeats(WORKER) if beat.name in alive]
    if hung := [beat for beat in beats if not beat.fresh]:
        text = "; ".join(f'worker "{beat.name}" on {beat.host} {_silent(beat)}' for beat in hung)
        return Finding(
            name, Status.PROBLEM, text, "restart it: 'systemctl restart fedimg-worker'; jobs go on"
        )
    return Finding(name, Status.OK, f"{', '.join(sorted(alive))} works")


def outbox(store: Store) -> Finding:
    """Check that the buses take the messages of the outbox."""
    name = "outbox"
    if parked := Parked(store).all():
        first = parked[0]
        return Finding(
            name,
            Status.WARNING,
            f"{len(parked)} messages are refused and parked, the first since {ago(first.at)}: "
            f"{first.bus} refuses {first.topic}: {one_line(first.reason)}",
            "correct the reason, then 'fedimg outbox --resend all'; or give them up with --drop",
        )
    waiting = store.waiting_messages()
    if waiting is None:
        return Finding(name, Status.OK, "every message was sent")
    count, since = waiting
    text = f"{count} messages wait to be sent, the oldest since {ago(since)}"
    if time.time() - since < _OUTBOX_SECONDS:
        return Finding(name, Status.OK, text)
    hint = "start the relay or the broker of the bus, and the worker; no message is lost"
    return Finding(name, Status.WARNING, text, hint)


def jobs(rows: list[JobRow]) -> Finding:
    """Report the jobs that ended badly lately and that nothing will retry."""
    since = time.time() - _JOB_DAYS * 86400
    bad = [
        row
        for row in rows
        if (row.state in ("failed", "incomplete") and row.next is None and row.updated >= since)
        or _UNCLEAN in (row.error or "")
    ]
    if not bad:
        text = f"no job has failed for good in the last {_JOB_DAYS} days"
        return Finding("jobs", Status.OK, text)
    named = ", ".join(f"{row.job} ({row.state})" for row in bad[-_NAMED:])
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    hint = "'fedimg status JOB' has the reason; correct it, then 'fedimg retry JOB'"
    return Finding(
        "jobs", Status.WARNING, f"failed, incomplete or not cleaned up: {named}{more}", hint
    )


def _silent(beat: Heartbeat) -> str:
    at = datetime.fromtimestamp(beat.at, UTC)
    return f"last worked at {at:%Y-%m-%dT%H:%M:%SZ}, {ago(beat.at)}, on {beat.host}"


def _hosts(beats: list[Heartbeat]) -> str:
    return ", ".join(sorted({beat.host for beat in beats if beat.fresh}))
