"""Check what the AWS account needs before images can be published from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from fedimg.aws import regions
from fedimg.aws.bundle import preflight as bundles
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.error_codes import Meaning
from fedimg.aws.client.errors import FAILURES, code, meaning_of
from fedimg.aws.client.types import (
    Client,
    EC2Client,
    InstanceTypeInfo,
    InstanceTypeName,
)
from fedimg.aws.findings import ok, problem, unknown
from fedimg.aws.region_preflight import RegionPreflight
from fedimg.config import EC2, Machine, X86Machine
from fedimg.diagnostics import DiagnosticCheck, Finding, Status
from fedimg.images import Architecture, Virtualization
from fedimg.untrusted.failures import of_endpoint

# A person waits for the answer, so that a throttled call is retried only once.
_ATTEMPTS = 2
#: The id of no snapshot, and EBS's error codes for it, with and without permission.
_NO_SNAPSHOT = "snap-00000000000000000"
_EBS_ANSWERS = {
    "ResourceNotFoundException",
    "ValidationException",
    "AccessDeniedException",
}
#: AWS's services beside EC2 and STS, and what fedimg does without them.
_SERVICES = {
    "ebs": "images are written by a utility instance alone, and no bytes are compared by 'verify'",
    "service-quotas": "nothing tells how many AMIs may be public before EC2 refuses one",
    "rbin": "nothing tells which rules keep a deleted snapshot",
}
#: The partition for which AWS makes everything first.
_WHOLE = "aws"
#: Runs a command with the user, directory and environment of the worker's unit, since only root may
#: read the keys.
AS_THE_WORKER = (
    "systemd-run --quiet --pipe --pty --wait --collect -p User=fedimg -p Group=fedimg "
    "-p UMask=0027 -p StateDirectory=fedimg -p StateDirectoryMode=0750 "
    "-E FEDIMG_CONFIG=/etc/fedimg/fedimg.toml "
    "-E FEDORA_MESSAGING_CONF=/etc/fedora-messaging/fedimg.toml "
    "-p EnvironmentFile=-/etc/fedimg/environment -p EnvironmentFile=-/etc/fedimg/aws.env"
)
_NO_CREDENTIALS = (
    "put the worker's keys into /etc/fedimg/aws.env, or give its machine an instance profile; to "
    f"check by hand, run as root: {AS_THE_WORKER} fedimg check"
)


class Preflight:
    """Checks an account, with independent, read-only checks that raise AWS's errors."""

    def __init__(self, clients: Clients, settings: EC2) -> None:
        self._clients = clients
        self._settings = settings
        self._region_names: list[str] = []
        self._paravirtual = any(
            ami_type.virtualization is Virtualization.PARAVIRTUAL
            for ami_type in settings.amis.types
        )
        self._bundles = any(ami_type.instance_store for ami_type in settings.amis.types)

    def checks(self, architectures: Iterable[Architecture]) -> dict[str, DiagnosticCheck]:
        """Return the checks of the account and of the origin, for images of some architectures."""
        checks: dict[str, DiagnosticCheck] = {
            "credentials": self._credentials,
            "partition": self._partition,
            "regions": self._regions,
            "network": self._network,
        }
        if self._settings.write_via == "direct":
            checks["EBS direct"] = self._ebs_direct
        if self._bundles:
            checks[bundles.KEYS] = partial(bundles.check_keys, self._settings.instance_store)
            name = f"{bundles.KEYS}.test_type"
            checks[name] = partial(self._instance_store_type, name)
        for architecture in architectures:
            machine = self._settings.machine(architecture)
            section = "ec2.x86_64" if isinstance(machine, X86Machine) else "ec2.aarch64"
            for key, check in self._machine(machine, architecture).items():
                checks[f"{section}.{key}"] = partial(check, f"{section}.{key}")
        return checks

    def region_checks(self) -> dict[str, DiagnosticCheck]:
        """Return one check for each region that the check `regions` found."""
        regional = RegionPreflight(self._clients, self._settings)
        return {name: partial(regional.check, name) for name in self._region_names}

    def _ec2(self, region: str | None = None) -> EC2Client:
        client: EC2Client = self._client("ec2", region or self._settings.origin)
        return client

    def _client(self, service: str, region: str) -> Client:
        return self._clients.client(service, region, attempts=_ATTEMPTS)

    def _credentials(self) -> list[Finding]:
        name = "credentials"
        try:
            identity = self._client("sts", self._settings.origin).get_caller_identity()
        except (EndpointConnectionError, HTTPClientError) as error:
            return problem(
                name,
                of_endpoint(error),
                "repair the network route to AWS, or boto3's endpoint and proxy settings",
            )
        except FAILURES as error:
            return problem(name, of_endpoint(error), _NO_CREDENTIALS)
        return ok(name, f"{identity['Arn']} of account {identity['Account']}")

    def _partition(self) -> list[Finding]:
        """Tell the partition and what it lacks; nothing of AWS's own, which lacks nothing."""
        name, origin = "partition", self._settings.origin
        partition = self._clients.partition(origin)
        services = dict(_SERVICES)
        if self._settings.ssm.path:
            services["ssm"] = "no parameter names the newest AMIs"
        lacking = [
            f"{service} ({without})"
            for service, without in services.items()
            if not self._clients.has_service(service, origin)
        ]
        if lacking:
            hint = "nothing is to be done, unless AWS has them by now: boto3's data says so"
            text = f"{partition} lacks {'; '.join(lacking)}"
            return [Finding(name, Status.WARNING, text, hint)]
        if partition == _WHOLE:
            return []
        return ok(name, f"{partition} has the services that fedimg uses, by boto3's data")

    def _regions(self) -> list[Finding]:
        self._region_names = regions.selected(self._ec2(), self._settings)
        return ok(
            "regions",
            f"{len(self._region_names)} regions; images are written in {self._region_names[0]}",
        )

    def _network(self) -> list[Finding]:
        name, ec2, network = "network", self._ec2(), self._settings.network
        if network.subnet:
            vpc = str(ec2.describe_subnets(SubnetIds=[network.subnet])["Subnets"][0]["VpcId"])
            if network.vpc not in ("", vpc):
                hint = "correct ec2.network.vpc or ec2.network.subnet"
                return problem(name, f"{network.subnet} is in {vpc}, not in {network.vpc}", hint)
            return ok(name, f"{network.subnet} in {vpc}")
        query: dict[str, Any] = (
            {"VpcIds": [network.vpc]}
            if network.vpc
            else {"Filters": [{"Name": "is-default", "Values": ["true"]}]}
        )
        vpcs = ec2.describe_vpcs(**query)["Vpcs"]
        if not vpcs:
            hint = "set ec2.network.vpc or ec2.network.subnet, or create a default VPC"
            return problem(name, f"{self._settings.origin} has no default VPC", hint)
        vpc = str(vpcs[0]["VpcId"])
        subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        if not subnets:
            return problem(
                name, f"{vpc} has no subnet", "create a subnet, or set ec2.network.subnet"
            )
        return ok(name, f"{len(subnets)} subnets in {vpc}")

    def _ebs_direct(self) -> list[Finding]:
        """Check that the origin has the EBS direct API, which any answer of its own shows."""
        name = "EBS direct"
        if not self._clients.has_service("ebs", self._settings.origin):
            hint = 'set ec2.write_via = "utility"'
            return problem(name, f"{self._settings.origin} has no EBS direct API", hint)
        ebs = self._client("ebs", self._settings.origin)
        try:
            ebs.list_snapshot_blocks(SnapshotId=_NO_SNAPSHOT)
        except ClientError as error:
            if meaning_of(error) in (Meaning.WAIT, Meaning.CREDENTIALS):
                return unknown(name, error)
            # A worker's policy need not allow this call.
            if code(error) not in _EBS_ANSWERS:
                return _no_api(name, "ListSnapshotBlocks", error)
        except ResponseParserError as error:
            return _no_api(name, "ListSnapshotBlocks", error)
        except FAILURES as error:
            return unknown(name, error)
        return ok(name, f"answers in {self._settings.origin}")

    def _machine(
        self, machine: Machine, architecture: Architecture
    ) -> dict[str, Callable[[str], list[Finding]]]:
        checks: dict[str, Callable[[str], list[Finding]]] = {
            "test_type": partial(self._test_type, machine.test_type, architecture),
        }
        if self._settings.write_via == "utility":
            checks["utility_type"] = partial(self._utility_type, machine.utility_type, architecture)
            # The check of the configuration reports a missing utility AMI.
            if machine.utility_ami:
                checks["utility_ami"] = partial(
                    self._utility_ami, machine.utility_ami, architecture
                )
        if isinstance(machine, X86Machine) and self._paravirtual:
            checks["test_type_paravirtual"] = partial(
                self._paravirtual_type, machine.test_type_paravirtual
            )
        return checks

    def _utility_ami(self, ami: str, architecture: Architecture, name: str) -> list[Finding]:
        tools = "openssl, curl, xz, zstd and gzip" if self._bundles else "curl, xz, zstd and gzip"
        hint = f"set it to an AMI for {architecture} with cloud-init, {tools}"
        images = self._ec2().describe_images(ImageIds=[ami])["Images"]
        if not images:
            return problem(
                name,
                f"{ami} does not exist in {self._settings.origin}, or this account may not use it",
                hint,
            )
        state, runs_on = images[0]["State"], images[0]["Architecture"]
        if state != "available":
            return problem(name, f"{ami} is {state}", hint)
        if runs_on != architecture:
            return problem(name, f"{ami} is for {runs_on}", hint)
        return ok(name, " ".join((ami, images[0].get("Name", ""))))

    def _utility_type(
        self, instance_type: str, architecture: Architecture, name: str
    ) -> list[Finding]:
        properties = self._type(instance_type)
        problems = _wrong_architecture(name, instance_type, properties, architecture)
        # Metal types have no hypervisor, and show volumes as Nitro types do.
        if properties.get("Hypervisor") != "nitro" and not properties.get("BareMetal"):
            problems += problem(
                name,
                f"{instance_type} is not a Nitro type: its volumes do not show serial numbers",
                "choose a Nitro type, such as m5.large or m6g.large",
            )
        return problems or ok(name, instance_type)

    def _test_type(
        self, instance_type: str, architecture: Architecture, name: str
    ) -> list[Finding]:
        properties, amis = self._type(instance_type), self._settings.amis
        problems = _wrong_architecture(name, instance_type, properties, architecture)
        mode = amis.boot_mode if architecture is Architecture.X86_64 else "uefi"
        if mode in ("legacy-bios", "uefi") and mode not in properties.get(
            "SupportedBootModes", [mode]
        ):
            hint = "choose a type that supports it, or another ec2.amis.boot_mode"
            problems += problem(name, f"{instance_type} does not support boot mode {mode}", hint)
        if amis.tpm and properties.get("NitroTpmSupport") != "supported":
            hint = "choose a type with NitroTPM, or set ec2.amis.tpm = false"
            problems += problem(name, f"{instance_type} has no NitroTPM", hint)
        if not amis.ena and properties.get("NetworkInfo", {}).get("EnaSupport") == "required":
            hint = "set ec2.amis.ena = true, or choose an older type"
            problems += problem(name, f"{instance_type} boots only AMIs with ENA", hint)
        problems += self._encrypted_volumes(name, instance_type, Virtualization.HVM)
        return problems or ok(name, instance_type)

    def _encrypted_volumes(
        self, name: str, instance_type: str, virtualization: Virtualization
    ) -> list[Finding]:
        """Check that a type that tests encrypted AMIs can have encrypted volumes."""
        types = self._settings.amis.types
        if not any(each.encrypted and each.virtualization is virtualization for each in types):
            return []
        ebs = self._type(instance_type).get("EbsInfo", {})
        if ebs.get("EncryptionSupport", "supported") == "supported":
            return []
        hint = "choose a type that has them, such as t3.small or, for PV, m3.medium"
        return problem(name, f"{instance_type} has no encrypted volumes", hint)

    def _paravirtual_type(self, instance_type: str, name: str) -> list[Finding]:
        origin, kernels = self._settings.origin, self._settings.amis.paravirtual_kernels
        if self._clients.kernels.of(self._ec2(), origin, kernels) is None:
            return ok(name, f"not used: {origin} has no PV kernel, and so boots no PV AMI")
        if "paravirtual" in self._type(instance_type).get("SupportedVirtualizationTypes", ()):
            unfit = self._encrypted_volumes(name, instance_type, Virtualization.PARAVIRTUAL)
            return unfit or ok(name, instance_type)
        hint = "choose an older type, such as m3.medium, or remove PV from ec2.amis.types"
        return problem(name, f"{instance_type} does not boot PV AMIs", hint)

    def _instance_store_type(self, name: str) -> list[Finding]:
        instance_type = self._settings.instance_store.test_type
        if "instance-store" in self._type(instance_type).get("SupportedRootDeviceTypes", ()):
            return ok(name, instance_type)
        hint = "choose an older type, such as m3.large, which EC2 still offers in the origin"
        return problem(name, f"{instance_type} boots no instance-store AMIs", hint)

    def _type(self, instance_type: str) -> InstanceTypeInfo:
        # mypy knows the types of the stubs' day alone.
        wanted = cast("InstanceTypeName", instance_type)
        return self._ec2().describe_instance_types(InstanceTypes=[wanted])["InstanceTypes"][0]


def _wrong_architecture(
    name: str, instance_type: str, properties: Mapping[str, Any], architecture: Architecture
) -> list[Finding]:
    runs = properties.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    if architecture in runs:
        return []
    return problem(
        name,
        f"{instance_type} runs {', '.join(runs)}",
        f"choose an instance type that runs {architecture}",
    )


def _no_api(name: str, call: str, error: Exception) -> list[Finding]:
    text = f"{call} was not answered by EBS: {of_endpoint(error)}"
    hint = 'this EC2 does not support the API, or a proxy answered: set ec2.write_via = "utility"'
    return problem(name, text, hint)
