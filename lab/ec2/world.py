"""The lab's images, snapshots, volumes and instances, with one lock over all records."""

import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from moto.ec2.models import ec2_backends

from lab.ec2 import disks
from lab.ec2.bundle_key import Pair
from lab.ec2.errors import EC2Error
from lab.ec2.faults import Faults, Plan
from lab.ec2.history import History
from lab.ec2.iam.decisions import Decisions
from lab.ec2.ledger import Ledger
from lab.ec2.parameters import Parameter
from lab.ec2.recycle_bin import RecycleBin
from lab.ec2.states import Delays, Span, Timeline
from lab.ec2.tokens import Tokens
from lab.ec2.uploads import Upload
from lab.machines import Machines

AMAZON = "137112412989"  # the account that owns Amazon's own Linux images

Tags = dict[str, str]


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(9)[:17]}"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Snapshot:
    """`sealed` snapshots never change again; EBS direct writes into those that are not."""

    id: str
    owner: str
    region: str
    size: int  # GiB
    path: Path
    description: str = ""
    volume_id: str = "vol-ffffffff"  # what EC2 says where no volume is behind
    encrypted: bool = False
    kms_key: str | None = None
    state: str = "pending"
    state_message: str | None = None
    started: datetime = field(default_factory=now)
    completed: datetime | None = None
    span: Span = field(default_factory=lambda: Span(0, 0))
    copying: bool = False
    # Why the copy fails when its time to be complete has come.
    key_problem: str = ""
    sealed: bool = True
    public: bool = False
    users: set[str] = field(default_factory=set)


@dataclass
class Attachment:
    instance_id: str
    device: str
    delete_on_termination: bool
    since: datetime = field(default_factory=now)
    state: str = "attached"


@dataclass
class Volume:
    id: str
    owner: str
    region: str
    zone: str
    size: int  # GiB
    path: Path
    type: str
    iops: int | None = None
    throughput: int | None = None
    snapshot_id: str = ""
    encrypted: bool = False
    kms_key: str | None = None
    state: str = "creating"
    created: datetime = field(default_factory=now)
    attachment: Attachment | None = None
    modification: dict[str, Any] | None = (
        None  # the last one, as DescribeVolumesModifications has it
    )
    # Ends the grant by which EC2 uses the volume's key.
    retire_grant: Callable[[], None] | None = None


@dataclass
class Image:
    """`mappings` are block device mappings as DescribeImages shows them."""

    id: str
    owner: str
    region: str
    name: str
    architecture: str
    virtualization: str
    root_device: str | None
    mappings: list[dict[str, Any]]
    description: str | None = None
    type: str = "machine"
    kernel: str | None = None
    ramdisk: str | None = None
    ena: bool = False
    sriov: str | None = None
    boot_mode: str | None = None
    tpm: str | None = None
    imds: str | None = None
    uefi_data: str | None = None
    location: str | None = None
    # BUCKET/KEY of the manifest of an image whose root disk is no EBS volume.
    manifest: str | None = None
    source_image: str | None = None
    source_region: str | None = None
    source_instance: str | None = None
    state: str = "pending"
    state_reason: str | None = None
    created: datetime = field(default_factory=now)
    deprecated_at: datetime | None = None
    protection: str = "disabled"
    # Until then EC2 does not let it be deregistered, though its protection is disabled.
    cooldown_until: datetime | None = None
    launches: list[datetime] = field(default_factory=list)
    public: bool = False
    users: set[str] = field(default_factory=set)
    organizations: set[str] = field(default_factory=set)
    #: The patterns of the instance types that it is for, and of those that it is not for.
    types: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    watermarks: dict[str, Any] = field(default_factory=dict)

    def snapshot_ids(self) -> list[str]:
        return [m["Ebs"]["SnapshotId"] for m in self.mappings if m.get("Ebs", {}).get("SnapshotId")]

    @property
    def root_device_type(self) -> str:
        """Return `ebs`, or `instance-store` for one whose root disk is in a bundle."""
        return "instance-store" if self.manifest else "ebs"

    def last_launched(self, delay: float) -> datetime | None:
        """Return the last launch that EC2 tells, which it does so many seconds late."""
        told = [launch for launch in self.launches if now() - launch >= timedelta(seconds=delay)]
        return max(told, default=None)

    def visible_to(self, account: str, memberships: Collection[str] = ()) -> bool:
        """Return whether an account may launch it, itself or by its organization or a unit."""
        if self.owner == account:
            return True
        named = account in self.users or not self.organizations.isdisjoint(memberships)
        return self.state != "disabled" and (self.public or named)


