"""Images in the shapes that Fedora's have, through the whole process on machines that boot them.

Each shape is built once, which takes minutes, and boots twice: `make shapes-test`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.disk import DiskNotMade
from lab.image import Image
from lab.machines import qemu
from lab.machines.programs import MissingProgram
from lab.shapes import SHAPES
from lab.shapes import build as shapes
from tests.system.builds import NAME
from tests.system.deployment import Deployment, deployed
from tests.system.machine_builds import PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.shape, pytest.mark.timeout(5400)]

#: The longest wait for a login, in seconds: an emulated machine with others beside it.
SSH_READY = 1500
REGIONS = ("us-east-1", "us-east-2")


@dataclass(frozen=True)
class Case:
    """A shape, the boot mode of its AMIs, and the checks that do not pass with their states.

    `words` are a failed job's error; without any, the image becomes public.
    """

    shape: str
    boot_mode: str = "default"
    states: dict[str, str] = field(default_factory=lambda: {"selinux": "skipped"})
    words: str = ""


CASES = {
    "arm64": Case("arm64"),
    "fedora-bios": Case("fedora"),
    "fedora-uefi": Case("fedora", "uefi"),
    "xfs": Case("xfs"),
    "uefi-only-on-bios": Case("uefi-only", words="check ec2.amis.boot_mode"),
    "bios-only-on-uefi": Case("bios-only", "uefi", words="check ec2.amis.boot_mode"),
}
CHECKS = (
    "login",
    "units",
    "cloud-init",
    "root-size",
    "pristine",
    "network",
    "clock",
    "selinux",
    "cloud-init made the user",
    "reboot",
)


@pytest.mark.parametrize("name", CASES)
def test_shape_goes_through_the_whole_process(
    name: str, tmp_path: Path, cloud_image: Image
) -> None:
    case = CASES[name]
    shape = SHAPES[case.shape]
    try:
        qemu.require(qemu.ARM if shape.arm else qemu.X86)
        built = shapes.image(case.shape, lambda text: print(text, file=sys.stderr))
    except (MissingProgram, DiskNotMade) as error:
        pytest.skip(str(error))

    def settings(text: str) -> str:
        text = re.sub(r"ssh_ready = \d+", f"ssh_ready = {SSH_READY}", text)
        text = text.replace("[ec2]\n", '[ec2]\nwrite_via = "direct"\nzero_blocks = "skip"\n')
        return f'{text}\n[ec2.amis]\ntypes = ["hvm-gp2"]\nboot_mode = "{case.boot_mode}"\n'

    with deployed(
        tmp_path / "site", configure=settings, patience=PATIENCE, regions=list(REGIONS), vm=True
    ) as deployment:
        file = tmp_path / f"{NAME}-43-1.{shape.architecture}.raw.xz"
        file.symlink_to(built.packed)
        koji = deployment.site.koji
        build = koji.add_build(NAME, "43", "1", {shape.architecture: [file]})
        deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
        (job,) = deployment.ended()
        print(told(deployment))
        if case.words:
            assert job["state"] == "failed", told(deployment)
            assert case.words in job["error"]
            assert deployment.live() == []
            return
        assert (job["state"], job["error"]) == ("complete", None), told(deployment)
        became_public(deployment, case)


def told(deployment: Deployment) -> str:
    """Return each check's state and what it said, and the end of a failed test's console."""
    (job,) = deployment.jobs()
    lines = []
    for test in job.tests:
        lines += [f"{each.name}: {each.state}: {each.output}" for each in test.checks]
        lines.append(test.output)
    return "\n".join(lines)


def became_public(deployment: Deployment, case: Case) -> None:
    """Assert that the image is public everywhere, and each check has its verdict."""
    deployment.nothing_but_published(dict.fromkeys(REGIONS, 1))
    deployment.heard.wait_for("image.publish", 240, count=len(REGIONS))
    (job,) = deployment.jobs()
    (test,) = job.tests
    states = {each.name: str(each.state) for each in test.checks}
    assert states == dict.fromkeys(CHECKS, "passed") | case.states, told(deployment)
    images = [row for row in deployment.live() if row["kind"] == "image"]
    wanted = "arm64" if SHAPES[case.shape].arm else "x86_64"
    assert {image["architecture"] for image in images} == {wanted}
