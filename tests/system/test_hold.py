"""A site with one worker on a file that is held: `fedimg hold` and `fedimg release`."""

from __future__ import annotations

from pathlib import Path

from tests.system.builds import announce_build
from tests.system.deployment import AMIS, deployed


def test_held_site_listens_and_publishes_when_it_is_released(tmp_path: Path) -> None:
    with deployed(tmp_path / "site") as deployment:
        deployment.fedimg("hold", "--reason", "a bad night")
        announce_build(deployment)
        deployment.until(lambda: deployment.jobs() or None, "the job queued")

        def told(times: int) -> None:
            deployment.until(
                lambda: deployment.log("worker").count("a bad night") == times,
                f"the hold in the log, {times} times",
            )

        told(1)
        deployment.stop("worker")
        deployment.start_worker()
        told(2)
        (job,) = deployment.jobs()
        assert job.state == "queued"
        assert not [row for row in deployment.live() if row["kind"] == "snapshot"]
        deployment.fedimg("release")
        (ended,) = deployment.ended()
        assert ended["state"] == "complete"
        deployment.nothing_but_published(AMIS)
