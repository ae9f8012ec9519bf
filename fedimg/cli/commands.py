"""Define the commands; cli.app has their shared options, cli.output renders their answers."""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, app, command
from fedimg.process.hardening import hide_memory

if TYPE_CHECKING:
    from fedimg.aws.cleanup import Leftover, Survey
    from fedimg.identity import Known
    from fedimg.images import Architecture, RawImage
    from fedimg.store.rows import JobRow
    from fedimg.store.store import Store
    from fedimg.store.twins import Submission

_ARCHITECTURE = re.compile(r"(?<![A-Za-z0-9_])(x86_64|aarch64|arm64)(?![A-Za-z0-9_])")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
#: How many seconds an upload waits for the file server to tell the image's size.
_MEASURE_SECONDS = 20.0

JobArgument = Annotated[str, typer.Argument(help="Name of a job, or a unique part of it.")]
URLArgument = Annotated[str, typer.Argument(help="URL of a NAME.raw.xz that EC2 can download.")]
ArchOption = Annotated[
    str | None,
    typer.Option(help="x86_64 or aarch64; by default as the file name says, otherwise x86_64."),
]


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    hide_memory()
    # Texts from elsewhere may hold characters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Imported here, so that `--help` lists these commands after the ones above.
    from fedimg.cli import database_commands, hold_commands  # noqa: F401

    app()


@command
def worker(call: Call) -> int:
    """Publish announced and uploaded images until SIGTERM or SIGINT."""
    settings = call.settings
    from fedimg.process import logs

    logs.to_standard_error()
    from fedimg.worker.process import run_worker

    return run_worker(settings)


@command
def upload(
    call: Call,
    url: URLArgument,
    arch: ArchOption = None,
    checksum: Annotated[
        str | None, typer.Option(help="Checksum of the .xz file: sha256:HEX, or a bare SHA-256.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Publish the image again, though a job has published it."),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Follow the job to its end; the exit status is by its state."),
    ] = False,
) -> ExitCode:
    """Queue a job that publishes an image, and print the job's name.

    An image that has a job gets no second one: the command prints that job and exits by its state.
    Two images are the same if their checksums of one algorithm are equal; otherwise if their URLs
    are, and the file still has the same size, ETag and Last-Modified; otherwise if their file names
    and sizes are. A failed or cancelled job runs again if the file at its URL has changed.
    """
    from fedimg.cli import output
    from fedimg.cli.follow import follow, is_active
    from fedimg.jobs.queue import JobQueue

    image = _image(url, arch, checksum)
    store = call.store(create=True)
    known = _measured(call, image)
    with closing(JobQueue(store)) as jobs:
        submission = jobs.upload(known, on_purpose=again)
    row = _find(store, submission.job)
    if submission.run is None:
        _refuse_contradiction(row, image, submission)
        call.output.note(_existing_job_note(row, submission))
    if is_active(row):
        _note_idle_reasons(call)
        if wait:
            return _exit_code(follow(store, [row.job], call.output)[0])
    call.output.answer(output.submitted(row, new=submission.run is not None))
    return _exit_code(row)


@command
def replay(
    call: Call,
    since: Annotated[
        str, typer.Option(help="A time (2026-11-23, 2026-11-23T18:30Z) or an age (36h, 7d, 2w).")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the entries; store none.")
    ] = False,
) -> ExitCode:
    """List builds, tasks and composes that finished since a time, and queue those without a job.

    The worker does this by itself from the time of its last look. This command goes back further,
    and includes entries that the site's policy rejected before. The answer tells the prior state of
    each entry: new, empty (no image was published), queued (waiting for the worker) or taken (has
    jobs); it queues new and empty ones.
    """
    from fedimg.cli import output
    from fedimg.intake import catch_up
    from fedimg.jobs.queue import JobQueue
    from fedimg.sources.compose_listing import ComposeListing
    from fedimg.sources.koji_listing import KojiListing

    koji, composes = KojiListing(call.settings.koji), call.settings.composes
    try:
        begin = catch_up.parse_time(since, koji.now())
    except ValueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, f"--since: {error}") from error
    listings: list[catch_up.Listing] = [koji]
    listings += [ComposeListing(composes, location) for location in composes.locations]
    with closing(JobQueue(call.store(create=not dry_run))) as jobs:
        entries = [
            entry
            for listing in listings
            for entry in catch_up.replay(listing, jobs, begin, dry_run=dry_run)
        ]
    if any(entry.stored for entry in entries):
        _note_idle_reasons(call)
    call.output.answer(output.replayed(entries))
    return ExitCode.OK


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
) -> ExitCode:
    """List jobs, oldest first; for one job, also its regions and boot checks."""
    from fedimg.cli import output
    from fedimg.cli.follow import follow, is_active
    from fedimg.intake.backlog import backlog_problems
    from fedimg.jobs.outages import Outages

    store = call.store()
    rows = [_find(store, job)] if job else store.jobs()
    active = [row for row in rows if is_active(row)]
    if active:
        _note_idle_reasons(call, active)
    else:
        _note_hold(call)
    for text in [
        *backlog_problems(store),
        *map(str, Outages(store, call.settings.ec2.limits).all()),
    ]:
        call.output.note(text)
    if watch and active:
        rows = follow(store, [row.job for row in active], call.output)
    else:
        call.output.answer(output.jobs(rows, details=job is not None))
    return _exit_code(rows[0]) if watch and job else ExitCode.OK


