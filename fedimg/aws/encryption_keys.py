"""Check the KMS keys with which the snapshots of encrypted AMIs are to be encrypted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedimg.aws import key_policy
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, code
from fedimg.config import Encryption
from fedimg.diagnostics import Finding, Status
from fedimg.untrusted.failures import of_endpoint
from fedimg.values.audience import Audience

KEY, POLICY = "KMS key", "KMS key policy"
#: KMS's word for a dry run that would have succeeded.
_WOULD_SUCCEED = "DryRunOperationException"
_DENIED = "AccessDeniedException"
_USABLE = "Enabled"
_SYMMETRIC = "SYMMETRIC_DEFAULT"
#: What a person does about a key in each of KMS's states.
_REMEDIES = {
    "Disabled": "run 'aws kms enable-key', or name another key",
    "PendingDeletion": "run 'aws kms cancel-key-deletion' and 'aws kms enable-key' while there is "
    "time: what is encrypted with a deleted key is lost",
    "PendingReplicaDeletion": "run 'aws kms cancel-key-deletion' and 'aws kms enable-key'",
    "PendingImport": "import its key material",
}


def check_key(
    clients: Clients, settings: Encryption, region: str, audience: Audience
) -> list[Finding]:
    """Check that a region's key exists, that fedimg can use it, and that the audience can."""
    key = settings.key_in(region)
    if not key:
        return [Finding(KEY, Status.OK, "none named, so no encrypted AMIs are made")]
    kms = clients.client("kms", region, attempts=2)
    try:
        shown = kms.describe_key(KeyId=key)["KeyMetadata"]
    except FAILURES as error:
        if code(error) == _DENIED:
            hint = (
                "allow fedimg kms:DescribeKey on it (docs/aws-policy-encryption.json), in the "
                "key's policy, too, if that names no account"
            )
            return [Finding(KEY, Status.WARNING, f"{key} cannot be judged: {_DENIED}", hint)]
        hint = "correct ec2.encryption, make the key, or replicate a multi-region key to the region"
        text = f"{key}: {code(error) or of_endpoint(error)}"
        return [Finding(KEY, Status.PROBLEM, text, hint)]
    if problem := _problem(key, shown):
        return [problem]
    findings = [_permission(kms, key)]
    return [*findings, *(_of_audience(kms, key, str(shown["Arn"]), audience) if audience else ())]


def _problem(key: str, shown: Mapping[str, Any]) -> Finding | None:
    """Return what makes a key unfit, by its own description."""
    if shown.get("KeyManager") != "CUSTOMER":
        return Finding(
            KEY,
            Status.PROBLEM,
            f"{key} is managed by AWS: nothing that is encrypted with it can be shared",
            "make a customer managed key, and name it in ec2.encryption",
        )
    if (state := str(shown.get("KeyState"))) != _USABLE:
        hint = _REMEDIES.get(state, "look it up in the AWS console, or name another key")
        return Finding(KEY, Status.PROBLEM, f"{key} is {state}", hint)
    if shown.get("KeySpec", _SYMMETRIC) != _SYMMETRIC or shown["KeyUsage"] != "ENCRYPT_DECRYPT":
        text = f"{key} is for {shown['KeyUsage']} ({shown.get('KeySpec')})"
        return Finding(KEY, Status.PROBLEM, text, "make a symmetric key for encryption")
    return None


def _of_audience(kms: Any, key: str, arn: str, audience: Audience) -> list[Finding]:
    """Check that a key's policy lets the audience use it, as far as that can be told."""
    hint = (
        f"the key's policy has to allow {', '.join(key_policy.TO_USE)} to each account that "
        "launches the AMIs (docs/ami-types.md)"
    )

    def unclear(why: str) -> list[Finding]:
        text = f"{key}: whether its policy lets the audience use it cannot be judged: {why}"
        return [Finding(POLICY, Status.WARNING, text, hint)]

    try:
        policy = str(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
        lacking = [key_policy.lacking(policy, account) for account in audience.accounts]
    except FAILURES as error:
        if code(error) == _DENIED:
            # The shipped permissions do not have it: that is no fault of the site's.
            text = (
                f"{key}: not compared with the audience, since fedimg may not read it; with "
                "kms:GetKeyPolicy it would be"
            )
            return [Finding(POLICY, Status.OK, text, hint)]
        return unclear(code(error) or of_endpoint(error))
    # Messages have numbers, since the ids of accounts are nobody else's business.
    if without := sum(bool(each) for each in lacking):
        text = f"{key}: its policy lets {without} of {len(lacking)} accounts not use it"
        return [Finding(POLICY, Status.WARNING, text, hint)]
    if None in lacking:
        return unclear("it has conditions or denials")
    if len(audience) > len(lacking):
        return unclear("who is in an organization is not known")
    return [Finding(POLICY, Status.OK, "lets the accounts of the audience use it")]


def _permission(kms: Any, key: str) -> Finding:
    """Check that fedimg may encrypt with a key: KMS tries it dry, and makes no data key.

    Whether fedimg may make a grant is not known before: it may so for EC2 alone.
    """
    try:
        kms.generate_data_key_without_plaintext(KeyId=key, DryRun=True)
        why = "KMS did not take the call for a dry run"
    except FAILURES as error:
        why = code(error) or of_endpoint(error)
    if why == _WOULD_SUCCEED:
        return Finding(KEY, Status.OK, "enabled, and fedimg may encrypt with it")
    hint = (
        "the key's policy and fedimg's have to allow kms:GenerateDataKeyWithoutPlaintext and "
        "kms:CreateGrant; if they do so through EC2 alone (kms:ViaService), nothing is to be done"
    )
    text = f"{key} is enabled, but its policy cannot be judged: {why}"
    return Finding(KEY, Status.WARNING, text, hint)
