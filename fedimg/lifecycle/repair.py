"""Decide what a repair does about differences; fedimg.lifecycle.repair_workflow does it.

A repair makes public only AMIs of which the record says that their check passed, on the recorded
snapshot. An AMI that a person may have made private on purpose is repaired only by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from fedimg.images import AMI, INSTANCE, Options
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.records import from_record
from fedimg.store import rows
from fedimg.store.parameters import Parameters
from fedimg.store.repairs import Repairs
from fedimg.store.rows import AMIRow, JobRow
from fedimg.store.store import Store

#: The kinds of actions; these words are recorded.
PUBLISH_AMI, PUBLISH_SNAPSHOT = "publish AMI", "publish snapshot"
HIDE_AMI, HIDE_SNAPSHOT = "hide AMI", "hide snapshot"
SET_PARAMETER = "set parameter"
#: … of private AMIs: to add who is missing. To hide one is to remove whom its record does not name.
SHARE_AMI, SHARE_SNAPSHOT = "share AMI", "share snapshot"


@dataclass(frozen=True)
class Action:
    """One action of a repair, of one of the kinds above.

    The `id` of a parameter is its name; it is about no AMI's own `row`.
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
                add(PUBLISH_AMI, key, row)
        elif each.kind is Kind.SNAPSHOT_PRIVATE:
            visible = [
                row
                for row in by_snapshot[key]
                if row.state == rows.PUBLIC and (row.region, row.ami) not in unseen
            ]
            if visible and not not_to_publish(
                visible[0], job(visible[0].job), hindered=False, named=True
            ):
                add(PUBLISH_SNAPSHOT, key, visible[0])
        elif each.kind is Kind.PUBLIC and by_ami[key].state != rows.DELETED:
            if undecided := _undecided([by_ami[key]], named):
                left.append(f"{each.id} in {each.region} stays public: {undecided}")
            else:
                add(HIDE_AMI, key, by_ami[key])
        elif each.kind is Kind.SNAPSHOT_PUBLIC:
            if undecided := _undecided(by_snapshot[key], named):
                left.append(f"{each.id} in {each.region} stays public: {undecided}")
            else:
                add(HIDE_SNAPSHOT, key, by_snapshot[key][0])
        elif each.kind is Kind.NOT_SHARED and key in by_ami:
            row = by_ami[key]
            if why := not_to_publish(
                row, job(row.job), hindered=key in hindered, named=each.id in named
            ):
                left.append(f"{each.id} in {each.region} is not shared: {why}")
            else:
                add(SHARE_AMI, key, row)
        elif each.kind is Kind.NOT_SHARED:
            tested = [
                row
                for row in by_snapshot[key]
                if row.state == rows.SHARED
                and not not_to_publish(
                    row, job(row.job), hindered=(row.region, row.ami) in hindered, named=True
                )
            ]
            if tested:
                add(SHARE_SNAPSHOT, key, tested[0])
        elif each.kind is Kind.SHARED_WITH_OTHERS:
            what = HIDE_AMI if key in by_ami else HIDE_SNAPSHOT
            add(what, key, by_ami.get(key) or by_snapshot[key][0])
        elif each.kind is Kind.PARAMETER and each.id != each.region:
            add(SET_PARAMETER, key, None)
        else:
            left.append(f"{each.id} in {each.region}: {each.text}: only reported")
    return Plan(list(actions.values()), left)


def ask(store: Store, actions: Iterable[Action], by: str) -> list[Action]:
    """Ask the worker for some actions; return those that it will do.

    A job has one change of its AMIs in a region at a time: where it has another one, that one comes
    first, and the action is not asked for.
    """
    actions = list(actions)
    places = [(each.region, each.id) for each in actions if each.row is None]
    if places:
        Parameters(store).again(places)
    wanted = [(each.what, each.id, each.region, each.row.job) for each in actions if each.row]
    asked = Repairs(store).ask(wanted, by=by)
    return [each for each in actions if each.row is None or (each.row.job, each.region) in asked]


def ami_of(row: AMIRow) -> AMI:
    """Return the AMI of a row."""
    options = from_record(Options, row.options) if row.options else None
    return AMI(row.ami, row.name, row.region, row.type, row.snapshot, options=options)


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
    checks = [
        test
        for test in job.tests
        if test.virt_type == row.virt_type
        # A bundle has a boot check of its own.
        and (test.volume_type == INSTANCE) == row.type.instance_store
    ]
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
