"""Tell whether EC2 refused a removal because the resource no longer exists."""

from __future__ import annotations

from fedimg.aws.client.errors import code, not_found
from fedimg.aws.client.types import EC2Client

#: By the prefix of a resource's id: the Describe call, the field of its response, the id filter.
_LISTED = {
    "ami": ("describe_images", "Images", "image-id"),
    "i": ("describe_instances", "Reservations", "instance-id"),
    "sg": ("describe_security_groups", "SecurityGroups", "group-id"),
    "snap": ("describe_snapshots", "Snapshots", "snapshot-id"),
    "vol": ("describe_volumes", "Volumes", "volume-id"),
}
#: Key pairs are identified by their names, which have no prefix.
_KEY_PAIRS = ("describe_key_pairs", "KeyPairs", "key-name")


def already_gone(ec2: EC2Client, id: str, error: Exception) -> bool:
    """Return whether EC2's refusal to remove a resource means that the resource no longer exists.

    Under a policy that depends on tags, EC2 may answer UnauthorizedOperation, since a resource that
    is gone has no tags; then a Describe call decides. Raises botocore's ClientError when EC2
    refuses that call.
    """
    if not_found(error):
        return True
    if code(error) != "UnauthorizedOperation":
        return False
    operation, field, name = _LISTED.get(id.split("-")[0], _KEY_PAIRS)
    return not getattr(ec2, operation)(Filters=[{"Name": name, "Values": [id]}])[field]
