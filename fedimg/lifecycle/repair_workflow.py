"""Make EC2 as it is recorded for a job's AMIs in one region, as a queued workflow.

Each action is decided once more by what EC2 shows now: the region may have been away for days, and
a person may have withdrawn, accepted or hidden the AMI since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fedimg.aws import inventory, permissions, publish, share, tags
from fedimg.bus import messages
from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.holds import Holds
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import audience_comparison, comparison
from fedimg.lifecycle.change_workflow import ChangeWorkflow, Effect, by_snapshot
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.lifecycle.repair import (
    HIDE_AMI,
    HIDE_SNAPSHOT,
    PUBLISH_AMI,
    PUBLISH_SNAPSHOT,
    SHARE_AMI,
    SHARE_SNAPSHOT,
    ami_of,
    plan,
)
from fedimg.lifecycle.share import audience_of, of_snapshot
from fedimg.store import rows
from fedimg.store.changes import REPAIR
from fedimg.store.repairs import Repairs
from fedimg.store.rows import AMIRow, JobRow

_log = logging.getLogger(__name__)


class RepairWorkflow(ChangeWorkflow):
    """The workflow of the actions that a person asked for by `fedimg verify --repair`."""

    def repair(self, job: str, region: str, at: float) -> None:
        """Hide and publish AMIs and snapshots of a job in a region, as was asked."""
        effects: list[tuple[str, Effect]] = [
            ("check", self._check),
            ("hide", self._hide),
            ("mark", self._mark),
            ("publish", self._publish),
            ("share", self._share),
        ]
        self._carry_out(REPAIR, job, region, at, effects, self._end)

    def _check(self, job: str, region: str, at: float) -> None:
        """Give up what the record and EC2 do not demand any more, or not yet."""
        repairs = Repairs(self._store)
        asked = {(each.what, each.id) for each in repairs.open(job, region)}
        here = self._concerned(job, region)
        maybe_shared = self._store.maybe_shared(region)
        seen = inventory.look(
            self._ec2(region),
            region,
            amis={row.ami for row in here},
            snapshots={row.snapshot for row in here},
            private=audience_comparison.private(here, maybe_shared),
        )
        # A person named each of these AMIs, and of each of these snapshots the unknown ones.
        named = {row.ami for row in here}
        audiences = audience_comparison.compare(here, seen, maybe_shared)
        differ = [*comparison.compare(here, seen), *audiences]
        demanded = plan(differ, here, self._store.job, named)
        still = {(action.what, action.id) for action in demanded.actions}
        # What an earlier try has done is as recorded by now, and is announced at the end.
        done = self._done(asked - still, here, seen, audiences)
        left = dict.fromkeys(asked - still - done, "record or EC2 changed since it was asked for")
        for what, id in sorted(left):
            _log.info("job %s: %s %s in %s is given up: %s", job, what, id, region, left[what, id])
        repairs.leave(left, job, region)

    def _done(
        self,
        asked: set[tuple[str, str]],
        here: Sequence[AMIRow],
        seen: inventory.Inventory,
        audiences: Sequence[Difference],
    ) -> set[tuple[str, str]]:
        """Return those of some actions of which EC2 shows the effect, and the record demands it.

        `audiences` are the differences of audiences.
        """
        public = {row.ami for row in here if row.state == rows.PUBLIC}
        shared = {row.snapshot for row in here if row.ami in public}
        shown = {id for id, image in seen.images.items() if image.get("Public")}
        wanted = {
            PUBLISH_AMI: shown & public,
            PUBLISH_SNAPSHOT: seen.public_snapshots & shared,
            HIDE_AMI: set(seen.images) - shown - public,
            HIDE_SNAPSHOT: set(seen.snapshots) - seen.public_snapshots - shared,
            SHARE_AMI: {row.ami for row in here if row.state == rows.SHARED},
            SHARE_SNAPSHOT: {row.snapshot for row in here if row.state == rows.SHARED},
        }
        differ = {(each.kind, each.id) for each in audiences}
        for what, kind in (
            (HIDE_AMI, Kind.SHARED_WITH_OTHERS),
            (HIDE_SNAPSHOT, Kind.SHARED_WITH_OTHERS),
            (SHARE_AMI, Kind.NOT_SHARED),
            (SHARE_SNAPSHOT, Kind.NOT_SHARED),
        ):
            wanted[what] = {id for id in wanted[what] if (kind, id) not in differ}
        return {(what, id) for what, id in asked if id in wanted[what]}

    def _hide(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        here = self._concerned(job, region)
        private = {row.ami: row for row in here if row.audience is not None}
        for ami in self._asked(job, region, HIDE_AMI):
            if ami in private:
                share.remove_others(
                    ec2, waiter, ami, audience_comparison.expected_audience(private[ami])
                )
            else:
                permissions.hide_ami(ec2, waiter, ami)
        for snapshot in self._asked(job, region, HIDE_SNAPSHOT):
            if snapshot in {row.snapshot for row in private.values()}:
                audience = of_snapshot(snapshot, here)
                share.remove_others_of_snapshot(ec2, waiter, snapshot, audience)
            else:
                permissions.hide_snapshot(ec2, waiter, snapshot)

    def _share(self, job: str, region: str, at: float) -> None:
        """Add who is missing of the audience of private AMIs and snapshots."""
        to_share = self._to_share(job, region)
        snapshots = self._asked(job, region, SHARE_SNAPSHOT)
        if not (to_share or snapshots):
            return
        if hold := Holds(self._store, self._stopping).current():
            raise EC2ServiceException(f"{hold}; 'fedimg release' ends the hold")
        ec2, waiter = self._ec2(region), self._waiter(region)
        here = self._concerned(job, region)
        _, recorder = self._job(job)
        for snapshot in snapshots:
            recorder.sharing(region, [snapshot])
            share.add_missing_of_snapshot(ec2, waiter, snapshot, of_snapshot(snapshot, here))
        for row in to_share:
            recorder.sharing(region, [row.ami])
            share.add_missing(ec2, waiter, row.ami, audience_of(row))

    def _mark(self, job: str, region: str, at: float) -> None:
        """Record by tags what is about to become public, as publishing does."""
        snapshots = self._asked(job, region, PUBLISH_SNAPSHOT)
        found = by_snapshot(self._to_publish(job, region))
        if not (snapshots or found):
            return
        if hold := Holds(self._store, self._stopping).current():
            raise EC2ServiceException(f"{hold}; 'fedimg release' ends the hold")
        row, recorder = self._job(job)
        facts = tags.facts(row.image, recorder.disk(), self._settings.ec2.origin)
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot in sorted({*snapshots, *found}):
            ids = [snapshot, *(each.ami for each in found.get(snapshot, ()))]
            recorder.publishing(region, ids)
            first = self._first_published(snapshot, region)
            permissions.set_tags(ec2, waiter, ids, {**facts, tags.PUBLISHED: first})

    def _first_published(self, snapshot: str, region: str) -> str:
        """Return, for a tag, when the first AMI of a snapshot became public."""
        its_amis = [row for row in self._store.amis(region) if row.snapshot == snapshot]
        times = [row.published_at for row in its_amis if row.published_at is not None]
        return datetime.fromtimestamp(min(times, default=time.time()), UTC).isoformat(
            timespec="seconds"
        )

    def _publish(self, job: str, region: str, at: float) -> None:
        to_publish = self._to_publish(job, region)
        found = by_snapshot(to_publish)
        snapshots = sorted({*self._asked(job, region, PUBLISH_SNAPSHOT), *found})
        if not snapshots:
            return
        ec2, waiter = self._ec2(region), self._waiter(region)
        _, recorder = self._job(job)
        for snapshot in snapshots:
            recorder.publishing(region, [snapshot])
            publish.publish_snapshot(ec2, waiter, snapshot)
        for row in to_publish:
            check = partial(recorder.publishing, region, [row.ami])
            publish.publish_ami(ec2, waiter, ami_of(row), check)
        ids = [row.ami for row in to_publish]
        waiter.until(
            lambda: self._are_public(region, ids) or None,
            what=f"AMIs {', '.join(ids)} to be public",
            limit=self._settings.ec2.limits.settle,
        )

    def _end(self, job: str, region: str, at: float) -> None:
        """Announce and record that a repair was made, unless a later command replaced it.

        image.publish was sent when the AMI became public the first time, and is sent once: what is
        available again is image.restore. That something is private, which was never announced as
        public, is no news.
        """
        published = self._to_publish(job, region)
        told: list[tuple[str, str, dict[str, Any]]] = []
        if published:
            row, _ = self._job(job)
            told = [
                (
                    f"{messages.RESTORE}:{ami.ami}:{at}",
                    messages.RESTORE,
                    messages.image_restore(row.image, ami_of(ami)),
                )
                for ami in published
            ]
        for ami in self._to_share(job, region):
            row, _ = self._job(job)
            body = messages.image_share(row.image, ami_of(ami), audience_of(ami))
            told.append((f"{messages.SHARE}:{ami.ami}:{at}", messages.SHARE, body))
        count = len(Repairs(self._store).open(job, region))
        if Repairs(self._store).done(job, region, at, published, told):
            _log.info("job %s: %d repairs in %s are done", job, count, region)

    def _asked(self, job: str, region: str, what: str) -> list[str]:
        asked = Repairs(self._store).open(job, region)
        return sorted({each.id for each in asked if each.what == what})

    def _to_share(self, job: str, region: str) -> list[AMIRow]:
        asked = set(self._asked(job, region, SHARE_AMI))
        return [row for row in self._store.amis(region) if row.job == job and row.ami in asked]

    def _to_publish(self, job: str, region: str) -> list[AMIRow]:
        asked = set(self._asked(job, region, PUBLISH_AMI))
        return [row for row in self._store.amis(region) if row.job == job and row.ami in asked]

    def _concerned(self, job: str, region: str) -> list[AMIRow]:
        """Return the job's AMIs in a region, and others of the same snapshots."""
        here = self._store.all_amis(region)
        snapshots = {row.snapshot for row in here if row.job == job}
        return [row for row in here if row.snapshot in snapshots and row.state != rows.DELETED]

    def _job(self, job: str) -> tuple[JobRow, Recorder]:
        row = self._store.job(job)
        if row is None:
            raise EC2ServiceException(f"job {job} is not recorded, so that nothing is published")
        return row, Recorder(self._store, row.image, row.run, self._settings.ec2.origin)

    def _are_public(self, region: str, ids: Sequence[str]) -> bool:
        shown = permissions.existing(self._ec2(region), ids)
        return all(ami in shown and shown[ami]["Public"] for ami in ids)
