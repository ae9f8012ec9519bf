"""Several workers on one PostgreSQL, beside a lab site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedimg.worker.lease import living
from fedimg.worker.registry import RegisteredWorker, Registry
from lab.site import Site
from tests.system.builds import said
from tests.system.deployment import AMIS, REGIONS, Deployment, unhurried

NAMES = ("one", "two", "three")
#: Short, so that a frozen worker is missed soon; long enough for a busy machine.
LEASE = 6


def several(settings: str) -> str:
    return unhurried(settings).replace("[worker]\n", f"[worker]\nlease_seconds = {LEASE}\n")


@contextmanager
def workers(
    state: Path,
    database: str,
    count: int,
    configure: Callable[[str], str] = several,
    **site: Any,
) -> Iterator[Deployment]:
    """Run a site with so many workers on a PostgreSQL, called one, two, three; `configure` changes
    their fedimg.toml.
    """
    site.setdefault("regions", REGIONS)
    with Site(state, **site) as lab, lab.bus.listen() as heard:
        deployment = Deployment(lab, heard, configure, database=database)
        try:
            for number in range(count):
                deployment.start_worker(NAMES[number])
            deployment.start_hub()
            deployment.until(lambda: len(alive(deployment)) == count or None, "workers live")
            yield deployment
        finally:
            deployment.close()


def alive(deployment: Deployment) -> list[RegisteredWorker]:
    """Return the workers that hold their locks."""
    store = deployment.store()
    members = Registry(store).all()
    held = living(store, [member.name for member in members])
    return [member for member in members if member.name in held]


def at_work(deployment: Deployment) -> str:
    """Return the process that has a job in its hands, by our name for it."""

    def look() -> str | None:
        busy = {member.pid for member in alive(deployment) if member.jobs}
        return next((name for name in NAMES if deployment.has(name, busy)), None)

    return deployment.until(look, "a worker at work")


def all_well(deployment: Deployment) -> None:
    """Assert that the one job is complete, its AMIs public and announced, and nothing else left."""
    (job,) = deployment.ended()
    assert (job["state"], job["error"]) == ("complete", None)
    deployment.nothing_but_published(AMIS)
    amis = {ami["ami"] for ami in deployment.fedimg("amis")}
    assert len(amis) == sum(AMIS.values())
    deployment.heard.wait_for("image.publish", 240, count=len(amis))
    assert {m["extra"]["id"] for m in said(deployment, "image.publish")} == amis
