"""The whole promise on machines that boot: what becomes public has booted from exactly those bytes.

A site's instances are virtual machines here, emulated in CI: each wants the best part of a minute
of a processor until it lets somebody in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.broken import BREAKS, Breaker, damage
from lab.ec2 import disks
from lab.ec2.states import Delays
from lab.image import Image
from tests.system.builds import NAME, said
from tests.system.deployment import Deployment, deployed

# The first to want the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

#: The job of a sound image, whose bytes are damaged in EC2 when they have been written.
DAMAGED_LATER = "damaged-when-written"
#: A machine that does not let anybody in is given up after so many seconds: all boot at once, and
#: the slowest has to have come to its login prompt by then.
SSH_READY = 900
PATIENCE = 3000

#: Every way to be broken → what tells a person that it was this one, and what the console's tail
#: shows.
EXPECTED = {
    "no-boot-loader": ("no boot loader started", "Booting from Hard Disk"),
    "kernel-panic": ("its kernel found no init that it can run", "Kernel panic - not syncing"),
    "no-network": ("network", "wait-online|unreachable|ci-info"),
    # A machine that starved prints so many lines of waiting that its prompt is not at the end.
    "sshd-dead": ("its SSH server did not start", r"login:|Failed to start ssh"),
    "cloud-init-fails": ("cloud-init failed on it", "Traceback"),
    "failed-unit": ("failed checks on the test instance: units", r"login:|failed: broken\.service"),
    "damaged": ("the file system on its disk is damaged", "EXT4-fs error"),
    DAMAGED_LATER: ("the file system on its disk is damaged", "EXT4-fs error"),
}


def checked(settings: str) -> str:
    """With a check of the site's own besides fedimg's."""
    check = {"name": "kernel", "command": "uname -r", "output": "-cloud-", "types": ["hvm"]}
    lines = [f"{key} = {json.dumps(value)}" for key, value in check.items()]
    return "\n".join([settings, "[[checks]]", *lines, ""])


def test_what_becomes_public_has_booted_from_these_bytes(
    tmp_path: Path, cloud_image: Image
) -> None:
    regions = {"us-east-1": 4, "us-east-2": 2}
    with deployed(
        tmp_path / "site", configure=checked, patience=PATIENCE, regions=list(regions), vm=True
    ) as deployment:
        announce(deployment, "1", named(cloud_image.packed, tmp_path, "1"))
        (job,) = deployment.ended()
        assert (job["state"], job["error"]) == ("complete", None)
        deployment.nothing_but_published(regions)

        (snapshot,) = snapshots(deployment, "us-east-1")
        assert same_bytes(snapshot, cloud_image.raw)

        amis = deployment.fedimg("amis")
        deployment.heard.wait_for("image.publish", 60, count=len(amis))
        passed = [m for m in said(deployment, "image.test") if m["status"] == "completed"]
        assert {m["extra"]["virt_type"] for m in passed} == {"hvm", "paravirtual"}
        for message in passed:
            checks = {check["name"] for check in message["extra"]["checks"]}
            assert {"login", "units", "cloud-init", "root-size", "reboot"} <= checks
            assert ("kernel" in checks) == (message["extra"]["virt_type"] == "hvm")
            assert message["extra"]["id"] in {ami["ami"] for ami in amis}
        published = {message["extra"]["id"] for message in said(deployment, "image.publish")}
        assert published == {ami["ami"] for ami in amis}


@dataclass(frozen=True)
class Ended:
    """How the jobs of all broken images ended, by how they are broken."""

    deployment: Deployment
    jobs: Mapping[str, Any]

    def messages(self, topic: str, kind: str) -> list[dict[str, Any]]:
        return [m for m in said(self.deployment, topic) if m["image_name"] == stem(kind)]


def quickly(settings: str) -> str:
    """Written without an instance, one AMI an image, and all images at once."""
    settings = re.sub(r"ssh_ready = \d+", f"ssh_ready = {SSH_READY}", settings)
    settings = settings.replace("[ec2.limits]\n", f"[ec2.limits]\njobs = {len(EXPECTED)}\n")
    settings = settings.replace("[ec2]\n", '[ec2]\nwrite_via = "direct"\nzero_blocks = "skip"\n')
    return f'{settings}\n[ec2.amis]\ntypes = ["hvm-gp2"]\n'


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, cloud_image: Image) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("broken")
    with deployed(
        folder / "site",
        configure=quickly,
        patience=PATIENCE,
        regions=["us-east-1", "us-east-2"],
        # Between snapshot and boot there is time to damage one.
        delays=Delays(image=20),
        vm=True,
    ) as deployment:
        breaker = Breaker(cloud_image)
        made = {kind: breaker.make(kind, folder) for kind in BREAKS}
        for kind, packed in {**made, DAMAGED_LATER: cloud_image.packed}.items():
            announce(deployment, kind, named(packed, folder, kind))
        deployment.until(lambda: damage_written(deployment), "the snapshot to be damaged")
        jobs = {job["image"]: job for job in deployment.ended(len(EXPECTED))}
        # What was said of them is on its way until the outbox is empty.
        deployment.heard.wait_for("image.upload", 60, count=len(EXPECTED) * 3)
        yield Ended(deployment, {kind: jobs[stem(kind)] for kind in EXPECTED})


@pytest.mark.parametrize("kind", EXPECTED)
def test_broken_image_is_told_and_never_public(ended: Ended, kind: str) -> None:
    words, shown = EXPECTED[kind]
    job = ended.jobs[kind]
    assert job["state"] == "failed"
    # Only EC2TestException comes from there.
    assert "boot-check:hvm" in job["error"]
    assert words in job["error"]
    tests = ended.messages("image.test", kind)
    assert [message["status"] for message in tests] == ["started", "failed"]
    assert re.search(shown, tests[1]["extra"]["data"])
    assert ended.messages("image.publish", kind) == []


def test_broken_images_leave_nothing(ended: Ended) -> None:
    assert ended.deployment.live() == []
    assert ended.deployment.fedimg("amis") == []
    assert said(ended.deployment, "image.publish") == []


def stem(release: str) -> str:
    return f"{NAME}-43-{release}.x86_64"


def named(packed: Path, folder: Path, release: str) -> Path:
    """Return the file under the name that Koji would give it."""
    link = folder / f"{stem(release)}.raw.xz"
    link.symlink_to(packed)
    return link


def announce(deployment: Deployment, release: str, file: Path) -> None:
    koji = deployment.site.koji
    build = koji.add_build(NAME, "43", release, {"x86_64": [file]})
    deployment.site.bus.publish("build.state.change", koji.build_message(build.id))


def snapshots(deployment: Deployment, region: str, image: str = "") -> list[Path]:
    """Return the files of a region's completed snapshots, as the lab's EC2 keeps them."""
    return [
        path
        for row in deployment.live()
        if (row["kind"], row["region"], row.get("state")) == ("snapshot", region, "completed")
        and image in row["tags"].get("fedimg:image", "")
        for path in (deployment.site.state / "ec2").rglob(row["id"])
    ]


def damage_written(deployment: Deployment) -> bool | None:
    """Damage the one snapshot as soon as it is whole; None when it is not there yet."""
    found = snapshots(deployment, "us-east-1", stem(DAMAGED_LATER))
    for path in found:
        damage(path)
    return True if found else None


def same_bytes(snapshot: Path, raw: Path) -> bool:
    """Whether a snapshot begins with an image, and holds nothing behind it."""
    with snapshot.open("rb") as written, raw.open("rb") as built:
        while block := built.read(1 << 20):
            if written.read(len(block)) != block:
                return False
    size = raw.stat().st_size
    return all(end <= size for _, end in disks.extents(snapshot))
