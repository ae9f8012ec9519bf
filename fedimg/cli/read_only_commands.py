"""Define the commands that change nothing: status, amis, plan and check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, ExitCode, command
from fedimg.cli.image_arguments import ArchOption, URLArgument, architecture_of, image_of
from fedimg.cli.job_filters import (
    SHOWN_JOBS,
    beginning,
    known_states,
    refuse_unknown_ami_state,
    refuse_unknown_region,
    refuse_unknown_type,
)
from fedimg.cli.job_lookup import exit_code, find, note_hold, note_idle_reasons

if TYPE_CHECKING:
    from fedimg.aws.cost import Cost
    from fedimg.aws.plan import Plan
    from fedimg.images import RawImage


@command
def status(
    call: Call,
    job: Annotated[
        str | None,
        typer.Argument(help="Name of a job, or a unique part of it; by default all jobs."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Follow the jobs to their end; exit by JOB's state."),
    ] = False,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs in this state; repeat the option for several."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only jobs that changed since a time (2026-11-23) or an age (36h, 7d).",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="At most so many jobs, the newest; 0 for all, as with --json."
        ),
    ] = None,
) -> ExitCode:
    """List jobs, oldest first.

    One job is shown with its regions and boot checks. Without a limit, a list for people has all
    active jobs and the last 50 others.
    """
    from fedimg.cli import job_output
    from fedimg.cli.outbox_command import parked_words
    from fedimg.intake.backlog import backlog_problems
    from fedimg.jobs.outages import Outages
    from fedimg.lifecycle.problems import freed, problems, room
    from fedimg.store.rows import is_active

    states, begin = known_states(state or ()), beginning(since)
    store = call.store()
    if job:
        rows, left_out = [find(store, job)], 0
        rows = [row for row in rows if (not states or row.state in states) and row.updated >= begin]
    else:
        most = SHOWN_JOBS if limit is None and not call.output.as_json else limit
        rows, left_out = store.recent_jobs(most or None, states=states, since=begin)
    if left_out:
        call.output.note(f"{left_out} older jobs are not listed; --limit 0 lists all")
    active = [row for row in rows if is_active(row)]
    if active:
        note_idle_reasons(call, active)
    else:
        note_hold(call)
    for text in [
        *backlog_problems(store),
        *map(str, Outages(store, call.settings.ec2.limits).all()),
        *problems(store),
        *parked_words(store),
    ]:
        call.output.note(text)
    if job is None and (left := room(store, call.settings.ec2.amis.public_types)):
        call.output.note(left)
    rules = call.settings.retention
    more = freed(store, automatic=rules.automatic) if rules.changes_anything else None
    if job is None and more:
        call.output.note(more)
    if watch and active:
        from fedimg.cli.follow import follow

        rows = follow(store, [row.job for row in active], call.output)
    else:
        filtered = states or since
        nothing = "no job matches" if filtered else "there are no jobs yet"
        call.output.answer(job_output.jobs(rows, details=job is not None, nothing=nothing))
    return exit_code(rows[0]) if watch and job else ExitCode.OK


@command
def amis(
    call: Call,
    image: Annotated[str | None, typer.Option(help="Part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="Name of a region.")] = None,
    arch: Annotated[str | None, typer.Option(help="x86_64 or aarch64.")] = None,
    ami_type: Annotated[
        str | None,
        typer.Option(
            "--type", help="An AMI type, such as hvm-gp2, or part of one: hvm, gp2 or encrypted."
        ),
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="A state of AMIs, such as public, withdrawn or unknown.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="AMIs of at most so many jobs, the newest; 0 for all."
        ),
    ] = None,
) -> ExitCode:
    """List the AMIs of this site's jobs, by image and region.

    Without a limit, a list for people that at most --region chooses has those of the last 50 jobs.
    """
    from fedimg.cli import ami_output

    architecture = architecture_of(arch) if arch else None
    if ami_type is not None:
        refuse_unknown_type(ami_type)
    if state is not None:
        refuse_unknown_ami_state(state)
    store = call.store()
    if limit is None and not call.output.as_json and not (image or arch or ami_type or state):
        limit = SHOWN_JOBS
    all_rows = store.amis(region, newest=limit or 0)
    if region is not None and not all_rows:
        ec2 = call.settings.ec2
        known = {ec2.origin, *ec2.regions, *ec2.exclude_regions, *store.ami_regions()}
        refuse_unknown_region(region, known)
    if limit and store.count_jobs() > limit:
        call.output.note(
            f"listed are the AMIs of the last {limit} jobs that made some; --limit 0 lists all"
        )
    rows = [
        row
        for row in all_rows
        if (image is None or image in row.image)
        and architecture in (None, row.architecture)
        and state in (None, row.state)
        and (ami_type is None or ami_type in row.type.names)
    ]
    call.output.answer(ami_output.amis(rows))
    return ExitCode.OK


@command
def plan(call: Call, url: URLArgument, arch: ArchOption = None) -> ExitCode:
    """List the AMIs that a job would make of an image, by region.

    Nothing is changed.
    """
    from fedimg.aws import ami_options
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import plan_output
    from fedimg.services.ec2 import EC2Service
    from fedimg.services.site import Site

    image = image_of(url, arch, None)
    settings = call.settings
    service = EC2Service(Site(settings.ec2, settings.site, settings.checks, Clients()))
    planned = service.plan(image)
    types = sorted({each for region in planned.types for each in planned.all_types(region)})
    attributes = {
        each: ami_options.told(each, image.architecture, settings.ec2.amis) for each in types
    }
    call.output.answer(plan_output.plan(image, planned, _cost(call, image, planned), attributes))
    return ExitCode.OK


def _cost(call: Call, image: RawImage, planned: Plan) -> Cost | None:
    """Return what a job would cost; None if no price is set, or the image's size is unknown."""
    from fedimg.aws.cost import estimate
    from fedimg.aws.write.image_errors import ImageUnusable
    from fedimg.aws.write.image_size import image_size
    from fedimg.aws.write.units import GIB
    from fedimg.sources.file_server import Trusted

    ec2 = call.settings.ec2
    if not ec2.prices.known:
        return None
    try:
        size = image_size(
            image.url, maximum=ec2.limits.image_gib * GIB, trusted=Trusted.of(ec2, image)
        )
    except ImageUnusable as error:
        call.output.note(f"the cost is unknown: {error}")
        return None
    if not size.uncompressed_size:
        call.output.note(
            f"the cost is unknown: only the whole {image.format.suffix} file tells the image's size"
        )
        return None
    return estimate(size.uncompressed_size, planned, ec2)


@command
def check(call: Call) -> ExitCode:
    """Report what would keep images from being published.

    Each problem comes with how to correct it.
    """
    from fedimg.cli import check as site_check
    from fedimg.cli import site_output
    from fedimg.diagnostics import Status

    findings = site_check.run(call.settings)
    call.output.answer(site_output.findings(findings))
    problem = any(finding.status is Status.PROBLEM for finding in findings)
    return ExitCode.FAILED if problem else ExitCode.OK
