"""Koji builds of the lab's cloud image, for sites whose instances are virtual machines."""

from __future__ import annotations

from pathlib import Path

from tests.system.builds import NAME
from tests.system.deployment import Deployment

#: The longest wait for a site of virtual machines, in seconds.
PATIENCE = 3000


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
