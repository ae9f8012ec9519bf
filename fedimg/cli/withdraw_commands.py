"""Define `fedimg withdraw`, `fedimg restore` and `fedimg accept`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import note_idle_reasons
from fedimg.cli.person import confirmed, person
from fedimg.cli.verify_command import YesOption

if TYPE_CHECKING:
    from fedimg.lifecycle.targets import Target
    from fedimg.store.rows import AMIRow

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE|JOB|AMI", help="The exact name of an image or a job, or the id of an AMI."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only list the AMIs; change nothing.")
]


@command
def withdraw(
    call: Call,
    target: TargetArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is announced on the bus.")],
    replacement: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Name of the image to use instead.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> ExitCode:
    """Take an image back: make it private everywhere.

    The worker makes all its AMIs and snapshots private, in all regions, and they stay so. Runs of
    its jobs stop, and no source publishes the same bytes before 'fedimg restore'. A region that is
    away is withdrawn when it answers. Copies that others have made, and instances that run, cannot
    be recalled.
    """
    from fedimg.cli import lifecycle_output
    from fedimg.jobs.queue import JobQueue
    from fedimg.lifecycle import targets

    store = call.store()
    if not reason.strip():
        raise CommandRefused(ExitCode.UNUSABLE, "--reason: give a reason, which is announced")
    if replacement and not any(row.image == replacement and row.public for row in store.amis()):
        raise CommandRefused(
            ExitCode.UNKNOWN, f"--replacement: no public AMI of an image {replacement} is recorded"
        )
    found = targets.to_withdraw(store, target)
    _refuse_unknown(found, target)
    amis = _amis_of(found)
    call.output.note(_to_withdraw(found))
    if dry_run:
        call.output.answer(lifecycle_output.amis(amis, "nothing would be withdrawn"))
        return ExitCode.OK
    if not confirmed("Withdraw them?", yes=yes):
        return ExitCode.NOT_NOW
    # What has become public while the person was asked is withdrawn, too.
    found = targets.withdraw(store, target, by=person(), reason=reason, replacement=replacement)
    if {ami.ami for ami in _amis_of(found)} != {ami.ami for ami in amis}:
        call.output.note(f"changed meanwhile; {_to_withdraw(found)}")
    with closing(JobQueue(store)) as jobs:
        for row in found.jobs:
            jobs.cancel(row.job)
    note_idle_reasons(call)
    call.output.answer(
        lifecycle_output.amis(
            [row for row in store.amis() if row.job in found.amis],
            "no AMI of the image is public; its jobs publish nothing before 'fedimg restore'",
        )
    )
    call.output.note("copies that others have made, and running instances, cannot be recalled")
    return ExitCode.OK


@command
def restore(
    call: Call, target: TargetArgument, dry_run: DryRunOption = False, yes: YesOption = False
) -> ExitCode:
    """Make a withdrawn or disabled image available again.

    Exactly those who could use it before may use it again. Only AMIs whose recorded boot check
    passed are restored, on the snapshot that is recorded. Jobs that the withdrawal stopped can run
    again with 'fedimg retry'.
    """
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle import targets
    from fedimg.store.withdrawals import Withdrawals

    store = call.store()
    found = targets.to_restore(store, target)
    _refuse_unknown(found, target)
    withdrawals = Withdrawals(store)
    if not (any(found.amis.values()) or any(withdrawals.of(row.job) for row in found.jobs)):
        raise CommandRefused(ExitCode.NOT_NOW, f"{target} is neither withdrawn nor disabled")
    for text in found.left:
        call.output.note(text)
    amis = _amis_of(found)
    call.output.note(f"to restore: {len(amis)} AMIs")
    if dry_run:
        call.output.answer(lifecycle_output.amis(amis, "nothing would be restored"))
        return ExitCode.OK
    if not confirmed("Restore them?", yes=yes):
        return ExitCode.NOT_NOW
    found = targets.restore(store, target, by=person())
    if {ami.ami for ami in _amis_of(found)} != {ami.ami for ami in amis}:
        call.output.note(f"changed meanwhile; to restore: {len(_amis_of(found))} AMIs")
        for text in found.left:
            call.output.note(text)
    note_idle_reasons(call)
    call.output.answer(
        lifecycle_output.amis(
            [row for row in store.amis() if row.job in found.amis],
            "no AMI was withdrawn; 'fedimg retry' runs the image's jobs again",
        )
    )
    return ExitCode.OK


@command
def accept(
    call: Call,
    ami: Annotated[str, typer.Argument(help="Id of an AMI that differs from its record.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it was changed by hand.")] = "",
    yes: YesOption = False,
) -> ExitCode:
    """Record what a person did with an AMI on EC2 by hand.

    `fedimg verify` then reports it as a difference no more.
    """
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle.accept import CannotAccept, inspect
    from fedimg.store.prunings import Prunings
    from fedimg.store.withdrawals import Withdrawals

    store = call.store()
    recorded = [row for row in store.all_amis() if row.ami == ami]
    if not recorded:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"no AMI {ami} is recorded; 'fedimg amis' lists them"
        )
    row = recorded[0]
    try:
        found = inspect(row, Clients(), store.job(row.job))
    except CannotAccept as error:
        raise CommandRefused(ExitCode.NOT_NOW, str(error)) from error
    call.output.note(f"{ami} in {row.region} {found.shown}: {found.meaning}")
    if found.state != row.state or found.other_deprecation:
        if not confirmed("Record that?", yes=yes):
            return ExitCode.NOT_NOW
        if found.other_deprecation:
            Prunings(store).accept_deprecation(row, found.deprecate_at, person(), reason)
        if found.state != row.state and not Withdrawals(store).accept(
            row, found.state, person(), reason, published_at=found.published_at
        ):
            raise CommandRefused(
                ExitCode.NOT_NOW,
                f"nothing is recorded: AMI {ami} is no longer {row.state}; repeat the command",
            )
    call.output.answer(
        lifecycle_output.amis([each for each in store.all_amis() if each.ami == ami], "")
    )
    return ExitCode.OK


def _amis_of(found: Target) -> list[AMIRow]:
    return [ami for its_amis in found.amis.values() for ami in its_amis]


def _to_withdraw(found: Target) -> str:
    amis = _amis_of(found)
    return (
        f"to withdraw: {len(amis)} AMIs of {', '.join(row.job for row in found.jobs)} in "
        f"{len({ami.region for ami in amis})} regions"
    )


def _refuse_unknown(found: Target, name: str) -> None:
    if not found.jobs:
        raise CommandRefused(
            ExitCode.UNKNOWN,
            f"no image, job or AMI has exactly the name \"{name}\"; 'fedimg amis' lists them",
        )
