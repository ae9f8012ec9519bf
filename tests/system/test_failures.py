"""Failures end with the right message, nothing public that should not be, and nothing left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.plans import follow, refusing
from tests.system.builds import IMAGE, NAME, RELEASE, VERSION, said
from tests.system.deployment import AMIS, Deployment, deployed, impatient


@pytest.fixture(scope="module")
def barren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Run one site for all whose job fails, and leaves an empty account for the next one."""
    with deployed(tmp_path_factory.mktemp("barren") / "site", configure=impatient) as running:
        yield running


#: A release for each build, by which its image and its messages are known.
_releases = itertools.count(1)


@dataclass(frozen=True)
class Announced:
    """A job that has ended, and the name of its image."""

    image: str
    row: dict[str, Any]

    def said(self, deployment: Deployment, topic: str, count: int = 0) -> list[dict[str, Any]]:
        """Return the bodies of a topic's messages about the image, as soon as there are `count`."""

        def heard() -> list[dict[str, Any]]:
            return [one for one in said(deployment, topic) if one["image_name"] == self.image]

        deployment.until(lambda: len(heard()) >= count, f"{count} of {topic}")
        return heard()


def announce(
    deployment: Deployment,
    damage: Callable[[Path], None] = lambda file: None,
    *,
    served: Callable[[Path], None] = lambda file: None,
    **image: Any,
) -> Announced:
    """Announce a build of such an image, wait for the end of its job, and return the job.

    `damage` changes the file before Koji takes its checksum, and `served` what Koji serves.
    """
    koji, release = deployment.site.koji, str(next(_releases))
    name = f"{NAME}-{VERSION}-{release}.x86_64"
    before = len(deployment.jobs())
    file = deployment.image(name, **image)
    damage(file)
    build = koji.add_build(NAME, VERSION, release, {"x86_64": [file]})
    (path,) = koji.root.rglob(f"{name}.raw.xz")
    served(path)
    deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
    (row,) = (r for r in deployment.ended(before + 1) if r["image"] == name)
    return Announced(name, row)


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
    barren: Deployment, damage: Callable[[Path], None], words: str
) -> None:
    job = announce(barren, damage)
    assert job.row["state"] == "failed"
    assert words in job.row["error"]
    assert barren.live() == []
    assert barren.fedimg("amis") == []
    started, failed = job.said(barren, "image.upload", 2)
    assert (started["status"], failed["status"]) == ("started", "failed")
    assert words in failed["extra"]["data"]
    assert job.said(barren, "image.publish") == []


def test_file_with_another_checksum_is_refused(barren: Deployment) -> None:
    def exchange(served: Path) -> None:
        size = served.stat().st_size
        # A sound image of the same size, by the padding that .xz allows: the checksum alone tells.
        other = barren.image("other", random_mib=0).read_bytes()
        served.chmod(0o644)
        served.write_bytes(other.ljust(size, b"\0"))

    job = announce(barren, served=exchange)
    assert job.row["state"] == "failed"
    assert "checksum" in job.row["error"]
    assert barren.live() == []


def test_image_that_does_not_boot_is_never_public(barren: Deployment) -> None:
    job = announce(barren, boot_code=False, menu_lst=False)
    assert job.row["state"] == "failed"
    assert "hvm" in job.row["error"]
    assert barren.live() == []
    tested = job.said(barren, "image.test", 2)
    failed = {
        message["extra"]["virt_type"]: message["extra"]["data"]
        for message in tested
        if message["status"] == "failed"
    }
    assert "not a bootable disk" in failed["hvm"]
    assert job.said(barren, "image.publish") == []


def test_image_that_boots_as_hvm_alone_becomes_hvm_amis_alone(tmp_path: Path) -> None:
    with deployed(tmp_path / "site", configure=impatient) as deployment:
        job = announce(deployment, menu_lst=False)
        assert job.row["state"] == "complete"
        deployment.nothing_but_published(dict.fromkeys(AMIS, 2))
        assert {ami["virt_type"] for ami in deployment.fedimg("amis")} == {"hvm"}
        deployment.heard.wait_for("image.publish", 240, count=6)
        tested = job.said(deployment, "image.test")
    verdicts = {(message["extra"]["virt_type"], message["status"]) for message in tested}
    assert ("paravirtual", "failed") in verdicts
    assert ("hvm", "completed") in verdicts


def test_region_that_refuses_copies_leaves_the_others_published(deployment: Deployment) -> None:
    refuse(deployment, {"eu-west-1": {"CopySnapshot": "UnauthorizedOperation"}})
    job = announce(deployment).row
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
    deployment.heard.wait_for("image.publish", 240, count=sum(AMIS.values()))
    time.sleep(1)
    assert len(said(deployment, "image.publish")) == sum(AMIS.values())


def test_cancelled_job_leaves_nothing(deployment: Deployment) -> None:
    koji = deployment.site.koji
    # Its writing takes longer than the command that cancels it.
    image = deployment.image(IMAGE, size_mib=256, random_mib=32)
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
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
