"""Give private AMIs of a job another audience in one region, as a queued workflow.

EC2 then shares each AMI with exactly its recorded audience: whoever is not in it is removed, also
what somebody added by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from fedimg.aws import amis, permissions, share, tags
from fedimg.aws.client.errors import quota_met
from fedimg.bus import messages
from fedimg.exceptions import EC2ServiceException
from fedimg.jobs.holds import Holds
from fedimg.lifecycle.change_workflow import ChangeWorkflow, Effect, by_snapshot
from fedimg.lifecycle.repair import ami_of, not_to_publish
from fedimg.progress import SHARED
from fedimg.store import rows
from fedimg.store.changes import SHARE
from fedimg.store.rows import AMIRow
from fedimg.store.shares import Shares
from fedimg.values.audience import Audience

_log = logging.getLogger(__name__)


class ShareWorkflow(ChangeWorkflow):
    """The workflow of the audiences that a person asked for by `fedimg share`."""

    def share(self, job: str, region: str, at: float) -> None:
        """Share a job's private AMIs in a region with exactly their recorded audiences."""
        effects: list[tuple[str, Effect]] = [
            ("unshare", self._unshare),
            ("mark", self._mark),
            ("share", self._share),
        ]
        self._carry_out(SHARE, job, region, at, effects, self._end)

    def _unshare(self, job: str, region: str, at: float) -> None:
        """Remove whoever is not in the audience; this waits for no hold."""
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in by_snapshot(self._rows(job, region)).items():
            there = permissions.existing(ec2, [row.ami for row in its_amis])
            for row in its_amis:
                if row.ami in there:
                    share.remove_others(ec2, waiter, row.ami, audience_of(row))
            if there or permissions.snapshot_exists(ec2, snapshot):
                audience = self.of_snapshot(snapshot, region)
                share.remove_others_of_snapshot(ec2, waiter, snapshot, audience)

    def _mark(self, job: str, region: str, at: float) -> None:
        """Record by tags what is about to be shared, as a job does."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        for snapshot, its_amis in by_snapshot(self._shareable(job, region)).items():
            new = [row.ami for row in its_amis if row.shared_at is None]
            if new:
                ids = [snapshot, *new]
                permissions.set_tags(
                    self._ec2(region), self._waiter(region), ids, {tags.SHARED: since}
                )

    def _share(self, job: str, region: str, at: float) -> None:
        """Add who is missing, to what was tested and is on its recorded snapshot."""
        found = by_snapshot(self._shareable(job, region))
        if any(audience_of(row) for group in found.values() for row in group) and (
            hold := Holds(self._store, self._stopping).current()
        ):
            raise EC2ServiceException(f"{hold}; 'fedimg release' ends the hold")
        ec2, waiter = self._ec2(region), self._waiter(region)
        for snapshot, its_amis in found.items():
            share.add_missing_of_snapshot(ec2, waiter, snapshot, self.of_snapshot(snapshot, region))
            for row in its_amis:
                audience = audience_of(row)
                try:
                    share.add_missing(ec2, waiter, row.ami, audience)
                except Exception as error:
                    if not quota_met(error):
                        raise
                    raise EC2ServiceException(
                        f"{share.too_many(audience, region)}: EC2 refused to share AMI {row.ami}; "
                        "'fedimg share' makes it smaller, or request a higher quota "
                        f"({share.QUOTA}) in Service Quotas"
                    ) from error

    def _end(self, job: str, region: str, at: float) -> None:
        row = self._store.job(job)
        assert row is not None
        changed = self._rows(job, region)
        shared = {each.ami for each in self._shareable(job, region)}
        told: list[tuple[str, str, dict[str, Any]]] = [
            (
                f"{messages.SHARE}:{each.ami}:{at}",
                messages.SHARE,
                messages.image_share(row.image, ami_of(each), audience_of(each)),
            )
            for each in changed
            if each.ami in shared
        ]
        if Shares(self._store).done(job, region, at, changed, told):
            for each in row.regions:
                if (each.region, each.step) == (region, SHARED) and changed:
                    detail = f"with {audience_of(changed[0])}"
                    self._store.set_region(job, region, step=SHARED, detail=detail)
            _log.info("job %s: %d AMIs in %s have their audience", job, len(shared), region)

    def _shareable(self, job: str, region: str) -> list[AMIRow]:
        """Return the AMIs that may be shared; the log names the others."""
        found = self._rows(job, region)
        there = permissions.existing(self._ec2(region), [row.ami for row in found])
        may: list[AMIRow] = []
        for row in found:
            image = there.get(row.ami)
            wrong = (
                image is None
                or image.get("State") != "available"
                or amis.snapshots_of(image) != {row.snapshot}
            )
            why = not_to_publish(row, self._store.job(job), hindered=wrong, named=True)
            if why:
                _log.warning(
                    "AMI %s of job %s in %s is shared with nobody else: %s",
                    row.ami,
                    job,
                    region,
                    why,
                )
            else:
                may.append(row)
        return may

    def of_snapshot(self, snapshot: str, region: str) -> Audience:
        """Return the audience of all shared AMIs that are made from a snapshot."""
        return of_snapshot(snapshot, self._store.amis(region))

    def _rows(self, job: str, region: str) -> list[AMIRow]:
        return [
            row for row in self._store.amis(region) if row.job == job and row.state == rows.SHARING
        ]


def audience_of(row: AMIRow) -> Audience:
    """Return the recorded audience of an AMI."""
    return row.shared_with or Audience()


def of_snapshot(snapshot: str, recorded: Sequence[AMIRow]) -> Audience:
    """Return the audience of all shared AMIs among these that are made from a snapshot."""
    its = [
        audience_of(row)
        for row in recorded
        if row.snapshot == snapshot and row.state in rows.AUDIENCES
    ]
    return reduce(Audience.plus, its, Audience())
