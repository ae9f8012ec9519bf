"""The filters of the lab's own Describe actions, compared to EC2's description of them."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.ec2 import filters, operations

DESCRIBING = sorted(
    action for action in {**operations.LOCKED, **operations.UNLOCKED} if filters.documented(action)
)


def describe(client: Any, action: str, name: str, value: str) -> str:
    """Call an action with one filter; the code of the refusal, or nothing."""
    given = [{"Name": name, "Values": [value]}]
    try:
        client._make_api_call(action, {"Filters": given})
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def test_documentation_lists_filters() -> None:
    assert {"DescribeImages", "DescribeSnapshots", "DescribeVolumeStatus"} < set(DESCRIBING)
    assert {"name", "image-watermark.watermark-key"} < filters.documented("DescribeImages")
    assert "critical" not in filters.documented("DescribeImages")


@pytest.mark.parametrize("action", DESCRIBING)
def test_no_filter_of_ec2s_is_called_invalid(ec2: Any, action: str) -> None:
    client = ec2.client()
    names = filters.documented(action)
    refusals = {name: describe(client, action, name, "none") for name in names}
    assert set(refusals.values()) <= {"", "UnsupportedOperation"}, refusals
    assert "" in refusals.values()
    assert describe(client, action, "colour", "red") == "InvalidParameterValue"


def test_filters_of_a_volumes_status_look_at_the_status(ec2: Any) -> None:
    client = ec2.client()
    client.create_volume(AvailabilityZone="us-east-1a", Size=1)
    for status, found in (("ok", 1), ("impaired", 0)):
        given = [{"Name": "volume-status.status", "Values": [status]}]
        assert len(client.describe_volume_status(Filters=given)["VolumeStatuses"]) == found


def test_modifications_come_in_pages(ec2: Any) -> None:
    client = ec2.client()
    for _ in range(6):
        made = client.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        waiter = client.get_waiter("volume_available")
        waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
        waiter.wait(VolumeIds=[made])
        client.modify_volume(VolumeId=made, Size=2)
    pages = client.get_paginator("describe_volumes_modifications").paginate(
        PaginationConfig={"PageSize": 5}
    )
    assert [len(page["VolumesModifications"]) for page in pages] == [5, 1]
    given = [{"Name": "original-size", "Values": ["1"]}]
    assert len(client.describe_volumes_modifications(Filters=given)["VolumesModifications"]) == 6
