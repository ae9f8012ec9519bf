"""Take AMIs and snapshots out of others' reach, and give them back to exactly the same users.

A bundle, whose id may stand for a snapshot's, is in nobody's reach but EC2's: who may use it is
what its AMIs say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from fedimg.aws import tags
from fedimg.aws.bundle.place import is_bundle
from fedimg.aws.client.errors import UNSUPPORTED, code
from fedimg.aws.client.types import EC2Client, Filter
from fedimg.aws.client.waiter import Waiter
from fedimg.exceptions import EC2ServiceException

#: Everybody, in a list of permissions.
EVERYBODY = [{"Group": "all"}]
#: How many users one call adds or removes. EC2 takes 500 for a snapshot, and tells none for an AMI.
_AT_ONCE = 200
#: What stands for a user in the text of a refusal.
_UNNAMED = "(one of those whom it is shared with)"


def launch_permissions(ec2: EC2Client, ami: str) -> list[dict[str, Any]]:
    """Return who may launch an AMI. Raises botocore's errors."""
    shown: Any = ec2.describe_image_attribute(ImageId=ami, Attribute="launchPermission")
    return [dict(each) for each in shown.get("LaunchPermissions", ())]


def volume_permissions(ec2: EC2Client, snapshot: str) -> list[dict[str, Any]]:
    """Return who may make volumes of a snapshot. Raises botocore's errors."""
    if is_bundle(snapshot):
        return []
    shown: Any = ec2.describe_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission"
    )
    return [dict(each) for each in shown.get("CreateVolumePermissions", ())]


def mark(ec2: EC2Client, waiter: Waiter, ids: Collection[str], value: str) -> None:
    """Tag AMIs and snapshots with a withdrawal's time, or with that of their restoration."""
    set_tags(ec2, waiter, ids, {tags.WITHDRAWN: value})


def set_tags(
    ec2: EC2Client, waiter: Waiter, ids: Collection[str], values: Mapping[str, str]
) -> None:
    """Set tags of some AMIs and snapshots; a bundle has none."""
    if marked := sorted(id for id in ids if not is_bundle(id)):
        waiter.settled(lambda: ec2.create_tags(Resources=marked, Tags=tags.as_tags(values)))


def disable_ami(ec2: EC2Client, waiter: Waiter, ami: str) -> None:
    """Disable an AMI, which removes all launch permissions; doing so twice is no error.

    Where EC2 cannot disable AMIs, the permissions alone are removed.
    """
    if described(ec2, [ami])[ami].get("State") == "disabled":
        return
    try:
        waiter.settled(lambda: ec2.disable_image(ImageId=ami))
    except Exception as error:
        if code(error) not in UNSUPPORTED:
            raise
        hide_ami(ec2, waiter, ami)


def enable_ami(ec2: EC2Client, waiter: Waiter, ami: str, limit: float) -> None:
    """Enable a disabled AMI, and wait until it can be launched; an enabled one is no error."""
    if described(ec2, [ami])[ami].get("State") == "disabled":
        waiter.settled(lambda: ec2.enable_image(ImageId=ami))
    waiter.until(
        lambda: described(ec2, [ami])[ami].get("State") == "available" or None,
        what=f"AMI {ami} to become available",
        limit=limit,
    )


def hide_ami(ec2: EC2Client, waiter: Waiter, ami: str) -> None:
    """Let nobody but the owner launch an AMI; doing so twice is no error."""
    waiter.settled(lambda: ec2.reset_image_attribute(ImageId=ami, Attribute="launchPermission"))


def hide_snapshot(ec2: EC2Client, waiter: Waiter, snapshot: str) -> None:
    """Let nobody but the owner use a snapshot; doing so twice is no error."""
    if is_bundle(snapshot):
        return
    waiter.settled(
        lambda: ec2.reset_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission"
        )
    )


def share_ami(
    ec2: EC2Client,
    waiter: Waiter,
    ami: str,
    users: Sequence[Mapping[str, str]],
    check: Callable[[], object] = lambda: None,
) -> None:
    """Let these users launch an AMI; doing so twice is no error.

    `check` is called before each try, and raises if it must not be shared any more.
    """
    _modify_ami(ec2, waiter, ami, "Add", users, check)


