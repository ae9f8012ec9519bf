"""Failures end with the right message, nothing public that should not be, and nothing left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plans import follow, refusing
from tests.system.builds import IMAGE, NAME, RELEASE, VERSION, said
from tests.system.deployment import AMIS, Deployment


def announce(deployment: Deployment, file: Path, **attributes: Any) -> dict[str, Any]:
    """Announce a build of this file, and wait for the end of its job."""
    koji = deployment.site.koji
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [file]}, **attributes)
    deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
    (job,) = deployment.ended()
    return job


def refuse(deployment: Deployment, refused: dict[str, dict[str, str]]) -> None:
    follow(deployment.site.ec2, refusing(refused))


def corrupt(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4096])


def not_xz(file: Path) -> None:
    file.write_bytes(b"<html>not found</html>" * 1000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(corrupt, "decompression"), (truncate, "not a complete .xz"), (not_xz, "not an .xz")],
)
def test_damaged_image_fails_the_job(
    deployment: Deployment, damage: Callable[[Path], None], words: str
) -> None:
    file = deployment.image(IMAGE)
    damage(file)
    job = announce(deployment, file)
    assert job["state"] == "failed"
    assert words in job["error"]
    assert deployment.live() == []
    assert deployment.fedimg("amis") == []
    deployment.heard.wait_for("image.upload", 30, count=2)
    started, failed = said(deployment, "image.upload")
    assert (started["status"], failed["status"]) == ("started", "failed")
    assert words in failed["extra"]["data"]
    assert said(deployment, "image.publish") == []


def test_file_with_another_checksum_is_refused(deployment: Deployment) -> None:
    koji = deployment.site.koji
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [deployment.image(IMAGE)]})
    (served,) = koji.root.rglob(f"{IMAGE}.raw.xz")
    size = served.stat().st_size
    # A sound image of the same size, by the padding that .xz allows: the checksum alone tells.
    other = deployment.image(f"{IMAGE}.other", random_mib=7).read_bytes()
    served.chmod(0o644)
    served.write_bytes(other.ljust(size, b"\0"))
    deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
    (job,) = deployment.ended()
    assert job["state"] == "failed"
    assert "checksum" in job["error"]
    assert deployment.live() == []


def test_image_that_does_not_boot_is_never_public(deployment: Deployment) -> None:
    job = announce(deployment, deployment.image(IMAGE, boot_code=False, menu_lst=False))
    assert job["state"] == "failed"
    assert "hvm" in job["error"]
    assert deployment.live() == []
    deployment.heard.wait_for("image.test", 30, count=2)
    failed = {
        message["extra"]["virt_type"]: message["extra"]["data"]
        for message in said(deployment, "image.test")
        if message["status"] == "failed"
    }
    assert "not a bootable disk" in failed["hvm"]
    assert said(deployment, "image.publish") == []


def test_image_that_boots_as_hvm_alone_becomes_hvm_amis_alone(deployment: Deployment) -> None:
    job = announce(deployment, deployment.image(IMAGE, menu_lst=False))
    assert job["state"] == "complete"
    deployment.nothing_but_published(dict.fromkeys(AMIS, 2))
    assert {ami["virt_type"] for ami in deployment.fedimg("amis")} == {"hvm"}
    deployment.heard.wait_for("image.publish", 30, count=6)
    verdicts = {(m["extra"]["virt_type"], m["status"]) for m in said(deployment, "image.test")}
    assert ("paravirtual", "failed") in verdicts
    assert ("hvm", "completed") in verdicts


def test_region_that_refuses_copies_leaves_the_others_published(deployment: Deployment) -> None:
    refuse(deployment, {"eu-west-1": {"CopySnapshot": "UnauthorizedOperation"}})
    job = announce(deployment, deployment.image(IMAGE))
    assert job["state"] == "incomplete"
    assert "eu-west-1" in job["error"]
    assert "UnauthorizedOperation" in job["error"]
    others = {region: count for region, count in AMIS.items() if region != "eu-west-1"}
    deployment.nothing_but_published(others)
    before = {ami["ami"] for ami in deployment.fedimg("amis")}

    refuse(deployment, {})
    deployment.fedimg("retry", job["job"])
    (job,) = deployment.ended()
    assert (job["state"], job["error"]) == ("complete", None)
    deployment.nothing_but_published(AMIS)
    assert before < {ami["ami"] for ami in deployment.fedimg("amis")}
    deployment.heard.wait_for("image.publish", 30, count=sum(AMIS.values()))
    time.sleep(1)
    assert len(said(deployment, "image.publish")) == sum(AMIS.values())


def test_cancelled_job_leaves_nothing(deployment: Deployment) -> None:
    koji = deployment.site.koji
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [deployment.image(IMAGE)]})
    deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
    deployment.until(
        lambda: any(row["kind"] == "instance" for row in deployment.live()) or None,
        "an instance running",
    )
    (job,) = deployment.jobs()
    deployment.fedimg("cancel", job.job)
    deployment.until(lambda: deployment.live() == [] or None, "everything removed")
    (job,) = deployment.ended()
    assert job["state"] == "cancelled"

    deployment.fedimg("retry", job["job"])
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    deployment.nothing_but_published(AMIS)
