"""Define the command that removes from EC2 what jobs left there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command

if TYPE_CHECKING:
    from fedimg.aws.client.clients import Clients
    from fedimg.aws.resources import Leftover
    from fedimg.aws.survey import Survey
    from fedimg.store.store import Store


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
    """Remove what was never public and belongs to no active job.

    Only this site's EC2 resources are looked at. Resources that were public before and are private
    now stay and are listed separately; --remove ID removes them. Private AMIs that are shared with
    an audience stay, too. The command removes nothing, and exits with 5, if the database is younger
    than resources of jobs that it does not know: it may be another database than theirs.
    """
    from fedimg.aws import regions, survey
    from fedimg.aws.client.clients import Clients
    from fedimg.cli import cleanup_output
    from fedimg.store import rows

    store = call.store()
    clients = Clients()
    found = _search(call, store, clients)
    unknown = survey.of_unknown_jobs(
        found.survey, {row.job for row in store.jobs()}, store.created_at()
    )
    leftovers = _named(found.survey, only) if only else found.survey.left
    refused = bool(unknown) and not only

    removing = bool(leftovers) and not (dry_run or refused)
    if removing:
        _remove(call, store, clients, leftovers, once_public=bool(only))
    shared = {
        id for row in store.amis() if row.state in rows.AUDIENCES for id in (row.ami, row.snapshot)
    }
    once_public = (
        [] if only else [each for each in found.survey.once_public if each.id not in shared]
    )
    call.output.answer(cleanup_output.leftovers(leftovers, once_public, removed=removing))
    for text in cleanup_output.once_public(once_public):
        call.output.note(text)
    _note_unseen(call, store, found)
    if refused:
        call.output.note(cleanup_output.unknown_jobs(unknown, store.address))
        return ExitCode.NOT_NOW
    missed = [
        region for region in found.unavailable if regions.is_selected(region, call.settings.ec2)
    ]
    return ExitCode.FAILED if found.errors or missed else ExitCode.OK


@dataclass(frozen=True)
class _Search:
    """The result of a search of the enabled regions, and the regions that it could not search.

    `unavailable` tells, by region, why it was not asked; `errors` are those of regions that were.
    """

    survey: Survey
    enabled: Sequence[str]
    unavailable: dict[str, str]
    errors: list[Exception]


def _search(call: Call, store: Store, clients: Clients) -> _Search:
    """Look for the site's resources in every region of the account, without active jobs' own."""
    from fedimg.aws import regions, survey
    from fedimg.aws.client import availability
    from fedimg.store.rows import is_active

    def active_jobs() -> set[str]:
        return {row.job for row in store.jobs() if is_active(row)}

    settings = call.settings
    # A region that the configuration excludes today may have resources of earlier jobs.
    unbounded = settings.ec2.model_copy(update={"regions": [], "exclude_regions": []})
    enabled = regions.selected(clients.ec2(settings.ec2.origin), unbounded)
    # Found first, as each call to a region that hangs would be repeated for minutes.
    unavailable = availability.probed(clients, enabled)
    errors: list[Exception] = []
    # Read before the survey and after it: a job may begin or end meanwhile.
    spared, kept = active_jobs(), store.kept()
    seen = survey.take(
        clients,
        settings.site,
        [region for region in enabled if region not in unavailable],
        spare=spared,
        recorded=survey.recorded(row for row in store.amis() if row.job not in spared),
        published=store.ever_public(),
        bucket=settings.ec2.instance_store.bucket_in,
        unseen=errors.append,
    )
    found = seen.without(active_jobs(), kept | store.kept())
    return _Search(found, enabled, unavailable, errors)


def _remove(
    call: Call, store: Store, clients: Clients, leftovers: Sequence[Leftover], *, once_public: bool
) -> None:
    """Remove resources from EC2, and each that is gone from the database."""
    from fedimg.aws import cleanup as aws_cleanup
    from fedimg.aws import resources
    from fedimg.aws.client.waiter import Waiter

    def forget(item: Leftover) -> None:
        if item.resource_type == resources.IMAGE:
            store.forget_ami(item.id, item.region)
        store.unmark(item.region, [item.id])

    call.output.note(f"removing {len(leftovers)} resources from EC2")
    limits = call.settings.ec2.limits
    aws_cleanup.remove(
        clients,
        Waiter(limits, threading.Event()),
        leftovers,
        limit=limits.instance_gone,
        removed=forget,
        once_public=once_public,
    )


def _note_unseen(call: Call, store: Store, found: _Search) -> None:
    """Print which regions could not be searched, and what may be left in them."""
    from fedimg.store.uncleaned import may_be_left

    for error in found.errors:
        call.output.note(f"not cleaned up: {error}")
    left = may_be_left(store, set(found.enabled) - set(found.unavailable))
    for region in sorted({*found.unavailable, *left}):
        why = found.unavailable.get(region) or "the account does not have the region enabled"
        what = f"may still have {left[region]}" if region in left else "no leftovers are recorded"
        call.output.note(f"region {region} not cleaned up: {why}; {what}")


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
