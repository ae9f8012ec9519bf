"""`fedimg check` on a site that runs: green while it works, red when a part of it has died."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedimg.store.heartbeats import HUB, SILENT_SECONDS, WORKER
from fedimg.store.tables import heartbeats
from tests.system.deployment import Deployment, deployed


def problems(deployment: Deployment) -> dict[str, Any]:
    found = deployment.fedimg("check", status=None)
    return {each["name"]: each["text"] for each in found if each["status"] == "problem"}


def test_check_succeeds_while_hub_and_worker_run_and_fails_when_they_have_died(
    tmp_path: Path,
) -> None:
    with deployed(tmp_path / "site", regions=("us-east-1",)) as deployment:
        store = deployment.store()
        for kind in (HUB, WORKER):
            deployment.until(lambda kind=kind: store.heartbeats(kind) or None, f"a beat of {kind}")
        assert problems(deployment) == {}
        deployment.kill("hub")
        deployment.kill("worker")
        # As if that had been a while ago.
        with store.engine.begin() as connection:
            connection.execute(sa.update(heartbeats).values(at=time.time() - SILENT_SECONDS - 1))
        found = problems(deployment)
        assert found.keys() == {"hub, running", "worker, running"}
        assert "fedmsg-hub last worked at" in found["hub, running"]
