"""Define `fedimg share`: show and change with whom private AMIs are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import note_idle_reasons
from fedimg.cli.person import confirmed, person
from fedimg.cli.verify_command import YesOption
from fedimg.cli.withdraw_commands import DryRunOption, TargetArgument

if TYPE_CHECKING:
    from fedimg.store.rows import AMIRow
    from fedimg.values.audience import Audience

_Accounts = Annotated[list[str] | None, typer.Option(metavar="ID", help="An account's id.")]
_Organizations = Annotated[
    list[str] | None, typer.Option(metavar="ARN", help="An organization's ARN.")
]
_Units = Annotated[
    list[str] | None, typer.Option(metavar="ARN", help="An organizational unit's ARN.")
]


@command
def share(
    call: Call,
    target: TargetArgument,
    add_account: _Accounts = None,
    add_organization: _Organizations = None,
    add_unit: _Units = None,
    remove_account: _Accounts = None,
    remove_organization: _Organizations = None,
    remove_unit: _Units = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> ExitCode:
    """Show or change the audience of an image's private AMIs.

    All private AMIs of the image get it, in all regions, by the worker, which also removes whoever
    somebody has added by hand. A region that is away gets it when it answers. AMIs that are
    withdrawn or disabled get it with 'fedimg restore'.
    """
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle import targets

    store = call.store()
    added = _audience(call, add_account, add_organization, add_unit)
    removed = _audience(call, remove_account, remove_organization, remove_unit)
    found = targets.to_share(store, target)
    if not found.jobs:
        raise CommandRefused(
            ExitCode.UNKNOWN,
            f"no image, job or AMI has exactly the name \"{target}\"; 'fedimg amis' lists them",
        )
    amis = [ami for its_amis in found.amis.values() for ami in its_amis]
    if not amis:
        raise CommandRefused(ExitCode.NOT_NOW, f"no AMI of {target} is shared with an audience")
    if not (added or removed):
        call.output.answer(lifecycle_output.audiences(amis))
        return ExitCode.OK
    if found.left:
        raise CommandRefused(ExitCode.NOT_NOW, "; ".join(found.left))
    _refuse_strangers(removed, amis)
    changed = targets.other_audiences(found, added, removed)
    words = [(str(targets.audience_of(ami)), str(each)) for ami, each in changed]
    for before, after in dict.fromkeys(words):
        call.output.note(f"shared with {before}; to be shared with {after}")
    if dry_run or not changed:
        call.output.answer(
            lifecycle_output.amis([ami for ami, _ in changed], "nothing would be changed")
        )
        return ExitCode.OK
    if not confirmed(f"Change the audience of {len(changed)} AMIs?", yes=yes):
        return ExitCode.NOT_NOW
    now, recorded = targets.share(store, target, added, removed, by=person())
    if now.left:
        raise CommandRefused(ExitCode.NOT_NOW, "; ".join(now.left))
    note_idle_reasons(call)
    ids = {(ami.region, ami.ami) for ami in recorded}
    rows = [row for row in store.amis() if (row.region, row.ami) in ids]
    call.output.answer(lifecycle_output.amis(rows, ""))
    if removed:
        call.output.note("copies that others have made, and running instances, cannot be recalled")
    return ExitCode.OK


def _audience(
    call: Call,
    accounts: list[str] | None,
    organizations: list[str] | None,
    units: list[str] | None,
) -> Audience:
    """Return what options name. Raises CommandRefused for what EC2 would not take."""
    from fedimg.config.share import partition_of
    from fedimg.values.audience import Audience, fault

    partition = partition_of(call.settings.ec2.origin)
    named = {
        "accounts": accounts or [],
        "organizations": organizations or [],
        "organizational_units": units or [],
    }
    for part, members in named.items():
        for each in members:
            if why := fault(part, each, partition):
                raise CommandRefused(ExitCode.UNUSABLE, f"{each} {why}")
    return Audience(*(tuple(dict.fromkeys(members)) for members in named.values()))


def _refuse_strangers(removed: Audience, amis: list[AMIRow]) -> None:
    from fedimg.lifecycle.targets import audience_of

    left = removed
    for ami in amis:
        left = left.minus(audience_of(ami))
    if left:
        names = ", ".join(name for each in left.launch_permissions() for name in each.values())
        raise CommandRefused(
            ExitCode.UNKNOWN,
            f"{names} is not in the audience; 'fedimg verify --repair' removes whom somebody "
            "added by hand",
        )
