"""Find the site's AMIs in all regions by their tags, and tell what their tags say of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fedimg.aws import amis, inventory, tags
from fedimg.aws.bundle.place import bundle_of
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.retrying import RetryingClient
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.inventory import Inventory
from fedimg.exceptions import EC2ServiceException
from fedimg.images import INSTANCE_STORE, Architecture, Virtualization
from fedimg.lifecycle.comparison import chosen_deprecation
from fedimg.parallel import run_parallel
from fedimg.records import as_record
from fedimg.store import rows
from fedimg.store.rows import AMIRow
from fedimg.untrusted.quoting import one_line
from fedimg.values.audience import Audience

#: The states of AMIs that can be used, or can be enabled.
_USABLE = ("available", "disabled", "pending")
#: EC2's whole answer about a region is in memory until it has been read: 30 MiB for 4,000 AMIs.
_REGIONS_AT_ONCE = 10
_DISABLED_BY_A_RULE = "disabled by a rule, before the database was rebuilt"


@dataclass(frozen=True)
class Found:
    """An AMI as EC2 shows it, with what its tags and description tell; times in epoch seconds.

    `row.state` is `public`, `disabled` (by a rule) or `unknown`. `marks` are the withdrawals and
    restorations that it and its snapshot tell of; `snapshot_public` tells whether its snapshot is
    public.
    """

    row: AMIRow
    values: Mapping[str, str]
    description: str
    created: float
    snapshot_public: bool
    marks: Sequence[tuple[float, bool]]

    @property
    def once_published(self) -> bool:
        """Return whether the AMI is, or may have been, public."""
        return self.row.public or tags.ever_offered(self.values)


@dataclass(frozen=True)
class Search:
    """The result of a search: AMIs, texts on what cannot be recovered, regions not searched."""

    found: Sequence[Found] = ()
    left: Sequence[str] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    searched: Collection[str] = ()


def search(clients: Clients, waiter: Waiter, site: str, regions: Collection[str]) -> Search:
    """Return what carries the site's tag in some regions, ten of which are searched at once."""

    def one(region: str) -> Search:
        ec2 = RetryingClient(clients, region, waiter)
        try:
            seen = inventory.take(ec2, site, region, amis=(), snapshots=())
            private = {
                id
                for id, image in seen.images.items()
                if tags.shared_at(tags.read(image.get("Tags"))) is not None
            }
            seen = replace(seen, audiences=inventory.audiences(ec2, seen, private))
        except (*FAILURES, EC2ServiceException) as error:
            return Search(errors={region: one_line(str(error))})
        found: list[Found] = []
        left: list[str] = []
        for image in seen.images.values():
            try:
                found.append(_found(image, seen, clients.partition(region)))
            except ValueError as error:
                left.append(f"AMI {image['ImageId']} in {region} is not recorded: {error}")
        return Search(found, left, searched=[region])

    results = run_parallel(
        {region: (lambda region=region: one(region)) for region in regions},  # type: ignore[misc]
        _REGIONS_AT_ONCE,
    )
    parts = [results[region] for region in sorted(results)]
    return Search(
        [each for part in parts for each in part.found],
        [each for part in parts for each in part.left],
        {region: why for part in parts for region, why in part.errors.items()},
        {region for part in parts for region in part.searched},
    )


def _found(image: Mapping[str, Any], seen: Inventory, partition: str) -> Found:
    """Return an AMI that EC2 describes. Raises ValueError for one that no job can have made."""
    values = tags.read(image.get("Tags"))
    job, name = values.get(tags.JOB, ""), values.get(tags.IMAGE, "")
    if not name or not job.endswith(f"-{name}"):
        raise ValueError(f"its tags {tags.JOB} and {tags.IMAGE} do not name a job and its image")
    if image.get("State") not in _USABLE:
        raise ValueError(f"it is {image.get('State')}; 'fedimg cleanup' lists it")
    volume_type, snapshot, encrypted = _root(image)
    public = bool(image.get("Public"))
    disk = tags.disk_of(values)
    # What is private now, and was shared: it is still, unless somebody disabled or withdrew it.
    private = tags.shared_at(values) is not None and not public
    usable = image.get("State") == "available" and not tags.taken_away(values)
    restored = (withdrawn := tags.withdrawn_at(values)) is not None and not withdrawn[1]
    shared = private and image.get("State") == "available" and (usable or restored)
    row = AMIRow(
        image=name,
        job=job,
        region=seen.region,
        ami=str(image["ImageId"]),
        name=str(image.get("Name", "")),
        architecture=str(Architecture(image.get("Architecture", ""))),
        virt_type=str(Virtualization(image.get("VirtualizationType", ""))),
        volume_type=volume_type,
        snapshot=snapshot,
        public=public,
        source=job.removesuffix(f"-{name}"),
        disk_sha256=disk.sha256 if disk else None,
        disk_length=disk.length if disk else None,
        state=rows.PUBLIC if public else rows.SHARED if shared else rows.UNKNOWN,
        audience=as_record(seen.audiences.get(str(image["ImageId"]), Audience()))
        if private
        else None,
        shared_at=tags.shared_at(values) if private else None,
        published_at=tags.published_at(values),
        deprecate_at=chosen_deprecation(image),
        attributes=as_record(amis.attributes(image, partition)),
        encrypted=encrypted,
    )
    disabled = tags.disabled_at(values)
    if disabled is not None and not public and image.get("State") == "disabled":
        row = replace(row, state=rows.DISABLED, changed_at=disabled, reason=_DISABLED_BY_A_RULE)
    held = tags.read(seen.snapshots.get(snapshot, {}).get("Tags"))
    return Found(
        row,
        values,
        str(image.get("Description", "")),
        datetime.fromisoformat(image["CreationDate"]).timestamp(),
        snapshot in seen.public_snapshots,
        [mark for each in (values, held) if (mark := tags.withdrawn_at(each))],
    )


def _root(image: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Return the volume type and snapshot of an AMI's root, and whether that is encrypted.

    Of an instance-store AMI these are `instance-store` and its bundle.
    """
    if bundle := bundle_of(image):
        return INSTANCE_STORE, bundle, False
    for mapping in image.get("BlockDeviceMappings", ()):
        if mapping.get("DeviceName") == image.get("RootDeviceName") and "Ebs" in mapping:
            ebs = mapping["Ebs"]
            if ebs.get("SnapshotId"):
                volume_type, snapshot = str(ebs.get("VolumeType", "")), str(ebs["SnapshotId"])
                return volume_type, snapshot, bool(ebs.get("Encrypted"))
    raise ValueError("its root device has no snapshot")
