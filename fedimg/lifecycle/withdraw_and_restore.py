"""Withdraw and restore the AMIs of a job in one region, as a queued workflow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial, reduce
from typing import Any

from fedimg.aws import amis, permissions, tags
from fedimg.aws.client.clients import Clients
from fedimg.bus import messages
from fedimg.config import Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.holds import Holds
from fedimg.jobs.queue import JobQueue
from fedimg.lifecycle.change_workflow import ChangeWorkflow, Effect, by_snapshot
from fedimg.lifecycle.repair import ami_of
from fedimg.steps import Steps
from fedimg.store import rows
from fedimg.store.changes import RESTORE, WITHDRAW
from fedimg.store.rows import CLEANING, LIVE, AMIRow
from fedimg.store.store import Store
from fedimg.values.audience import Audience

_log = logging.getLogger(__name__)


class WithdrawAndRestore(ChangeWorkflow):
    """The workflows of withdrawals and restorations."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        queue: JobQueue,
        clients: Clients,
        steps: Steps,
        stopping: threading.Event,
    ) -> None:
        super().__init__(settings, store, clients, steps, stopping)
        self._queue = queue
        self._holds = Holds(store, stopping)

    def withdraw(self, job: str, region: str, at: float) -> None:
        """Take a job's AMIs in a region out of others' reach."""
        live = self._steps.run("stop-run", partial(self._stop_run, job))
        effects: list[tuple[str, Effect]] = [
            ("record", self._record_permissions),
            ("mark", self._mark_withdrawn),
            ("hide", self._hide),
        ]
        if live:
            # What the run has made public meanwhile is withdrawn, too.
            effects += [("run-ended", self._wait_until_run_ended)]
            effects += [(f"{name}-again", effect) for name, effect in effects[:3]]
        self._carry_out(WITHDRAW, job, region, at, effects, partial(self._end, WITHDRAW))

    def restore(self, job: str, region: str, at: float) -> None:
        """Give a job's withdrawn AMIs in a region back to those who could use them."""
        effects: list[tuple[str, Effect]] = [
            ("enable", self._enable),
            ("mark", self._mark_restored),
            ("share", self._share),
        ]
        self._carry_out(RESTORE, job, region, at, effects, partial(self._end, RESTORE))

    def _stop_run(self, job: str) -> bool:
        """Stop a withdrawn job's run, and its scheduled ones; return whether it had a run."""
        if self._withdrawals.of(job) is None:
            # It was restored since, and may run again.
            return False
        row = self._store.job(job)
        live = row is not None and (row.state in LIVE or row.step == CLEANING)
        self._queue.cancel(job)
        return live

    def _wait_until_run_ended(self, job: str, region: str, at: float) -> None:
        def ended() -> bool | None:
            # A later command waits for this one.
            replaced = not self._pending.is_pending(WITHDRAW, job, region, at)
            return replaced or self._run_has_ended(job) or None

        self._waiter(region).until(
            ended,
            what=f"the run of job {job} to end",
            limit=self._settings.ec2.limits.instance_gone,
        )

    def _run_has_ended(self, job: str) -> bool:
        row = self._store.job(job)
        return row is None or (row.state not in LIVE and row.step != CLEANING)

    def _record_permissions(self, job: str, region: str, at: float) -> None:
        self._record_users(self._rows(job, region, WITHDRAW), region)

    def _mark_withdrawn(self, job: str, region: str, at: float) -> None:
        self._mark(region, self._to_withdraw(job, region), _mark(at))

    def _mark_restored(self, job: str, region: str, at: float) -> None:
        self._mark(region, self._to_restore(job, region), _mark(at, restored=True))

    def _mark(self, region: str, by_snapshot: dict[str, list[AMIRow]], value: str) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in by_snapshot.items():
            there = permissions.existing(ec2, [row.ami for row in its_amis])
            # A person may have removed the AMIs, and then the snapshot.
            if there or permissions.snapshot_exists(ec2, snapshot):
                permissions.mark(ec2, waiter, [snapshot, *there], value)

    def _hide(self, job: str, region: str, at: float) -> None:
        self._hide_amis(self._rows(job, region, WITHDRAW), region)

    def _enable(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        if hold := self._holds.current():
            raise EC2ServiceException(f"{hold}; 'fedimg release' ends the hold")
        for snapshot, its_amis in self._to_restore(job, region).items():
            shown = permissions.existing(ec2, [row.ami for row in its_amis])
            gone = [row for row in its_amis if row.ami not in shown]
            self._withdrawals.not_restored(gone, rows.WITHDRAWN)
            for row in gone:
                _log.warning(
                    "AMI %s of job %s in %s no longer exists and cannot be restored: it stays "
                    "withdrawn; 'fedimg accept %s' records that it is gone",
                    row.ami,
                    job,
                    region,
                    row.ami,
                )
            others = [row for row in its_amis if row.ami in shown]
            wrong = [row for row in others if amis.snapshots_of(shown[row.ami]) != {snapshot}]
            # Its withdrawal may not have come to its end: it follows this change.
            self._withdrawals.not_restored(wrong, rows.WITHDRAWING)
            for row in wrong:
                _log.warning(
                    "AMI %s is not made from the recorded snapshot %s: it is not what was tested, "
                    "and stays withdrawn (job %s in %s)",
                    row.ami,
                    snapshot,
                    job,
                    region,
                )
            for row in others:
                if row not in wrong:
                    permissions.enable_ami(ec2, waiter, row.ami, self._settings.ec2.limits.image)

    def _share(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in self._to_restore(job, region).items():
            if users := _volume_permissions(its_amis):
                permissions.share_snapshot(ec2, waiter, snapshot, users)
            for row in its_amis:
                if users := _launch_permissions(row):
                    permissions.share_ami(ec2, waiter, row.ami, users)

    def _end(self, what: str, job: str, region: str, at: float) -> None:
        """Announce and record that a change was made, unless a later command replaced it."""
        row = self._store.job(job)
        assert row is not None
        changed = self._rows(job, region, what)
        by_state = {rows.WITHDRAWN: changed}
        if what == RESTORE:
            # Nobody could launch an AMI whose job ended before EC2 made it public.
            shared = [ami for ami in changed if _launch_permissions(ami)]
            private = [ami for ami in changed if ami.audience is not None]
            by_state = {
                rows.PUBLIC: [ami for ami in shared if ami not in private],
                rows.SHARED: private,
                rows.PRIVATE: [ami for ami in changed if ami not in (*shared, *private)],
            }
            changed = shared
        told: list[tuple[str, str, dict[str, Any]]] = []
        for ami in changed:
            if what == WITHDRAW:
                topic = messages.WITHDRAW
                body = messages.image_withdraw(
                    row.image, ami_of(ami), ami.reason or "", ami.replacement
                )
            else:
                topic, body = messages.RESTORE, messages.image_restore(row.image, ami_of(ami))
            told.append((f"{topic}:{ami.ami}:{at}", topic, body))
        if not self._withdrawals.done(what, job, region, at, by_state, told):
            return
        done = "withdrawn" if what == WITHDRAW else "restored"
        _log.info("job %s: %d AMIs in %s are %s", job, len(changed), region, done)

    def _to_withdraw(self, job: str, region: str) -> dict[str, list[AMIRow]]:
        return by_snapshot(self._rows(job, region, WITHDRAW))

    def _to_restore(self, job: str, region: str) -> dict[str, list[AMIRow]]:
        return by_snapshot(self._rows(job, region, RESTORE))

    def _rows(self, job: str, region: str, what: str) -> list[AMIRow]:
        own = [row for row in self._store.amis(region) if row.job == job]
        if what == RESTORE:
            return [row for row in own if row.state == rows.RESTORING]
        # What a run has published since the command is withdrawn too, unless the job was restored.
        withdrawn = self._withdrawals.of(job) is not None
        return [
            row
            for row in own
            if row.state == rows.WITHDRAWING
            or (withdrawn and (row.public or row.state in rows.AUDIENCES))
        ]


def _launch_permissions(row: AMIRow) -> list[dict[str, Any]]:
    """Return who could launch an AMI before its withdrawal; without a record, everybody.

    A private one goes to its audience, by the record: EC2 may have shown others beside it.
    """
    if (audience := row.shared_with) is not None:
        return [dict(each) for each in audience.launch_permissions()]
    users: list[dict[str, Any]] = (row.permissions or {}).get("launch", permissions.EVERYBODY)
    return [] if _was_being_shared(row, users) else users


def _was_being_shared(row: AMIRow, users: Sequence[dict[str, Any]]) -> bool:
    """Return whether a run was sharing an AMI and had not recorded it: the next run shares it.

    It is not public, and must not be recorded so.
    """
    return row.audience is None and row.published_at is None and not _everybody(users)


def _everybody(users: Sequence[dict[str, Any]]) -> bool:
    return any(each in users for each in permissions.EVERYBODY)


def _volume_permissions(its_amis: Sequence[AMIRow]) -> list[dict[str, Any]]:
    """Return who could use the snapshot of some AMIs before their withdrawal, likewise."""
    audiences = [each.shared_with for each in its_amis if each.shared_with is not None]
    if audiences:
        together = reduce(Audience.plus, audiences)
        return [dict(each) for each in together.volume_permissions()]
    users: list[dict[str, Any]] = (its_amis[0].permissions or {}).get(
        "snapshot", permissions.EVERYBODY
    )
    return [] if all(_was_being_shared(each, users) for each in its_amis) else users


def _mark(at: float, *, restored: bool = False) -> str:
    return tags.withdrawal(datetime.fromtimestamp(at, UTC), restored=restored)
