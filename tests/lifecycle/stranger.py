"""An account without any part in the site: which of EC2's calls show it an image or its bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.store.rows import AMIRow
from tests.hands import Hands

_numbers = itertools.count()
#: The account's number.
STRANGER = "210987654321"

#: What each call that shows or gives something of an AMI is called in an answer of `reaches`.
OF_AN_AMI = frozenset(
    {
        "DescribeImages",
        "DescribeImages by id",
        "DescribeImages by owner",
        "DescribeImages by who may launch",
        "DescribeImages by name, also disabled and deprecated ones",
        "RunInstances",
        "CopyImage",
        "CopyImage to another region",
    }
)
#: The same of a snapshot.
OF_A_SNAPSHOT = frozenset(
    {
        "DescribeSnapshots",
        "DescribeSnapshots by id",
        "DescribeSnapshots by owner",
        "DescribeSnapshots by who may restore",
        "CopySnapshot",
        "CopySnapshot to another region",
        "CreateVolume",
        "RunInstances with the snapshot",
        "ListSnapshotBlocks",
        "ListChangedBlocks",
        "GetSnapshotBlock",
        "StartSnapshot on top of it",
    }
)
#: EC2's and EBS's refusals of what the caller may not see.
REFUSALS = ("InvalidAMIID.NotFound", "InvalidSnapshot.NotFound", "ResourceNotFoundException")
EVERYTHING = OF_AN_AMI | OF_A_SNAPSHOT

#: An answer, from which the call is repeated with a token that was given before.
Tokens = dict[str, tuple[int, str]]


def reaches(
    hands: Hands,
    row: AMIRow,
    elsewhere: str,
    own_ami: str,
    monkeypatch: pytest.MonkeyPatch,
    tokens: Tokens,
) -> set[str]:
    """Return the calls by which the stranger reaches an AMI or its snapshot.

    `elsewhere` is another region, `own_ami` an AMI that the stranger may launch in any case.
    `tokens` keeps a block's token from one call to the next: EC2 gives them for seven days.
    """
    owner = hands.ec2(row.region).describe_images(ImageIds=[row.ami], IncludeDisabled=True)
    (owner_id,) = {image["OwnerId"] for image in owner["Images"]}
    with monkeypatch.context() as patch:
        patch.setenv("MOTO_ACCOUNT_ID", STRANGER)
        here, there = hands.ec2(row.region), hands.ec2(elsewhere)
        ebs = hands.client("ebs", row.region)
        _refused_whatever(here, row)
        tries = {
            **_of_the_ami(here, there, row, owner_id),
            **_of_the_snapshot(here, there, ebs, row, owner_id, own_ami, tokens),
        }
        assert set(tries) == EVERYTHING
        return {name for name, attempt in tries.items() if _reaches(attempt)}


def _reaches(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except ClientError as error:
        # Nothing else may be in the way.
        if error.response["Error"]["Code"] not in REFUSALS:
            raise
        return False


def _refused_whatever(here: Any, row: AMIRow) -> None:
    """Expect EC2 to show attributes to the owner alone, of a public AMI, too."""
    for call in (
        lambda: here.describe_image_attribute(ImageId=row.ami, Attribute="launchPermission"),
        lambda: here.describe_snapshot_attribute(
            SnapshotId=row.snapshot, Attribute="createVolumePermission"
        ),
    ):
        with pytest.raises(ClientError):
            call()


def _of_the_ami(here: Any, there: Any, row: AMIRow, owner: str) -> dict[str, Callable[[], bool]]:
    def shown(**options: Any) -> bool:
        return row.ami in _ids(here.describe_images(**options)["Images"], "ImageId")

    def run() -> bool:
        return _launched(here, ImageId=row.ami)

    def copy(ec2: Any) -> bool:
        name = f"copy {next(_numbers)}"
        ec2.copy_image(Name=name, SourceImageId=row.ami, SourceRegion=row.region)
        return True

    by_name = [{"Name": "name", "Values": [row.name]}]
    return {
        "DescribeImages": lambda: shown(),
        "DescribeImages by id": lambda: shown(ImageIds=[row.ami]),
        "DescribeImages by owner": lambda: shown(Owners=[owner]),
        "DescribeImages by who may launch": lambda: (
            shown(ExecutableUsers=["all"])
            or shown(ExecutableUsers=["self"])
            or shown(ExecutableUsers=[STRANGER])
        ),
        "DescribeImages by name, also disabled and deprecated ones": lambda: shown(
            Filters=by_name, IncludeDisabled=True, IncludeDeprecated=True
        ),
        "RunInstances": run,
        "CopyImage": lambda: copy(here),
        "CopyImage to another region": lambda: copy(there),
    }


def _of_the_snapshot(
    here: Any, there: Any, ebs: Any, row: AMIRow, owner: str, own_ami: str, tokens: Tokens
) -> dict[str, Callable[[], bool]]:
    snapshot = row.snapshot

    def shown(**options: Any) -> bool:
        return snapshot in _ids(here.describe_snapshots(**options)["Snapshots"], "SnapshotId")

    def copy(ec2: Any) -> bool:
        ec2.copy_snapshot(SourceSnapshotId=snapshot, SourceRegion=row.region)
        return True

    def volume() -> bool:
        here.create_volume(AvailabilityZone=f"{row.region}a", SnapshotId=snapshot)
        return True

    def run() -> bool:
        mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": snapshot}}
        return _launched(here, ImageId=own_ami, BlockDeviceMappings=[mapping])

    def blocks() -> bool:
        found = ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
        tokens[snapshot] = (found[0]["BlockIndex"], found[0]["BlockToken"])
        return True

    def block() -> bool:
        index, token = tokens.get(snapshot, (0, "none"))
        ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)
        return True

    def on_top() -> bool:
        ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=snapshot)
        return True

    return {
        "DescribeSnapshots": lambda: shown(),
        "DescribeSnapshots by id": lambda: shown(SnapshotIds=[snapshot]),
        "DescribeSnapshots by owner": lambda: shown(OwnerIds=[owner]),
        "DescribeSnapshots by who may restore": lambda: (
            shown(RestorableByUserIds=["all"]) or shown(RestorableByUserIds=["self"])
        ),
        "CopySnapshot": lambda: copy(here),
        "CopySnapshot to another region": lambda: copy(there),
        "CreateVolume": volume,
        "RunInstances with the snapshot": run,
        "ListSnapshotBlocks": blocks,
        "ListChangedBlocks": lambda: bool(ebs.list_changed_blocks(SecondSnapshotId=snapshot)),
        "GetSnapshotBlock": block,
        "StartSnapshot on top of it": on_top,
    }


def _launched(ec2: Any, **parameters: Any) -> bool:
    made = ec2.run_instances(MinCount=1, MaxCount=1, InstanceType="t3.micro", **parameters)
    ec2.terminate_instances(InstanceIds=[each["InstanceId"] for each in made["Instances"]])
    return True


def _ids(described: Collection[Mapping[str, Any]], key: str) -> set[str]:
    return {str(each[key]) for each in described}
