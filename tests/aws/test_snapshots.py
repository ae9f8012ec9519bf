from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import snapshots
from fedimg.exceptions import Cancelled, EC2ServiceException
from tests.aws.conftest import ORIGIN, state_of, wait_until


@pytest.fixture
def encrypting(origin):
    """Turn EBS encryption by default on while the test runs."""
    origin.enable_ebs_encryption_by_default()
    yield
    origin.disable_ebs_encryption_by_default()


def test_jobs_own_snapshot_is_found(origin, labels, make_snapshot):
    snapshot = make_snapshot(labels, completed=False)
    assert snapshots.find(origin, labels) == snapshot
    snapshots_done = lambda: state_of(  # noqa: E731
        origin.describe_snapshots, "SnapshotIds", snapshot
    )
    wait_until(lambda: snapshots_done() == "completed")
    assert snapshots.find(origin, labels) == snapshot


def test_no_snapshot_is_found_if_the_job_has_none(origin, labels):
    assert snapshots.find(origin, labels) is None


@pytest.mark.parametrize("change", [{"site": "elsewhere"}, {"job": "build-8-Fedora"}])
def test_snapshot_of_another_site_or_job_is_not_found(origin, labels, make_snapshot, change):
    make_snapshot(replace(labels, **change), completed=False)
    assert snapshots.find(origin, labels) is None


def test_snapshot_that_failed_is_not_found(account, origin, labels, make_snapshot):
    account.refuse(ORIGIN, SnapshotCompletion="Out of cheese")
    snapshot = make_snapshot(labels, completed=False)
    wait_until(lambda: state_of(origin.describe_snapshots, "SnapshotIds", snapshot) == "error")
    assert snapshots.find(origin, labels) is None


def test_completed_waits_for_all_bytes(origin, waiter, labels, make_snapshot):
    snapshot = make_snapshot(labels, completed=False)
    snapshots.completed(origin, waiter, snapshot, limit=5)
    assert state_of(origin.describe_snapshots, "SnapshotIds", snapshot) == "completed"


def test_completed_has_its_limit(waiter):
    class Slow:
        def describe_snapshots(self, **given):
            return {"Snapshots": [{"SnapshotId": "snap-1", "State": "pending"}]}

    with pytest.raises(EC2ServiceException, match="snapshot snap-1 to complete"):
        snapshots.completed(Slow(), waiter, "snap-1", limit=0.01)


def test_failed_snapshot_is_reported_with_ec2s_reason(
    account, origin, waiter, labels, make_snapshot
):
    account.refuse(ORIGIN, SnapshotCompletion="Out of cheese")
    snapshot = make_snapshot(labels, completed=False)
    with pytest.raises(snapshots.SnapshotFailed, match=f"{snapshot} failed: Out of cheese"):
        snapshots.completed(origin, waiter, snapshot, limit=5)


def test_encrypted_snapshot_is_refused_with_advice(
    origin, waiter, labels, make_snapshot, encrypting
):
    snapshot = make_snapshot(labels, completed=False)
    with pytest.raises(
        EC2ServiceException, match=f"{snapshot} is encrypted.*encryption by default"
    ):
        snapshots.completed(origin, waiter, snapshot, limit=5)


def test_snapshot_that_is_gone_raises_ec2s_error(origin, waiter, snapshot):
    origin.delete_snapshot(SnapshotId=snapshot)
    with pytest.raises(ClientError, match=snapshot):
        snapshots.completed(origin, waiter, snapshot, limit=5)


def test_stopped_job_does_not_wait(origin, waiter, snapshot):
    waiter.stop.set()
    with pytest.raises(Cancelled):
        snapshots.completed(origin, waiter, snapshot, limit=5)