@command
def amis(
    call: Call,
    image: Annotated[str | None, typer.Option(help="Part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="Name of a region.")] = None,
    arch: Annotated[str | None, typer.Option(help="x86_64 or aarch64.")] = None,
    ami_type: Annotated[
        str | None,
        typer.Option("--type", help="An AMI type, such as hvm-gp2, or half of one: hvm or gp2."),
    ] = None,
) -> ExitCode:
    """List the AMIs of this site's jobs, by image and region."""
    from fedimg.cli import output

    architecture = _architecture(arch) if arch else None
    rows = [
        row
        for row in call.store().amis()
        if (image is None or image in row.image)
        and region in (None, row.region)
        and architecture in (None, row.architecture)
        and ami_type in (None, row.virt_type, row.volume_type, f"{row.virt_type}-{row.volume_type}")
    ]
    call.output.answer(output.amis(rows))
    return ExitCode.OK


@command
def retry(call: Call, job: JobArgument) -> ExitCode:
    """Queue the next run of an incomplete, failed or cancelled job; it keeps published AMIs."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = _find(store, job).job
    with closing(JobQueue(store)) as jobs:
        queued = jobs.retry(name) is not None
    row = _find(store, name)
    if queued:
        _note_idle_reasons(call)
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
    call.output.answer(output.job(row))
    return ExitCode.OK


@command
def cancel(call: Call, job: JobArgument) -> ExitCode:
    """End a queued or running job; the worker then removes its resources that are not public."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = _find(store, job).job
    with closing(JobQueue(store)) as jobs:
        cancelled = jobs.cancel(name)
    row = _find(store, name)
    if cancelled and row.state != "cancelled":
        call.output.note(
            f"the scheduled retry of job {name} is cancelled; 'fedimg retry {name}' still runs it"
        )
    elif cancelled:
        _note_idle_reasons(call)
    elif row.state == "cancelled":
        call.output.note(f"job {name} is cancelled already")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot cancel job {name}: it is {row.state} ({row.step}) and has ended",
        )
    call.output.answer(output.job(row))
    return ExitCode.OK


@command
def plan(call: Call, url: URLArgument, arch: ArchOption = None) -> ExitCode:
    """List the AMIs that a job would make of an image, by region; this changes nothing."""
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import output
    from fedimg.services.ec2 import EC2Service

    image = _image(url, arch, None)
    settings = call.settings
    service = EC2Service(
        settings.ec2, site=settings.site, checks=settings.checks, clients=Clients()
    )
    call.output.answer(output.plan(image, service.plan(image)))
    return ExitCode.OK


@command
def cleanup(
    call: Call,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the resources; remove none.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--remove",
            metavar="ID",
            help="Remove only this resource, even if it was public before or its job is unknown; "
            "repeat the option for several.",
        ),
    ] = None,
) -> ExitCode:
    """Remove this site's EC2 resources that were never public and belong to no active job.

    Resources that were public before and are private now stay and are listed separately; --remove
    ID removes them. The command removes nothing, and exits with 5, if the database is younger than
    resources of jobs that it does not know: it may be another database than theirs.
    """
    from fedimg.aws import cleanup as aws_cleanup
    from fedimg.aws import regions
    from fedimg.aws.client import availability
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.client.waiter import Waiter
    from fedimg.cli import output
    from fedimg.cli.follow import is_active
    from fedimg.store.uncleaned import may_be_left

    settings = call.settings
    store = call.store()
    clients = Clients()
    # A region that the configuration excludes today may have resources of earlier jobs.
    unbounded = settings.ec2.model_copy(update={"regions": [], "exclude_regions": []})
    enabled = regions.selected(clients.ec2(settings.ec2.origin), unbounded)

    def active_jobs() -> set[str]:
        return {row.job for row in store.jobs() if is_active(row)}

    # Found first, as each call to a region that hangs would be repeated for minutes.
    unavailable = availability.probed(clients, enabled)
    errors: list[Exception] = []
    # Read before the survey and after it: a job may begin or end meanwhile.
    spared = active_jobs()
    survey = aws_cleanup.survey(
        clients,
        settings.site,
        [region for region in enabled if region not in unavailable],
        spare=spared,
        recorded=aws_cleanup.recorded(row for row in store.amis() if row.job not in spared),
        published=store.ever_public(),
        unseen=errors.append,
    )
    survey = survey.without(active_jobs())
    unknown = aws_cleanup.of_unknown_jobs(
        survey, {row.job for row in store.jobs()}, store.created_at()
    )
    leftovers = _named(survey, only) if only else survey.left
    refused = bool(unknown) and not only

    def forget(item: aws_cleanup.Leftover) -> None:
        if item.kind == aws_cleanup.IMAGE:
            store.forget_ami(item.id, item.region)
        store.unmark(item.region, [item.id])

    removing = bool(leftovers) and not (dry_run or refused)
    if removing:
        call.output.note(f"removing {len(leftovers)} resources from EC2")
        aws_cleanup.remove(
            clients,
            Waiter(settings.ec2.limits, threading.Event()),
            leftovers,
            limit=settings.ec2.limits.instance_gone,
            removed=forget,
            once_public=bool(only),
        )
    once_public = [] if only else survey.once_public
    call.output.answer(output.leftovers(leftovers, once_public, removed=removing))
    for text in output.once_public(once_public):
        call.output.note(text)
    for error in errors:
        call.output.note(f"not cleaned up: {error}")
    left = may_be_left(store, set(enabled) - set(unavailable))
    for region in sorted({*unavailable, *left}):
        why = unavailable.get(region) or "the account does not have the region enabled"
        what = f"may still have {left[region]}" if region in left else "no leftovers are recorded"
        call.output.note(f"region {region} not cleaned up: {why}; {what}")
    if refused:
        call.output.note(output.unknown_jobs(unknown, store.place))
        return ExitCode.NOT_NOW
    missed = [region for region in unavailable if regions.is_selected(region, settings.ec2)]
    return ExitCode.FAILED if errors or missed else ExitCode.OK


