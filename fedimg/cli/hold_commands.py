"""Define `fedimg hold` and `fedimg release`: publish nothing for a while, and go on."""

from __future__ import annotations

from typing import Annotated

import typer

from fedimg.cli.app import Call, ExitCode, command
from fedimg.cli.person import person


@command
def hold(
    call: Call,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; 'fedimg status' shows it.")
    ] = "",
) -> ExitCode:
    """Publish nothing on any worker until 'fedimg release'.

    Announcements are still queued. Queued jobs do not start. Running jobs go on until they would
    make something public, and wait there. A region in which a job is making AMIs public at this
    moment is finished; the answer names these. The hold outlasts restarts.
    """
    from fedimg.cli import site_output
    from fedimg.jobs.holds import Holds

    store = call.store(create=True)
    current, new = Holds(store).begin(person(), reason)
    if not new:
        call.output.note(f"nothing was changed: {current}")
    # Read after the hold was stored: a region that is past the workers' check shows this step.
    publishing = [
        (row.job, region.region)
        for row in store.jobs(["running"])
        for region in row.regions
        if region.step in ("publish", "share")
    ]
    for job, region in publishing:
        call.output.note(f"job {job} is still making its AMIs public in {region}")
    call.output.answer(site_output.hold(current, publishing))
    return ExitCode.OK


@command
def release(call: Call) -> ExitCode:
    """End the hold.

    Queued jobs start, and jobs that wait make their AMIs public.
    """
    from fedimg.cli import site_output
    from fedimg.jobs.holds import Holds

    by = person()
    ended = Holds(call.store()).release(by)
    call.output.answer(site_output.released(ended, by))
    return ExitCode.OK
