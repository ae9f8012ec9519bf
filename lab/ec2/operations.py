"""The EC2 actions that the lab answers itself, and those of moto's that must not be reached."""

from collections.abc import Callable
from typing import Any

from lab.ec2 import (
    features_off,
    image_copies,
    image_options,
    images,
    imports,
    instance_attributes,
    instance_rows,
    instances,
    launching,
    permissions,
    recycled,
    regions,
    registration,
    settings,
    snapshots,
    tagging,
    volumes,
)
from lab.ec2.world import Call

Handler = Callable[[Call], dict[str, Any]]

# Run under the world's lock.
LOCKED: dict[str, Handler] = {
    **image_options.OPERATIONS,
    **images.OPERATIONS,
    **imports.OPERATIONS,
    **instance_attributes.OPERATIONS,
    **instance_rows.OPERATIONS,
    **instances.OPERATIONS,
    **permissions.OPERATIONS,
    **regions.OPERATIONS,
    **recycled.OPERATIONS,
    **registration.OPERATIONS,
    **snapshots.OPERATIONS,
    **settings.OPERATIONS,
    **tagging.OPERATIONS,
    **features_off.OPERATIONS,
    **volumes.OPERATIONS,
}

# Take the lock themselves, for as long as they need it.
UNLOCKED: dict[str, Handler] = {
    **image_copies.UNLOCKED,
    **imports.UNLOCKED,
    **instances.UNLOCKED,
    **launching.UNLOCKED,
    **snapshots.UNLOCKED,
    **volumes.UNLOCKED,
}

# moto answers these out of instances, images and volumes of its own, which do not exist here.
OUT_OF_REACH = frozenset(
    {
        "AssociateIamInstanceProfile",
        "AttachNetworkInterface",
        "BundleInstance",
        "CreateFleet",
        "DetachNetworkInterface",
        "DisassociateIamInstanceProfile",
        "EnableVolumeIO",
        "GetInstanceUefiData",
        "ImportVolume",
        "ModifySnapshotTier",
        "ModifySpotFleetRequest",
        "ModifyVolumeAttribute",
        "ReplaceIamInstanceProfileAssociation",
        "RequestSpotFleet",
        "RequestSpotInstances",
        "RestoreSnapshotTier",
    }
)