def unshare_ami(
    ec2: EC2Client, waiter: Waiter, ami: str, users: Sequence[Mapping[str, str]]
) -> None:
    """Let these users no longer launch an AMI; doing so twice is no error."""
    _modify_ami(ec2, waiter, ami, "Remove", users)


def share_snapshot(
    ec2: EC2Client, waiter: Waiter, snapshot: str, users: Sequence[Mapping[str, str]]
) -> None:
    """Let these users make volumes of a snapshot; doing so twice is no error."""
    _modify_snapshot(ec2, waiter, snapshot, "Add", users)


def unshare_snapshot(
    ec2: EC2Client, waiter: Waiter, snapshot: str, users: Sequence[Mapping[str, str]]
) -> None:
    """Let these users no longer make volumes of a snapshot; doing so twice is no error."""
    _modify_snapshot(ec2, waiter, snapshot, "Remove", users)


def _modify_ami(
    ec2: EC2Client,
    waiter: Waiter,
    ami: str,
    how: str,
    users: Sequence[Mapping[str, str]],
    check: Callable[[], object] = lambda: None,
) -> None:
    for some in _batches(users):
        changed: Any = {how: some}

        def modify(changed: Any = changed) -> None:
            check()
            with _unnamed(changed[how]):
                ec2.modify_image_attribute(ImageId=ami, LaunchPermission=changed)

        waiter.settled(modify)


def _modify_snapshot(
    ec2: EC2Client, waiter: Waiter, snapshot: str, how: str, users: Sequence[Mapping[str, str]]
) -> None:
    if is_bundle(snapshot):
        return
    for some in _batches(users):
        changed: Any = {how: some}

        def modify(changed: Any = changed) -> None:
            with _unnamed(changed[how]):
                ec2.modify_snapshot_attribute(
                    SnapshotId=snapshot,
                    Attribute="createVolumePermission",
                    CreateVolumePermission=changed,
                )

        waiter.settled(modify)


@contextmanager
def _unnamed(users: Sequence[Mapping[str, str]]) -> Iterator[None]:
    """Leave the ids and ARNs of accounts and organizations out of the text of EC2's refusal.

    EC2 quotes the user whom it refuses, and the text goes to log, pages and bus.
    """
    try:
        yield
    except ClientError as error:
        told: Any = {**error.response, "Error": dict(error.response["Error"])}
        message = str(told["Error"].get("Message", ""))
        for kind, member in (pair for user in users for pair in user.items()):
            if kind != "Group":
                # EC2 may tell an organization, or a unit, by its ARN or its id.
                for text in (member, *member.split("/")[1:]):
                    message = message.replace(text, _UNNAMED)
        if message == str(told["Error"].get("Message", "")):
            raise
        told["Error"]["Message"] = message
        # The chain would show the text again.
        raise ClientError(told, error.operation_name) from None


def _batches(users: Sequence[Mapping[str, str]]) -> Iterator[list[dict[str, str]]]:
    for first in range(0, len(users), _AT_ONCE):
        yield [dict(user) for user in users[first : first + _AT_ONCE]]


def described(ec2: EC2Client, amis: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return some AMIs of this account as EC2 describes them, by id, also disabled ones.

    Raises EC2ServiceException if one does not exist.
    """
    found = existing(ec2, amis)
    if missing := sorted(set(amis) - set(found)):
        raise EC2ServiceException(f"{', '.join(missing)} no longer exist")
    return found


def existing(ec2: EC2Client, amis: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return those of some AMIs of this account that exist, as EC2 describes them, by id."""
    if not amis:
        return {}
    shown = ec2.describe_images(
        Owners=["self"],
        Filters=[{"Name": "image-id", "Values": sorted(amis)}],
        IncludeDisabled=True,
    )["Images"]
    return {str(image["ImageId"]): dict(image) for image in shown}


def snapshot_exists(ec2: EC2Client, snapshot: str) -> bool:
    """Return whether a snapshot of this account exists; a bundle is none."""
    if is_bundle(snapshot):
        return False
    by_id: list[Filter] = [{"Name": "snapshot-id", "Values": [snapshot]}]
    return bool(ec2.describe_snapshots(OwnerIds=["self"], Filters=by_id)["Snapshots"])
