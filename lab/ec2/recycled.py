"""The contents of the Recycle Bin, as EC2 lists them; the rules are lab.ec2.rbin's."""

from typing import Any

from lab.ec2 import filters
from lab.ec2.recycle_bin import IMAGE, SNAPSHOT
from lab.ec2.world import Call


def _listed(call: Call, resource_type: str, ids: str) -> dict[str, Any]:
    wanted = call.params.get(ids, [])
    rows = [
        {**each.shown, "RecycleBinEnterTime": each.entered, "RecycleBinExitTime": each.leaves}
        for each in call.world.recycle_bin.contents(resource_type, call.region)
        if not wanted or each.id in wanted
    ]
    shown, token = filters.page(rows, call.params, ids, smallest=5)
    return {("Images" if resource_type == IMAGE else "Snapshots"): shown, "NextToken": token}


def images_in_recycle_bin(call: Call) -> dict[str, Any]:
    return _listed(call, IMAGE, "ImageIds")


def snapshots_in_recycle_bin(call: Call) -> dict[str, Any]:
    return _listed(call, SNAPSHOT, "SnapshotIds")


OPERATIONS = {
    "ListImagesInRecycleBin": images_in_recycle_bin,
    "ListSnapshotsInRecycleBin": snapshots_in_recycle_bin,
}
