"""Broken images that virtual machines really boot: one never comes up, one does, one does once.

tests/aws/boot/test_recorded_consoles.py makes diagnoses from recorded consoles;
test_every_broken_image.py boots images that are broken in every way.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.image import Image
from tests.system import broken_images
from tests.system.broken_images import DAMAGED_LATER, SECOND_BOOT

# The first to want the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    ("kind", "ssh_ready"),
    [
        # All of this is waited for: its kernel comes to the damage within ten emulated seconds.
        pytest.param(DAMAGED_LATER, 180, id=DAMAGED_LATER),
        # As soon as somebody is let in, nothing more is waited for.
        pytest.param("failed-unit", 900, id="failed-unit"),
        # Waited for twice: as the other two, until it lets somebody in, and then until it does not.
        # A quarter of an hour, and so by hand alone: make shapes-test SHAPE=second-boot.
        pytest.param(SECOND_BOOT, 600, id=SECOND_BOOT, marks=pytest.mark.shape),
    ],
)
def test_broken_image_is_reported_never_public_and_leaves_nothing(
    tmp_path: Path, cloud_image: Image, kind: str, ssh_ready: int
) -> None:
    with broken_images.published(tmp_path, cloud_image, [kind], ssh_ready=ssh_ready) as ended:
        broken_images.is_told_and_never_public(ended, kind)
        broken_images.leave_nothing(ended)