@dataclass
class Instance:
    id: str
    reservation: str
    owner: str
    region: str
    zone: str
    image: Image
    type: str
    subnet: str
    vpc: str
    groups: list[str]
    eni: str
    address: str
    public: bool
    index: int
    key_name: str | None
    public_key: str | None
    user_data: bytes
    token: str
    shutdown_behavior: str
    metadata: dict[str, Any]
    profile: dict[str, str] | None
    kernel: str | None
    ramdisk: str | None
    # Why the instance ends when it should run: EC2 cannot use the key of its volume.
    key_problem: str = ""
    protected: bool = False
    stop_protected: bool = False
    # The root disk of an instance that has no root volume.
    root_disk: Path | None = None
    ebs_optimized: bool = False
    monitoring: bool = False
    source_dest_check: bool = True
    tenancy: str = "default"
    spot: bool = False
    state: str = "pending"
    launched: datetime = field(default_factory=now)
    transition: str = ""
    reason: tuple[str, str] | None = None
    # A transition that was overtaken (stopped while pending) must not come true later.
    generation: int = 0
    # Held while the machine is told something, so that it hears things in EC2's order.
    power: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class ImportTask:
    """An import. `snapshot` is None when `failure` says why there is none."""

    id: str
    owner: str
    region: str
    description: str
    disk: dict[str, Any]
    bytes: int
    snapshot: Snapshot | None
    failure: str = ""


@dataclass(frozen=True)
class Quotas:
    public_images: int = 1000
    copies_into_region: int = 20
    #: With how many accounts, organizations and organizational units an image may be shared.
    image_sharing: int = 1000
    #: Where another number of images may be public.
    public_images_in: Mapping[str, int] = field(default_factory=dict)

    def public(self, region: str) -> int:
        """Return how many images of an account may be public in a region."""
        return self.public_images_in.get(region, self.public_images)


@dataclass
class RegionSettings:
    """Account-wide switches of one region."""

    image_block: str = "unblocked"
    snapshot_block: str = "unblocked"


class World:
    """Everything of one EC2. Readers and writers hold `lock`; bytes move outside of it."""

    def __init__(
        self,
        state: Path,
        machines: Machines,
        delays: Delays,
        regions: tuple[str, ...],
        quotas: Quotas,
        plan: Plan,
        partition: str,
    ) -> None:
        self.partition = partition
        self.lock = threading.RLock()
        self.machines = machines
        self.delays = delays
        self.regions = regions
        self.quotas = quotas
        self.faults = Faults(plan)
        self.history = History()
        self.tokens = Tokens()
        self.decisions = Decisions()
        self.images: dict[str, Image] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.volumes: dict[str, Volume] = {}
        self.instances: dict[str, Instance] = {}
        self.deregistered: set[str] = set()
        self.recycle_bin = RecycleBin()
        self.uploads: dict[str, Upload] = {}
        self.imports: dict[str, ImportTask] = {}
        #: By account and region, the parameters of SSM by name.
        self.parameters: dict[tuple[str, str], dict[str, Parameter]] = {}
        #: The ARNs of each account's organization, and of all units above the account.
        self.memberships: dict[str, frozenset[str]] = {}
        self._settings: dict[tuple[str, str], RegionSettings] = {}
        self._volume_files = _empty(state / "volumes")
        self._snapshot_files = _empty(state / "snapshots")
        self._root_disks = _empty(state / "root-disks")
        self.ledger = Ledger(state / "ledger.jsonl")
        self.timeline = Timeline(self.lock)

    @cached_property
    def bundle_key(self) -> Pair:
        """EC2's own key pair; it is made when it is first asked for, which takes a while."""
        with self.lock:
            return Pair()

    def settings(self, account: str, region: str) -> RegionSettings:
        return self._settings.setdefault((account, region), RegionSettings())

    def volume_file(self, volume_id: str) -> Path:
        return self._volume_files / volume_id

    def snapshot_file(self, snapshot_id: str) -> Path:
        return self._snapshot_files / snapshot_id

    def root_disk(self, instance_id: str) -> Path:
        return self._root_disks / instance_id

    def moto(self, account: str, region: str) -> Any:
        """One account's EC2 in one region as moto has it: networks, groups, key pairs, tags."""
        return ec2_backends[account][region]

    def tags(self, account: str, region: str, id: str) -> Tags:
        return dict(self.moto(account, region).tags.get(id, {}))

    def tag(self, account: str, region: str, id: str, tags: Mapping[str, str]) -> None:
        if tags:
            self.moto(account, region).tags[id].update(tags)

    def born(self, kind: str, thing: Any, tags: Mapping[str, str]) -> None:
        """Tag a new thing and write it into the ledger."""
        self.tag(thing.owner, thing.region, thing.id, tags)
        if thing.owner != AMAZON:
            self.ledger.created(kind, thing.id, thing.region, thing.owner, tags)

    def gone(self, kind: str, thing: Any) -> None:
        """Write the end of a thing into the ledger and forget its tags."""
        tags = self.tags(thing.owner, thing.region, thing.id)
        # A public instance is one with a public address, which is nothing to leak.
        public = kind in ("image", "snapshot") and thing.public
        self.ledger.deleted(kind, thing.id, thing.region, thing.owner, tags, public)
        # An instance is described, tags and all, for a while after it is gone.
        if kind != "instance":
            self.moto(thing.owner, thing.region).tags.pop(thing.id, None)

    def remove_volume(self, volume: Volume) -> None:
        self.gone("volume", volume)
        if volume.retire_grant:
            volume.retire_grant()
        del self.volumes[volume.id]
        disks.remove(volume.path)

    def close(self) -> None:
        self.timeline.close()
        self.ledger.close()


