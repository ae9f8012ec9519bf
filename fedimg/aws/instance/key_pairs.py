"""EC2's key pairs, by which users get into their instances: imported for a test, and deleted."""

from __future__ import annotations

from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.ssh.client import Identity


def imported(ec2: Client, waiter: Waiter, labels: Labels, role: str, key: Identity) -> str:
    """Make the public half of a key a key pair of EC2's; its name, for RunInstances."""
    name = f"fedimg-{labels.token(role, key.public)[:20]}"

    def make() -> str:
        try:
            ec2.import_key_pair(
                KeyName=name,
                PublicKeyMaterial=key.public.encode(),
                TagSpecifications=labels.specifications(["key-pair"], role),
            )
        except Exception as error:
            # The name is a digest of the key: such a pair is this one, made by a call in doubt.
            if code(error) != "InvalidKeyPair.Duplicate":
                raise
        return name

    return waiter.settled(make)


def remove(ec2: Client, labels: Labels, role: str) -> None:
    """Delete the key pairs of a role. Who got into an instance by one stays let in."""
    for pair in ec2.describe_key_pairs(Filters=labels.filters(role))["KeyPairs"]:
        # Not every EC2 knows them by their ids.
        ec2.delete_key_pair(KeyName=pair["KeyName"])
