"""Features that the lab's account has never switched on: what EC2 answers then."""

from typing import Any

from lab.ec2 import filters, kms_keys
from lab.ec2.world import Call


def default_kms_key(call: Call) -> dict[str, Any]:
    return {"KmsKeyId": kms_keys.default(call)}


def allowed_images_settings(call: Call) -> dict[str, Any]:
    return {"State": "disabled", "ManagedBy": "account"}


def fast_snapshot_restores(call: Call) -> dict[str, Any]:
    return {"FastSnapshotRestores": _none(call)}


def locked_snapshots(call: Call) -> dict[str, Any]:
    return {"Snapshots": _none(call)}


def instance_metadata_defaults(call: Call) -> dict[str, Any]:
    return {"AccountLevel": {}}


def _none(call: Call) -> list[dict[str, Any]]:
    """Return no rows. Raises EC2Error for a filter that EC2 does not have."""
    known = dict.fromkeys(filters.documented(call.action), filters.field())
    return filters.select([], call, known)


OPERATIONS = {
    "DescribeFastSnapshotRestores": fast_snapshot_restores,
    "DescribeLockedSnapshots": locked_snapshots,
    "GetAllowedImagesSettings": allowed_images_settings,
    "GetEbsDefaultKmsKeyId": default_kms_key,
    "GetInstanceMetadataDefaults": instance_metadata_defaults,
}
