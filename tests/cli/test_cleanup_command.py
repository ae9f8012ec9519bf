"""The clean-up by hand lists, removes and refuses.

Follows fedimg/cli/cleanup_output.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest

from fedimg.aws.tags import Labels
from fedimg.images import RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from tests.cli.conftest import (
    ARM,
    X86,
    Run,
    client,
    finish,
)


def everything() -> dict[str, set[str]]:
    """Return the ids of the volumes and security groups of the account, by kind of resource."""
    ec2 = client()
    return {
        "volumes": {v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]},
        "groups": {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]},
    }


def leave_volume(site: str, image: RawImage) -> str:
    made = client().create_volume(
        AvailabilityZone="us-east-1a",
        Size=1,
        TagSpecifications=Labels.of(site, image).specifications(["volume"], "utility"),
    )
    return str(made["VolumeId"])


@pytest.mark.usefixtures("aws")
def test_clean_up_spares_active_jobs_and_other_sites(
    run: Run, config: Path, store: Store, jobs: JobQueue
) -> None:
    jobs.submit(ARM)
    live, foreign = leave_volume("default", ARM), leave_volume("other", X86)
    left = leave_volume("default", X86)

    looked = run("cleanup", "--dry-run", "--json")
    assert looked.exit_code == 0, looked.stderr
    row = {
        "kind": "volume",
        "id": left,
        "region": "us-east-1",
        "job": X86.job,
        "name": f"fedimg utility {X86.name}",
    }
    assert json.loads(looked.stdout) == [{**row, "removed": False}]
    assert left in everything()["volumes"]

    removed = run("cleanup", "--json")
    assert json.loads(removed.stdout) == [{**row, "removed": True}]
    assert everything()["volumes"] == {live, foreign}


def leave_snapshot(site: str, image: RawImage) -> str:
    """Create a completed snapshot with a job's tags; return its id."""
    ec2 = client()
    volume = leave_volume(site, image)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig={"Delay": 1})
    labels = Labels.of(site, image)
    made = ec2.create_snapshot(
        VolumeId=volume, TagSpecifications=labels.specifications(["snapshot"], "snapshot")
    )["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig={"Delay": 1})
    ec2.delete_volume(VolumeId=volume)
    return str(made)


def snapshots_left() -> set[str]:
    held = client().describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return {each["SnapshotId"] for each in held}


@pytest.mark.usefixtures("aws")
def test_clean_up_spares_formerly_public_resources_and_says_what_to_do(
    run: Run, config: Path, store: Store, x86_job: str
) -> None:
    config.write_text('site = "kept"\n' + config.read_text())
    finish(store, x86_job, "complete")
    snapshot = leave_snapshot("kept", X86)
    store.offer(x86_job, "us-east-1", [snapshot])

    result = run("cleanup", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["id"], row["was_public"], row["removed"]) == (snapshot, True, False)
    assert f"kept: snapshot {snapshot} in us-east-1 of job {X86.job}" in result.stderr
    assert "--remove ID" in result.stderr
    assert snapshot in snapshots_left()

    result = run("cleanup", "--remove", snapshot, "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["id"], row["removed"]) == (snapshot, True)
    assert snapshot not in snapshots_left()
    assert store.ever_public() == set()
    again = run("cleanup", "--remove", snapshot)
    assert again.exit_code == 2
    assert f"cannot remove {snapshot}" in again.stderr


@pytest.mark.usefixtures("aws")
def test_clean_up_refuses_if_the_database_is_younger_than_the_resources(
    run: Run, config: Path
) -> None:
    config.write_text('site = "young"\n' + config.read_text())
    # Their jobs were in a database that is lost.
    left, other = leave_volume("young", X86), leave_volume("young", X86)
    time.sleep(1.1)  # EC2 tells creation times in whole seconds.
    with contextlib.closing(Store(config.parent / "state")):
        pass
    result = run("cleanup", "--json")
    assert result.exit_code == 5
    assert {row["id"]: row["removed"] for row in json.loads(result.stdout)} == {
        left: False,
        other: False,
    }
    assert "is younger than some of this site's resources" in result.stderr
    assert left in result.stderr
    assert {left, other} <= everything()["volumes"]

    # --remove removes only the resource of that id.
    result = run("cleanup", "--remove", left, "--json")
    assert result.exit_code == 0, result.stderr
    assert left not in everything()["volumes"]
    assert other in everything()["volumes"]
    assert run("cleanup", "--remove", other).exit_code == 0
    assert run("cleanup").exit_code == 0
