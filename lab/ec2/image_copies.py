"""CopyImage of another region's image, with its own snapshots, and CreateImage of an instance."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

from lab.ec2 import snapshots, volumes
from lab.ec2.errors import EC2Error, combination
from lab.ec2.registration import add, check_name
from lab.ec2.tagging import given
from lab.ec2.world import Call, Image, new_id, now


def copy_image(call: Call) -> dict[str, Any]:
    tags = given(call, "image", "snapshot")
    params, world = call.params, call.world

    def copy() -> str:
        with world.lock:
            source = _source(call)
            if source.manifest:
                raise EC2Error("UnsupportedOperation", "The lab copies no instance-store images.")
            name = check_name(call, params["Name"])
            id = new_id("ami")
            mappings = deepcopy(source.mappings)
            kernel = _same_kernel(call, source)
            for mapping in mappings:
                held = mapping.get("Ebs", {}).get("SnapshotId")
                if held:
                    made = snapshots.duplicate(
                        call,
                        world.snapshots[held],
                        f"Copied for DestinationAmi {id} from SourceAmi {source.id} for "
                        f"SourceSnapshot {held}.",
                        tags["snapshot"],
                        world.delays.image_copy,
                        bool(params.get("Encrypted")),
                    )
                    mapping["Ebs"]["SnapshotId"] = made.id
                    mapping["Ebs"]["Encrypted"] = made.encrypted
            own = dict(tags["image"])
            if params.get("CopyImageTags") and source.owner == call.account:
                own = {**world.tags(call.account, source.region, source.id), **own}
            image = _made_of(
                source,
                id=id,
                owner=call.account,
                region=call.region,
                name=name,
                mappings=mappings,
                description=params.get("Description", source.description),
                kernel=kernel,
                source_instance=None,
            )
            add(call, image, own, world.delays.image_copy)
            return id

    id = world.tokens.once((call.account, call.region, call.action), params, copy)
    return {"ImageId": id}


def _source(call: Call) -> Image:
    region = call.params["SourceRegion"]
    if region not in call.world.regions:
        raise EC2Error("InvalidParameterValue", f"Invalid source region: {region}")
    there = replace(call, region=region)
    source = there.image(call.params["SourceImageId"])
    if source.state != "available":
        raise EC2Error(
            "InvalidAMIID.Unavailable", f"The image ID '{source.id}' is in state {source.state}."
        )
    for id in source.snapshot_ids():
        try:
            there.snapshot(id)
        except EC2Error:
            raise EC2Error(
                "InvalidRequest",
                "You do not have permission to access the storage of this ami",
            ) from None
    return source


def _same_kernel(call: Call, source: Image) -> str | None:
    if source.kernel is None:
        return None
    original = call.world.images[source.kernel]
    for image in call.world.images.values():
        if (image.type, image.region, image.name) == ("kernel", call.region, original.name):
            return image.id
    raise combination(f"{call.region} has no kernel like {original.id} ({original.name}).")


def create_image(call: Call) -> dict[str, Any]:
    tags = given(call, "image", "snapshot")
    params, world = call.params, call.world
    with world.lock:
        instance = call.instance(params["InstanceId"])
        if instance.state not in ("running", "stopped"):
            raise EC2Error(
                "IncorrectInstanceState", f"Instance '{instance.id}' is {instance.state}."
            )
        if instance.image.manifest:
            raise EC2Error(
                "InvalidParameterValue",
                f"The instance ID '{instance.id}' does not have an EBS root device.",
            )
        name = check_name(call, params["Name"])
        held = volumes.attached_to(world, instance.id)
    mappings = []
    for volume in held:
        assert volume.attachment
        snapshot = snapshots.take(
            call, volume.id, f"Created by CreateImage({instance.id})", tags["snapshot"]
        )
        mappings.append(
            {
                "DeviceName": volume.attachment.device,
                "Ebs": {
                    "DeleteOnTermination": volume.attachment.delete_on_termination,
                    "SnapshotId": snapshot.id,
                    "VolumeSize": volume.size,
                    "VolumeType": volume.type,
                    "Encrypted": volume.encrypted,
                },
            }
        )
    with world.lock:
        image = _made_of(
            instance.image,
            id=new_id("ami"),
            owner=call.account,
            name=check_name(call, name),
            mappings=mappings,
            description=params.get("Description"),
            source_instance=instance.id,
        )
        add(call, image, tags["image"], world.delays.image)
    return {"ImageId": image.id}


def _made_of(source: Image, **own: Any) -> Image:
    """Return a new image like another one but for its `own` attributes; nobody else may use it."""
    return replace(
        source,
        location=None,
        source_image=source.id,
        source_region=source.region,
        state="pending",
        created=now(),
        deprecated_at=None,
        protection="disabled",
        cooldown_until=None,
        launches=[],
        public=False,
        users=set(),
        organizations=set(),
        **own,
    )


# These make snapshots, or honour tokens, and take the lock themselves.
UNLOCKED: dict[str, Callable[[Call], dict[str, Any]]] = {
    "CopyImage": copy_image,
    "CreateImage": create_image,
}
