"""Broken cloud images on a whole site, whose instances are virtual machines that boot them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.broken import BREAKS, Breaker, damage
from lab.ec2.states import Delays
from lab.image import Image
from tests.system.builds import said
from tests.system.deployment import Deployment, deployed
from tests.system.machine_builds import PATIENCE, announce, named, snapshots, stem

#: The job of a sound image, whose bytes are damaged in EC2 when they have been written.
DAMAGED_LATER = "damaged-when-written"
#: The image that comes up once, passes its checks, and does not come back from a reboot.
SECOND_BOOT = "second-boot"

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
    SECOND_BOOT: ("it ended in emergency mode", r"\[network: exit status 0, passed\]"),
    "damaged": ("the file system on its disk is damaged", "EXT4-fs error"),
    DAMAGED_LATER: ("the file system on its disk is damaged", "EXT4-fs error"),
}


@dataclass(frozen=True)
class Ended:
    """The ends of the jobs of broken images, by how they are broken."""

    deployment: Deployment
    jobs: Mapping[str, Any]

    def messages(self, topic: str, kind: str) -> list[dict[str, Any]]:
        """Return what was published under a topic for the image that is broken in this way."""
        return [m for m in said(self.deployment, topic) if m["image_name"] == stem(kind)]


@contextmanager
def published(
    folder: Path, image: Image, kinds: Collection[str], *, ssh_ready: int
) -> Iterator[Ended]:
    """Yield a site that was told of `image` broken in each way, when all its jobs have ended.

    A machine that lets nobody in is given up after `ssh_ready` seconds: all boot at once, and the
    slowest has to have come to its login prompt by then.
    """

    def quickly(settings: str) -> str:
        """Write without an instance, one AMI an image, and all images at once."""
        settings = re.sub(r"ssh_ready = \d+", f"ssh_ready = {ssh_ready}", settings)
        settings = settings.replace("[ec2.limits]\n", f"[ec2.limits]\njobs = {len(kinds)}\n")
        settings = settings.replace(
            "[ec2]\n", '[ec2]\nwrite_via = "direct"\nzero_blocks = "skip"\n'
        )
        return f'{settings}\n[ec2.amis]\ntypes = ["hvm-gp2"]\n'

    with deployed(
        folder / "site",
        configure=quickly,
        patience=PATIENCE,
        regions=["us-east-1", "us-east-2"],
        # Between snapshot and boot there is time to damage one.
        delays=Delays(image=20 if DAMAGED_LATER in kinds else 1),
        vm=True,
    ) as deployment:
        breaker = Breaker(image)
        made = {kind: breaker.make(kind, folder) for kind in BREAKS if kind in kinds}
        later = {DAMAGED_LATER: image.packed} if DAMAGED_LATER in kinds else {}
        for kind, packed in {**made, **later}.items():
            announce(deployment, kind, named(packed, folder, kind))
        if later:
            deployment.until(lambda: _damage_written(deployment), "the snapshot to be damaged")
        jobs = {job["image"]: job for job in deployment.ended(len(kinds))}
        # What was said of them is on its way until the outbox is empty.
        deployment.heard.wait_for("image.upload", 240, count=len(kinds) * 3)
        yield Ended(deployment, {kind: jobs[stem(kind)] for kind in kinds})


def is_told_and_never_public(ended: Ended, kind: str) -> None:
    """Assert that the job failed, a person is told why, and no message says it is public."""
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


def leave_nothing(ended: Ended) -> None:
    """Assert that the account, and the AMIs that fedimg knows, hold nothing of failed jobs."""
    assert ended.deployment.live() == []
    assert ended.deployment.fedimg("amis") == []
    assert said(ended.deployment, "image.publish") == []


def _damage_written(deployment: Deployment) -> bool | None:
    """Damage the one snapshot as soon as it is whole; None when it is not there yet."""
    found = snapshots(deployment, "us-east-1", stem(DAMAGED_LATER))
    for path in found:
        damage(path)
    return True if found else None
