"""Import EC2 key pairs, by which users log in to instances, and delete them."""

from __future__ import annotations

from fedimg.aws.client.errors import code
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.ssh.client import Identity


def imported(ec2: EC2Client, waiter: Waiter, labels: Labels, role: str, key: Identity) -> str:
    """Import the public half of a key as an EC2 key pair; return its name, for RunInstances."""
    name = f"fedimg-{labels.token(role, key.public)[:20]}"

    def make() -> str:
        try:
            ec2.import_key_pair(
                KeyName=name,
                PublicKeyMaterial=key.public.encode(),
                TagSpecifications=labels.specifications(["key-pair"], role),
            )
        except Exception as error:
            # The name is a digest of the key, so the pair is this one, created by a call in doubt.
            if code(error) != "InvalidKeyPair.Duplicate":
                raise
        return name

    return waiter.settled(make)


def remove(ec2: EC2Client, labels: Labels, role: str) -> None:
    """Delete the key pairs of a role. Instances that were launched with one keep its key."""
    for pair in ec2.describe_key_pairs(Filters=labels.filters(role))["KeyPairs"]:
        # Some EC2 implementations do not know key pair ids.
        ec2.delete_key_pair(KeyName=pair["KeyName"])
