"""The commands; what they share is in fedimg.cli.app, how answers look in fedimg.cli.output."""

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
#: How long an upload waits for the file server's word on the image, before it is queued without.
_MEASURE_SECONDS = 20.0

JobArgument = Annotated[str, typer.Argument(help="A job, or as much of its name as is unique.")]
URLArgument = Annotated[str, typer.Argument(help="Of a NAME.raw.xz, for all to download.")]
ArchOption = Annotated[
    str | None, typer.Option(help="x86_64 or aarch64; else the file name tells; else x86_64.")
]


def main() -> None:
    """Run what the command line says, and exit."""
    hide_memory()
    # What others wrote, in an error for one, may hold characters that the terminal has not.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Its commands stand behind these.
    from fedimg.cli import database_commands  # noqa: F401

    app()


@command
def worker(call: Call) -> int:
    """Publish what is announced and uploaded, until told to stop (SIGTERM, SIGINT)."""
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
        str | None, typer.Option(help="Of the .xz file: sha256:HEX, or a bare SHA-256.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Publish it once more, though a job has it already.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job; exit by how it ended.")
    ] = False,
) -> ExitCode:
    """Queue the publishing of an image, and print its job.

    An image that has a job already gets no second one: that job is shown, and the exit status
    is by its state. It is the same image when the checksums of one kind are equal; else when the
    URL is, and the file has the size, ETag and Last-Modified that it had; else when the file's
    name and size are. A job that came to nothing is run again when its image is another now.
    """
    from fedimg.cli import output
    from fedimg.cli.follow import follow, going_on
    from fedimg.jobs.queue import JobQueue

    image = _image(url, arch, checksum)
    store = call.store(create=True)
    known = _measured(call, image)
    with closing(JobQueue(store)) as jobs:
        taken = jobs.upload(known, on_purpose=again)
    row = _find(store, taken.job)
    if taken.run is None:
        _refuse_contradiction(row, image, taken)
        call.output.note(_has_it(row, taken))
    if going_on(row):
        _mind_the_worker(call)
        if wait:
            return _by_state(follow(store, [row.job], call.output)[0])
    call.output.answer(output.submitted(row, new=taken.run is not None))
    return _by_state(row)


@command
def replay(
    call: Call,
    since: Annotated[
        str, typer.Option(help="2026-11-23, 2026-11-23T18:30Z, or an age: 36h, 7d, 2w.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be stored.")
    ] = False,
) -> ExitCode:
    """Ask Koji, and the composes' locations, what finished since then, and store what has no job.

    The worker does so by itself, from where it last looked; this goes back further, and asks
    again for what the site's policy had left out. Of each: whether it was new, empty (nothing
    came of it), queued (asked for already) or taken (it has jobs); the first two are stored.
    """
    from fedimg.cli import output
    from fedimg.intake import catch_up
    from fedimg.jobs.queue import JobQueue
    from fedimg.sources.compose_listing import ComposeListing
    from fedimg.sources.koji_listing import KojiListing

    koji, composes = KojiListing(call.settings.koji), call.settings.composes
    try:
        begin = catch_up.moment(since, koji.now())
    except ValueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, f"--since: {error}") from error
    places: list[catch_up.Listing] = [koji]
    places += [ComposeListing(composes, each) for each in composes.locations]
    with closing(JobQueue(call.store(create=not dry_run))) as jobs:
        found = [
            one for lists in places for one in catch_up.replay(lists, jobs, begin, dry_run=dry_run)
        ]
    if any(one.stored for one in found):
        _mind_the_worker(call)
    call.output.answer(output.replayed(found))
    return ExitCode.OK


@command
def status(
    call: Call,
    job: Annotated[
        str | None, typer.Argument(help="A job, or as much of its name as is unique; else all.")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Follow until nothing is live; exit by JOB's state."),
    ] = False,
) -> ExitCode:
    """Show jobs, oldest first; of one job, its regions and how its boot checks went."""
    from fedimg.cli import output
    from fedimg.cli.follow import follow, going_on
    from fedimg.intake.backlog import backlog_problems
    from fedimg.jobs.outages import Outages

    store = call.store()
    rows = [_find(store, job)] if job else store.jobs()
    live = [row for row in rows if going_on(row)]
    if live:
        _mind_the_worker(call, live)
    for text in [
        *backlog_problems(store),
        *map(str, Outages(store, call.settings.ec2.limits).all()),
    ]:
        call.output.note(text)
    if watch and live:
        rows = follow(store, [row.job for row in live], call.output)
    else:
        call.output.answer(output.jobs(rows, details=job is not None))
    return _by_state(rows[0]) if watch and job else ExitCode.OK


