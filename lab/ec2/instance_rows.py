"""Instances as EC2 shows them: DescribeInstances and DescribeInstanceStatus, with their filters."""

from typing import Any

from lab.ec2 import filters, instance_filters
from lab.ec2.errors import EC2Error, not_found
from lab.ec2.instance_types import current_boot_mode
from lab.ec2.partitions import private_name
from lab.ec2.volumes import attached_to
from lab.ec2.world import Call, Instance, World, now

CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}


def row(call: Call, instance: Instance) -> dict[str, Any]:
    """Return an instance as DescribeInstances shows it."""
    image = instance.image
    there = instance.state != "terminated"
    public = instance.address if instance.public and instance.state == "running" else None
    shown: dict[str, Any] = {
        "InstanceId": instance.id,
        "ImageId": image.id,
        "State": state(instance.state),
        "PrivateDnsName": private_name(instance.address, instance.region) if there else "",
        # Nothing resolves names here, and a client may well connect to this one.
        "PublicDnsName": public or "",
        "StateTransitionReason": instance.transition,
        "KeyName": instance.key_name,
        "AmiLaunchIndex": instance.index,
        "ProductCodes": [],
        "InstanceType": instance.type,
        "LaunchTime": instance.launched,
        "Placement": {
            "AvailabilityZone": instance.zone,
            "GroupName": "",
            "Tenancy": instance.tenancy,
        },
        "KernelId": instance.kernel,
        "RamdiskId": instance.ramdisk,
        "Monitoring": {"State": "enabled" if instance.monitoring else "disabled"},
        "Architecture": image.architecture,
        "RootDeviceType": image.root_device_type,
        "RootDeviceName": image.root_device,
        "BlockDeviceMappings": _devices(call.world, instance),
        "VirtualizationType": image.virtualization,
        "BootMode": image.boot_mode,
        "CurrentInstanceBootMode": current_boot_mode(instance.type, image),
        "ClientToken": instance.token,
        "EbsOptimized": instance.ebs_optimized,
        "EnaSupport": image.ena,
        "SriovNetSupport": image.sriov,
        "TpmSupport": image.tpm,
        "Hypervisor": "xen",
        "IamInstanceProfile": instance.profile,
        "MetadataOptions": instance.metadata,
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "UsageOperationUpdateTime": instance.launched,
        "SourceDestCheck": instance.source_dest_check,
        "HibernationOptions": {"Configured": False},
        "EnclaveOptions": {"Enabled": False},
        "MaintenanceOptions": {"AutoRecovery": "default"},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "open"},
        "NetworkInterfaces": [],
        "SecurityGroups": [],
        **call.tagged(instance),
    }
    if there:
        groups = _groups(call, instance)
        shown["PrivateIpAddress"] = instance.address
        shown["PublicIpAddress"] = public
        shown["SubnetId"], shown["VpcId"] = instance.subnet, instance.vpc
        shown["SecurityGroups"] = groups
        shown["NetworkInterfaces"] = _interfaces(call, instance, groups, public)
    if instance.spot:
        shown["InstanceLifecycle"] = "spot"
    if instance.reason:
        shown["StateReason"] = {"Code": instance.reason[0], "Message": instance.reason[1]}
    return {name: value for name, value in shown.items() if value is not None}


def state(name: str) -> dict[str, Any]:
    return {"Code": CODES[name], "Name": name}


def _devices(world: World, instance: Instance) -> list[dict[str, Any]]:
    shown = []
    for volume in attached_to(world, instance.id):
        held = volume.attachment
        assert held
        shown.append(
            {
                "DeviceName": held.device,
                "Ebs": {
                    "AttachTime": held.since,
                    "DeleteOnTermination": held.delete_on_termination,
                    "Status": held.state,
                    "VolumeId": volume.id,
                },
            }
        )
    return shown


def _groups(call: Call, instance: Instance) -> list[dict[str, str]]:
    found = [call.moto.get_security_group_from_id(id) for id in instance.groups]
    return [{"GroupId": group.id, "GroupName": group.name} for group in found if group]


