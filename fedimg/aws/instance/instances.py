"""Instances: launched, waited for, found again by their tags, and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.tags import Labels
from fedimg.config import Network
from fedimg.exceptions import EC2ServiceException
from fedimg.untrusted.quoting import plain

#: What EC2 says of an instance that was shut down from within (EC2, StateReason).
_ENDED_ITSELF = "Client.InstanceInitiatedShutdown"


@dataclass(frozen=True)
class Instance:
    """A running instance; `volumes` maps device names to volume ids."""

    id: str
    address: str
    volumes: Mapping[str, str]


@dataclass(frozen=True)
class Launch:
    """What an instance is started from. `volumes` are block device mappings beside the AMI's own;
    a call repeated with one `token` is one instance. `key_pair` is the name of one of EC2's.
    """

    ami: str
    kind: str
    user_data: str
    token: str
    group: str
    subnet: str
    volumes: Sequence[Mapping[str, Any]] = ()
    key_pair: str = ""


def subnets_for(ec2: Client, place: JobNetwork, kind: str, attempt: int) -> list[str]:
    """The subnets to start an instance of a type in, one after another: each attempt begins with
    another one.

    Not every zone offers every type; when none is known to, EC2's own refusal says it best.
    """
    offers = ec2.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [kind]}],
    )["InstanceTypeOfferings"]
    zones = {offer["Location"] for offer in offers}
    fit = [subnet for subnet, zone in place.subnets.items() if zone in zones]
    fit = fit or list(place.subnets)
    first = attempt % len(fit)
    return fit[first:] + fit[:first]


def launch(
    ec2: Client, waiter: Waiter, labels: Labels, role: str, wanted: Launch, network: Network
) -> str:
    """Start one instance; its id.

    IMDSv2 only, no instance profile, gone when it shuts itself down. Raises botocore's
    ClientError when EC2 refuses.
    """
    key = {"KeyName": wanted.key_pair} if wanted.key_pair else {}
    made = waiter.settled(
        lambda: ec2.run_instances(
            ImageId=wanted.ami,
            InstanceType=wanted.kind,
            MinCount=1,
            MaxCount=1,
            ClientToken=wanted.token,
            UserData=wanted.user_data,
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={
                "HttpTokens": "required",
                "HttpEndpoint": "enabled",
                "HttpPutResponseHopLimit": 1,
            },
            NetworkInterfaces=[
                {
                    "DeviceIndex": 0,
                    "SubnetId": wanted.subnet,
                    "Groups": [wanted.group],
                    "AssociatePublicIpAddress": network.address == "public",
                    "DeleteOnTermination": True,
                }
            ],
            BlockDeviceMappings=list(wanted.volumes),
            TagSpecifications=labels.specifications(
                ["instance", "volume", "network-interface"], role
            ),
            **key,
        )
    )
    return str(made["Instances"][0]["InstanceId"])


def running(
    ec2: Client,
    waiter: Waiter,
    instance: str,
    network: Network,
    *,
    limit: float,
    polling: BatchedPolling | None = None,
) -> Instance:
    """Wait until an instance runs and has an address, with whoever else waits in these `polling`.

    Raises EC2ServiceException when it ends instead, or takes longer than `limit` seconds.
    """
    field = "PublicIpAddress" if network.address == "public" else "PrivateIpAddress"

    def judge(found: list[dict[str, Any]]) -> Instance | None:
        state = found[0]["State"]["Name"]
        if state not in ("pending", "running"):
            reason = found[0].get("StateReason", {}).get("Message") or "EC2 gives no reason"
            raise EC2ServiceException(f"instance {instance} is {state}: {reason}", later=True)
        if state == "pending" or not found[0].get(field):
            return None
        return Instance(
            instance,
            str(found[0][field]),
            {
                mapping["DeviceName"]: mapping["Ebs"]["VolumeId"]
                for mapping in found[0]["BlockDeviceMappings"]
            },
        )

    return (polling or BatchedPolling()).instances.wait(
        ec2,
        waiter,
        [instance],
        judge,
        what=f"instance {instance} running, with an address",
        limit=limit,
    )


def terminated_reason(ec2: Client, instance: str) -> str:
    """Why EC2, or somebody else, ended an instance; empty when it ended itself, or did not end, or
    EC2 does not know it.
    """
    for found in _describe(ec2, [{"Name": "instance-id", "Values": [instance]}]):
        reason = found.get("StateReason", {})
        ended = found["State"]["Name"] not in ("pending", "running")
        if ended and reason.get("Code") != _ENDED_ITSELF:
            return str(reason.get("Message") or reason.get("Code") or "EC2 gives no reason")
    return ""


def console(ec2: Client, instance: str) -> str:
    """What an instance's console shows, as far as EC2 has it; empty when it does not tell.

    What it shows at this moment, where the instance type allows to ask for that (Nitro ones do);
    else what EC2 has kept, which may be minutes old.
    """
    for how in ({"Latest": True}, {}):
        try:
            answer = ec2.get_console_output(InstanceId=instance, **how)
        except Exception as error:
            if not code(error):
                raise
        else:
            return plain(str(answer.get("Output") or ""))
    return ""


def status(ec2: Client, instance: str) -> str:
    """EC2's own check of an instance, which asks its network card: ok, impaired, initializing …;
    empty when it does not tell.
    """
    try:
        found = ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
    except Exception as error:
        if not code(error):
            raise
        return ""
    return str(found[0]["InstanceStatus"]["Status"]) if found else ""


def dismiss(ec2: Client, labels: Labels, role: str) -> bool:
    """Ask for the end of every instance of a role; whether all are gone, with their volumes."""
    states = {
        str(instance["InstanceId"]): instance["State"]["Name"]
        for instance in _describe(ec2, labels.filters(role))
    }
    living = [id for id, state in states.items() if state not in ("terminated", "shutting-down")]
    if living:
        ec2.terminate_instances(InstanceIds=living)
    return all(state == "terminated" for state in states.values())


def end(ec2: Client, waiter: Waiter, labels: Labels, role: str, *, limit: float) -> None:
    """Terminate every instance of a role and wait until all are gone, with their volumes.

    Raises EC2ServiceException when that takes longer than `limit` seconds.
    """
    waiter.until(
        lambda: dismiss(ec2, labels, role) or None,
        what=f"the {role} instances of {labels.image} gone",
        limit=limit,
    )


def _describe(ec2: Client, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        instance
        for page in ec2.get_paginator("describe_instances").paginate(Filters=filters)
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]
