"""`fedimg rehearse` beside a site: its answer, and that it leaves nothing when interrupted.

Follows fedimg/cli/rehearse_command.py.
"""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.system.builds import IMAGE, NAME, RELEASE, VERSION
from tests.system.deployment import BIN, Deployment


@pytest.fixture
def url(deployment: Deployment) -> str:
    """Return the URL of an image at Koji."""
    koji = deployment.site.koji
    # Of somebody whose builds are not published: a worker that lists what has finished when it
    # starts, as a busy one may after this, is not to find it.
    files = {"x86_64": [deployment.image(IMAGE)]}
    koji.add_build(NAME, VERSION, RELEASE, files, owner="somebody")
    (path,) = koji.root.rglob(f"{IMAGE}.raw.xz")
    return str(koji.url(path))


def rehearsal(deployment: Deployment, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "fedimg", "rehearse", url, "--json"],
        env=deployment.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_rehearsal_tells_steps_and_seconds_and_leaves_no_trace(
    deployment: Deployment, url: str
) -> None:
    process = rehearsal(deployment, url)
    out, err = process.communicate()
    assert process.returncode == 0, err
    answer = json.loads(out)
    steps = [each["step"] for each in answer["steps"]]
    assert {"write", "register", "waiting for the boot check", "clean-up"} <= set(steps)
    assert answer["seconds"] >= max(each["seconds"] for each in answer["steps"])
    assert answer["amis"]
    # The demo's configuration has no prices: the quantities are told.
    assert answer["cost"]["instance_hours"] > 0
    assert set(answer["cost"]) == {"instance_hours", "blocks", "once", "currency"}
    assert "set prices in [ec2.prices]" in err
    assert answer["booted"]
    assert deployment.live() == []
    assert deployment.fedimg("amis") == []
    assert deployment.fedimg("status") == []
    assert deployment.store().waiting_messages() is None


@pytest.mark.long
def test_interrupted_rehearsal_exits_with_130_and_leaves_nothing(
    deployment: Deployment, url: str
) -> None:
    process = rehearsal(deployment, url)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("booting"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted; its resources are removed" in err
    assert deployment.live() == []
