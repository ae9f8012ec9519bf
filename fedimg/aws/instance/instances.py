"""Launch instances, wait for them, find them by their tags, and terminate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code
from fedimg.aws.client.types import (
    BlockDeviceMapping,
    EC2Client,
    Filter,
    InstanceDescription,
    InstanceTypeName,
)
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.tags import Labels
from fedimg.config import Network
from fedimg.exceptions import EC2ServiceException
from fedimg.untrusted.quoting import plain

#: EC2's StateReason code of an instance that shut itself down.
_ENDED_ITSELF = "Client.InstanceInitiatedShutdown"


@dataclass(frozen=True)
class Instance:
    """A running instance; `volumes` maps device names to volume ids."""

    id: str
    address: str
    volumes: Mapping[str, str]


@dataclass(frozen=True)
class Launch:
    """The parameters of an instance's launch.

    `volumes` are block device mappings in addition to the AMI's own. Calls with the same `token`
    are one instance. `key_pair` is the name of an EC2 key pair; `instance_store` says that the AMI
    has no root volume.
    """

    ami: str
    instance_type: str
    user_data: str
    token: str
    group: str
    subnet: str
    volumes: Sequence[BlockDeviceMapping] = ()
    key_pair: str = ""
    instance_store: bool = False


def subnets_for(ec2: EC2Client, network: JobNetwork, instance_type: str, attempt: int) -> list[str]:
    """Return the subnets to launch an instance of a type in, in order; each attempt begins with
    another.

    Not every zone offers every type. When no zone is known to offer it, all subnets are returned,
    so that EC2's own refusal says why.
    """
    offers = ec2.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [instance_type]}],
    )["InstanceTypeOfferings"]
    zones = {offer["Location"] for offer in offers}
    fit = [subnet for subnet, zone in network.subnets.items() if zone in zones]
    fit = fit or list(network.subnets)
    first = attempt % len(fit)
    return fit[first:] + fit[:first]


def launch(
    ec2: EC2Client, waiter: Waiter, labels: Labels, role: str, request: Launch, network: Network
) -> str:
    """Launch one instance; return its id.

    The instance has IMDSv2 only and no instance profile, and terminates when it shuts down. Raises
    botocore's ClientError when EC2 refuses.
    """
    options: dict[str, Any] = {"KeyName": request.key_pair} if request.key_pair else {}
    if not request.instance_store:
        # EC2 refuses the attribute for an instance that cannot be stopped, and terminates that.
        options["InstanceInitiatedShutdownBehavior"] = "terminate"
    response = waiter.settled(
        lambda: ec2.run_instances(
            ImageId=request.ami,
            # mypy knows the types of the stubs' day alone.
            InstanceType=cast("InstanceTypeName", request.instance_type),
            MinCount=1,
            MaxCount=1,
            ClientToken=request.token,
            UserData=request.user_data,
            MetadataOptions={
                "HttpTokens": "required",
                "HttpEndpoint": "enabled",
                "HttpPutResponseHopLimit": 1,
            },
            NetworkInterfaces=[
                {
                    "DeviceIndex": 0,
                    "SubnetId": request.subnet,
                    "Groups": [request.group],
                    "AssociatePublicIpAddress": network.address == "public",
                    "DeleteOnTermination": True,
                }
            ],
            BlockDeviceMappings=list(request.volumes),
            TagSpecifications=labels.specifications(
                ["instance", "volume", "network-interface"], role
            ),
            **options,
        )
    )
    return str(response["Instances"][0]["InstanceId"])


def running(
    ec2: EC2Client,
    waiter: Waiter,
    instance: str,
    network: Network,
    *,
    limit: float,
    polling: BatchedPolling | None = None,
) -> Instance:
    """Wait until an instance runs and has an address, in the polls of `polling`.

    Raises EC2ServiceException when it ends instead, or takes longer than `limit` seconds.
    """
    field = "PublicIpAddress" if network.address == "public" else "PrivateIpAddress"

    def judge(instances: list[dict[str, Any]]) -> Instance | None:
        (described,) = instances
        state = described["State"]["Name"]
        if state not in ("pending", "running"):
            reason = described.get("StateReason", {}).get("Message") or "EC2 gives no reason"
            raise EC2ServiceException(f"instance {instance} is {state}: {reason}", later=True)
        if state == "pending" or not described.get(field):
            return None
        return Instance(
            instance,
            str(described[field]),
            {
                mapping["DeviceName"]: mapping["Ebs"]["VolumeId"]
                for mapping in described["BlockDeviceMappings"]
            },
        )

    return (polling or BatchedPolling()).instances.wait(
        ec2,
        waiter,
        [instance],
        judge,
        what=f"instance {instance} to run and to have an address",
        limit=limit,
    )


def terminated_reason(ec2: EC2Client, instance: str) -> str:
    """Return why EC2, or a person, terminated an instance.

    The reason is empty when the instance shut itself down, still runs, or is unknown to EC2.
    """
    for described in _describe(ec2, [{"Name": "instance-id", "Values": [instance]}]):
        reason = described.get("StateReason", {})
        ended = described["State"]["Name"] not in ("pending", "running")
        if ended and reason.get("Code") != _ENDED_ITSELF:
            return str(reason.get("Message") or reason.get("Code") or "EC2 gives no reason")
    return ""


def console(ec2: EC2Client, instance: str) -> str:
    """Return an instance's console output, as far as EC2 has it; empty when EC2 refuses.

    Nitro types report the current output; for others EC2 returns what it stored, which may be
    minutes old.
    """
    for options in ({"Latest": True}, {}):
        try:
            answer = ec2.get_console_output(InstanceId=instance, **options)
        except Exception as error:
            if not code(error):
                raise
        else:
            return plain(str(answer.get("Output") or ""))
    return ""


def status(ec2: EC2Client, instance: str) -> str:
    """Return EC2's instance status check, which reaches the network card: ok, impaired,
    initializing ….

    It is empty when EC2 does not report it.
    """
    try:
        statuses = ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
    except Exception as error:
        if not code(error):
            raise
        return ""
    return str(statuses[0]["InstanceStatus"]["Status"]) if statuses else ""


def dismiss(ec2: EC2Client, labels: Labels, role: str) -> bool:
    """Request termination of every instance of a role; return whether all are gone."""
    states = {
        str(instance["InstanceId"]): instance["State"]["Name"]
        for instance in _describe(ec2, labels.filters(role))
    }
    remaining = [id for id, state in states.items() if state not in ("terminated", "shutting-down")]
    if remaining:
        ec2.terminate_instances(InstanceIds=remaining)
    return all(state == "terminated" for state in states.values())


def end(ec2: EC2Client, waiter: Waiter, labels: Labels, role: str, *, limit: float) -> None:
    """Terminate every instance of a role and wait until all are gone, with their volumes.

    Raises EC2ServiceException when that takes longer than `limit` seconds.
    """
    waiter.until(
        lambda: dismiss(ec2, labels, role) or None,
        what=f"the {role} instances of {labels.image} to terminate",
        limit=limit,
    )


def _describe(ec2: EC2Client, filters: Sequence[Filter]) -> list[InstanceDescription]:
    return [
        instance
        for page in ec2.get_paginator("describe_instances").paginate(Filters=filters)
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]
