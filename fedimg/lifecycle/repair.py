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
    planner = _Planner(differences, recorded, job, named)
    # Each action once, as a snapshot's difference is told for each of its AMIs.
    actions: dict[tuple[str, str, str], Action] = {}
    left: list[str] = []
    for each in differences:
        decided = planner.decide(each)
        if isinstance(decided, Action):
            actions.setdefault((decided.what, decided.region, decided.id), decided)
        elif decided:
            left.append(decided)
    return Plan(list(actions.values()), left)


class _Planner:
    """Decides about each difference by the record and by all the others."""

    def __init__(
        self,
        differences: Sequence[Difference],
        recorded: Iterable[AMIRow],
        job: Callable[[str], JobRow | None],
        named: Collection[str],
    ) -> None:
        self._job = cache(job)
        self._named = named
        self._by_ami = {(row.region, row.ami): row for row in recorded}
        self._by_snapshot: dict[tuple[str, str], list[AMIRow]] = {}
        for row in self._by_ami.values():
            self._by_snapshot.setdefault((row.region, row.snapshot), []).append(row)
        self._hindered = {
            (each.region, each.id)
            for each in differences
            if each.kind in (Kind.OTHER_SNAPSHOT, Kind.MISSING, Kind.DISABLED)
        }
        # Other bytes than those that were tested: none of the snapshot's AMIs is published.
        self._hindered |= {
            (row.region, row.ami)
            for each in differences
            if each.kind is Kind.BYTES
            for row in self._by_snapshot.get((each.region, each.id), ())
        }
        self._private = {
            (each.region, each.id) for each in differences if each.kind is Kind.PRIVATE
        }

    def decide(self, difference: Difference) -> Action | str | None:
        """Return the action about a difference, why there is none, or None if nothing is to say."""
        kind, key = difference.kind, (difference.region, difference.id)
        if kind is Kind.PRIVATE:
            return self._give_ami(PUBLISH_AMI, key, "stays private")
        if kind is Kind.SNAPSHOT_PRIVATE:
            return self._publish_snapshot(key)
        if kind is Kind.PUBLIC and self._by_ami[key].state != rows.DELETED:
            return self._hide(HIDE_AMI, key, [self._by_ami[key]])
        if kind is Kind.SNAPSHOT_PUBLIC:
            return self._hide(HIDE_SNAPSHOT, key, self._by_snapshot[key])
        if kind is Kind.NOT_SHARED and key in self._by_ami:
            return self._give_ami(SHARE_AMI, key, "is not shared")
        if kind is Kind.NOT_SHARED:
            return self._share_snapshot(key)
        if kind is Kind.SHARED_WITH_OTHERS:
            if key in self._by_ami:
                return Action(HIDE_AMI, *key, self._by_ami[key])
            return Action(HIDE_SNAPSHOT, *key, self._by_snapshot[key][0])
        if kind is Kind.PARAMETER and difference.id != difference.region:
            return Action(SET_PARAMETER, *key, None)
        return f"{difference.id} in {difference.region}: {difference.text}: only reported"

    def _give_ami(self, what: str, key: tuple[str, str], stays: str) -> Action | str:
        row, (region, id) = self._by_ami[key], key
        if why := self._not_to_publish(row, named=id in self._named):
            return f"{id} in {region} {stays}: {why}"
        return Action(what, region, id, row)

    def _publish_snapshot(self, key: tuple[str, str]) -> Action | None:
        unseen = self._private | self._hindered
        for row in self._by_snapshot[key]:
            if row.state == rows.PUBLIC and (row.region, row.ami) not in unseen:
                refused = self._not_to_publish(row, named=True)
                return None if refused else Action(PUBLISH_SNAPSHOT, *key, row)
        return None

    def _share_snapshot(self, key: tuple[str, str]) -> Action | None:
        for row in self._by_snapshot[key]:
            if row.state == rows.SHARED and not self._not_to_publish(row, named=True):
                return Action(SHARE_SNAPSHOT, *key, row)
        return None

    def _hide(self, what: str, key: tuple[str, str], its_amis: Sequence[AMIRow]) -> Action | str:
        region, id = key
        if undecided := _undecided(its_amis, self._named):
            return f"{id} in {region} stays public: {undecided}"
        return Action(what, region, id, its_amis[0])

    def _not_to_publish(self, row: AMIRow, *, named: bool) -> str:
        hindered = (row.region, row.ami) in self._hindered
        return not_to_publish(row, self._job(row.job), hindered=hindered, named=named)


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
