"""KMS keys as EC2 uses them: found by any of their names, judged, and lent to volumes by grants."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from moto.core.exceptions import ServiceException
from moto.kms.models import kms_backends

from lab.ec2.iam import key_policies
from lab.ec2.world import Call, Snapshot, World

#: EC2's words for a key that it cannot use, whatever the reason.
UNUSABLE = "Given key ID is not accessible"
#: The alias of the account's AWS-managed key for volumes and snapshots.
OF_EBS = "alias/aws/ebs"
#: What a caller needs to encrypt a copy.
TO_ENCRYPT = ("kms:GenerateDataKeyWithoutPlaintext", "kms:CreateGrant")
#: What it needs to use an encrypted snapshot of its own account's …
OF_OWN = ("kms:CreateGrant",)
#: … and of another account's.
OF_OTHERS = (
    "kms:DescribeKey",
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


def find(call: Call, name: str) -> Any | None:
    """Return the key that an id, an ARN or an alias names in the call's region, or None."""
    account = call.account
    if name.startswith("arn:"):
        parts = name.split(":", 5)
        if len(parts) < 6 or parts[3] != call.region:
            return None
        account = parts[4]
    backend = kms_backends[account][call.region]
    try:
        key = backend.keys.get(backend.any_id_to_key_id(name))
    except (ServiceException, AttributeError):
        # moto has no error of its own for an alias that does not exist.
        return None
    if key is not None:
        # moto leaves out what KMS takes by default.
        key.key_usage = key.key_usage or "ENCRYPT_DECRYPT"
    if key is not None and any(alias.startswith("alias/aws/") for alias in key.aliases):
        # moto takes an AWS-managed key for the account's own.
        key.key_manager = "AWS"
        key.policy = _aws_managed(call, account)
    return key


def default(call: Call) -> str:
    """Return the ARN of the account's AWS-managed key for EBS."""
    key = find(call, OF_EBS)
    assert key is not None
    return str(key.arn)


def is_aws_managed(call: Call, arn: str | None) -> bool:
    """Return whether a key is AWS's; EC2 shares nothing that is encrypted with such a one."""
    key = find(call, arn) if arn else None
    return key is not None and key.key_manager == "AWS"


def why_unusable(call: Call, name: str, actions: Iterable[str]) -> str:
    """Return EC2's words if the caller cannot use a key through EC2, or the key is not usable."""
    key = find(call, name)
    if key is None or key.key_state != "Enabled" or key.key_usage != "ENCRYPT_DECRYPT":
        return UNUSABLE
    refused = any(key_policies.refusal(call, key, action, through_ec2=True) for action in actions)
    return UNUSABLE if refused else ""


def why_unreadable(call: Call, snapshot: Snapshot) -> str:
    """Return EC2's words if the caller cannot read an encrypted snapshot; else an empty text."""
    if not snapshot.encrypted:
        return ""
    actions = OF_OWN if snapshot.owner == call.account else OF_OTHERS
    return why_unusable(call, snapshot.kms_key or "", actions)


def arn(call: Call, name: str) -> str:
    """Return the ARN of a key, or its name if there is no such key."""
    key = find(call, name)
    return str(key.arn) if key is not None else name


def lend(call: Call, world: World, arn: str, volume: str) -> Callable[[], None]:
    """Grant the use of a key for a volume, and return what ends the grant with the volume."""
    key = find(call, arn)
    if key is None:
        return lambda: None
    grant = key.add_grant(
        volume,
        f"arn:aws:iam::{call.account}:role/aws-service-role/ec2.amazonaws.com/{volume}",
        ["Decrypt"],
        {"EncryptionContextSubset": {"aws:ebs:id": volume}},
        "",
    )
    region, account = call.region, call.account
    world.ledger.created("grant", grant.id, region, account, {"volume": volume})

    def retire() -> None:
        key.grants.pop(grant.id, None)
        world.ledger.deleted("grant", grant.id, region, account, {"volume": volume})

    return retire


def _aws_managed(call: Call, account: str) -> str:
    """Return the policy of an AWS-managed key: the account's principals use it through EC2."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": "*"},
                    "Action": [
                        "kms:Encrypt",
                        "kms:Decrypt",
                        "kms:ReEncrypt*",
                        "kms:GenerateDataKey*",
                        "kms:CreateGrant",
                        "kms:DescribeKey",
                    ],
                    "Resource": "*",
                    "Condition": {
                        "StringEquals": {
                            "kms:CallerAccount": account,
                            "kms:ViaService": f"ec2.{call.region}.amazonaws.com",
                        }
                    },
                },
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
                    "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
                    "Resource": "*",
                },
            ],
        }
    )