@command
def check(call: Call) -> ExitCode:
    """Report problems that would keep images from being published, and how to correct them."""
    from fedimg.cli import check as site_check
    from fedimg.cli import output
    from fedimg.diagnostics import Status

    findings = site_check.run(call.settings)
    call.output.answer(output.findings(findings))
    problem = any(finding.status is Status.PROBLEM for finding in findings)
    return ExitCode.FAILED if problem else ExitCode.OK


def _named(survey: Survey, ids: Sequence[str]) -> list[Leftover]:
    """Return the resources that have these ids.

    Raises CommandRefused if one is public or may not be removed.
    """
    candidates = {item.id: item for item in (*survey.left, *survey.once_public)}
    public = {item.id for item in survey.public}
    for id in ids:
        if id in public:
            raise CommandRefused(
                ExitCode.NOT_NOW,
                f"cannot remove {id}: it is public; make it, or the AMI that uses it, private",
            )
        if id not in candidates:
            raise CommandRefused(
                ExitCode.UNUSABLE,
                f"cannot remove {id}: it does not exist, belongs to another site or to an active "
                "job, or is in a region that does not answer; 'fedimg cleanup --dry-run' lists the "
                "resources that can be removed",
            )
    return [candidates[id] for id in dict.fromkeys(ids)]


