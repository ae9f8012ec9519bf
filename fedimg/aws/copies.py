"""Copy the origin's snapshot to a further region, or a region's own to an encrypted one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedimg.aws import amis, snapshots, tags
from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.types import EC2Client, Snapshot
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import Limits
from fedimg.exceptions import EC2ServiceException

#: EC2 tells by a snapshot's StateMessage alone that it could not use a key.
_ABOUT_A_KEY = re.compile(r"\b(key|kms)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """The snapshot to copy, its region, and the KMS key that encrypts the copy, if one does."""

    region: str
    snapshot: str
    key: str = ""

    @property
    def role(self) -> str:
        """Return the role of the snapshot's copies, by which their tags tell them apart."""
        return snapshots.ENCRYPTED_ROLE if self.key else snapshots.ROLE

    def description(self, labels: Labels) -> str:
        """Return the description of the snapshot's copies, by which they are found."""
        if self.key:
            # Others than the owner see the description; the key's hash tells them nothing.
            key = hashlib.sha256(self.key.encode()).hexdigest()[:12]
            return f"fedimg: encrypted from {self.snapshot}, key {key}, {labels.image}"[:255]
        return f"fedimg: copied from {self.snapshot} in {self.region}, {labels.image}"[:255]


def copied(
    ec2: EC2Client,
    ec2_once: EC2Client,
    waiter: Waiter,
    labels: Labels,
    source: Source,
    *,
    find_first: bool,
    doubted: Callable[[], object] = lambda: None,
    limits: Limits,
    polling: BatchedPolling | None = None,
) -> str:
    """Return the id of the completed copy of a snapshot in the clients' region.

    A copy that EC2 fails is deleted and made again. `doubted` is called when there may be one copy
    more than the returned one. Raises EC2ServiceException when the last of `limits.attempts` fails,
    or one takes longer than `limits.copy_` seconds, and at once when EC2 cannot use the KMS
    key.
    """

    def attempt(_number: int) -> str:
        copy = waiter.make(
            lambda: waiter.until(
                lambda: _start(ec2_once, labels, source),
                what="one of the region's 20 concurrent snapshot copies to end",
                limit=limits.copy_,
                repeatable=False,
            ),
            lambda: _find(ec2, labels, source),
            find_first=find_first,
            doubted=doubted,
        )
        try:
            snapshots.completed(
                ec2,
                waiter,
                copy,
                limit=limits.copy_,
                polling=polling,
                encrypted=bool(source.key),
            )
        except snapshots.SnapshotFailed as failure:
            snapshots.delete(ec2, copy)
            if source.key and _ABOUT_A_KEY.search(failure.problem):
                # No later try passes before a person has changed something.
                raise EC2ServiceException(_unusable(source, failure.problem)) from failure
            raise
        return copy

    return first_success(
        attempt,
        waiter,
        attempts=limits.attempts,
        pause=limits.wait_maximum,
        new="copy",
        may_pass=lambda failure: isinstance(failure, snapshots.SnapshotFailed),
    )


def _unusable(source: Source, problem: str) -> str:
    return (
        f"EC2 cannot use the KMS key {source.key} in {source.region}: {problem}; the key has to be "
        "there and enabled, and its policy and fedimg's have to allow "
        "kms:GenerateDataKeyWithoutPlaintext and kms:CreateGrant; 'fedimg check' looks at the key; "
        "correct it, or ec2.encryption, then run 'fedimg retry'"
    )


def _find(ec2: EC2Client, labels: Labels, source: Source) -> str | None:
    """Return the copy of this snapshot, or preferably one that an earlier run published or shared.

    Both hold tested data; other snapshots of an earlier run may never have been tested. A new
    encrypted copy is found by what it was made from, and with which key. One that is shared is
    taken whatever became of its source and of the settings: its AMIs are what the audience has.
    """
    description = source.description(labels)

    def is_copy(copy: Snapshot) -> bool:
        return copy.get("Description") == description

    published = set() if source.key else _published(ec2, labels)
    return snapshots.find(
        ec2,
        labels,
        lambda copy: (
            copy["SnapshotId"] in published or tags.ever_offered(tags.read(copy.get("Tags")))
        ),
        source.role,
    ) or snapshots.find(ec2, labels, is_copy, source.role)


def _published(ec2: EC2Client, labels: Labels) -> set[str]:
    """Return the ids of the snapshots of the job's public AMIs."""
    images = ec2.describe_images(
        Owners=["self"],
        Filters=[*labels.filters(), {"Name": "is-public", "Values": ["true"]}],
    )["Images"]
    return {each for image in images for each in amis.snapshots_of(image)}


def _start(ec2_once: EC2Client, labels: Labels, source: Source) -> str | None:
    """Request the copy; None while the region's limit of concurrent copies is reached.

    CopySnapshot takes no client token, so `ec2_once` leaves retries to the waiter.
    """
    encryption: dict[str, Any] = {"Encrypted": True, "KmsKeyId": source.key} if source.key else {}
    try:
        response = ec2_once.copy_snapshot(
            SourceRegion=source.region,
            SourceSnapshotId=source.snapshot,
            Description=source.description(labels),
            TagSpecifications=labels.specifications(["snapshot"], source.role, labels.image),
            **encryption,
        )
    except Exception as error:
        if code(error) == "ResourceLimitExceeded":
            return None
        raise
    return str(response["SnapshotId"])
