"""Set up the network of a job's instances: subnets, and a security group that admits only the
worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from fedimg.aws.client.errors import code
from fedimg.aws.client.types import EC2Client, IpPermission, Subnet
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import Network
from fedimg.exceptions import EC2ServiceException

ROLE = "security-group"


@dataclass(frozen=True)
class JobNetwork:
    """The id of the security group, and the subnets for instances.

    `subnets` maps subnet ids to availability zones.
    """

    group: str
    subnets: dict[str, str]


def prepare(ec2: EC2Client, waiter: Waiter, labels: Labels, network: Network) -> JobNetwork:
    """Return the job's network in the origin, creating its security group if needed.

    Raises EC2ServiceException when the configured network does not exist.
    """
    if network.allowed_source is None:
        raise EC2ServiceException(
            "ec2.network.allowed_source is not set in fedimg.toml: set it to the public "
            "addresses, as a CIDR block, from which this worker connects to its instances"
        )
    vpc, subnets = _subnets(ec2, network)
    name = f"fedimg-{labels.token(ROLE)[:20]}"
    group = waiter.make(
        lambda: _create(ec2, waiter, labels, name, vpc),
        lambda: _find(ec2, name, vpc),
        find_first=False,
    )
    waiter.settled(lambda: _authorize_worker(ec2, group, network))
    return JobNetwork(group, subnets)


def _subnets(ec2: EC2Client, network: Network) -> tuple[str, dict[str, str]]:
    if network.subnet:
        subnets = ec2.describe_subnets(SubnetIds=[network.subnet])["Subnets"]
        return str(subnets[0]["VpcId"]), _zones(subnets)
    vpc = network.vpc
    if not vpc:
        defaults = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not defaults:
            raise EC2ServiceException(
                "the origin has no default VPC; set ec2.network.vpc or ec2.network.subnet"
            )
        vpc = str(defaults[0]["VpcId"])
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    if not subnets:
        raise EC2ServiceException(f"{vpc} has no subnet; set ec2.network.subnet in fedimg.toml")
    # A zone's default subnet has a route to the Internet; another subnet may not.
    return vpc, _zones([subnet for subnet in subnets if subnet.get("DefaultForAz")] or subnets)


def _zones(subnets: Sequence[Subnet]) -> dict[str, str]:
    by_zone = sorted(subnets, key=lambda subnet: str(subnet["AvailabilityZone"]))
    return {str(subnet["SubnetId"]): str(subnet["AvailabilityZone"]) for subnet in by_zone}


def _create(ec2: EC2Client, waiter: Waiter, labels: Labels, name: str, vpc: str) -> str:
    try:
        response = ec2.create_security_group(
            GroupName=name,
            Description=f"fedimg: SSH from the worker only, for {labels.image}"[:255],
            VpcId=vpc,
            TagSpecifications=labels.specifications(["security-group"], ROLE),
        )
    except Exception as error:
        if code(error) != "InvalidGroup.Duplicate":
            raise
        return waiter.until_listed(lambda: _find(ec2, name, vpc), what=f"the security group {name}")
    return str(response["GroupId"])


def _find(ec2: EC2Client, name: str, vpc: str) -> str | None:
    # The name is a digest of site and job, so a group of this name is this job's.
    groups = ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    )["SecurityGroups"]
    return str(groups[0]["GroupId"]) if groups else None


def _authorize_worker(ec2: EC2Client, group: str, network: Network) -> None:
    source, port = str(network.allowed_source), network.ssh_port
    wanted: IpPermission = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if ":" in source:
        wanted["Ipv6Ranges"] = [{"CidrIpv6": source}]
    else:
        wanted["IpRanges"] = [{"CidrIp": source}]
    permissions = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0][
        "IpPermissions"
    ]
    # EC2 shows the lists that a rule does not have as empty ones.
    present = [
        cast("IpPermission", {key: value for key, value in rule.items() if value})
        for rule in permissions
    ]
    # A group from an earlier run may admit a source that is no longer configured.
    if stale := [rule for rule in present if rule != wanted]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=stale)
    if wanted in present:
        return
    try:
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[wanted])
    except Exception as error:
        if code(error) != "InvalidPermission.Duplicate":
            raise
