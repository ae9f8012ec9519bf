"""A site with public AMIs: real snapshots and AMIs of the lab's EC2, and their record."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedimg.aws import ami_options, amis, publish, share, snapshots, tags
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.aws.write.blocks import BLOCK, Blocks
from fedimg.cli.commands import app
from fedimg.config import EC2 as EC2Settings
from fedimg.config import AMIs, Settings
from fedimg.images import AMI, AMIType, Architecture, Disk, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.progress import CheckResult, CheckState
from fedimg.store.rows import AMIRow
from fedimg.store.store import Store
from fedimg.values.audience import Audience
from tests.aws.conftest import (  # noqa: F401 (fixtures)
    FURTHER,
    LIMITS,
    ORIGIN,
    Account,
    account,
    clients,
    ec2,
    hands,
    waiter,
)
from tests.hands import Hands

Run = Callable[..., Result]

REGIONS = (ORIGIN, FURTHER)
TYPES = tuple(AMIType(Virtualization.HVM, each) for each in ("gp2", "gp3"))
#: A disk that does not fill its last block, with a block of zeros inside.
RAW = random.Random(1).randbytes(BLOCK) + bytes(BLOCK) + random.Random(2).randbytes(1000)
DISK = Disk(hashlib.sha256(RAW).hexdigest(), len(RAW))

_numbers = itertools.count(1)


@dataclass
class Site:
    """A site whose AMIs are public, and its store."""

    store: Store
    queue: JobQueue
    clients: Clients
    hands: Hands
    account: Account
    waiter: Waiter
    settings: Settings
    regions: Sequence[str] = REGIONS
    images: list[RawImage] = field(default_factory=list)

    def image(self, name: str = "") -> RawImage:
        number = next(_numbers)
        name = name or f"Fedora-Cloud-Base-43-{number}.x86_64"
        return RawImage(
            f"https://koji.example.org/{name}.raw.xz",
            Architecture.X86_64,
            f"Fedora-Cloud-Base-43-{number}",
            f"build-{number}",
            1000 + number,
            f"sha256:{number:064x}",
        )

    def publish(
        self,
        image: RawImage | None = None,
        *,
        regions: Sequence[str] = (),
        types: Sequence[AMIType] = TYPES,
        audience: Audience | None = None,
    ) -> RawImage:
        """Make public AMIs of an image in the regions, and record them as a job does.

        With an `audience` they are private, and shared with it.
        """
        image = image or self.image()
        assert self.queue.submit(image)
        recorder = Recorder(self.store, image, 1, ORIGIN)
        self.store.begin(image.job, 1)
        recorder.written(DISK)
        originals: list[AMI] = []
        for region in regions or self.regions:
            registered = self.register(image, region, types)
            if region == ORIGIN:
                originals = registered
            for number, ami in enumerate(registered):
                if region == ORIGIN:
                    recorder.registered(ami)
                    check = CheckResult("boots", CheckState.PASSED, 1.0)
                    recorder.test_completed(ami, [check])
                else:
                    recorder.copied(ami, originals[number])
            facts = tags.facts(image, DISK, ORIGIN)
            client = self.clients.ec2(region)
            snapshot = registered[0].snapshot
            if audience is None:
                publish.publish_all(client, self.waiter, snapshot, registered, recorder, facts)
            else:
                share.share_all(
                    client, self.waiter, snapshot, registered, audience, recorder, facts
                )
        self.store.finish(image.job, 1, queue=lambda *_: None)
        self.store.end(image.job, 1, "complete", None)
        self.images.append(image)
        return image

    def register(self, image: RawImage, region: str, types: Sequence[AMIType] = TYPES) -> list[AMI]:
        """Register private AMIs of RAW, without any record."""
        client, labels = self.clients.ec2(region), Labels.of(self.settings.site, image)
        ebs = self.clients.client("ebs", region)
        snapshot = ebs.start_snapshot(VolumeSize=1, Tags=labels.tags(snapshots.ROLE))["SnapshotId"]
        blocks = Blocks(ebs, snapshot, skip_zeros=True)
        for index in range(-(-len(RAW) // BLOCK)):
            block = RAW[index * BLOCK : (index + 1) * BLOCK].ljust(BLOCK, b"\0")
            blocks.put(self.waiter, index, block)
        blocks.complete(self.waiter)
        snapshots.completed(client, self.waiter, snapshot, limit=10)
        basis = amis.Basis(image, region, snapshot, None, self.settings.ec2.amis)
        registered = amis.register_all(client, self.waiter, labels, types, basis)
        ready = amis.available(client, self.waiter, registered, limit=10, partition="aws")
        ami_options.specify(client, self.waiter, ready)
        return ready

    def set_amis(self, **changes: Any) -> None:
        """Change the site's settings of AMIs."""
        changed = self.settings.ec2.model_copy(update={"amis": AMIs(**changes)})
        self.settings = self.settings.model_copy(update={"ec2": changed})

    def rows(self, image: RawImage | None = None) -> list[AMIRow]:
        return [row for row in self.store.amis() if image is None or row.job == image.job]

    def row(self, image: RawImage, region: str = ORIGIN) -> AMIRow:
        """Return the first AMI of an image in a region."""
        return next(row for row in self.rows(image) if row.region == region)

    def ec2(self, region: str = ORIGIN) -> Any:
        """Return a client whose calls are those of a person."""
        return self.hands.ec2(region)

    def shown(self, row: AMIRow) -> dict[str, Any]:
        (image,) = self.ec2(row.region).describe_images(ImageIds=[row.ami])["Images"]
        return dict(image)

    def snapshot_is_public(self, region: str, snapshot: str) -> bool:
        shown = self.ec2(region).describe_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission"
        )
        return {"Group": "all"} in shown["CreateVolumePermissions"]

    def hide(self, row: AMIRow) -> None:
        """Make an AMI private, as a person does."""
        self.ec2(row.region).reset_image_attribute(ImageId=row.ami, Attribute="launchPermission")


@pytest.fixture
def site(
    store: Store,
    clients: Clients,  # noqa: F811
    hands: Hands,  # noqa: F811
    account: Account,  # noqa: F811
    waiter: Waiter,  # noqa: F811
) -> Iterator[Site]:
    settings = Settings(
        site=f"life-{next(_numbers)}",
        ec2=EC2Settings(
            origin=ORIGIN, regions=list(REGIONS), limits=LIMITS.model_dump(by_alias=True)
        ),
    )
    with closing(JobQueue(store)) as queue:
        yield Site(store, queue, clients, hands, account, waiter, settings)


@pytest.fixture
def run(site: Site, tmp_path: Path) -> Run:
    """Return the command line of fedimg on this site's database."""
    config = tmp_path / "fedimg.toml"
    config.write_text(
        f'site = "{site.settings.site}"\nstate_directory = "state"\n'
        f'[ec2]\norigin = "{ORIGIN}"\nregions = ["{ORIGIN}", "{FURTHER}"]\n'
    )

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(config), *arguments])

    return command
