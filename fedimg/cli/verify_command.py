"""Define `fedimg verify`: compare the record of AMIs with EC2, and repair what differs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import find
from fedimg.cli.person import confirmed

if TYPE_CHECKING:
    from fedimg.aws.client.clients import Clients
    from fedimg.lifecycle.comparison import Difference
    from fedimg.store.rows import AMIRow
    from fedimg.store.store import Store

_GIB = 2**30

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


@command
def verify(
    call: Call,
    amis: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AMI]...", help="Ids of AMIs; by default all of the site."),
    ] = None,
    image: Annotated[str | None, typer.Option(help="Part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="Name of a region.")] = None,
    job: Annotated[str | None, typer.Option(help="Name of a job, or a unique part of it.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="List what would be changed on EC2 to be as recorded, ask, and change it. An AMI "
            "that a person may have made private is published only if it is named by its id.",
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
    """Compare the record of AMIs with EC2 in all regions; exit with 1 if they differ.

    Only --repair changes anything on EC2. The worker compares by itself once a day.
    """
    from fedimg.aws import regions
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle.verify import verify_regions

    settings, store, clients = call.settings, call.store(), Clients()
    job_name = find(store, job).job if job else None
    partly = bool(amis or image or job_name)
    # All rows of a large site at once take hundreds of MiB.
    recorded = store.all_amis() if partly or read_bytes else []
    _refuse_unknown(recorded, amis or [])

    def chosen(row: AMIRow) -> bool:
        return (
            (not amis or row.ami in amis)
            and (image is None or image in row.image)
            and job_name in (None, row.job)
        )

    if partly:
        where = {row.region for row in recorded if chosen(row)}
    else:
        where = store.ami_regions()
        enabled = settings.ec2.model_copy(update={"regions": [], "exclude_regions": []})
        where |= set(regions.selected(clients.ec2(settings.ec2.origin), enabled))
    if region is not None:
        where &= {region}
        if not where:
            raise CommandRefused(
                ExitCode.UNKNOWN, f"there is nothing to compare in region {region}"
            )
    results = verify_regions(settings, store, clients, where, chosen=chosen if partly else None)
    differences = [each for result in results for each in result.differences]
    failed = {result.region for result in results if result.error}
    found: list[Difference] = []
    unread: dict[str, str] = {}
    if read_bytes:
        rows = [row for row in recorded if row.public and row.region in where and chosen(row)]
        rows = [row for row in rows if row.region not in failed]
        if not call.output.as_json:
            # The reading takes hours, and may be declined or interrupted.
            call.output.answer(lifecycle_output.verification(results, differences, {}))
        try:
            _compare_bytes(call, clients, rows, found, unread, yes=yes)
        finally:
            if call.output.as_json:
                every = [*differences, *found]
                call.output.answer(lifecycle_output.verification(results, every, unread))
            elif found:
                call.output.answer(lifecycle_output.verification([], found, {}))
    else:
        call.output.answer(lifecycle_output.verification(results, differences, {}))
    if repair and (differences or found):
        _repair(call, store, clients, [*differences, *found], amis or [], yes=yes)
        left = verify_again(call, where, chosen if partly else None)
    else:
        left = ExitCode.FAILED if differences or failed else ExitCode.OK
    # No repair changes bytes.
    return ExitCode.FAILED if found or unread else left


def verify_again(call: Call, where: set[str], chosen: Callable[[AMIRow], bool] | None) -> ExitCode:
    """Compare once more after a repair, and print how many differences are left."""
    from fedimg.aws.client.clients import Clients
    from fedimg.lifecycle.verify import verify_regions

    results = verify_regions(call.settings, call.store(), Clients(), where, chosen=chosen)
    left = sum(len(result.differences) for result in results)
    failed = any(result.error for result in results)
    if left or failed:
        call.output.note(f"{left} differences are left")
        return ExitCode.FAILED
    return ExitCode.OK


def _refuse_unknown(recorded: Sequence[AMIRow], ids: Sequence[str]) -> None:
    known = {row.ami for row in recorded}
    if unknown := [id for id in ids if id not in known]:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"no AMI {', '.join(unknown)} is recorded; 'fedimg amis' lists them"
        )


def _compare_bytes(
    call: Call,
    clients: Clients,
    rows: Sequence[AMIRow],
    found: list[Difference],
    unread: dict[str, str],
    *,
    yes: bool,
) -> None:
    """Add to `found` how snapshots differ, and to `unread` why others were not compared."""
    from fedimg.aws.client.errors import FAILURES
    from fedimg.lifecycle import disk_comparison
    from fedimg.untrusted.quoting import one_line

    prepared = disk_comparison.prepare(clients, rows)
    for snapshot, why in prepared.unread.items():
        call.output.note(f"{snapshot} in {why}")
    unread.update(prepared.unread)
    readings = prepared.readings
    size = sum(each.listing.size for each in readings)
    call.output.note(f"{size / _GIB:.1f} GiB of {len(readings)} snapshots have to be read")
    if not readings:
        return
    # Until it is read: a person declines, or interrupts the command.
    unread.update({each.row.snapshot: f"{each.row.region}: it was not read" for each in readings})
    if not confirmed("Read them?", yes=yes):
        return
    for reading in readings:
        region, snapshot = reading.row.region, reading.row.snapshot
        try:
            difference = disk_comparison.compare(clients, reading)
        except FAILURES as error:
            unread[snapshot] = f"{region}: it cannot be read: {one_line(str(error))}"
            call.output.note(f"{snapshot} in {unread[snapshot]}")
            continue
        del unread[snapshot]
        state = difference.text if difference else "it is what Koji built"
        call.output.note(f"{snapshot} in {region}: {state}")
        found += [difference] if difference else []


def _repair(
    call: Call,
    store: Store,
    clients: Clients,
    differences: Sequence[Difference],
    named: Sequence[str],
    *,
    yes: bool,
) -> None:
    from fedimg.aws.client.waiter import Waiter
    from fedimg.lifecycle import repair

    plan = repair.plan(differences, store.all_amis(), store.job, named)
    for text in plan.left:
        call.output.note(f"not repaired: {text}")
    for action in plan.actions:
        call.output.note(f"to do: {action}")
    if not plan.actions or not confirmed(f"Do these {len(plan.actions)} actions?", yes=yes):
        return
    settings = call.settings
    waiter = Waiter(settings.ec2.limits, threading.Event())
    repair.carry_out(
        plan.actions,
        store,
        clients,
        waiter,
        settings,
        lambda action: call.output.note(f"done: {action}"),
    )
