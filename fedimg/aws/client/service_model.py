"""Load EC2's, SSM's and KMS's models with only the operations that fedimg calls.

boto3 creates a method for every operation of each client anew; EC2 has more than 700, and each
region has a client.
"""

from __future__ import annotations

from typing import Any

import boto3
import botocore.session
from botocore.loaders import Loader

#: The EC2 operations that fedimg calls. Its clients have no methods for others.
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
        "DescribeImageAttribute",
        "DescribeImages",
        "DescribeInstanceStatus",
        "DescribeInstanceTypeOfferings",
        "DescribeInstanceTypes",
        "DescribeInstances",
        "DescribeKeyPairs",
        "DescribeRegions",
        "DescribeSecurityGroups",
        "DescribeSnapshotAttribute",
        "DescribeSnapshots",
        "DescribeSubnets",
        "DescribeVolumes",
        "DescribeVpcs",
        "DisableImage",
        "DisableImageDeregistrationProtection",
        "EnableImage",
        "EnableImageDeprecation",
        "EnableImageDeregistrationProtection",
        "GetConsoleOutput",
        "GetEbsEncryptionByDefault",
        "GetImageBlockPublicAccessState",
        "GetSnapshotBlockPublicAccessState",
        "ImportKeyPair",
        "ListImagesInRecycleBin",
        "ListSnapshotsInRecycleBin",
        "ModifyImageAttribute",
        "ModifySnapshotAttribute",
        "RebootInstances",
        "RegisterImage",
        "ReplaceImageInstanceTypeSpecification",
        "ResetImageAttribute",
        "ResetSnapshotAttribute",
        "RevokeSecurityGroupIngress",
        "RunInstances",
        "TerminateInstances",
    }
)

#: The operations of SSM that fedimg calls.
PARAMETERS = frozenset({"DeleteParameter", "GetParameters", "PutParameter"})

#: The operations of KMS that fedimg calls.
KEYS = frozenset({"DescribeKey", "GenerateDataKeyWithoutPlaintext", "GetKeyPolicy"})


class _FewOperations(Loader):
    """Loads botocore's models, without the operations of EC2, SSM and KMS that nobody calls."""

    def load_service_model(
        self, service_name: str, type_name: str, api_version: str | None = None
    ) -> dict[str, Any]:
        model: dict[str, Any] = super().load_service_model(service_name, type_name, api_version)
        called = {"ec2": OPERATIONS, "ssm": PARAMETERS, "kms": KEYS}.get(service_name)
        if called is None or type_name != "service-2":
            return model
        few = {name: model["operations"][name] for name in sorted(called)}
        return {**model, "operations": few}


def session() -> boto3.session.Session:
    """Return a boto3 session with the reduced model and boto3's own chain of credentials and
    settings.
    """
    core = botocore.session.get_session()
    folders = list(core.get_component("data_loader").search_paths)
    few = _FewOperations(extra_search_paths=folders, include_default_search_paths=False)
    core.register_component("data_loader", few)
    return boto3.session.Session(botocore_session=core)
