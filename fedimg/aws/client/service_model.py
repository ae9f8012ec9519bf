"""Load EC2's, SSM's and KMS's models with only the operations that fedimg calls.

boto3 creates a method for every operation of each client anew; EC2 has more than 700, and each
region has a client. It keeps in memory what it has read of its files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

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


_CALLED = {"ec2": OPERATIONS, "ssm": PARAMETERS, "kms": KEYS}
#: The services whose endpoints boto3 is asked for, by the prefixes of these: those that fedimg
#: calls, and those that boto3's chain of credentials calls.
ENDPOINTS = frozenset(
    {
        *("ebs", "ec2", "kms", "rbin", "s3", "servicequotas", "ssm", "sts"),
        *("oidc", "portal.sso", "signin"),
    }
)

#: What was read, by its name and botocore's folders: for all sessions of the process, also when
#: an upgrade has replaced botocore's files meanwhile.
_read: dict[tuple[str, ...], Any] = {}


class _FewOperations(Loader):
    """Loads what fedimg uses of botocore's models of EC2, SSM and KMS, and of its endpoints.

    The whole of these is 28 MiB in memory, and this is one.
    """

    def load_service_model(
        self, service_name: str, type_name: str, api_version: str | None = None
    ) -> dict[str, Any]:
        """Return a model; of EC2, SSM and KMS without the operations that nobody calls."""

        def read() -> Any:
            return super(_FewOperations, self).load_service_model(
                service_name, type_name, api_version
            )

        called = _CALLED.get(service_name) if type_name == "service-2" else None
        if called is None:
            return cast("dict[str, Any]", read())
        key = (service_name, api_version or "")
        return cast("dict[str, Any]", self._reduced(key, lambda: _few_operations(read(), called)))

    def load_data_with_path(self, name: str) -> Any:
        """Return the content of a file and its path; of the endpoints those of a few services."""

        def few() -> tuple[Any, str]:
            data, path = super(_FewOperations, self).load_data_with_path(name)
            return _few_endpoints(data), str(path)

        return (
            self._reduced((name,), few)
            if name == "endpoints"
            else super().load_data_with_path(name)
        )

    def _reduced(self, key: tuple[str, ...], read: Callable[[], Any]) -> Any:
        key = (*key, *self.search_paths)
        if key not in _read:
            text = json.dumps(read())
            # The whole is let go, also by botocore's cache, before the rest is made from text: so
            # it leaves no holes in memory.
            self._cache.clear()  # type: ignore[attr-defined]
            _read[key] = json.loads(text)
        return _read[key]


def _few_operations(model: dict[str, Any], called: Collection[str]) -> dict[str, Any]:
    """Return a model with these operations, what their shapes are made of, and no documentation."""
    operations = {name: model["operations"][name] for name in sorted(called)}
    shapes: dict[str, Any] = {}
    wanted = list(_shapes_in(operations))
    while wanted:
        name = wanted.pop()
        if name not in shapes:
            shapes[name] = model["shapes"][name]
            wanted += _shapes_in(shapes[name])
    return cast(
        "dict[str, Any]", _undocumented({**model, "operations": operations, "shapes": shapes})
    )


def _shapes_in(part: Any) -> Iterator[str]:
    """Yield the names of the shapes to which a part of a model refers."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "shape" and isinstance(value, str):
                yield value
            else:
                yield from _shapes_in(value)
    elif isinstance(part, list):
        for each in part:
            yield from _shapes_in(each)


def _undocumented(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: _undocumented(value)
            for key, value in part.items()
            if key != "documentation" or not isinstance(value, str)
        }
    return [_undocumented(each) for each in part] if isinstance(part, list) else part


def _few_endpoints(endpoints: dict[str, Any]) -> dict[str, Any]:
    """Return the partitions with all their regions, and the endpoints of ENDPOINTS."""
    partitions = [
        {**each, "services": {k: v for k, v in each["services"].items() if k in ENDPOINTS}}
        for each in endpoints["partitions"]
    ]
    return {**endpoints, "partitions": partitions}


def session() -> boto3.session.Session:
    """Return a boto3 session with the reduced model and boto3's own chain of credentials and
    settings.
    """
    core = botocore.session.get_session()
    folders = list(core.get_component("data_loader").search_paths)
    few = _FewOperations(extra_search_paths=folders, include_default_search_paths=False)
    core.register_component("data_loader", few)
    return boto3.session.Session(botocore_session=core)
