"""The whole promise on machines that boot: what becomes public has booted from exactly those bytes.

A site's instances are virtual machines here, emulated in CI: each wants the best part of a minute
of a processor until it lets somebody in.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.ec2 import disks
from lab.image import Image
from tests.system.builds import said
from tests.system.deployment import deployed
from tests.system.machine_builds import PATIENCE, announce, named, snapshots

# The first to want the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]


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
        deployment.heard.wait_for("image.publish", 240, count=len(amis))
        passed = [m for m in said(deployment, "image.test") if m["status"] == "completed"]
        assert {m["extra"]["virt_type"] for m in passed} == {"hvm", "paravirtual"}
        for message in passed:
            checks = {check["name"] for check in message["extra"]["checks"]}
            assert {"login", "units", "cloud-init", "root-size", "reboot"} <= checks
            assert ("kernel" in checks) == (message["extra"]["virt_type"] == "hvm")
            assert message["extra"]["id"] in {ami["ami"] for ami in amis}
        published = {message["extra"]["id"] for message in said(deployment, "image.publish")}
        assert published == {ami["ami"] for ami in amis}


def same_bytes(snapshot: Path, raw: Path) -> bool:
    """Return whether a snapshot begins with an image, and holds nothing behind it."""
    with snapshot.open("rb") as written, raw.open("rb") as built:
        while block := built.read(1 << 20):
            if written.read(len(block)) != block:
                return False
    size = raw.stat().st_size
    return all(end <= size for _, end in disks.extents(snapshot))
