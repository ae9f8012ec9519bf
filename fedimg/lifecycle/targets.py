"""Find the jobs and AMIs that a withdrawal, a restoration or a new audience is about; record it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedimg.identity import Known, same
from fedimg.lifecycle import repair
from fedimg.store import rows
from fedimg.store.rows import CLEANING, LIVE, AMIRow, JobRow
from fedimg.store.shares import Shares
from fedimg.store.store import Store
from fedimg.store.withdrawals import Withdrawals
from fedimg.values.audience import Audience

#: The states of AMIs that a withdrawal takes along.
_WITHDRAWN_FROM = (
    rows.PUBLIC,
    *rows.AUDIENCES,
    rows.RESTORING,
    rows.UNKNOWN,
    rows.DISABLING,
    rows.DISABLED,
)
#: The states of AMIs that a restoration brings back.
_RESTORED_FROM = (rows.WITHDRAWN, rows.WITHDRAWING, rows.DISABLING, rows.DISABLED)


@dataclass(frozen=True)
class Target:
    """The jobs of one image, and the AMIs of each that the command is about.

    `regions` are those where something has to be done; `left` are reasons why AMIs are left alone.
    """

    jobs: Sequence[JobRow] = ()
    amis: dict[str, list[AMIRow]] = field(default_factory=dict)
    regions: dict[str, set[str]] = field(default_factory=dict)
    left: Sequence[str] = ()


def jobs_of(store: Store, name: str) -> list[JobRow]:
    """Return the jobs of the image with this exact name, of this job or of this AMI.

    Jobs of the same image, by its checksum, belong to it whatever their names.
    """
    jobs = store.jobs()
    named = {row.job for row in store.all_amis() if row.ami == name}
    chosen = [row for row in jobs if row.job == name or row.image.name == name or row.job in named]
    known = [Known(row.image) for row in chosen]
    return [
        row for row in jobs if row in chosen or any(same(each, Known(row.image)) for each in known)
    ]


def to_withdraw(store: Store, name: str) -> Target:
    """Return what a withdrawal of an image, a job or an AMI is about."""
    jobs = jobs_of(store, name)
    offered = store.ever_public()
    found: dict[str, list[AMIRow]] = {row.job: [] for row in jobs}
    for ami in store.amis():
        once = ami.state == rows.PRIVATE and ami.ami in offered
        if ami.job in found and (ami.state in _WITHDRAWN_FROM or once):
            found[ami.job].append(ami)
    regions = {job: {ami.region for ami in its_amis} for job, its_amis in found.items()}
    for row in jobs:
        if row.state in LIVE or row.step == CLEANING:
            # The run may be making something public at this moment.
            regions[row.job] |= {each.region for each in row.regions}
    return Target(jobs, found, regions)


def to_restore(store: Store, name: str) -> Target:
    """Return what a restoration is about: withdrawn and disabled AMIs whose check passed."""
    jobs = jobs_of(store, name)
    by_name = {row.job: row for row in jobs}
    found: dict[str, list[AMIRow]] = {row.job: [] for row in jobs}
    left: list[str] = []
    for ami in store.amis():
        if ami.job not in found or ami.state not in _RESTORED_FROM:
            continue
        if why := repair.not_to_publish(ami, by_name[ami.job], hindered=False, named=True):
            left.append(f"{ami.ami} in {ami.region} stays {ami.state}: {why}")
        else:
            found[ami.job].append(ami)
    return Target(jobs, found, {}, left)


def to_share(store: Store, name: str) -> Target:
    """Return the private AMIs of an image, a job or an AMI that have an audience.

    `left` says why their audience cannot be changed now.
    """
    jobs = jobs_of(store, name)
    found: dict[str, list[AMIRow]] = {row.job: [] for row in jobs}
    left = [
        f"job {row.job} is {row.state}: repeat the command when it has ended"
        for row in jobs
        if row.state in LIVE or row.step == CLEANING
    ]
    for ami in store.amis():
        if ami.job in found and ami.audience is not None:
            found[ami.job].append(ami)
            if ami.state == rows.RESTORING:
                left.append(
                    f"the restoration of {ami.ami} in {ami.region} is not finished: repeat the "
                    "command later"
                )
    regions = {job: {ami.region for ami in its_amis} for job, its_amis in found.items()}
    return Target(jobs, found, regions, left)


def withdraw(
    store: Store, name: str, *, by: str, reason: str, replacement: str | None = None
) -> Target:
    """Record the withdrawal of an image, a job or an AMI; return what it is about.

    What was found before a person was asked may have changed since.
    """
    withdrawals = Withdrawals(store)
    with withdrawals.locked() as connection:
        found = to_withdraw(store, name)
        withdrawals.withdraw(
            found.amis,
            found.regions,
            by=by,
            reason=reason,
            replacement=replacement,
            connection=connection,
        )
    return found


def other_audiences(
    found: Target, added: Audience, removed: Audience
) -> list[tuple[AMIRow, Audience]]:
    """Return the AMIs whose audience becomes another one, each with the new one."""
    return [
        (ami, after)
        for its_amis in found.amis.values()
        for ami in its_amis
        if not (after := audience_of(ami).plus(added).minus(removed)).same_as(audience_of(ami))
    ]


def audience_of(ami: AMIRow) -> Audience:
    """Return with whom a private AMI is to be shared, which may be nobody."""
    return ami.shared_with or Audience()


def share(
    store: Store, name: str, added: Audience, removed: Audience, *, by: str
) -> tuple[Target, list[AMIRow]]:
    """Record other audiences of an image's AMIs; return what it is about, and what gets another.

    What was found before a person was asked may have changed since: if something is `left`, as a
    run has begun, nothing is recorded.
    """
    shares = Shares(store)
    with shares.locked(row.job for row in jobs_of(store, name)) as connection:
        found = to_share(store, name)
        if found.left:
            return found, []
        wanted = other_audiences(found, added, removed)
        shares.change(wanted, by=by, connection=connection)
    return found, [ami for ami, _ in wanted]


def restore(store: Store, name: str, *, by: str) -> Target:
    """Record the restoration of an image, a job or an AMI; return what it is about."""
    withdrawals = Withdrawals(store)
    with withdrawals.locked() as connection:
        found = to_restore(store, name)
        withdrawals.restore(found.amis, by=by, connection=connection)
    return found
