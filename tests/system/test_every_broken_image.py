"""Images broken in every way that the lab knows, which virtual machines really boot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.image import Image
from tests.system import broken_images
from tests.system.broken_images import EXPECTED, SECOND_BOOT, Ended

# The first to want the image may have to build it.
pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(3600)]

#: Eight machines boot at once, and a site has no place for more. The one that boots twice has a
#: site of its own (test_broken_images.py).
KINDS = [kind for kind in EXPECTED if kind != SECOND_BOOT]
SSH_READY = 900


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, cloud_image: Image) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("broken")
    with broken_images.published(folder, cloud_image, KINDS, ssh_ready=SSH_READY) as ended:
        yield ended


@pytest.mark.parametrize("kind", KINDS)
def test_broken_image_is_reported_and_never_public(ended: Ended, kind: str) -> None:
    broken_images.is_told_and_never_public(ended, kind)


def test_broken_images_leave_nothing(ended: Ended) -> None:
    broken_images.leave_nothing(ended)
