"""EC2's model as boto3 makes its clients from it, with nothing but what fedimg calls.

boto3 makes a method of every operation anew for each client. EC2 has more than 700, and there is a
client a region.
"""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.loaders import Loader

#: What fedimg asks of EC2, anywhere. Another operation is not a method of its clients.
OPERATIONS = frozenset(
    {
        "AuthorizeSecurityGroupIngress",
        "CopySnapshot",
        "CreateSecurityGroup",
        "CreateSnapshot",
        "CreateTags",
        "DeleteKeyPair",
        "DeleteSecurityGroup",
        "DeleteSnapshot",
        "DeleteVolume",
        "DeregisterImage",
        "DescribeAvailabilityZones",
        "DescribeImages",
        "DescribeInstanceStatus",
        "DescribeInstanceTypeOfferings",
        "DescribeInstanceTypes",
        "DescribeInstances",
        "DescribeKeyPairs",
        "DescribeRegions",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSubnets",
        "DescribeVolumes",
        "DescribeVpcs",
        "GetConsoleOutput",
        "GetEbsEncryptionByDefault",
        "GetImageBlockPublicAccessState",
        "GetSnapshotBlockPublicAccessState",
        "ImportKeyPair",
        "ModifyImageAttribute",
        "ModifySnapshotAttribute",
        "RebootInstances",
        "RegisterImage",
        "RevokeSecurityGroupIngress",
        "RunInstances",
        "TerminateInstances",
    }
)


class _FewOperations(Loader):
    """Loads what botocore's own loader does, less the operations of EC2 that nobody calls."""

    def load_service_model(
        self, service_name: str, type_name: str, api_version: str | None = None
    ) -> dict[str, Any]:
        model: dict[str, Any] = super().load_service_model(service_name, type_name, api_version)
        if (service_name, type_name) != ("ec2", "service-2"):
            return model
        few = {name: model["operations"][name] for name in sorted(OPERATIONS)}
        return {**model, "operations": few}


def session() -> boto3.session.Session:
    """A session of boto3's, by its own chain of credentials and settings, with few operations."""
    made = botocore.session.get_session()
    folders = list(made.get_component("data_loader").search_paths)
    few = _FewOperations(extra_search_paths=folders, include_default_search_paths=False)
    made.register_component("data_loader", few)
    return boto3.session.Session(botocore_session=made)
