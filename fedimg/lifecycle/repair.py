"""Decide what a repair does about differences, and do it.

A repair makes public only AMIs of which the record says that their check passed, on the recorded
snapshot. An AMI that a person may have made private on purpose is repaired only by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from fedimg.aws import permissions, publish, tags
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.lifecycle.parameters import ParameterSetter
from fedimg.store import rows
from fedimg.store.parameters import Parameters
from fedimg.store.rows import AMIRow, JobRow
from fedimg.store.store import Store


@dataclass(frozen=True)
class Action:
    """One action of a repair: `publish AMI`, `publish snapshot`, `hide AMI` or `hide snapshot`.

    Or `set parameter`, whose `id` is the parameter's name, and which is about no AMI's own `row`.
    """

    what: str
    region: str
    id: str
    row: AMIRow | None

    def __str__(self) -> str:
        of = f" (job {self.row.job})" if self.row else ""
        return f"{self.what} {self.id} in {self.region}{of}"


@dataclass(frozen=True)
class Plan:
    """The effects of a repair, and, in words, the differences that it leaves alone."""

    actions: Sequence[Action]
    left: Sequence[str]


def plan(
    differences: Iterable[Difference],
    recorded: Iterable[AMIRow],
    job: Callable[[str], JobRow | None],
    named: Collection[str] = (),
) -> Plan:
    """Return the repair of some differences; `named` are the ids of AMIs that a person named."""
    differences = list(differences)
    by_ami = {(row.region, row.ami): row for row in recorded}
    by_snapshot: dict[tuple[str, str], list[AMIRow]] = {}
    for row in by_ami.values():
        by_snapshot.setdefault((row.region, row.snapshot), []).append(row)
    hindered = {
        (each.region, each.id)
        for each in differences
        if each.kind in (Kind.OTHER_SNAPSHOT, Kind.MISSING, Kind.DISABLED)
    }
    # Other bytes than those that were tested: none of the snapshot's AMIs is published.
    hindered |= {
        (row.region, row.ami)
        for each in differences
        if each.kind is Kind.BYTES
        for row in by_snapshot.get((each.region, each.id), ())
    }
    private = {(each.region, each.id) for each in differences if each.kind is Kind.PRIVATE}
    unseen = private | hindered
    job = cache(job)
    # Each action once, as a snapshot's difference is told for each of its AMIs.
    actions: dict[tuple[str, str, str], Action] = {}
    left: list[str] = []

    def add(what: str, key: tuple[str, str], row: AMIRow | None) -> None:
        actions.setdefault((what, *key), Action(what, *key, row))

    for each in differences:
        key = (each.region, each.id)
        if each.kind is Kind.PRIVATE:
            row = by_ami[key]
            if why := not_to_publish(
                row, job(row.job), hindered=key in hindered, named=each.id in named
            ):
                left.append(f"{each.id} in {each.region} stays private: {why}")
            else:
                add("publish AMI", key, row)
        elif each.kind is Kind.SNAPSHOT_PRIVATE:
            visible = [
                row
                for row in by_snapshot[key]
                if row.state == rows.PUBLIC and (row.region, row.ami) not in unseen
            ]
            if visible and not not_to_publish(
                visible[0], job(visible[0].job), hindered=False, named=True
            ):
                add("publish snapshot", key, visible[0])
        elif each.kind is Kind.PUBLIC and by_ami[key].state != rows.DELETED:
            if undecided := _undecided([by_ami[key]], named):
                left.append(f"{each.id} in {each.region} stays public: {undecided}")
            else:
                add("hide AMI", key, by_ami[key])
        elif each.kind is Kind.SNAPSHOT_PUBLIC:
            if undecided := _undecided(by_snapshot[key], named):
                left.append(f"{each.id} in {each.region} stays public: {undecided}")
            else:
                add("hide snapshot", key, by_snapshot[key][0])
        elif each.kind is Kind.PARAMETER and each.id != each.region:
            add("set parameter", key, None)
        else:
            left.append(f"{each.id} in {each.region}: {each.text}: only reported")
    return Plan(list(actions.values()), left)


def carry_out(
    actions: Iterable[Action],
    store: Store,
    clients: Clients,
    waiter: Waiter,
    settings: Settings,
    done: Callable[[Action], None],
) -> None:
    """Carry out a repair's actions, in order; `done` is called after each.

    Raises botocore's errors and EC2ServiceException at the first action that fails.
    """
    for action in actions:
        ec2 = RetryingClient(clients, action.region, waiter)
        if action.what == "publish snapshot":
            publish.publish_snapshot(ec2, waiter, action.id)
        elif action.what == "hide AMI":
            permissions.hide_ami(ec2, waiter, action.id)
        elif action.what == "hide snapshot":
            permissions.hide_snapshot(ec2, waiter, action.id)
        elif action.row is None:
            _set_parameter(action, store, clients, waiter, settings)
        else:
            _publish(action.row, store, ec2, waiter, settings.ec2.origin)
        done(action)


def _set_parameter(
    action: Action, store: Store, clients: Clients, waiter: Waiter, settings: Settings
) -> None:
    """Set a parameter as it is recorded; the worker goes on where SSM takes too long."""
    place, parameters = (action.region, action.id), Parameters(store)
    parameters.again([place])
    setter = ParameterSetter(settings, store, clients, waiter.stop)

    def right() -> bool | None:
        found = (row for row in parameters.all(action.region) if row.name == action.id)
        row = next(found, None)
        if row is None or row.right or row.error:
            return True
        setter.bring([row])
        return None

    with suppress(EC2ServiceException):
        waiter.until(
            right, what=f"the parameter {action.id} to be right", limit=settings.ec2.limits.settle
        )


def _publish(row: AMIRow, store: Store, ec2: RetryingClient, waiter: Waiter, origin: str) -> None:
    job = store.job(row.job)
    if job is None:
        raise AssertionError(f"the plan of a repair has the unknown job {row.job}")
    recorder = Recorder(store, job.image, job.run, origin)
    facts = tags.facts(job.image, recorder.disk(), origin)
    publish.publish_all(ec2, waiter, row.snapshot, [ami_of(row)], recorder, facts)


def ami_of(row: AMIRow) -> AMI:
    """Return the AMI of a row."""
    return AMI(row.ami, row.name, row.region, row.type, row.snapshot)


def _undecided(its_amis: Iterable[AMIRow], named: Collection[str]) -> str:
    """Return why a repair hides nothing, as a person has to decide about one of the AMIs, or ""."""
    for row in its_amis:
        if row.state == rows.UNKNOWN and row.ami not in named:
            return (
                f"a person has to decide about AMI {row.ami}, which is recorded as unknown: "
                f"'fedimg accept {row.ami}', or 'fedimg verify --repair {row.ami}' to make it "
                "private"
            )
    return ""


def not_to_publish(row: AMIRow, job: JobRow | None, *, hindered: bool, named: bool) -> str:
    """Return why a repair does not make an AMI public; an empty text if it does."""
    if hindered:
        return "EC2 shows it on another snapshot, with other bytes, disabled or not at all"
    if job is None:
        return f"its job {row.job} is not recorded"
    checks = [test for test in job.tests if test.virt_type == row.virt_type]
    if not any(test.status == "completed" for test in checks) or any(
        test.status == "failed" and test.ami == row.ami for test in checks
    ):
        return "no boot check of its virtualization type is recorded as passed"
    if not named:
        return (
            "a person may have made it private; if not, 'fedimg verify --repair "
            f"{row.ami}' publishes it again; if so, 'fedimg accept {row.ami}' records that"
        )
    return ""
