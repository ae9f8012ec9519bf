"""Decide what the record becomes when a person accepts what was done by hand on EC2."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedimg.aws import amis, permissions, tags
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import explained
from fedimg.lifecycle import comparison, repair
from fedimg.store import rows
from fedimg.store.rows import AMIRow, JobRow


class CannotAccept(Exception):
    """An AMI's state on EC2 cannot become the record; the text says why, and what to do."""


@dataclass(frozen=True)
class Found:
    """An AMI's state on EC2, in words; the state to record, and what recording it will mean.

    `other_deprecation` says that EC2 deprecates the AMI at another time than recorded, and
    `deprecate_at` when, in seconds since the epoch; None is EC2's own date, or none.
    """

    shown: str
    state: str
    meaning: str
    other_deprecation: bool = False
    deprecate_at: float | None = None
    published_at: float | None = None


def inspect(row: AMIRow, clients: Clients, job: JobRow | None) -> Found:
    """Return what EC2 shows of a recorded AMI.

    Raises CannotAccept, and EC2ServiceException when EC2 cannot be asked.
    """
    if row.state in (
        rows.WITHDRAWING,
        rows.RESTORING,
        rows.SHARING,
        rows.DISABLING,
        rows.DELETING,
    ):
        raise CannotAccept(
            f"AMI {row.ami} is {row.state}: the worker has not finished this change yet; repeat "
            "the command later"
        )
    with explained("describing the AMI", image=row.image, region=row.region, step="accept"):
        image = permissions.existing(clients.ec2(row.region), [row.ami]).get(row.ami)
    if image is None:
        return Found(
            "no longer exists",
            rows.DELETED,
            "it is recorded as removed, and 'fedimg amis' does not list it any more; its snapshot "
            "stays, and 'fedimg cleanup' keeps it if it was public",
        )
    if image["Public"] and row.audience is not None:
        raise CannotAccept(
            f"AMI {row.ami} is for its audience alone, and public: 'fedimg verify --repair' makes "
            "it private"
        )
    if row.state == rows.SHARED and image["State"] != "disabled":
        return Found(
            "is private",
            rows.SHARED,
            "that is what is recorded; 'fedimg share' changes its audience, 'fedimg verify "
            "--repair' makes EC2 as recorded",
        )
    if image["Public"]:
        found = _public(row, job, amis.snapshots_of(image))
        since = tags.published_at(tags.read(image.get("Tags")))
        found = replace(found, published_at=since)
        if different := comparison.deprecation_difference(row, image):
            return _deprecated(row, found, different, comparison.chosen_deprecation(image))
        return found
    if row.state in (rows.WITHDRAWN, rows.HIDDEN, rows.DISABLED, rows.PRIVATE):
        return Found("is private", row.state, "that is what is recorded; nothing changes")
    shown = "is disabled" if image["State"] == "disabled" else "is private"
    return Found(
        shown,
        rows.HIDDEN,
        "it is recorded as hidden by hand: no comparison reports it, no repair or restoration "
        "publishes it, and 'fedimg cleanup' keeps it; 'fedimg cleanup --remove' removes it",
    )


def _deprecated(row: AMIRow, found: Found, different: str, at: float | None) -> Found:
    meaning = "this time is recorded as that of its deprecation, which somebody chose by hand"
    if at is None:
        meaning = "it is recorded that neither a rule nor a person chose a time of deprecation"
    if found.state != row.state:
        meaning = f"{found.meaning}; {meaning}"
    return replace(
        found,
        shown=f"{found.shown}, and {different}",
        meaning=meaning,
        other_deprecation=True,
        deprecate_at=at,
    )


def _public(row: AMIRow, job: JobRow | None, made_from: set[str]) -> Found:
    if row.state == rows.PUBLIC:
        return Found("is public", rows.PUBLIC, "that is what is recorded; nothing changes")
    if row.state == rows.WITHDRAWN:
        raise CannotAccept(
            f"AMI {row.ami} is withdrawn and public: 'fedimg restore' makes the image available "
            "again, 'fedimg verify --repair' makes the AMI private"
        )
    hindered = made_from != {row.snapshot}
    if why := repair.not_to_publish(row, job, hindered=hindered, named=True):
        raise CannotAccept(
            f"AMI {row.ami} is public, and cannot be recorded as such: {why}; 'fedimg verify "
            f"--repair {row.ami}' makes it private"
        )
    return Found("is public", rows.PUBLIC, "it is recorded as public, as if fedimg had done it")
