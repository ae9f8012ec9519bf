"""One attribute of an instance at a time: described, and modified in the states EC2 allows."""

import base64
from typing import Any

from lab.ec2 import filters, instance_types, network
from lab.ec2.errors import EC2Error, combination, invalid
from lab.ec2.instance_rows import named
from lab.ec2.volumes import attached_to
from lab.ec2.world import Call, Instance


def describe_instance_attribute(call: Call) -> dict[str, Any]:
    instance = call.instance(call.params["InstanceId"])
    attribute = call.params["Attribute"]
    encoded = base64.b64encode(instance.user_data).decode() or None
    values: dict[str, tuple[str, Any]] = {
        "instanceType": ("InstanceType", instance.type),
        "kernel": ("KernelId", instance.kernel),
        "ramdisk": ("RamdiskId", instance.ramdisk),
        "userData": ("UserData", encoded),
        "disableApiTermination": ("DisableApiTermination", instance.protected),
        "disableApiStop": ("DisableApiStop", instance.stop_protected),
        "instanceInitiatedShutdownBehavior": (
            "InstanceInitiatedShutdownBehavior",
            instance.shutdown_behavior,
        ),
        "rootDeviceName": ("RootDeviceName", instance.image.root_device),
        "sourceDestCheck": ("SourceDestCheck", instance.source_dest_check),
        "ebsOptimized": ("EbsOptimized", instance.ebs_optimized),
        "enaSupport": ("EnaSupport", instance.image.ena),
        "sriovNetSupport": ("SriovNetSupport", instance.image.sriov),
    }
    answer: dict[str, Any] = {"InstanceId": instance.id}
    if attribute in values:
        name, value = values[attribute]
        answer[name] = {"Value": value} if value is not None else {}
    elif attribute == "groupSet":
        answer["Groups"] = [{"GroupId": id} for id in instance.groups]
    elif attribute == "productCodes":
        answer["ProductCodes"] = []
    elif attribute == "blockDeviceMapping":
        answer["BlockDeviceMappings"] = [
            {
                "DeviceName": held.device,
                "Ebs": {
                    "AttachTime": held.since,
                    "DeleteOnTermination": held.delete_on_termination,
                    "Status": held.state,
                    "VolumeId": volume.id,
                },
            }
            for volume in attached_to(call.world, instance.id)
            if (held := volume.attachment)
        ]
    else:
        raise invalid(attribute, "attribute", "Unknown attribute.")
    return answer


# The request's own name of each attribute that is given as a structure with a Value.
STRUCTURES = {
    "DisableApiTermination": "disableApiTermination",
    "DisableApiStop": "disableApiStop",
    "EbsOptimized": "ebsOptimized",
    "InstanceInitiatedShutdownBehavior": "instanceInitiatedShutdownBehavior",
    "InstanceType": "instanceType",
    "SourceDestCheck": "sourceDestCheck",
    "UserData": "userData",
}
ONLY_STOPPED = ("instanceType", "userData", "ebsOptimized")


def modify_instance_attribute(call: Call) -> dict[str, Any]:
    params = call.params
    instance = call.instance(params["InstanceId"])
    if "Groups" in params:
        for id in params["Groups"]:
            if call.moto.get_security_group_from_id(id) is None:
                raise EC2Error("InvalidGroup.NotFound", f"The security group '{id}' does not exist")
        network.regroup(call.world, instance, list(params["Groups"]))
        return {}
    if "BlockDeviceMappings" in params:
        _modify_devices(call, instance)
        return {}
    if params.get("Attribute"):
        _modify(instance, params["Attribute"], params.get("Value"))
        return {}
    for name, attribute in STRUCTURES.items():
        if name in params:
            _modify(instance, attribute, params[name].get("Value"))
            return {}
    raise combination("No attributes specified.")


def _modify(instance: Instance, attribute: str, value: Any) -> None:
    if attribute in ONLY_STOPPED and instance.state != "stopped":
        raise EC2Error(
            "IncorrectInstanceState", f"The instance '{instance.id}' is not in the 'stopped' state."
        )
    on = value is True or str(value).lower() == "true"
    match attribute:
        case "disableApiTermination":
            instance.protected = on
        case "disableApiStop":
            instance.stop_protected = on
        case "ebsOptimized":
            instance.ebs_optimized = on
        case "sourceDestCheck":
            instance.source_dest_check = on
        case "instanceInitiatedShutdownBehavior":
            if value not in ("stop", "terminate"):
                raise invalid(value, attribute)
            instance.shutdown_behavior = value
        case "instanceType":
            instance_types.known(value)
            instance.type = value
        case "userData":
            instance.user_data = value if isinstance(value, bytes) else base64.b64decode(value)
        case _:
            raise invalid(attribute, "attribute", "It cannot be modified.")


def _modify_devices(call: Call, instance: Instance) -> None:
    held = {v.attachment.device: v for v in attached_to(call.world, instance.id) if v.attachment}
    for mapping in call.params["BlockDeviceMappings"]:
        volume = held.get(mapping.get("DeviceName", ""))
        if volume is None or volume.attachment is None:
            raise EC2Error(
                "InvalidInstanceAttributeValue",
                f"No device is currently mapped at {mapping.get('DeviceName')}",
            )
        wanted = mapping.get("Ebs", {}).get("DeleteOnTermination")
        if wanted is not None:
            volume.attachment.delete_on_termination = wanted


def modify_metadata_options(call: Call) -> dict[str, Any]:
    instance = call.instance(call.params["InstanceId"])
    asked = {name: value for name, value in call.params.items() if name != "InstanceId"}
    instance.metadata = {**instance.metadata, **asked}
    return {"InstanceId": instance.id, "InstanceMetadataOptions": instance.metadata}


def monitor_instances(call: Call) -> dict[str, Any]:
    chosen = named(call, call.params["InstanceIds"])
    for instance in chosen:
        instance.monitoring = call.action == "MonitorInstances"
    shown = "enabled" if call.action == "MonitorInstances" else "disabled"
    return {
        "InstanceMonitorings": [
            {"InstanceId": instance.id, "Monitoring": {"State": shown}} for instance in chosen
        ]
    }


def describe_credit_specifications(call: Call) -> dict[str, Any]:
    chosen = named(call, call.params.get("InstanceIds", []))
    rows = [
        {"InstanceId": i.id, "CpuCredits": "standard" if i.type.startswith("t2") else "unlimited"}
        for i in chosen
        if i.type.startswith("t")
    ]
    known = {"instance-id": filters.field("InstanceId")}
    return {"InstanceCreditSpecifications": filters.select(rows, call, known)}


OPERATIONS = {
    "DescribeInstanceAttribute": describe_instance_attribute,
    "DescribeInstanceCreditSpecifications": describe_credit_specifications,
    "ModifyInstanceAttribute": modify_instance_attribute,
    "ModifyInstanceMetadataOptions": modify_metadata_options,
    "MonitorInstances": monitor_instances,
    "UnmonitorInstances": monitor_instances,
}
