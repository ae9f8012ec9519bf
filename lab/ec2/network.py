"""An instance's place in moto's networks: subnet, security groups, interface, admitted sources."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

from lab.ec2 import instance_types
from lab.ec2.errors import EC2Error, combination
from lab.ec2.world import Call, Instance, World, new_id, now


@dataclass(frozen=True)
class Place:
    """The wanted properties of an instance's first network interface."""

    subnet: str
    vpc: str
    zone: str
    groups: list[str]
    public: bool


def place(call: Call, instance_type: str) -> Place:
    """Return where RunInstances puts an instance. Raises EC2's error for what does not exist."""
    params = call.params
    interfaces = params.get("NetworkInterfaces", [])
    if interfaces and (params.get("SubnetId") or params.get("SecurityGroupIds")):
        raise combination(
            "Network interfaces and an instance-level subnet ID or security groups may not be "
            "specified on the same request"
        )
    first: dict[str, Any] = next((i for i in interfaces if i.get("DeviceIndex", 0) == 0), {})
    if first.get("NetworkInterfaceId"):
        raise EC2Error("UnsupportedOperation", "The lab makes a new network interface a launch.")
    subnet = _subnet(call, instance_type, first.get("SubnetId") or params.get("SubnetId"))
    wanted = first.get("Groups") or params.get("SecurityGroupIds", [])
    groups = [_group(call, id) for id in wanted]
    for name in params.get("SecurityGroups", []):
        group = call.moto.get_security_group_from_name(name, subnet.vpc_id)
        if group is None:
            raise EC2Error(
                "InvalidGroup.NotFound",
                f"The security group '{name}' does not exist in default VPC '{subnet.vpc_id}'",
            )
        groups.append(group)
    if not groups:
        groups = [call.moto.get_default_security_group(subnet.vpc_id)]
    for group in groups:
        if group.vpc_id != subnet.vpc_id:
            raise EC2Error(
                "InvalidParameter",
                f"Security group {group.id} and subnet {subnet.id} belong to different networks.",
            )
    public = first.get("AssociatePublicIpAddress")
    if public is None:
        public = str(subnet.map_public_ip_on_launch).lower() == "true"
    return Place(
        subnet.id, subnet.vpc_id, subnet.availability_zone, [g.id for g in groups], bool(public)
    )


def _subnet(call: Call, instance_type: str, id: str | None) -> Any:
    offered = instance_types.zones_offering(call.region, instance_type)
    zone = call.params.get("Placement", {}).get("AvailabilityZone")
    if id:
        subnets = [s for by_id in call.moto.subnets.values() for s in by_id.values() if s.id == id]
        if not subnets:
            raise EC2Error("InvalidSubnetID.NotFound", f"The subnet ID '{id}' does not exist")
        subnet = subnets[0]
    else:
        defaults = [
            s
            for by_id in call.moto.subnets.values()
            for s in by_id.values()
            if str(s.default_for_az).lower() == "true"
            and (s.availability_zone == zone if zone else s.availability_zone in offered)
        ]
        if not defaults and zone:
            raise EC2Error("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
        if not defaults and not offered:
            raise EC2Error(
                "Unsupported",
                f"The instance type {instance_type} is not supported in {call.region}.",
            )
        if not defaults:
            raise EC2Error("VPCIdNotSpecified", "No default VPC for this user")
        subnet = min(defaults, key=lambda s: str(s.availability_zone))
    if subnet.availability_zone not in offered:
        raise EC2Error(
            "Unsupported",
            f"Your requested instance type ({instance_type}) is not supported in your requested "
            f"Availability Zone ({subnet.availability_zone}). Please retry your request by not "
            f"specifying an Availability Zone or choosing {', '.join(sorted(offered)) or 'none'}.",
        )
    return subnet


def _group(call: Call, id: str) -> Any:
    group = call.moto.get_security_group_from_id(id)
    if group is None:
        raise EC2Error("InvalidGroup.NotFound", f"The security group '{id}' does not exist")
    return group


def plug_in(call: Call, instance_id: str, at: Place, address: str, tags: dict[str, str]) -> str:
    """Return the id of a new network interface, in use by the instance."""
    eni = call.moto.create_network_interface(
        at.subnet, address, group_ids=list(at.groups), tags=tags, delete_on_termination=True
    )
    # moto asks the instance behind an interface for these three.
    eni.instance = SimpleNamespace(id=instance_id, owner_id=call.account, security_groups=[])
    eni.attachment_id = new_id("eni-attach")
    eni.attach_time = now()
    eni.status = "in-use"
    return str(eni.id)


def set_public(world: World, instance: Instance, address: str | None) -> None:
    eni = world.moto(instance.owner, instance.region).enis.get(instance.eni)
    if eni:
        eni.public_ip = address


def unplug(world: World, instance: Instance) -> None:
    world.moto(instance.owner, instance.region).enis.pop(instance.eni, None)


def regroup(world: World, instance: Instance, groups: list[str]) -> None:
    moto = world.moto(instance.owner, instance.region)
    instance.groups = groups
    eni = moto.enis.get(instance.eni)
    if eni:
        eni._group_set = [moto.get_security_group_from_id(id) for id in groups]


def admits(world: World, instance: Instance) -> Callable[[str, int], bool]:
    """Return whether the instance's security groups admit a TCP connection; asked at each one.

    Takes no lock: a machine may ask while it is being terminated under the lock.
    """

    def let_in(source: str, port: int) -> bool:
        moto = world.moto(instance.owner, instance.region)
        for id in list(instance.groups):
            group = moto.get_security_group_from_id(id)
            if group and any(_allows(world, r, source, port) for r in list(group.ingress_rules)):
                return True
        return False

    return let_in


def _allows(world: World, rule: Any, source: str, port: int) -> bool:
    if rule.ip_protocol not in ("tcp", "-1"):
        return False
    if rule.ip_protocol == "tcp" and not rule.from_port <= port <= rule.to_port:
        return False
    for cidr in (rule.cidr_ipv4, rule.cidr_ipv6):
        if cidr:
            network = ip_network(cidr, strict=False)
            address = ip_address(source)
            if address.version == network.version and address in network:
                return True
    other = (rule.source_group or {}).get("GroupId")
    return bool(other) and any(
        i.address == source and other in i.groups and i.state != "terminated"
        for i in list(world.instances.values())
    )


def users_of_group(world: World, account: str, region: str, id: str) -> list[str]:
    """Instances that hold a security group."""
    return [
        i.id
        for i in world.instances.values()
        if (i.owner, i.region) == (account, region) and id in i.groups and i.state != "terminated"
    ]
