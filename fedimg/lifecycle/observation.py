"""Look at what EC2 shows of the recorded AMIs, as far as the rules of retention depend on it.

Nothing is decided by a clock that differs from EC2's: ages and times of deprecation depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from fedimg.aws import inventory, tags
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.retrying import RetryingClient
from fedimg.config import Settings
from fedimg.exceptions import EC2ServiceException
from fedimg.lifecycle.decisions import Decision, Facts, decide
from fedimg.parallel import run_parallel
from fedimg.store.changes import PendingChanges
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.untrusted.quoting import one_line

#: The largest difference between this host's clock and EC2's, in seconds.
CLOCK_SECONDS = 300.0
#: EC2's answers are large, and a hundred thousand AMIs at once keep one process busy for minutes.
_REGIONS_AT_ONCE = 10


@dataclass(frozen=True)
class Decisions:
    """The decisions about the AMIs of some regions; `errors` tells why a region has none."""

    made: Sequence[Decision] = ()
    errors: dict[str, str] = field(default_factory=dict)


def decisions(
    settings: Settings,
    store: Store,
    client: Callable[[str], RetryingClient],
    regions: Collection[str],
    *,
    unlaunched: bool = False,
) -> Decisions:
    """Return what the rules of retention decide about the recorded AMIs of some regions.

    Takes a call for a thousand AMIs of a region; ten regions are asked at once.
    """
    recorded: dict[str, list[AMIRow]] = {}
    for row in recorded_amis(store):
        recorded.setdefault(row.region, []).append(row)
    changing = {(change.job, change.region) for change in PendingChanges(store).all()}

    def one(region: str) -> list[Decision] | str:
        here = recorded.get(region, [])
        try:
            facts = observe(client(region), settings.site, region, here)
        except (*FAILURES, EC2ServiceException) as error:
            return one_line(str(error))
        return decide(
            settings.retention.rules,
            here,
            facts,
            time.time(),
            changing=changing,
            unlaunched=unlaunched,
        )

    results = run_parallel(
        {region: (lambda region=region: one(region)) for region in sorted(regions)},  # type: ignore[misc]
        _REGIONS_AT_ONCE,
    )
    made: list[Decision] = []
    errors: dict[str, str] = {}
    for region, result in sorted(results.items()):
        if isinstance(result, str):
            errors[region] = result
        else:
            made += result
    return Decisions(made, errors)


def recorded_amis(store: Store, region: str | None = None) -> list[AMIRow]:
    """Return the recorded AMIs of a region or of all, with what Koji or a compose calls the image.

    An older version recorded that with the job alone.
    """
    recorded = store.amis(region)
    if all(row.source and row.build for row in recorded):
        return recorded
    images = {job.job: job.image for job in store.jobs()}
    return [
        replace(row, source=images[row.job].source, build=images[row.job].build)
        if not (row.source and row.build) and row.job in images
        else row
        for row in recorded
    ]


def observe(
    ec2: RetryingClient, site: str, region: str, recorded: Sequence[AMIRow]
) -> dict[tuple[str, str], Facts]:
    """Return what EC2 shows of the recorded AMIs of a region.

    Raises EC2ServiceException if this host's clock differs from EC2's, and botocore's errors.
    """
    facts: dict[tuple[str, str], Facts] = {}
    for page in inventory.image_pages(ec2, site, [row.ami for row in recorded]):
        date = str(page["ResponseMetadata"]["HTTPHeaders"].get("date", ""))
        refuse_wrong_clock(date, time.time(), region)
        for image in page["Images"]:
            facts[region, str(image["ImageId"])] = facts_of(image)
    return facts


def refuse_wrong_clock(date: str, now: float, region: str) -> None:
    """Raise EC2ServiceException if `now` differs from the HTTP date of EC2's answer."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError as error:
        raise EC2ServiceException(
            "EC2's answer has no date to compare this host's clock with: retention changes "
            "nothing without it",
            region=region,
        ) from error
    if abs(now - theirs) >= CLOCK_SECONDS:
        raise EC2ServiceException(
            f"this host's clock says {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}, EC2 "
            f"says {datetime.fromtimestamp(theirs, UTC):%Y-%m-%dT%H:%M:%SZ}: retention changes "
            f"nothing while they differ by {CLOCK_SECONDS / 60:.0f} minutes; correct the clock",
            region=region,
        )


def facts_of(image: Mapping[str, Any]) -> Facts:
    """Return the facts of an AMI that EC2 described."""
    return Facts(
        str(image.get("State", "")),
        bool(image.get("Public")),
        tags.published_at(tags.read(image.get("Tags"))),
        _time(image.get("CreationDate")),
        _time(image.get("DeprecationTime")),
        _time(image.get("LastLaunchedTime")),
        str(image.get("DeregistrationProtection", "disabled")),
        tags.shared_at(tags.read(image.get("Tags"))),
    )


def _time(text: str | None) -> float | None:
    """Return a time of EC2's in seconds since the epoch; None if it is missing or malformed."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
