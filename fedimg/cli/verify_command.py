"""Define `fedimg verify`: compare the record of AMIs with EC2, and repair what differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import find, note_idle_reasons
from fedimg.cli.person import confirmed, person

if TYPE_CHECKING:
    from fedimg.aws.client.clients import Clients
    from fedimg.lifecycle.comparison import Difference
    from fedimg.lifecycle.disk_comparison import Reading
    from fedimg.lifecycle.verify import RegionResult
    from fedimg.store.rows import AMIRow

_GIB = 2**30

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


@command
def verify(
    call: Call,
    amis: Annotated[
        list[str] | None,
        typer.Argument(metavar="AMI", help="Ids of AMIs; by default all of the site."),
    ] = None,
    image: Annotated[str | None, typer.Option(help="Part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="Name of a region.")] = None,
    job: Annotated[str | None, typer.Option(help="Name of a job, or a unique part of it.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="List what would be changed on EC2 to be as recorded, and ask; the worker changes "
            "it. An AMI that a person may have made private is published only if it is named by "
            "its id.",
        ),
    ] = False,
    read_bytes: Annotated[
        bool,
        typer.Option(
            "--bytes",
            help="Also read the snapshots and compare the SHA-256 of the disk; shows the GiB, for "
            "which AWS charges, and asks first.",
        ),
    ] = False,
    yes: YesOption = False,
) -> ExitCode:
    """Compare the record of AMIs with EC2 in all regions.

    The exit status is 1 if they differ. Only --repair changes anything on EC2: the worker does it,
    in all regions at once. What it repairs does not count for the exit status. The worker compares
    by itself once a day.
    """
    comparison = _Comparison(call, _scope(call, amis or [], image, region, job))
    comparison.compare()
    if read_bytes:
        comparison.answer_before_reading()
        try:
            comparison.compare_bytes(yes=yes)
        finally:
            comparison.answer_after_reading()
    else:
        comparison.answer()
    repaired = _repair(call, comparison.all(), amis or [], yes=yes) if repair else set()
    return comparison.exit_code(repaired)


@dataclass(frozen=True)
class _Scope:
    """The AMIs that are compared: in some regions, `chosen` ones, or all if that is None.

    `recorded` are the rows of these AMIs and others; all rows of a large site at once take hundreds
    of MiB, so that they are read only for a part of it.
    """

    regions: set[str]
    chosen: Callable[[AMIRow], bool] | None
    recorded: Sequence[AMIRow]


def _scope(
    call: Call, amis: Sequence[str], image: str | None, region: str | None, job: str | None
) -> _Scope:
    """Return what the arguments ask for. Raises CommandRefused if that is nothing."""
    store = call.store()
    job_name = find(store, job).job if job else None

    def chosen(row: AMIRow) -> bool:
        return (
            (not amis or row.ami in amis)
            and (image is None or image in row.image)
            and job_name in (None, row.job)
        )

    if amis or image or job_name:
        recorded = store.all_amis()
        _refuse_unknown(recorded, amis)
        where = {row.region for row in recorded if chosen(row)}
        scope = _Scope(where, chosen, recorded)
    else:
        scope = _Scope(store.ami_regions() | _enabled(call), None, ())
    if region is None:
        return scope
    if region not in scope.regions:
        raise CommandRefused(ExitCode.UNKNOWN, f"there is nothing to compare in region {region}")
    return replace(scope, regions={region})


def _enabled(call: Call) -> set[str]:
    """Return the regions that are enabled for the account, also those that nothing is sent to."""
    from fedimg.aws import regions
    from fedimg.aws.client.clients import Clients

    ec2 = call.settings.ec2
    every = ec2.model_copy(update={"regions": [], "exclude_regions": []})
    return set(regions.selected(Clients().ec2(ec2.origin), every))


def _refuse_unknown(recorded: Sequence[AMIRow], ids: Sequence[str]) -> None:
    known = {row.ami for row in recorded}
    if unknown := [id for id in ids if id not in known]:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"no AMI {', '.join(unknown)} is recorded; 'fedimg amis' lists them"
        )


class _Comparison:
    """The comparison of one command: of the record with EC2, then of the bytes."""

    def __init__(self, call: Call, scope: _Scope) -> None:
        self._call = call
        self._scope = scope
        self._results: Sequence[RegionResult] = ()
        self._differences: list[Difference] = []
        # How snapshots' bytes differ, and why others were not compared, by snapshot.
        self._other_bytes: list[Difference] = []
        self._unread: dict[str, str] = {}

    def all(self) -> list[Difference]:
        """Return all differences."""
        return [*self._differences, *self._other_bytes]

    def compare(self) -> None:
        """Compare the record with EC2."""
        from fedimg.aws.client.clients import Clients
        from fedimg.lifecycle.verify import verify_regions

        call, scope = self._call, self._scope
        self._results = verify_regions(
            call.settings, call.store(), Clients(), scope.regions, chosen=scope.chosen
        )
        self._differences = [each for result in self._results for each in result.differences]

    def compare_bytes(self, *, yes: bool) -> None:
        """Read the snapshots back, after a person has agreed to the number of GiB."""
        from fedimg.aws.client.clients import Clients
        from fedimg.lifecycle import disk_comparison

        note, clients = self._call.output.note, Clients()
        prepared = disk_comparison.prepare(clients, self._rows_to_read())
        for snapshot, why in prepared.unread.items():
            note(f"{snapshot} in {why}")
        self._unread.update(prepared.unread)
        readings = prepared.readings
        size = sum(each.listing.size for each in readings)
        note(f"{size / _GIB:.1f} GiB of {len(readings)} snapshots have to be read")
        # Until it is read: a person declines, or interrupts the command.
        for reading in readings:
            self._unread[reading.row.snapshot] = f"{reading.row.region}: it was not read"
        if readings and confirmed("Read them?", yes=yes):
            for reading in readings:
                self._read(clients, reading)

    def _rows_to_read(self) -> list[AMIRow]:
        scope = self._scope
        answered = scope.regions - {result.region for result in self._results if result.error}
        return [
            row
            for row in scope.recorded or self._call.store().all_amis()
            if row.public and row.region in answered and (scope.chosen is None or scope.chosen(row))
        ]

    def _read(self, clients: Clients, reading: Reading) -> None:
        from fedimg.aws.client.errors import FAILURES
        from fedimg.lifecycle import disk_comparison
        from fedimg.untrusted.quoting import one_line

        region, snapshot = reading.row.region, reading.row.snapshot
        try:
            difference = disk_comparison.compare(clients, reading)
        except FAILURES as error:
            self._unread[snapshot] = f"{region}: it cannot be read: {one_line(str(error))}"
            self._call.output.note(f"{snapshot} in {self._unread[snapshot]}")
            return
        del self._unread[snapshot]
        state = difference.text if difference else "it is what Koji built"
        self._call.output.note(f"{snapshot} in {region}: {state}")
        self._other_bytes += [difference] if difference else []

    def answer(self) -> None:
        """Print the whole answer."""
        self._print(self._results, self.all())

    def answer_before_reading(self) -> None:
        """Print how record and EC2 differ: the reading takes hours, and may be declined.

        A program gets one answer, in the end.
        """
        if not self._call.output.as_json:
            self._print(self._results, self._differences)

    def answer_after_reading(self) -> None:
        """Print what the reading found, also when it was interrupted."""
        if self._call.output.as_json:
            self.answer()
        elif self._other_bytes:
            self._print([], self._other_bytes)

    def _print(self, results: Sequence[RegionResult], differences: Sequence[Difference]) -> None:
        from fedimg.cli import lifecycle_output

        answer = lifecycle_output.verification(results, differences, self._unread)
        self._call.output.answer(answer)

    def exit_code(self, repaired: Collection[tuple[str, str]]) -> ExitCode:
        """Return the exit status; what the worker repairs is no failure, by region and id."""
        left = [each for each in self._differences if (each.region, each.id) not in repaired]
        failed = any(result.error for result in self._results)
        # No repair changes bytes.
        wrong = bool(left or failed or self._other_bytes or self._unread)
        return ExitCode.FAILED if wrong else ExitCode.OK


def _repair(
    call: Call, differences: Sequence[Difference], named: Sequence[str], *, yes: bool
) -> set[tuple[str, str]]:
    """List what the worker would do, ask, and ask the worker for it.

    Return the regions and ids that it makes as recorded.
    """
    from fedimg.lifecycle import repair

    store = call.store()
    if not differences:
        return set()
    plan = repair.plan(differences, store.all_amis(), store.job, named)
    for text in plan.left:
        call.output.note(f"not repaired: {text}")
    for action in plan.actions:
        call.output.note(f"to do: {action}")
    if not plan.actions or not confirmed(f"Do these {len(plan.actions)} actions?", yes=yes):
        return set()
    done = repair.ask(store, plan.actions, person())
    for action in plan.actions:
        if action not in done:
            call.output.note(
                f"not repaired: {action}: another change of its job's AMIs in this region comes "
                "first; repeat the command later"
            )
    call.output.note(
        f"the worker does {len(done)} actions, in all regions at once; 'fedimg verify' tells when "
        "they are done"
    )
    note_idle_reasons(call)
    return {(action.region, action.id) for action in done}
