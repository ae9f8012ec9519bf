"""Whether a removal was refused because there is nothing left to remove."""

from __future__ import annotations

from fedimg.aws.client.errors import code, not_found
from fedimg.aws.client.types import Client

#: By an id's prefix: the call that lists such things, what its answer holds, the filter by id.
_LISTED = {
    "ami": ("describe_images", "Images", "image-id"),
    "i": ("describe_instances", "Reservations", "instance-id"),
    "sg": ("describe_security_groups", "SecurityGroups", "group-id"),
    "snap": ("describe_snapshots", "Snapshots", "snapshot-id"),
    "vol": ("describe_volumes", "Volumes", "volume-id"),
}
#: Key pairs go by their names, in which there may be anything.
_KEY_PAIRS = ("describe_key_pairs", "KeyPairs", "key-name")


def already_gone(ec2: Client, id: str, error: Exception) -> bool:
    """Whether EC2's refusal to remove a thing means that it is gone already.

    Under a policy that goes by tags, EC2 may say so with UnauthorizedOperation: what is gone has
    no tags. Then it is looked for. Raises botocore's ClientError when EC2 does not let it be.
    """
    if not_found(error):
        return True
    if code(error) != "UnauthorizedOperation":
        return False
    operation, field, name = _LISTED.get(id.split("-")[0], _KEY_PAIRS)
    return not getattr(ec2, operation)(Filters=[{"Name": name, "Values": [id]}])[field]
