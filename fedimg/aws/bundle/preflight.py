"""Check what a site has to have for bundles: keys, and a bucket with ACLs in each region."""

from __future__ import annotations

from pathlib import Path

from fedimg.aws.bundle import keys
from fedimg.aws.bundle.keys import KeysUnusable
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, code
from fedimg.config import InstanceStore
from fedimg.diagnostics import Finding, Status

KEYS, BUCKET = "ec2.instance_store", "bucket of bundles"
#: An ownership by which a bucket allows no ACLs; so does a bucket without the setting.
_NO_ACLS = "BucketOwnerEnforced"
_ALLOW_ACLS = (
    "make it, or set its Object Ownership to BucketOwnerPreferred: EC2 reads bundles by an ACL"
)


def check_keys(settings: InstanceStore) -> list[Finding]:
    """Check that the signing key, its certificate and EC2's can be read and fit together."""
    try:
        keys.read(
            Path(settings.signing_key),
            Path(settings.certificate),
            Path(settings.ec2_certificate),
        )
    except KeysUnusable as error:
        hint = "correct the files; docs/ami-types.md says where they come from"
        return [Finding(KEYS, Status.PROBLEM, str(error), hint)]
    return [Finding(KEYS, Status.OK, "the keys and certificates fit together")]


def check_bucket(clients: Clients, settings: InstanceStore, region: str) -> list[Finding]:
    """Check that a region's bucket exists, is in the region, and allows ACLs."""
    bucket = settings.bucket_in(region)
    s3 = clients.client("s3", region, attempts=2)
    try:
        rules = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
        ownership = str(rules[0]["ObjectOwnership"])
    except FAILURES as error:
        if code(error) == "OwnershipControlsNotFoundError":
            ownership = _NO_ACLS
        else:
            text = f"{bucket}: {code(error) or type(error).__name__}"
            return [Finding(BUCKET, Status.PROBLEM, text, _ALLOW_ACLS)]
    if ownership == _NO_ACLS:
        return [Finding(BUCKET, Status.PROBLEM, f"{bucket} allows no ACLs", _ALLOW_ACLS)]
    return [Finding(BUCKET, Status.OK, "exists and allows ACLs")]