def _interfaces(
    call: Call, instance: Instance, groups: list[dict[str, str]], public: str | None
) -> list[dict[str, Any]]:
    eni = call.moto.enis.get(instance.eni)
    if eni is None:
        return []
    address: dict[str, Any] = {
        "Primary": True,
        "PrivateIpAddress": instance.address,
        "PrivateDnsName": private_name(instance.address, instance.region),
    }
    association = None
    if public:
        association = {"IpOwnerId": "amazon", "PublicDnsName": public, "PublicIp": public}
        address["Association"] = association
    return [
        {
            "Association": association,
            "Attachment": {
                "AttachTime": eni.attach_time,
                "AttachmentId": eni.attachment_id,
                "DeleteOnTermination": True,
                "DeviceIndex": 0,
                "Status": "attached",
                "NetworkCardIndex": 0,
            },
            "Description": "",
            "Groups": groups,
            "Ipv6Addresses": [],
            "MacAddress": eni.mac_address,
            "NetworkInterfaceId": eni.id,
            "OwnerId": instance.owner,
            "PrivateDnsName": private_name(instance.address, instance.region),
            "PrivateIpAddress": instance.address,
            "PrivateIpAddresses": [address],
            "SourceDestCheck": instance.source_dest_check,
            "Status": "in-use",
            "SubnetId": instance.subnet,
            "VpcId": instance.vpc,
            "InterfaceType": "interface",
        }
    ]


def reservation_row(call: Call, reservation: str) -> dict[str, Any]:
    """Return a reservation with all its instances that EC2 still remembers."""
    rows = [
        row(call, i)
        for i in call.world.instances.values()
        if i.reservation == reservation and i.owner == call.account
    ]
    return _reservation(call, reservation, rows)


def _reservation(call: Call, id: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ReservationId": id, "OwnerId": call.account, "Groups": [], "Instances": rows}


def named(call: Call, ids: list[str]) -> list[Instance]:
    """Return the caller's instances of these ids, or all. Raises EC2Error for unknown ids."""
    if not ids:
        return [
            i
            for i in call.world.instances.values()
            if i.region == call.region and i.owner == call.account
        ]
    found, unknown = [], []
    for id in ids:
        try:
            found.append(call.instance(id))
        except EC2Error as error:
            if error.code != "InvalidInstanceID.NotFound":
                raise
            unknown.append(id)
    if unknown:
        raise not_found("InvalidInstanceID.NotFound", "instance", unknown)
    return found


def describe_instances(call: Call) -> dict[str, Any]:
    rows = []
    for instance in named(call, call.params.get("InstanceIds", [])):
        of_reservation = {"ReservationId": instance.reservation, "OwnerId": instance.owner}
        rows.append({**row(call, instance), **of_reservation})
    rows = filters.select(rows, call, instance_filters.FILTERS)
    rows, token = filters.page(rows, call.params, "InstanceIds")
    reservations: dict[str, list[dict[str, Any]]] = {}
    for one in rows:
        del one["OwnerId"]
        reservations.setdefault(one.pop("ReservationId"), []).append(one)
    return {
        "Reservations": [_reservation(call, id, of) for id, of in reservations.items()],
        "NextToken": token,
    }


def describe_instance_status(call: Call) -> dict[str, Any]:
    rows = []
    for instance in named(call, call.params.get("InstanceIds", [])):
        if instance.state != "running" and not call.params.get("IncludeAllInstances"):
            continue
        status: dict[str, Any] = {"Status": "not-applicable"}
        answers = status
        if instance.state == "running":
            status = _check("ok", "passed")
            answers = _answers(call, instance)
        rows.append(
            {
                "AvailabilityZone": instance.zone,
                "InstanceId": instance.id,
                "InstanceState": state(instance.state),
                "InstanceStatus": answers,
                "SystemStatus": status,
                "AttachedEbsStatus": status,
                "Tags": call.tags(instance),
            }
        )
    rows = filters.select(rows, call, instance_filters.STATUS_FILTERS)
    rows, token = filters.page(rows, call.params, "InstanceIds")
    for one in rows:
        one.pop("Tags")
    return {"InstanceStatuses": rows, "NextToken": token}


def _answers(call: Call, instance: Instance) -> dict[str, Any]:
    """EC2's check of the instance's own network card."""
    if call.world.machines.reachable(instance.id):
        return _check("ok", "passed")
    if (now() - instance.launched).total_seconds() < call.world.delays.instance_check:
        return _check("initializing", "initializing")
    return _check("impaired", "failed")


def _check(status: str, reachability: str) -> dict[str, Any]:
    return {"Status": status, "Details": [{"Name": "reachability", "Status": reachability}]}


OPERATIONS = {
    "DescribeInstanceStatus": describe_instance_status,
    "DescribeInstances": describe_instances,
}
