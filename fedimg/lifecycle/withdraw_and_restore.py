"""Withdraw and restore the AMIs of a job in one region, as a queued workflow.

The table of changes is the record of what has to be done: a region that is away keeps its change
until it answers, and holds up no other region. Each effect may be repeated.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fedimg.aws import amis, permissions, tags
from fedimg.aws.client.availability import Origin, Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import explained
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.waiter import Waiter
from fedimg.bus import messages
from fedimg.config import Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.jobs.queue import JobQueue
from fedimg.lifecycle.repair import ami_of
from fedimg.process.backoff import Backoff
from fedimg.steps import Steps
from fedimg.store import rows
from fedimg.store.rows import CLEANING, LIVE, AMIRow
from fedimg.store.store import Store
from fedimg.store.withdrawals import RESTORE, WITHDRAW, Change, Withdrawals

_log = logging.getLogger(__name__)


class WithdrawAndRestore:
    """The workflow of a change, and what queues it.

    A workflow decides only by recorded results of its steps, which have all of its effects.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        clients: Clients,
        steps: Steps,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._queue = queue
        self._clients = clients
        self._steps = steps
        self._stopping = stopping
        self._withdrawals = Withdrawals(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._holds = Holds(store, stopping)
        self._origin = Origin(clients, settings.ec2.origin)

    def begin_due(self) -> None:
        """Queue the changes that are due, except in regions that are away."""
        for change in self._withdrawals.due():
            if not self._outages.away(change.region):
                self._begin(change)

    def _begin(self, change: Change) -> None:
        ended = self._queue.change(change.what, change.job, change.region, change.at, change.tries)
        if ended:
            # Its error is in the log; the change itself is still to be made.
            problem = "the worker failed at it; its log has the error"
            self._postpone(change.what, change.job, change.region, change.at, problem)
        else:
            self._withdrawals.queued(change)

    def withdraw(self, job: str, region: str, at: float) -> None:
        """Take a job's AMIs in a region out of others' reach."""
        live = self._steps.run("stop-run", partial(self._stop_run, job))
        effects: list[tuple[str, Callable[[str, str, float], None]]] = [
            ("record", self._record_permissions),
            ("mark", self._mark_withdrawn),
            ("hide", self._hide),
        ]
        if live:
            # What the run has made public meanwhile is withdrawn, too.
            effects += [("run-ended", self._wait_until_run_ended)]
            effects += [(f"{name}-again", effect) for name, effect in effects[:3]]
        self._carry_out(WITHDRAW, job, region, at, effects)

    def restore(self, job: str, region: str, at: float) -> None:
        """Give a job's withdrawn AMIs in a region back to those who could use them."""
        effects: list[tuple[str, Callable[[str, str, float], None]]] = [
            ("enable", self._enable),
            ("mark", self._mark_restored),
            ("share", self._share),
        ]
        self._carry_out(RESTORE, job, region, at, effects)

    def _carry_out(
        self,
        what: str,
        job: str,
        region: str,
        at: float,
        effects: list[tuple[str, Callable[[str, str, float], None]]],
    ) -> None:
        for name, effect in effects:
            attempt = partial(self._attempt, what, job, region, at, effect)
            if problem := self._steps.run(f"{name}:{region}", attempt):
                self._steps.run(
                    f"postpone:{region}", partial(self._postpone, what, job, region, at, problem)
                )
                return
        self._steps.run(f"end:{region}", partial(self._end, what, job, region, at))

    def _attempt(
        self,
        what: str,
        job: str,
        region: str,
        at: float,
        effect: Callable[[str, str, float], None],
    ) -> str:
        """Run an effect, unless a later command replaced the change; return why it failed."""
        if not self._withdrawals.is_pending(what, job, region, at):
            return ""
        try:
            with explained(f"{what} of {job}", image="", region=region, step=what):
                if watch := self._watch(region):
                    watch.meet()
                effect(job, region, at)
        except EC2ServiceException as error:
            return str(error)
        return ""

    def _stop_run(self, job: str) -> bool:
        """Stop a job's run, and its scheduled ones; return whether it had a run."""
        row = self._store.job(job)
        live = row is not None and (row.state in LIVE or row.step == CLEANING)
        self._queue.cancel(job)
        return live

    def _wait_until_run_ended(self, job: str, region: str, at: float) -> None:
        self._waiter(region).until(
            lambda: self._run_has_ended(job) or None,
            what=f"the run of job {job} to end",
            limit=self._settings.ec2.limits.instance_gone,
        )

    def _run_has_ended(self, job: str) -> bool:
        row = self._store.job(job)
        return row is None or (row.state not in LIVE and row.step != CLEANING)

    def _record_permissions(self, job: str, region: str, at: float) -> None:
        """Record who may use the AMIs, as disabling an AMI removes all permissions."""
        ec2 = self._ec2(region)
        for snapshot, its_amis in self._to_withdraw(job, region).items():
            of_snapshot = permissions.volume_permissions(ec2, snapshot)
            there = permissions.existing(ec2, [row.ami for row in its_amis])
            for row in its_amis:
                if row.ami in there and row.permissions is None:
                    launch = permissions.launch_permissions(ec2, row.ami)
                    self._withdrawals.record_permissions(
                        row, {"launch": launch, "snapshot": of_snapshot}
                    )

    def _mark_withdrawn(self, job: str, region: str, at: float) -> None:
        self._mark(region, self._to_withdraw(job, region), _mark(at))

    def _mark_restored(self, job: str, region: str, at: float) -> None:
        self._mark(region, self._to_restore(job, region), _mark(at, restored=True))

    def _mark(self, region: str, by_snapshot: dict[str, list[AMIRow]], value: str) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in by_snapshot.items():
            there = permissions.existing(ec2, [row.ami for row in its_amis])
            permissions.mark(ec2, waiter, [snapshot, *there], value)

    def _hide(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in self._to_withdraw(job, region).items():
            there = permissions.existing(ec2, [row.ami for row in its_amis])
            for ami in sorted(there):
                permissions.disable_ami(ec2, waiter, ami)
            # Another job's AMI of the same snapshot may be public: the last one takes it along.
            if not self._public_others(job, region, snapshot):
                permissions.hide_snapshot(ec2, waiter, snapshot)
            waiter.until(
                lambda there=there: self._are_hidden(ec2, list(there)) or None,  # type: ignore[misc]
                what=f"AMIs {', '.join(sorted(there))} to be private",
                limit=self._settings.ec2.limits.settle,
            )

    def _are_hidden(self, ec2: RetryingClient, ids: list[str]) -> bool:
        return not any(each["Public"] for each in permissions.existing(ec2, ids).values())

    def _enable(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        if hold := self._holds.current():
            raise EC2ServiceException(f"{hold}; 'fedimg release' ends the hold")
        for snapshot, its_amis in self._to_restore(job, region).items():
            shown = permissions.described(ec2, [row.ami for row in its_amis])
            for id, image in sorted(shown.items()):
                if amis.snapshots_of(image) != {snapshot}:
                    raise EC2ServiceException(
                        f"AMI {id} is not made from the recorded snapshot {snapshot}: it is not "
                        "what was tested, and stays withdrawn"
                    )
                permissions.enable_ami(ec2, waiter, id, self._settings.ec2.limits.image)

    def _share(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in self._to_restore(job, region).items():
            if users := (its_amis[0].permissions or {}).get("snapshot", permissions.EVERYBODY):
                permissions.share_snapshot(ec2, waiter, snapshot, users)
            for row in its_amis:
                if users := _launch_permissions(row):
                    permissions.share_ami(ec2, waiter, row.ami, users)

    def _end(self, what: str, job: str, region: str, at: float) -> None:
        """Announce and record that a change was made."""
        if not self._withdrawals.is_pending(what, job, region, at):
            return
        row = self._store.job(job)
        assert row is not None
        changed = self._rows(job, region, what)
        by_state = {rows.WITHDRAWN: changed}
        if what == RESTORE:
            # Nobody could launch an AMI whose job ended before EC2 made it public.
            shared = [ami for ami in changed if _launch_permissions(ami)]
            by_state = {
                rows.PUBLIC: shared,
                rows.PRIVATE: [ami for ami in changed if ami not in shared],
            }
            changed = shared
        for ami in changed:
            if what == WITHDRAW:
                topic = messages.WITHDRAW
                body = messages.image_withdraw(
                    row.image, ami_of(ami), ami.reason or "", ami.replacement
                )
            else:
                topic, body = messages.RESTORE, messages.image_restore(row.image, ami_of(ami))
            self._store.announce(f"{topic}:{ami.ami}:{at}", topic, body)
        self._withdrawals.done(job, region, at, by_state)
        done = "withdrawn" if what == WITHDRAW else "restored"
        _log.info("job %s: %d AMIs in %s are %s", job, len(changed), region, done)

    def _postpone(self, what: str, job: str, region: str, at: float, problem: str) -> None:
        found = [
            change
            for change in self._withdrawals.changes()
            if (change.job, change.region, change.at) == (job, region, at)
        ]
        tries = found[0].tries + 1 if found else 1
        limits = self._settings.ec2.limits
        pause = Backoff(limits.wait_maximum, limits.retry_after).pause(tries)
        self._withdrawals.postpone(job, region, at, problem, pause)
        _log.warning(
            "job %s: %s in %s failed, retries in %g s: %s", job, what, region, pause, problem
        )

    def _to_withdraw(self, job: str, region: str) -> dict[str, list[AMIRow]]:
        return _by_snapshot(self._rows(job, region, WITHDRAW))

    def _to_restore(self, job: str, region: str) -> dict[str, list[AMIRow]]:
        return _by_snapshot(self._rows(job, region, RESTORE))

    def _rows(self, job: str, region: str, what: str) -> list[AMIRow]:
        own = [row for row in self._store.amis() if (row.job, row.region) == (job, region)]
        if what == RESTORE:
            return [row for row in own if row.state == rows.RESTORING]
        return [row for row in own if row.state == rows.WITHDRAWING or row.public]

    def _public_others(self, job: str, region: str, snapshot: str) -> bool:
        return any(
            row.state in (rows.PUBLIC, rows.RESTORING)
            for row in self._store.amis()
            if row.region == region and row.snapshot == snapshot and row.job != job
        )

    def _watch(self, region: str) -> Watch | None:
        if region == self._settings.ec2.origin:
            return None
        return Watch(self._clients, self._origin, region, self._outages)

    def _waiter(self, region: str) -> Waiter:
        limits = self._settings.ec2.limits
        # A region that is away is asked again later, by another try.
        brief = limits.model_copy(update={"outage": min(limits.outage, limits.settle)})
        return Waiter(brief, self._stopping, watch=self._watch(region))

    def _ec2(self, region: str) -> RetryingClient:
        return RetryingClient(self._clients, region, self._waiter(region))


def _launch_permissions(row: AMIRow) -> list[dict[str, Any]]:
    """Return who could launch an AMI before its withdrawal; without a record, everybody."""
    users: list[dict[str, Any]] = (row.permissions or {}).get("launch", permissions.EVERYBODY)
    return users


def _by_snapshot(found: list[AMIRow]) -> dict[str, list[AMIRow]]:
    grouped: dict[str, list[AMIRow]] = {}
    for row in found:
        grouped.setdefault(row.snapshot, []).append(row)
    return grouped


def _mark(at: float, *, restored: bool = False) -> str:
    return tags.withdrawal(datetime.fromtimestamp(at, UTC), restored=restored)