@command
def amis(
    call: Call,
    image: Annotated[str | None, typer.Option(help="A part of the image's name.")] = None,
    region: Annotated[str | None, typer.Option(help="A region.")] = None,
    arch: Annotated[str | None, typer.Option(help="x86_64 or aarch64.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="hvm, paravirtual, gp2, … or both: hvm-gp2.")
    ] = None,
) -> ExitCode:
    """List AMIs, by image and region."""
    from fedimg.cli import output

    wanted = _architecture(arch) if arch else None
    rows = [
        row
        for row in call.store().amis()
        if (image is None or image in row.image)
        and region in (None, row.region)
        and wanted in (None, row.architecture)
        and kind in (None, row.virt_type, row.volume_type, f"{row.virt_type}-{row.volume_type}")
    ]
    call.output.answer(output.amis(rows))
    return ExitCode.OK


@command
def retry(call: Call, job: JobArgument) -> ExitCode:
    """Queue an incomplete, failed or cancelled job again; what is done already stays."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = _find(store, job).job
    with closing(JobQueue(store)) as jobs:
        queued = jobs.retry(name) is not None
    row = _find(store, name)
    if queued:
        _mind_the_worker(call)
    elif row.state == "complete":
        call.output.note(f"{name} is complete: nothing is left to do")
    elif twin := store.twin(row.image):
        call.output.note(f"nothing is left to do: {twin} has published the same file, or will")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"{name} is {row.state} ({row.step}); only an ended job can be retried",
        )
    call.output.answer(output.job(row))
    return ExitCode.OK


@command
def cancel(call: Call, job: JobArgument) -> ExitCode:
    """End a queued or running job; the worker removes what it made."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = _find(store, job).job
    with closing(JobQueue(store)) as jobs:
        cancelled = jobs.cancel(name)
    row = _find(store, name)
    if cancelled and row.state != "cancelled":
        call.output.note(f"{name} does not run again by itself; 'fedimg retry' still runs it")
    elif cancelled:
        _mind_the_worker(call)
    elif row.state == "cancelled":
        call.output.note(f"{name} is cancelled already")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW, f"{name} is {row.state} ({row.step}): nothing is left to cancel"
        )
    call.output.answer(output.job(row))
    return ExitCode.OK


@command
def plan(call: Call, url: URLArgument, arch: ArchOption = None) -> ExitCode:
    """Show what would be made of an image, and where; nothing is touched."""
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
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--remove",
            metavar="ID",
            help="Remove this alone, though it was public or is of a job that is not known; may be "
            "given again.",
        ),
    ] = None,
) -> ExitCode:
    """Remove what this site's jobs left in EC2: all that was never public and is of no live job.

    What was public and is private now stays, and is listed apart. Nothing is removed where the
    database is younger than what the site has in EC2. Either can be removed by its id.
    """
    from fedimg.aws import cleanup as leavings
    from fedimg.aws import regions
    from fedimg.aws.client import availability as watch
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.client.waiter import Waiter
    from fedimg.cli import output
    from fedimg.cli.follow import going_on
    from fedimg.store.uncleaned import may_be_left

    settings = call.settings
    store = call.store()
    clients = Clients()
    # A region that is excluded today may have had images before.
    unbounded = settings.ec2.model_copy(update={"regions": [], "exclude_regions": []})
    everywhere = regions.wanted(clients.ec2(settings.ec2.origin), unbounded)

    def live() -> set[str]:
        return {row.job for row in store.jobs() if going_on(row)}

    # One that hangs would be waited for, for minutes.
    silent = watch.probed(clients, everywhere)
    unseen: list[Exception] = []
    # Asked before the look and after it: a job may end or begin meanwhile.
    spared = live()
    there = leavings.survey(
        clients,
        settings.site,
        [region for region in everywhere if region not in silent],
        spare=spared,
        recorded=leavings.recorded(row for row in store.amis() if row.job not in spared),
        published=store.ever_public(),
        unseen=unseen.append,
    )
    there = there.without(live())
    strange = leavings.of_unknown_jobs(there, {row.job for row in store.jobs()}, store.made())
    found = _named(there, only) if only else there.left
    refused = bool(strange) and not only

    def forget(item: leavings.Leftover) -> None:
        if item.kind == leavings.IMAGE:
            store.forget_ami(item.id, item.region)
        store.withdraw(item.region, [item.id])

    removing = bool(found) and not (dry_run or refused)
    if removing:
        call.output.note(f"removing {len(found)} {'things' if only else 'leftovers'}")
        leavings.remove(
            clients,
            Waiter(settings.ec2.limits, threading.Event()),
            found,
            limit=settings.ec2.limits.instance_gone,
            removed=forget,
            once_public=bool(only),
        )
    once_public = [] if only else there.once_public
    call.output.answer(output.leftovers(found, once_public, removed=removing))
    for text in output.once_public(once_public):
        call.output.note(text)
    for error in unseen:
        call.output.note(f"not looked at: {error}")
    left = may_be_left(store, set(everywhere) - set(silent))
    for region in sorted({*silent, *left}):
        why = silent.get(region) or "the account does not have it enabled"
        what = f"there may be left {left[region]}" if region in left else "nothing is known of it"
        call.output.note(f"not looked at: {region}: {why}; {what}")
    if refused:
        call.output.note(output.unknown_jobs(strange, store.place))
        return ExitCode.NOT_NOW
    missed = [region for region in silent if regions.chosen(region, settings.ec2)]
    return ExitCode.FAILED if unseen or missed else ExitCode.OK


