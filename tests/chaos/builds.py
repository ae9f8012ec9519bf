"""The builds that a campaign announces, one after another, and how far their jobs are."""

from __future__ import annotations

import time
from typing import Any

from fedimg.store.rows import CLEANING, ENDED
from tests.system.deployment import Deployment

#: How long all may take to come to its end when nobody is killed any more.
_END_SECONDS = 900.0
_NAME, _VERSION = "Fedora-Cloud-Base", "28"


class Builds:
    """Images of their own, on one site."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._site = deployment.site
        self.images: list[str] = []

    def announce(self, **image: int) -> None:
        """One more build."""
        self.publish(self.build(**image))

    def build(self, *, size_mib: int = 16, random_mib: int = 2) -> dict[str, Any]:
        """One more build that Koji has completed; what it says of it."""
        number = len(self.images)
        release = str(number + 1)
        name = f"{_NAME}-{_VERSION}-{release}.x86_64"
        file = self._deployment.image(name, size_mib=size_mib, random_mib=random_mib, seed=number)
        build = self._site.koji.add_build(_NAME, _VERSION, release, {"x86_64": [file]})
        self.images.append(name)
        return self._site.koji.build_message(build.id)

    def publish(self, message: dict[str, Any]) -> None:
        """Tell the bus."""
        self._site.bus.publish("build.state.change", message)

    def under_way(self) -> int:
        """Return how many have not ended."""
        over = sum(1 for j in self._deployment.jobs() if j.state in ENDED and j.step != CLEANING)
        return len(self.images) - over

    def until_all_ended(self) -> None:
        """Wait for every job, and every message."""

        def ended() -> bool | None:
            over = not self.under_way()
            return (over and not self._deployment.store().unannounced(1)) or None

        self._deployment.until(ended, "all jobs ended and all announced", _END_SECONDS)
        # What was seen on the bus is heard by our own listener at its own pace.
        time.sleep(1)
