"""Define `fedimg prune`: what the rules of retention demand, explained and done."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import note_idle_reasons
from fedimg.cli.person import confirmed, person
from fedimg.cli.verify_command import YesOption

if TYPE_CHECKING:
    from collections.abc import Collection

    from fedimg.aws.client.clients import Clients
    from fedimg.lifecycle.decisions import Decision
    from fedimg.lifecycle.observation import Decisions

#: For how many seconds a region that fails is asked again.
_OUTAGE_SECONDS = 30.0


@command
def prune(
    call: Call,
    image: Annotated[str | None, typer.Option(help="Part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="Name of a region.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only explain for each AMI whether it is kept, and by which rule and fact.",
        ),
    ] = False,
    unlaunched: Annotated[
        bool,
        typer.Option(
            "--unlaunched",
            help="Also AMIs of which EC2 tells no launch: it tells none of AMIs that were never "
            "launched, and of what it does not know.",
        ),
    ] = False,
    yes: YesOption = False,
) -> ExitCode:
    """Deprecate, disable and remove AMIs by [[retention.rules]].

    What is to be done is listed, and the command asks; the worker does it, in all regions at once.
    A disabled AMI is removed only days later, and 'fedimg restore' brings it back until then.
    """
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle import retention
    from fedimg.lifecycle.decisions import Verdict
    from fedimg.store.prunings import Prunings

    store = call.store()
    if not call.settings.retention.changes_anything:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            "the configuration has no [[retention.rules]] with days: every AMI is kept",
        )
    where = {row.region for row in store.amis()}
    if region is not None:
        if region not in where:
            raise CommandRefused(ExitCode.UNKNOWN, f"no AMI in region {region} is recorded")
        where = {region}
    clients = Clients()
    found = _decisions(call, clients, where, unlaunched=unlaunched)
    for name, error in found.errors.items():
        call.output.note(f"nothing is decided in {name}: {error}")
    made = [each for each in found.made if image is None or image in each.row.image]
    going = [each for each in made if each.verdict is not Verdict.KEEP]
    nothing = "no AMI is recorded" if not made else "every AMI is kept"
    call.output.answer(lifecycle_output.decisions(made if dry_run else going, nothing))
    _note_what_follows(call, clients, going)
    code = ExitCode.FAILED if found.errors else ExitCode.OK
    if dry_run or not going:
        return code
    if not confirmed(f"Do that with these {len(going)} AMIs?", yes=yes):
        return ExitCode.NOT_NOW
    asked = Prunings(store).ask(retention.requests(going), by=person(), unlaunched=unlaunched)
    call.output.note(f"the worker deprecates, disables and removes {len(asked)} AMIs")
    if left := len(going) - len(asked):
        call.output.note(
            f"{left} AMIs are for the next 'fedimg prune': another change of their job in their "
            "region comes first"
        )
    note_idle_reasons(call)
    return code


def _decisions(
    call: Call, clients: Clients, where: Collection[str], *, unlaunched: bool
) -> Decisions:
    from fedimg.aws.client.retrying import RetryingClient
    from fedimg.aws.client.waiter import Waiter
    from fedimg.lifecycle import observation

    limits = call.settings.ec2.limits
    limits = limits.model_copy(update={"outage": min(limits.outage, _OUTAGE_SECONDS)})
    stop = threading.Event()

    def client(region: str) -> RetryingClient:
        return RetryingClient(clients, region, Waiter(limits, stop))

    return observation.decisions(call.settings, call.store(), client, where, unlaunched=unlaunched)


def _note_what_follows(call: Call, clients: Clients, going: list[Decision]) -> None:
    """Tell how many AMIs go, and what the Recycle Bin keeps of those that are removed."""
    from fedimg.aws import retirement
    from fedimg.lifecycle.decisions import Verdict

    counts = {
        verdict: sum(each.verdict is verdict for each in going)
        for verdict in (Verdict.DEPRECATE, Verdict.DISABLE, Verdict.DELETE)
    }
    call.output.note(", ".join(f"to {verdict}: {count} AMIs" for verdict, count in counts.items()))
    for region in sorted({each.row.region for each in going if each.verdict is Verdict.DELETE}):
        for rule in retirement.recycle_bin_rules(clients, region):
            call.output.note(
                f"the Recycle Bin of {region} keeps what its {rule} matches, at AWS's price for "
                "storage"
            )
