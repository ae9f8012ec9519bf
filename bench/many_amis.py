"""The AMIs of a large site: in the lab's EC2, and in fedimg's database, without their making.

To publish them would take days; here both get the same rows. `python -m bench.many_amis FOLDER
JSON` runs such an EC2 in a process of its own, so that its work is not counted as fedimg's; the
JSON holds `images` and `regions`.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.site_process import READY, regions
from fedimg.aws import tags
from fedimg.images import Architecture, Attributes, Disk, RawImage
from fedimg.records import as_record
from fedimg.store import tables
from fedimg.store.rows import AMIRow, image_columns
from fedimg.store.store import Store
from lab.ec2 import query
from lab.ec2.server import EC2, Settings
from lab.ec2.world import Image, Quotas, Snapshot
from lab.machines.process import ProcessMachines
from lab.running import SITE_FILE

SITE = "bench"
TYPES = (("hvm", "gp2"), ("hvm", "gp3"), ("hvm", "standard"), ("paravirtual", "standard"))
_DISK = Disk("0" * 64, 2**30)
_PUBLISHED = datetime.now(UTC).replace(microsecond=0)
_ROWS_AT_ONCE = 2000


def image(number: int) -> RawImage:
    """Return one of the site's images."""
    name = f"Fedora-Cloud-Base-43-{number}.x86_64"
    url = (
        f"https://kojipkgs.example.org/packages/Fedora-Cloud-Base/43/{number}/images/{name}.raw.xz"
    )
    return RawImage(
        url,
        Architecture.X86_64,
        f"Fedora-Cloud-Base-43-{number}",
        f"build-{number}",
        300_000_000 + number,
        f"sha256:{number:064x}",
    )


def rows(number: int, names: list[str]) -> Iterator[AMIRow]:
    """Yield the AMIs of an image as fedimg records them, in all regions and of all types."""
    raw = image(number)
    for place, region in enumerate(names):
        for kind, (virtualization, volume) in enumerate(TYPES):
            yield AMIRow(
                image=raw.name,
                job=raw.job,
                region=region,
                ami=f"ami-{number:08x}{place:04x}{kind:05x}",
                name=f"{raw.name}-{virtualization}-{region}-{volume}-0",
                architecture=str(raw.architecture),
                virt_type=virtualization,
                volume_type=volume,
                snapshot=f"snap-{number:08x}{place:09x}",
                public=True,
                source=raw.source,
                build=raw.build,
                checksum=raw.checksum,
                disk_sha256=_DISK.sha256,
                disk_length=_DISK.length,
                state="public",
                published_at=_PUBLISHED.timestamp(),
                attributes=as_record(Attributes("aws", query.account_of(""))),
            )


def record(store: Store, images: int, names: list[str], first: int = 0) -> None:
    """Record the jobs and AMIs, as their jobs have, of images with the numbers from `first` on."""
    now = time.time()
    amis: list[dict[str, Any]] = []
    jobs, checks = [], []
    for number in range(first, first + images):
        raw = image(number)
        jobs.append(
            {
                "job": raw.job,
                "image": raw.name,
                **image_columns(raw),
                "run": 1,
                "tries": 1,
                "state": "complete",
                "step": "complete",
                "created": now,
                "updated": now,
            }
        )
        its = list(rows(number, names))
        amis += [vars(row) for row in its]
        checks += [
            {
                "job": raw.job,
                "region": row.region,
                "virt_type": row.virt_type,
                "volume_type": row.volume_type,
                "ami": row.ami,
                "status": "completed",
                "checks": [],
                "output": "",
                "updated": now,
            }
            for row in its[: len(TYPES)]
        ]
    with store.engine.begin() as connection:
        for table, values in ((tables.jobs, jobs), (tables.amis, amis), (tables.tests, checks)):
            for start in range(0, len(values), _ROWS_AT_ONCE):
                connection.execute(sa.insert(table), values[start : start + _ROWS_AT_ONCE])


def fill(ec2: EC2, images: int, names: list[str]) -> None:
    """Give an EC2 the AMIs and their snapshots, public and tagged, as fedimg's jobs leave them."""
    world, account = ec2._world, query.account_of("")
    for number in range(images):
        raw = image(number)
        facts = tags.facts(raw, _DISK, names[0]) | {tags.PUBLISHED: _PUBLISHED.isoformat()}
        own = {tags.SITE: SITE, tags.JOB: raw.job, tags.IMAGE: raw.name} | facts
        for row in rows(number, names):
            root = "/dev/sda1" if row.virt_type == "hvm" else "/dev/sda"
            ebs = {
                "DeleteOnTermination": True,
                "SnapshotId": row.snapshot,
                "VolumeSize": 5,
                "VolumeType": row.volume_type,
                "Encrypted": False,
            }
            world.images[row.ami] = Image(
                id=row.ami,
                owner=account,
                region=row.region,
                name=row.name,
                architecture=row.architecture,
                virtualization=row.virt_type,
                root_device=root,
                mappings=[{"DeviceName": root, "Ebs": ebs}],
                description=f"{raw.build} {raw.checksum} {raw.url}"[:255],
                state="available",
                public=True,
            )
            named = {tags.ROLE: "ami", "Name": row.name}
            world.tag(account, row.region, row.ami, own | named)
            if row.snapshot not in world.snapshots:
                world.snapshots[row.snapshot] = Snapshot(
                    row.snapshot,
                    account,
                    row.region,
                    5,
                    Path("/dev/null"),
                    state="completed",
                    public=True,
                )
                named = {tags.ROLE: "snapshot", "Name": raw.name}
                world.tag(account, row.region, row.snapshot, own | named)


def main() -> None:
    """Run the EC2 until its maker ends."""
    folder, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    names = regions(told["regions"])
    settings = Settings(
        state=folder / "ec2",
        regions=tuple(names),
        quotas=Quotas(public_images=len(TYPES) * told["images"] + 1),
    )
    with EC2(settings, ProcessMachines(folder / "machines")) as ec2:
        fill(ec2, told["images"], names)
        site = {
            "ec2": ec2.url,
            "control_token": ec2.token,
            "account_key": [ec2.key.id, ec2.key.secret],
            "regions": names,
        }
        (folder / SITE_FILE).write_text(json.dumps(site))
        print(READY, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
