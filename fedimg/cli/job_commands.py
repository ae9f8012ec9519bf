"""Define the commands that change one job: retry and cancel."""

from __future__ import annotations

import difflib
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import JobArgument, find, note_idle_reasons

if TYPE_CHECKING:
    from fedimg.store.rows import JobRow
    from fedimg.store.store import Store


RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="Publish the image of a complete job in this region, too, from the tested snapshot.",
    ),
]


@command
def retry(call: Call, job: JobArgument, region: RegionOption = None) -> ExitCode:
    """Queue another run of an incomplete, failed or cancelled job.

    Published AMIs stay. With --region, a complete job publishes its image in a region that its plan
    did not have, such as one that appeared since: copied from the snapshot that was tested, once,
    and announced.
    """
    from fedimg.cli import job_output
    from fedimg.cli.person import person
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = find(store, job).job
    if region is not None:
        _refuse_region(call, store, name, region)
        _refuse_missing_region(call, region)
    with closing(JobQueue(store)) as jobs:
        run = jobs.add_region(name, region, person()) if region else jobs.retry(name)
    queued, row = run is not None, find(store, name)
    if queued:
        note_idle_reasons(call)
    elif withdrawn := store.withdrawn(row.image):
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot retry job {name}: the image of job {withdrawn} is withdrawn; 'fedimg restore "
            f"{withdrawn}' comes first",
        )
    elif region:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot add {region} to job {name}: {_obstacle(store, row, region)}",
        )
    elif row.state == "complete":
        call.output.note(f"job {name} is complete: nothing is left to do")
    elif twin := store.twin(row.image):
        call.output.note(f"nothing is left to do: job {twin} publishes the same file")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot retry job {name}: it is {row.state} ({row.step}); wait until it has ended, or "
            f"end it with 'fedimg cancel {name}'",
        )
    call.output.answer(job_output.job(row))
    return ExitCode.OK


def _obstacle(store: Store, row: JobRow, region: str) -> str:
    """Return why a region cannot be added to a job now, and what to do."""
    from fedimg.store.rows import CLEANING, LIVE

    if row.step == CLEANING:
        return "its clean-up has not ended; repeat the command when it has"
    if row.state in ("incomplete", "failed", "cancelled"):
        return f"it is {row.state}; 'fedimg retry {row.job}' comes first"
    if row.state in LIVE:
        return f"it is {row.state} ({row.step}); repeat the command when it has ended"
    if twin := store.twin(row.image):
        return (
            f"job {twin} publishes the same file; 'fedimg retry {twin} --region {region}' adds the "
            "region to that one"
        )
    return "another command or a worker changed the job meanwhile; repeat the command"


def _refuse_region(call: Call, store: Store, job: str, region: str) -> None:
    """Raise CommandRefused if a job cannot be published in a region, or is already."""
    from fedimg.aws import regions
    from fedimg.untrusted.quoting import quoted

    ec2 = call.settings.ec2
    if not regions.well_named(region):
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--region: {quoted(region)} is no name of a region, such as {ec2.origin}",
        )
    if not regions.is_selected(region, ec2):
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--region: the site does not publish in {region}; change ec2.regions or "
            "ec2.exclude_regions in fedimg.toml first",
        )
    if any(row.public for row in store.amis() if (row.job, row.region) == (job, region)):
        raise CommandRefused(
            ExitCode.NOT_NOW, f"nothing is left to do: job {job} is public in {region}"
        )
    if not any(row.public for row in store.amis() if (row.job, row.region) == (job, ec2.origin)):
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot add {region} to job {job}: it has no public AMI in {ec2.origin}, from whose "
            "snapshot the copy would be made",
        )


def _refuse_missing_region(call: Call, region: str) -> None:
    """Raise CommandRefused if the account does not have a region; note if EC2 cannot be asked."""
    from fedimg.aws import regions
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.client.errors import FAILURES
    from fedimg.untrusted.failures import of_endpoint

    ec2 = call.settings.ec2
    try:
        enabled = regions.enabled(Clients().ec2_brief(ec2.origin))
    except FAILURES as error:
        call.output.note(
            f"EC2 was not asked whether the account has {region} ({of_endpoint(error)}); the job "
            "tells it"
        )
        return
    if region not in enabled:
        close = difflib.get_close_matches(region, enabled, 1)
        hint = f"did you mean {close[0]}? Else enable" if close else "enable"
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--region: the account has not enabled a region {region}: {hint} it in the account "
            "first",
        )


@command
def cancel(call: Call, job: JobArgument) -> ExitCode:
    """End a queued or running job.

    The worker then removes its resources that are not public.
    """
    from fedimg.cli import job_output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = find(store, job).job
    with closing(JobQueue(store)) as jobs:
        cancelled = jobs.cancel(name)
    row = find(store, name)
    if cancelled and row.state == "complete":
        call.output.note(
            f"job {name} is complete, without the added regions where it is not public"
        )
    elif cancelled and row.state != "cancelled":
        call.output.note(
            f"the scheduled retry of job {name} is cancelled; 'fedimg retry {name}' still runs it"
        )
    elif cancelled:
        note_idle_reasons(call)
    elif row.state == "cancelled":
        call.output.note(f"job {name} is cancelled already")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot cancel job {name}: it is {row.state} ({row.step}) and has ended",
        )
    call.output.answer(job_output.job(row))
    return ExitCode.OK
