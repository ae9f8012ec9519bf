"""Define `fedimg store recover`: rebuild the record of AMIs from EC2's tags."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, ExitCode, command_of, store_app

if TYPE_CHECKING:
    from fedimg.lifecycle.recover import Recorded
    from fedimg.store.store import Store

#: For how many seconds a region that fails is asked again.
_OUTAGE_SECONDS = 30.0
#: How many resources that cannot be recovered are named; JSON has all.
_NAMED = 20


@command_of(store_app)
def recover(
    call: Call,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what was found; record nothing.")
    ] = False,
) -> ExitCode:
    """Rebuild a lost database from the tags of the AMIs on EC2.

    All regions are searched for this site's AMIs. Only what is unrecorded is recorded; nothing on
    EC2 changes. A private AMI that nobody withdrew, and no rule disabled, becomes `unknown`:
    nothing publishes or removes it before 'fedimg accept', 'fedimg withdraw' or 'fedimg cleanup
    --remove'. The command may be interrupted, and run again at any time. Stop the workers before
    it, so that no job begins for an image that has one.
    """
    from fedimg.aws import regions
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.client.waiter import Waiter
    from fedimg.cli import lifecycle_output
    from fedimg.lifecycle import recover as lifecycle
    from fedimg.lifecycle import recovery_search
    from fedimg.store.recovered import Recovered

    settings, clients = call.settings, Clients()
    store = None if dry_run and not call.has_database() else call.store(create=not dry_run)
    # A region that the configuration excludes today may have AMIs of earlier jobs.
    unbounded = settings.ec2.model_copy(update={"regions": [], "exclude_regions": []})
    enabled = regions.selected(clients.ec2(settings.ec2.origin), unbounded)
    limits = settings.ec2.limits
    limits = limits.model_copy(update={"outage": min(limits.outage, _OUTAGE_SECONDS)})
    # Read before EC2: a job that runs meanwhile records its own AMIs.
    before = _recorded(store)
    waiter = Waiter(limits, threading.Event())
    found = recovery_search.search(clients, waiter, settings.site, enabled)
    selected = [region for region in enabled if regions.is_selected(region, settings.ec2)]
    jobs = lifecycle.jobs(found, before, selected)
    if store is not None and not dry_run:
        recovered = Recovered(store)
        busy = lifecycle.busy(store.jobs(), before)
        jobs = [job for job in jobs if job.image.job not in busy]
        for job in jobs:
            recovered.record(job)
    call.output.answer(lifecycle_output.recovery(found, jobs, dry_run=dry_run))
    for text in found.left[:_NAMED]:
        call.output.note(text)
    if len(found.left) > _NAMED:
        call.output.note(f"{len(found.left) - _NAMED} more AMIs are not recorded; --json has all")
    for text in lifecycle_output.recovery_notes(jobs):
        call.output.note(text)
    for region, why in sorted(found.errors.items()):
        call.output.note(
            f"region {region} was not searched: {why}; run the command again when it answers"
        )
    return ExitCode.FAILED if found.errors else ExitCode.OK


def _recorded(store: Store | None) -> Recorded:
    from fedimg.lifecycle.recover import Recorded
    from fedimg.store.recovered import Recovered

    if store is None:
        return Recorded()
    return Recorded(
        {row.job: row for row in store.jobs()}, store.all_amis(), Recovered(store).withdrawals()
    )
