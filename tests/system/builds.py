"""The build that system tests announce, and the messages that come of it."""

from __future__ import annotations

from typing import Any

from tests.system.deployment import Deployment

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "28", "1.1"
STEM = f"{NAME}-{VERSION}-{RELEASE}"
IMAGE = f"{STEM}.x86_64"


def announce_build(
    deployment: Deployment,
    times: int = 1,
    image: dict[str, Any] | None = None,
    release: str = RELEASE,
) -> None:
    """Add a build with one image to Koji, and announce it `times` times on the bus."""
    made = deployment.image(f"{NAME}-{VERSION}-{release}.x86_64", **(image or {}))
    build = deployment.site.koji.add_build(NAME, VERSION, release, {"x86_64": [made]})
    deployment.site.bus.publish(
        "build.state.change", deployment.site.koji.build_message(build.id), times=times
    )


def said(deployment: Deployment, topic: str) -> list[dict[str, Any]]:
    """Return the bodies of fedimg's messages on a topic, in the order in which they were heard."""
    return [
        message["msg"]
        for message in deployment.heard.messages
        if message["topic"] == f"org.fedoraproject.dev.fedimg.{topic}"
    ]