@dataclass(frozen=True)
class Call:
    """One request that was understood: who, where, what."""

    world: World
    account: str
    region: str
    action: str
    params: dict[str, Any]
    #: The caller, None for the account's own key; set where its policies count for others' calls.
    who: Any = None

    @property
    def partition(self) -> str:
        return self.world.partition

    @property
    def moto(self) -> Any:
        return self.world.moto(self.account, self.region)

    def image(self, id: str) -> Image:
        """Return the image, if the caller may see it."""
        if not id.startswith("ami-") and not id.startswith("aki-"):
            raise EC2Error("InvalidAMIID.Malformed", f'Invalid id: "{id}" (expecting "ami-...")')
        image = self.world.images.get(id)
        if image is None or image.region != self.region or not self.sees(image):
            raise EC2Error("InvalidAMIID.NotFound", f"The image id '[{id}]' does not exist")
        return image

    def sees(self, image: Image) -> bool:
        """Return whether the caller may launch an image."""
        return image.visible_to(self.account, self.world.memberships.get(self.account, ()))

    def own_image(self, id: str) -> Image:
        image = self.image(id)
        if image.owner != self.account:
            raise EC2Error("AuthFailure", f"Not authorized for image:{id}")
        return image

    def snapshot(self, id: str, region: str | None = None) -> Snapshot:
        """Return the snapshot, if the caller may make volumes of it."""
        if not id.startswith("snap-"):
            raise EC2Error(
                "InvalidSnapshotID.Malformed", f'Invalid id: "{id}" (expecting "snap-...")'
            )
        found = self.world.snapshots.get(id)
        if found is None or found.region != (region or self.region) or not self.may_use(found):
            raise EC2Error("InvalidSnapshot.NotFound", f"The snapshot '{id}' does not exist.")
        return found

    def may_use(self, snapshot: Snapshot) -> bool:
        """Return whether the caller may make volumes of a snapshot, as owner or by permission."""
        if self.account == snapshot.owner or self.account in snapshot.users:
            return True
        # This block makes public snapshots private, and leaves the named accounts theirs.
        block = self.world.settings(snapshot.owner, snapshot.region).snapshot_block
        return snapshot.public and block != "block-all-sharing"

    def own_snapshot(self, id: str) -> Snapshot:
        found = self.snapshot(id)
        if found.owner != self.account:
            raise EC2Error("UnauthorizedOperation", f"You do not own the snapshot '{id}'.")
        return found

    def volume(self, id: str) -> Volume:
        if not id.startswith("vol-"):
            raise EC2Error(
                "InvalidParameterValue",
                f"Value ({id}) for parameter volumeId is invalid. Expected: 'vol-...'.",
            )
        volume = self.world.volumes.get(id)
        if volume is None or volume.region != self.region or volume.owner != self.account:
            raise EC2Error("InvalidVolume.NotFound", f"The volume '{id}' does not exist.")
        return volume

    def instance(self, id: str) -> Instance:
        if not id.startswith("i-"):
            raise EC2Error("InvalidInstanceID.Malformed", f'Invalid id: "{id}" (expecting "i-...")')
        found = self.world.instances.get(id)
        if found is None or found.region != self.region or found.owner != self.account:
            raise EC2Error("InvalidInstanceID.NotFound", f"The instance ID '{id}' does not exist")
        return found

    def tags(self, thing: Any) -> list[dict[str, str]]:
        """Return the tags of a thing as answers show them; another account's tags are not shown."""
        if thing.owner != self.account:
            return []
        tags = self.moto.tags.get(thing.id, {})
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    def tagged(self, thing: Any) -> dict[str, Any]:
        """Return the tags as a Describe shows them: no element where there are none."""
        tags = self.tags(thing)
        return {"Tags": tags} if tags else {}


def _empty(folder: Path) -> Path:
    """Empty the folder of an earlier run's files, and return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
