"""Render what `fedimg cleanup` found, and what it keeps, with what a person can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedimg.cli.output import Answer
from fedimg.cli.page import Table

if TYPE_CHECKING:
    from fedimg.aws.resources import Leftover

#: How many resources of unknown jobs an error names; the answer lists all.
_NAMED = 5


def leftovers(
    items: Sequence[Leftover], once_public: Sequence[Leftover], *, removed: bool
) -> Answer:
    """Render leftover resources; JSON also has those of `once_public`, with `was_public`."""
    lines = [[item.region, item.resource_type, item.id, item.job, item.name] for item in items]
    table = Table("Region", "Resource", "Id", "Job")
    for item in items:
        table.add_row(item.region, item.resource_type, item.id, item.job)
    value = [{**_leftover_value(item), "removed": removed} for item in items]
    value += [
        {**_leftover_value(item), "removed": False, "was_public": True} for item in once_public
    ]
    return Answer(value, lines, [table], "EC2 has no leftover resources of this site")


def _leftover_value(item: Leftover) -> dict[str, Any]:
    value = {key: value for key, value in asdict(item).items() if key != "created"}
    # Scripts know the resource's type by this key.
    return {"kind": value.pop("resource_type"), **value}


def once_public(items: Sequence[Leftover]) -> list[str]:
    """Return notes on resources that were public and are private now: one for each, then advice."""
    if not items:
        return []
    lines = [
        f"kept: {item.resource_type} {item.id} in {item.region} of job {item.job} was public "
        "before and is private now"
        for item in items
    ]
    return [
        *lines,
        "fedimg keeps these resources because others may use them; make them public again by hand, "
        "or remove each with 'fedimg cleanup --remove ID', an AMI together with its snapshot",
    ]


def unknown_jobs(items: Sequence[Leftover], database: str) -> str:
    """Return why `cleanup` removed nothing, and what to do about it.

    `database` is the database's path or URL.
    """
    named = ", ".join(f"{item.resource_type} {item.id} in {item.region}" for item in items[:_NAMED])
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (
        f"nothing was removed: the database {database} is younger than some of this site's "
        f"resources in EC2 and has no record of the jobs of {named}{more}, so fedimg cannot tell "
        "whether these were public. Restore the former database; or, if it is lost, rebuild it "
        "with 'fedimg store recover', and remove the resources that nobody needs with 'fedimg "
        "cleanup --remove ID'. If another fedimg deployment made them, give each deployment its "
        "own `site`"
    )
