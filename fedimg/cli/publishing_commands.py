"""Define the commands that queue and publish images: worker, upload and replay."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command, service
from fedimg.cli.image_arguments import ArchOption, URLArgument, image_of
from fedimg.cli.job_lookup import exit_code, find, note_idle_reasons

if TYPE_CHECKING:
    from fedimg.identity import Known
    from fedimg.images import RawImage
    from fedimg.store.rows import JobRow
    from fedimg.store.twins import Submission

#: How many seconds an upload waits for the file server to tell the image's size.
_MEASURE_SECONDS = 20.0


@service
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
        str | None, typer.Option(help="Checksum of the file: sha256:HEX, or a bare SHA-256.")
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
    from fedimg.cli import job_output
    from fedimg.cli.follow import follow
    from fedimg.jobs.queue import JobQueue
    from fedimg.store.rows import is_active

    image = image_of(url, arch, checksum)
    store = call.store(create=True)
    known = _measured(call, image)
    with closing(JobQueue(store)) as jobs:
        submission = jobs.upload(known, on_purpose=again)
    row = find(store, submission.job)
    if submission.run is None:
        _refuse_contradiction(row, image, submission)
        call.output.note(_existing_job_note(row, submission))
    if is_active(row):
        note_idle_reasons(call)
        if wait:
            return exit_code(follow(store, [row.job], call.output)[0])
    call.output.answer(job_output.submitted(row, new=submission.run is not None))
    return exit_code(row)


@command
def replay(
    call: Call,
    since: Annotated[
        str,
        typer.Option(
            metavar="WHEN", help="A time (2026-11-23, 2026-11-23T18:30Z) or an age (36h, 7d, 2w)."
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the entries; store none.")
    ] = False,
    explain: Annotated[
        str,
        typer.Option(
            metavar="ENTRY", help="Only tell what becomes of each file of build:ID, task:ID …"
        ),
    ] = "",
) -> ExitCode:
    """Queue what finished since a time and has no job.

    The worker does this for builds, tasks and composes by itself, from the time of its last look.
    This command goes back further, and includes entries that the site's policy rejected before. The
    answer tells the prior state of each entry: new, empty (no image was published), queued (waiting
    for the worker), taken (has jobs) or partly (has jobs for some images); it queues new, empty and
    partly taken ones, and an image that has a job gets no other. --explain names every file of one
    entry, and the fact or the setting by which it is left out.
    """
    if bool(since) == bool(explain):
        raise CommandRefused(ExitCode.UNUSABLE, "give either --since WHEN or --explain ENTRY")
    if explain:
        from fedimg.cli import replay_explained

        return replay_explained.explain(call, explain)

    from fedimg.cli import entry_output
    from fedimg.intake import catch_up
    from fedimg.jobs.queue import JobQueue
    from fedimg.sources.compose_listing import ComposeListing
    from fedimg.sources.koji_listing import KojiListing
    from fedimg.untrusted.times import parse_time

    koji, composes = KojiListing(call.settings.koji), call.settings.composes
    try:
        begin = parse_time(since, koji.now())
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
        note_idle_reasons(call)
    call.output.answer(entry_output.replayed(entries))
    return ExitCode.OK


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
