"""Where a job's instances live, and the security group that lets in the worker alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import Network
from fedimg.exceptions import EC2ServiceException

ROLE = "security-group"


@dataclass(frozen=True)
class JobNetwork:
    """The subnets that instances may be started in, each with its availability zone, and the
    group that guards them.
    """

    group: str
    subnets: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the queue."""
        return asdict(self)


def prepare(ec2: Client, waiter: Waiter, labels: Labels, network: Network) -> JobNetwork:
    """The job's place in the origin: one that is there already, or a new group.

    Raises EC2ServiceException when the configured network does not exist.
    """
    if network.allowed_source is None:
        raise EC2ServiceException(
            "ec2.network.allowed_source is not set in fedimg.toml: name the addresses, as EC2 "
            "sees them, from which this worker reaches its instances"
        )
    vpc, subnets = _subnets(ec2, network)
    name = f"fedimg-{labels.token(ROLE)[:20]}"
    group = waiter.make(
        lambda: _create(ec2, waiter, labels, name, vpc),
        lambda: _find(ec2, name, vpc),
        look_first=False,
    )
    waiter.settled(lambda: _admit(ec2, group, network))
    return JobNetwork(group, subnets)


def _subnets(ec2: Client, network: Network) -> tuple[str, dict[str, str]]:
    if network.subnet:
        found = ec2.describe_subnets(SubnetIds=[network.subnet])["Subnets"]
        return str(found[0]["VpcId"]), _zones(found)
    vpc = network.vpc
    if not vpc:
        defaults = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not defaults:
            raise EC2ServiceException(
                "the origin has no default VPC; set ec2.network.vpc or ec2.network.subnet"
            )
        vpc = str(defaults[0]["VpcId"])
    found = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    if not found:
        raise EC2ServiceException(f"{vpc} has no subnet; set ec2.network.subnet in fedimg.toml")
    # Those that AWS made lead to the Internet; what was added may not.
    return vpc, _zones([subnet for subnet in found if subnet.get("DefaultForAz")] or found)


def _zones(subnets: list[dict[str, Any]]) -> dict[str, str]:
    by_zone = sorted(subnets, key=lambda subnet: str(subnet["AvailabilityZone"]))
    return {str(subnet["SubnetId"]): str(subnet["AvailabilityZone"]) for subnet in by_zone}


def _create(ec2: Client, waiter: Waiter, labels: Labels, name: str, vpc: str) -> str:
    try:
        made = ec2.create_security_group(
            GroupName=name,
            Description=f"fedimg: SSH from the worker alone, for {labels.image}"[:255],
            VpcId=vpc,
            TagSpecifications=labels.specifications(["security-group"], ROLE),
        )
    except Exception as error:
        if code(error) != "InvalidGroup.Duplicate":
            raise
        return waiter.shown(lambda: _find(ec2, name, vpc), what=f"security group {name}")
    return str(made["GroupId"])


def _find(ec2: Client, name: str, vpc: str) -> str | None:
    # The name is a digest of site and job: a group of this name is this job's.
    found = ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    )["SecurityGroups"]
    return str(found[0]["GroupId"]) if found else None


def _admit(ec2: Client, group: str, network: Network) -> None:
    ranges = (
        {"Ipv6Ranges": [{"CidrIpv6": network.allowed_source}]}
        if ":" in str(network.allowed_source)
        else {"IpRanges": [{"CidrIp": network.allowed_source}]}
    )
    port = network.ssh_port
    wanted = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges}
    found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    present = [{key: value for key, value in rule.items() if value} for rule in found]
    # A group that was kept may let in a source that is not configured any more.
    if stale := [rule for rule in present if rule != wanted]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=stale)
    if wanted in present:
        return
    try:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[wanted])
    except Exception as error:
        if code(error) != "InvalidPermission.Duplicate":
            raise
