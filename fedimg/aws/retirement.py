"""Deprecate AMIs, and remove AMIs that were public, with their snapshots."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fedimg.aws import ami_options, permissions
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import at
from fedimg.aws.client.already_gone import already_gone
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, code
from fedimg.aws.client.types import Client, EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException

_log = logging.getLogger(__name__)

#: DeregisterImage's code for a snapshot that another AMI uses.
_SKIPPED = "skipped"
_DELETED = "success"
#: The kinds of resources that the Recycle Bin keeps.
_AMI, _SNAPSHOT = "AMI", "snapshot"


def deprecate(ec2: EC2Client, waiter: Waiter, ami: str, at: float, limit: float) -> float:
    """Let EC2 deprecate an AMI at a time; return the time that EC2 shows, when it does.

    Times are in seconds since the epoch, and EC2 rounds them to minutes. A time that EC2 has
    already is not given to it again. Raises botocore's errors.
    """

    def shown() -> float | None:
        text = permissions.described(ec2, [ami])[ami].get("DeprecationTime")
        if not text:
            return None
        found = datetime.fromisoformat(str(text)).timestamp()
        return found if found < at + 60 else None

    if (already := shown()) is not None:
        return already
    when = datetime.fromtimestamp(at, UTC)
    waiter.settled(lambda: ec2.enable_image_deprecation(ImageId=ami, DeprecateAt=when))
    return waiter.until(shown, what=f"AMI {ami} to have a time of deprecation", limit=limit)


def deregister(ec2: EC2Client, ami: str, *, unprotect: bool = False) -> None:
    """Deregister an AMI, and delete its snapshot unless another AMI uses it.

    One that no longer exists is no error. With `unprotect`, a protection that EC2 has is ended.
    Raises EC2ServiceException if the AMI is protected from that.
    """
    try:
        answer: Any = (
            ami_options.deregister_protected(ec2, ami, DeleteAssociatedSnapshots=True)
            if unprotect
            else ec2.deregister_image(ImageId=ami, DeleteAssociatedSnapshots=True)
        )
    except Exception as error:
        if already_gone(ec2, ami, error):
            return
        if code(error) == "OperationNotPermitted":
            raise EC2ServiceException(
                f"EC2 does not let AMI {ami} be deregistered: deregistration protection is on, or "
                "was switched off less than 24 hours ago and has a cool-down; fedimg tries again "
                f"until EC2 lets it ({error})"
            ) from error
        raise
    for result in answer.get("DeleteSnapshotResults", ()):
        if result["ReturnCode"] not in (_DELETED, _SKIPPED):
            # delete_snapshot tries again, and raises EC2's reason.
            _log.warning(
                "AMI %s is deregistered, and EC2 did not delete its snapshot %s: %s",
                ami,
                result["SnapshotId"],
                result["ReturnCode"],
            )


def delete_snapshot(ec2: EC2Client, waiter: Waiter, snapshot: str, limit: float) -> None:
    """Delete a snapshot of which no AMI is made, and wait until EC2 shows it no more."""
    if not permissions.snapshot_exists(ec2, snapshot):
        return
    try:
        ec2.delete_snapshot(SnapshotId=snapshot)
    except Exception as error:
        if not already_gone(ec2, snapshot, error):
            raise
    waiter.until(
        lambda: None if permissions.snapshot_exists(ec2, snapshot) else True,
        what=f"snapshot {snapshot} to be gone",
        limit=limit,
    )


def delete_bundle(s3: Client, bundle: str) -> None:
    """Delete the objects of a bundle of which no AMI is made, in the region of the client."""
    BundleStore(s3, at(bundle, "")).delete()


def in_recycle_bin(
    ec2: EC2Client, clients: Clients, region: str, removed: Collection[str], snapshot: str
) -> list[str]:
    """Return which of some removed AMIs and their snapshot the Recycle Bin keeps, a text for each.

    Each tells until when, and by which rules. Where EC2 does not tell, there is none: what was
    removed is out of use in any case.
    """
    texts: list[str] = []
    rules: list[str] | None = None
    for what, id, until in _recycled(ec2, removed, snapshot):
        if rules is None:
            rules = recycle_bin_rules(clients, region)
        named = [rule for rule in rules if rule.endswith(f" for {what}s")]
        by = f", by {' or '.join(named)}" if named else ""
        texts.append(f"the Recycle Bin keeps {what} {id} until {until:%Y-%m-%dT%H:%M:%SZ}{by}")
    return texts


def _recycled(
    ec2: EC2Client, removed: Collection[str], snapshot: str
) -> Iterator[tuple[str, str, datetime]]:
    """Yield the kind, the id and the time of the end of what the Recycle Bin keeps of these."""
    for ami in sorted(removed):
        # Each by itself: one that is not in the bin may make EC2 refuse the whole question.
        with suppress(*FAILURES):
            images: Any = ec2.list_images_in_recycle_bin(ImageIds=[ami])
            for each in images["Images"]:
                yield _AMI, each["ImageId"], each["RecycleBinExitTime"].astimezone(UTC)
    with suppress(*FAILURES):
        snapshots: Any = ec2.list_snapshots_in_recycle_bin(SnapshotIds=[snapshot])
        for each in snapshots["Snapshots"]:
            yield _SNAPSHOT, each["SnapshotId"], each["RecycleBinExitTime"].astimezone(UTC)


def recycle_bin_rules(clients: Clients, region: str) -> list[str]:
    """Return, in words, the rules by which a region's Recycle Bin keeps AMIs and snapshots.

    Each text ends with "for AMIs" or "for snapshots". What the account may not look at has none.
    """
    if not clients.has_service("rbin", region):
        return []
    texts: list[str] = []
    rbin = clients.client("rbin", region)
    for resource_type, what in (("EC2_IMAGE", _AMI), ("EBS_SNAPSHOT", _SNAPSHOT)):
        with suppress(*FAILURES):
            for page in rbin.get_paginator("list_rules").paginate(ResourceType=resource_type):
                for rule in page["Rules"]:
                    days = rule["RetentionPeriod"]["RetentionPeriodValue"]
                    why = f", {rule['Description']}" if rule.get("Description") else ""
                    texts.append(f"rule {rule['Identifier']} ({days} days{why}) for {what}s")
    return texts
