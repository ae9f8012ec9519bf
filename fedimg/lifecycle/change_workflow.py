"""Carry out a change of a job's AMIs in one region: steps that are recorded, and tried again later.

The table of changes is the record of what has to be done: a region that is away keeps its change
until it answers, and holds up no other region. Each effect may be repeated.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from fedimg.aws import permissions
from fedimg.aws.client import retrying
from fedimg.aws.client.availability import Origin, Watch
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import explained
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits, Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.outages import Outages
from fedimg.process.backoff import Backoff
from fedimg.steps import Steps
from fedimg.store import rows
from fedimg.store.changes import Change, PendingChanges
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.store.withdrawals import Withdrawals

_log = logging.getLogger(__name__)

#: What an effect gets: the job, the region, and the time of the command that asked for the change.
Effect = Callable[[str, str, float], None]


class ChangeWorkflow:
    """The parts that the workflows of all changes share.

    A workflow decides only by recorded results of its steps, which have all of its effects.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clients: Clients,
        steps: Steps,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clients = clients
        self._steps = steps
        self._stopping = stopping
        self._withdrawals = Withdrawals(store)
        self._pending = PendingChanges(store)
        self._outages = Outages(store, settings.ec2.limits)
        self._origin = Origin(clients, settings.ec2.origin)

    def _carry_out(
        self,
        what: str,
        job: str,
        region: str,
        at: float,
        effects: Sequence[tuple[str, Effect]],
        end: Effect,
    ) -> None:
        """Run the effects in order, then `end`; postpone the change if one of them fails."""
        for name, effect in effects:
            attempt = partial(self._attempt, what, job, region, at, effect)
            if problem := self._steps.run(f"{name}:{region}", attempt):
                self._steps.run(
                    f"postpone:{region}", partial(self._postpone, what, job, region, at, problem)
                )
                return
        self._steps.run(f"end:{region}", partial(end, job, region, at))

    def _attempt(self, what: str, job: str, region: str, at: float, effect: Effect) -> str:
        """Run an effect, unless a later command replaced the change; return why it failed."""
        if not self._pending.is_pending(what, job, region, at):
            return ""
        try:
            with explained(f"{what} of {job}", image="", region=region, step=what):
                if watch := self._watch(region):
                    watch.meet()
                effect(job, region, at)
        except EC2ServiceException as error:
            return str(error)
        return ""

    def _postpone(self, what: str, job: str, region: str, at: float, problem: str) -> None:
        for change in self._pending.all():
            if (change.what, change.job, change.region, change.at) == (what, job, region, at):
                postpone(self._pending, self._settings, change, problem)

    def _record_users(self, its_amis: Sequence[AMIRow], region: str) -> None:
        """Record who may use AMIs and snapshots, as disabling an AMI removes all permissions."""
        ec2 = self._ec2(region)
        for snapshot, group in by_snapshot(its_amis).items():
            there = permissions.existing(ec2, [row.ami for row in group])
            for row in group:
                if row.ami not in there:
                    _log.warning(
                        "AMI %s of job %s in %s no longer exists: somebody removed it",
                        row.ami,
                        row.job,
                        region,
                    )
            unknown = [row for row in group if row.ami in there and row.permissions is None]
            # The snapshot of an AMI exists; one without any may be gone, too.
            of_snapshot = permissions.volume_permissions(ec2, snapshot) if unknown else []
            for row in unknown:
                launch = permissions.launch_permissions(ec2, row.ami)
                self._withdrawals.record_permissions(
                    row, {"launch": launch, "snapshot": of_snapshot}
                )

    def _hide_amis(self, its_amis: Sequence[AMIRow], region: str) -> None:
        """Disable AMIs, and make a snapshot private with the last public AMI that is made of it."""
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, group in by_snapshot(its_amis).items():
            there = permissions.existing(ec2, [row.ami for row in group])
            for ami in sorted(there):
                permissions.disable_ami(ec2, waiter, ami)
            shared = self._is_shared(snapshot, region, {row.ami for row in group})
            if not shared and (there or permissions.snapshot_exists(ec2, snapshot)):
                permissions.hide_snapshot(ec2, waiter, snapshot)
            private = {row.ami for row in group if row.audience is not None} & set(there)
            waiter.until(
                lambda there=there, private=private: (  # type: ignore[misc]
                    self._are_hidden(ec2, list(there), private) or None
                ),
                what=f"AMIs {', '.join(sorted(there))} to be private",
                limit=self._settings.ec2.limits.settle,
            )

    def _is_shared(self, snapshot: str, region: str, hidden: set[str]) -> bool:
        """Return whether an AMI that is not `hidden`, of any job, needs the snapshot public."""
        return any(
            row.state in (rows.PUBLIC, rows.RESTORING, *rows.AUDIENCES)
            for row in self._store.amis(region)
            if row.snapshot == snapshot and row.ami not in hidden
        )

    def _are_hidden(self, ec2: RetryingClient, ids: list[str], private: set[str]) -> bool:
        """Return whether others can launch none of some AMIs; DescribeImages tells no audience."""
        if any(each["Public"] for each in permissions.existing(ec2, ids).values()):
            return False
        return not any(permissions.launch_permissions(ec2, ami) for ami in sorted(private))

    def _watch(self, region: str) -> Watch | None:
        if region == self._settings.ec2.origin:
            return None
        return Watch(self._clients, self._origin, region, self._outages)

    def _waiter(self, region: str) -> Waiter:
        return Waiter(self._brief(), self._stopping, watch=self._watch(region))

    def _brief(self) -> Limits:
        # A region that is away is asked again later, by another try.
        limits = self._settings.ec2.limits
        return limits.model_copy(update={"outage": min(limits.outage, limits.settle)})

    def _ec2(self, region: str) -> RetryingClient:
        return RetryingClient(self._clients, region, self._waiter(region))

    def _s3(self, region: str) -> Client:
        watch = self._watch(region)
        beside = watch.beside() if watch else None
        waiter = Waiter(self._brief(), self._stopping, watch=beside, service="S3")
        return retrying.s3(self._clients, region, waiter, watch)


def postpone(pending: PendingChanges, settings: Settings, change: Change, problem: str) -> None:
    """Record that a change failed, log it, and let it be tried again after a pause."""
    limits = settings.ec2.limits
    pause = Backoff(limits.wait_maximum, limits.retry_after).pause(change.tries + 1)
    pending.postpone(change.job, change.region, change.at, problem, pause)
    _log.warning(
        "job %s: %s in %s failed, retries in %g s: %s",
        change.job,
        change.what,
        change.region,
        pause,
        problem,
    )


def by_snapshot(found: Iterable[AMIRow]) -> dict[str, list[AMIRow]]:
    """Return some AMIs of a region by the snapshot that they are made from."""
    grouped: dict[str, list[AMIRow]] = {}
    for row in found:
        grouped.setdefault(row.snapshot, []).append(row)
    return grouped