@command
def check(call: Call) -> ExitCode:
    """Look for what would keep images from being published, and say what to do about it."""
    from fedimg.cli import check as looks
    from fedimg.cli import output
    from fedimg.diagnostics import Status

    found = looks.run(call.settings)
    call.output.answer(output.findings(found))
    bad = any(finding.status is Status.PROBLEM for finding in found)
    return ExitCode.FAILED if bad else ExitCode.OK


def _named(there: Survey, ids: Sequence[str]) -> list[Leftover]:
    """Return what has these ids.

    Raises CommandRefused where one is public, or is nothing that may be removed.
    """
    candidates = {item.id: item for item in (*there.left, *there.once_public)}
    public = {item.id for item in there.public}
    for id in ids:
        if id in public:
            raise CommandRefused(
                ExitCode.NOT_NOW, f"{id} is public: make it, or the AMI that uses it, private first"
            )
        if id not in candidates:
            raise CommandRefused(
                ExitCode.UNUSABLE,
                f"{id} is nothing that can be removed: not this site's, of a live job, or in a "
                "region that cannot be looked at; 'fedimg cleanup --dry-run' lists what can be",
            )
    return [candidates[id] for id in dict.fromkeys(ids)]


def _image(url: str, arch: str | None, checksum: str | None) -> RawImage:
    """The image that a person described. Raises CommandRefused when no such image can be."""
    from fedimg.images import Architecture, RawImage

    said = {_architecture(name) for name in _ARCHITECTURE.findall(url.rsplit("/", 1)[-1])}
    given = _architecture(arch) if arch else None
    if given and said and given not in said:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"--arch {arch} contradicts the file name, which says {', '.join(sorted(said))}",
        )
    architecture = given or (said.pop() if len(said) == 1 else Architecture.X86_64)
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
            ExitCode.UNUSABLE, f"{name!r} is no architecture of EC2's: x86_64 or aarch64"
        ) from error


def _find(store: Store, text: str) -> JobRow:
    """The job of that name, or the one whose name begins with it, or holds it."""
    if row := store.job(text):
        return row
    rows = store.jobs()
    found = [row for row in rows if row.job.startswith(text)] or [
        row for row in rows if text in row.job
    ]
    if not found:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"there is no job {text!r}; 'fedimg status' lists them"
        )
    if len(found) > 1:
        names = ", ".join(row.job for row in found)
        raise CommandRefused(ExitCode.UNUSABLE, f"{text!r} may be any of these jobs: {names}")
    return found[0]


def _measured(call: Call, image: RawImage) -> Known:
    """The image with its size and validator, as far as its file server tells them now."""
    from fedimg.identity import Known
    from fedimg.sources import http
    from fedimg.sources.file_server import Trusted
    from fedimg.sources.measure import measure

    try:
        found = measure(image.url, _MEASURE_SECONDS, Trusted.of(call.settings.ec2, image))
    except (http.NotFound, http.NoAnswer) as error:
        why = str(error)
    else:
        if found.size is not None:
            return Known(replace(image, size=found.size), found.validator)
        why = "its server does not tell it"
    call.output.note(
        f"the size of {image.file_name} is not known: {why}. The same image under another URL is "
        "recognised by an equal checksum alone"
    )
    return Known(image)


def _refuse_contradiction(row: JobRow, image: RawImage, taken: Submission) -> None:
    """Raise CommandRefused when a person says of a URL what its job was not told."""
    said: list[tuple[str, str | None, str | None]]
    said = [("architecture", row.image.architecture, image.architecture)]
    if not taken.sure:
        said += [("checksum", row.image.checksum, image.checksum)]
    for what, old, new in said if row.image.given_by_hand else ():
        if new and new != old:
            raise CommandRefused(
                ExitCode.NOT_NOW,
                f"the job of this URL, {row.job}, has the {what} {old or '(none)'}, not {new}; "
                "an image's job cannot be changed: 'fedimg upload --again' makes another",
            )


def _has_it(row: JobRow, taken: Submission) -> str:
    """What a person is told who uploads an image that a job has."""
    from fedimg.cli.output import when
    from fedimg.store.rows import LIVE

    text = f"{row.job} has this image already ({taken.common}), and is {row.state}"
    once_more = "'fedimg upload --again' publishes it once more"
    if row.state in LIVE or row.state == "complete":
        return f"{text}: nothing is queued; {once_more}"
    if row.next is not None:
        text += f", to run again at {when(row.next)}"
    return f"{text}: 'fedimg retry {row.job}' runs it now; {once_more} as a job of its own"


def _by_state(row: JobRow) -> ExitCode:
    return {
        "incomplete": ExitCode.INCOMPLETE,
        "failed": ExitCode.FAILED,
        "cancelled": ExitCode.FAILED,
    }.get(row.state, ExitCode.OK)


def _mind_the_worker(call: Call, live: Sequence[JobRow] = ()) -> None:
    """Tell a person when nothing will happen, or nothing more of these jobs, and why."""
    from fedimg.worker.idle_reasons import idle_reasons

    for text in idle_reasons(call.store(), live):
        call.output.note(text)