def _image(url: str, arch: str | None, checksum: str | None) -> RawImage:
    """Return the image of a command's arguments. Raises CommandRefused if they contradict."""
    from fedimg.images import Architecture, RawImage

    in_name = {_architecture(name) for name in _ARCHITECTURE.findall(url.rsplit("/", 1)[-1])}
    option = _architecture(arch) if arch else None
    if option and in_name and option not in in_name:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--arch {arch} contradicts the file name, which says {', '.join(sorted(in_name))}",
        )
    architecture = option or (in_name.pop() if len(in_name) == 1 else Architecture.X86_64)
    if checksum and _SHA256.fullmatch(checksum):
        checksum = f"sha256:{checksum}"
    try:
        return RawImage.at(url, architecture, checksum.lower() if checksum else None)
    except ValueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, str(error)) from error


def _architecture(name: str) -> Architecture:
    from fedimg.images import Architecture

    try:
        return Architecture.from_koji(name)
    except ValueError as error:
        raise CommandRefused(
            ExitCode.UNUSABLE, f'unknown architecture "{name}": use x86_64 or aarch64'
        ) from error


def _find(store: Store, text: str) -> JobRow:
    """Return the job of that name, else the one whose name begins with the text or contains it.

    Raises CommandRefused if there is none or more than one.
    """
    if row := store.job(text):
        return row
    rows = store.jobs()
    matches = [row for row in rows if row.job.startswith(text)] or [
        row for row in rows if text in row.job
    ]
    if not matches:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"there is no job \"{text}\"; 'fedimg status' lists the jobs"
        )
    if len(matches) > 1:
        names = ", ".join(row.job for row in matches)
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f'"{text}" matches several jobs, give more of the name: {names}',
        )
    return matches[0]


def _measured(call: Call, image: RawImage) -> Known:
    """Return the image with its size in bytes and validator, if its file server tells them."""
    from fedimg.identity import Known
    from fedimg.sources import http
    from fedimg.sources.file_server import Trusted
    from fedimg.sources.measure import measure

    try:
        file = measure(image.url, _MEASURE_SECONDS, Trusted.of(call.settings.ec2, image))
    except (http.NotFound, http.NoAnswer) as error:
        why = str(error)
    else:
        if file.size is not None:
            return Known(replace(image, size=file.size), file.validator)
        why = "the file server does not tell it"
    call.output.note(
        f"the size of {image.file_name} is unknown: {why}; fedimg will recognise the same image "
        "under another URL only by an equal checksum"
    )
    return Known(image)


def _refuse_contradiction(row: JobRow, image: RawImage, submission: Submission) -> None:
    """Raise CommandRefused if the arguments contradict the existing job of the same URL."""
    attributes: list[tuple[str, str | None, str | None]]
    attributes = [("architecture", row.image.architecture, image.architecture)]
    if not submission.sure:
        attributes += [("checksum", row.image.checksum, image.checksum)]
    for attribute, old, new in attributes if row.image.given_by_hand else ():
        if new and new != old:
            raise CommandRefused(
                ExitCode.NOT_NOW,
                f"job {row.job} of this URL has the {attribute} {old or '(none)'}, not {new}; "
                "the image of a job cannot be changed: 'fedimg upload --again' queues a new job",
            )


def _existing_job_note(row: JobRow, submission: Submission) -> str:
    """Return the note for a person who uploads an image that has a job."""
    from fedimg.cli.output import when
    from fedimg.store.rows import LIVE

    text = f"job {row.job} has this image already ({submission.common}) and is {row.state}"
    again = "'fedimg upload --again' publishes the image again as a new job"
    if row.state in LIVE or row.state == "complete":
        return f"{text}; nothing was queued; {again}"
    if row.next is not None:
        text += f", next retry at {when(row.next)}"
    return f"{text}; 'fedimg retry {row.job}' runs it now; {again}"


def _exit_code(row: JobRow) -> ExitCode:
    return {
        "incomplete": ExitCode.INCOMPLETE,
        "failed": ExitCode.FAILED,
        "cancelled": ExitCode.FAILED,
    }.get(row.state, ExitCode.OK)


def _note_idle_reasons(call: Call, active: Sequence[JobRow] = ()) -> None:
    """Print why no worker will run the queued jobs, or continue these active ones."""
    from fedimg.worker.idle_reasons import idle_reasons

    for text in idle_reasons(call.store(), active):
        call.output.note(text)
    _note_hold(call)


def _note_hold(call: Call) -> None:
    """Print that an operator holds the site, if one does."""
    from fedimg.jobs.holds import Holds

    if hold := Holds(call.store()).current():
        call.output.note(f"{hold}; 'fedimg release' ends the hold")
