import threading
from dataclasses import replace

import pytest
from botocore.exceptions import ReadTimeoutError

from fedimg.aws import amis, copies, publish, snapshots, tags
from fedimg.aws.client.waiter import Waiter
from fedimg.config import AMIs, Limits
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMIType
from lab.ec2.world import Quotas
from tests.aws.conftest import FURTHER, LIMITS, NO_KERNEL, ORIGIN, QUICK, wait_until

#: Copies into this region do not end while a test runs.
SLOW = NO_KERNEL
#: One copy fills a region.
EC2_SETTINGS = {
    "quotas": Quotas(copies_into_region=1),
    "delays": replace(QUICK, snapshot_copy_by_region={SLOW: 600}),
}


@pytest.fixture
def copy(clients, waiter, labels, snapshot):
    """Return a function that copies the test's snapshot to the further region."""

    def copy(
        *,
        of=snapshot,
        labels=labels,
        find_first=False,
        limits=LIMITS,
        waiter=waiter,
        once=None,
        into=FURTHER,
        region=ORIGIN,
        key="",
    ):
        return copies.copied(
            clients.ec2(into),
            once or clients.ec2_once(into),
            waiter,
            labels,
            copies.Source(region, of, key),
            find_first=find_first,
            limits=limits,
        )

    return copy


@pytest.fixture
def far(hands):
    return hands.ec2(FURTHER)


def of(far, labels) -> list[dict]:
    """Return the job's copies."""
    return far.describe_snapshots(OwnerIds=["self"], Filters=labels.filters())["Snapshots"]


def test_copy_is_complete_private_and_the_jobs_own(copy, far, labels, snapshot):
    made = copy()
    (shown,) = of(far, labels)
    assert shown["SnapshotId"] == made
    assert shown["State"] == "completed"
    assert snapshot in shown["Description"]
    assert labels.own(shown["Tags"])
    attribute = far.describe_snapshot_attribute(SnapshotId=made, Attribute="createVolumePermission")
    assert attribute["CreateVolumePermissions"] == []


def test_copy_of_an_earlier_try_is_found(copy, far, labels):
    first = copy()
    assert copy(find_first=True) == first
    assert len(of(far, labels)) == 1


def test_copy_of_another_snapshot_is_not_reused(copy, make_snapshot, labels):
    # An earlier run's, whose clean-up could not reach the region: nobody has tested it.
    earlier = copy(of=make_snapshot(labels))
    assert copy(find_first=True) != earlier


def test_copy_that_is_public_is_not_made_again(copy, far, image, make_snapshot, labels, waiter):
    earlier = copy(of=make_snapshot(labels))
    ami = amis.register(
        far,
        waiter,
        labels,
        AMIType.parse("hvm-gp2"),
        amis.Basis(image, FURTHER, earlier, None, AMIs()),
    )
    amis.available(far, waiter, [ami], limit=5, partition="aws")
    publish.publish_ami(far, waiter, ami)
    assert copy(find_first=True) == earlier


@pytest.fixture
def key(account, hands):
    """Return a function that makes a KMS key in the further region, and returns its ARN."""
    kms = hands.client("kms", FURTHER)
    return lambda: kms.create_key()["KeyMetadata"]["Arn"]


def test_encrypted_copy_that_was_shared_is_not_made_again(
    copy, far, key, make_snapshot, labels, hands
):
    source, first = make_snapshot(labels, FURTHER), key()
    shared = copy(of=source, region=FURTHER, key=first)
    assert copy(of=source, region=FURTHER, key=first, find_first=True) == shared
    # Neither would be found by its description: the source is another, or the key.
    other = copy(of=make_snapshot(labels, FURTHER), region=FURTHER, key=first, find_first=True)
    assert other != shared
    far.delete_snapshot(SnapshotId=other)
    far.create_tags(Resources=[shared], Tags=tags.as_tags({tags.SHARED: "2026-11-30T12:00:00Z"}))
    again = make_snapshot(labels, FURTHER)
    assert copy(of=again, region=FURTHER, key=first, find_first=True) == shared
    assert copy(of=source, region=FURTHER, key=key(), find_first=True) == shared
    # For plain AMIs an encrypted copy is none.
    assert copy(find_first=True) != shared


def test_copy_is_made_when_none_is_found(copy, far, labels):
    assert copy(find_first=True) == of(far, labels)[0]["SnapshotId"]


def test_copy_whose_answer_was_lost_is_not_made_twice(copy, clients, far, labels):
    class Deaf:
        """A client whose connection breaks after the call took effect."""

        asked = 0

        def copy_snapshot(self, **request):
            self.asked += 1
            clients.ec2_once(FURTHER).copy_snapshot(**request)
            raise ReadTimeoutError(endpoint_url="http://ec2")

    deaf = Deaf()
    made = copy(once=deaf)
    assert [shown["SnapshotId"] for shown in of(far, labels)] == [made]
    assert deaf.asked == 1


def test_copy_waits_while_the_regions_copy_limit_is_reached(copy, far, labels, snapshot):
    other = far.copy_snapshot(SourceRegion=ORIGIN, SourceSnapshotId=snapshot)["SnapshotId"]
    made = copy()
    states = {shown["SnapshotId"]: shown["State"] for shown in of(far, labels)}
    assert states == {made: "completed"}
    assert other != made


@pytest.fixture
def slow(hands):
    """Return the region whose copies do not end; what a test leaves there is removed."""
    client = hands.ec2(SLOW)
    yield client
    for left in pending(client):
        client.delete_snapshot(SnapshotId=left["SnapshotId"])


def test_wait_for_the_copy_limit_ends_at_the_limit_of_a_copy(copy, slow, snapshot):
    slow.copy_snapshot(SourceRegion=ORIGIN, SourceSnapshotId=snapshot)
    with pytest.raises(EC2ServiceException, match="snapshot copies to end"):
        copy(limits=Limits(copy=0.01), into=SLOW)


def pending(far) -> list:
    found = far.describe_snapshots(
        OwnerIds=["self"], Filters=[{"Name": "status", "Values": ["pending"]}]
    )
    return found["Snapshots"]


def test_copy_that_fails_is_removed_and_made_again(account, copy, far, labels, waiter):
    account.refuse(FURTHER, SnapshotCompletion="Out of cheese")
    mended = threading.Timer(0.3, account.refuse_nothing)
    mended.start()
    made = copy(limits=LIMITS.model_copy(update={"attempts": 20}))
    mended.join()
    assert [shown["SnapshotId"] for shown in of(far, labels)] == [made]


def test_last_failure_is_raised_and_leaves_nothing(account, copy, far, labels):
    account.refuse(FURTHER, SnapshotCompletion="Out of cheese")
    before = account.calls().get("CopySnapshot", 0)
    with pytest.raises(snapshots.SnapshotFailed, match="Out of cheese"):
        copy(limits=LIMITS.model_copy(update={"attempts": 2}))
    assert account.calls()["CopySnapshot"] - before == 2
    assert of(far, labels) == []


def test_copy_has_its_limit(copy, slow):
    with pytest.raises(
        EC2ServiceException, match=r"timed out after 0\.01 s waiting for snapshot .* to complete"
    ):
        copy(limits=Limits(copy=0.01), into=SLOW)


def test_copy_that_the_region_encrypts_is_refused(copy, far):
    far.enable_ebs_encryption_by_default()
    try:
        with pytest.raises(EC2ServiceException, match="is encrypted"):
            copy()
    finally:
        far.disable_ebs_encryption_by_default()
        wait_until(lambda: not pending(far))


def test_stopped_job_copies_nothing(copy, far, labels):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        copy(waiter=Waiter(LIMITS, stop))
    assert of(far, labels) == []


def test_refused_copy_fails_at_once(account, copy):
    account.refuse(FURTHER, CopySnapshot="UnauthorizedOperation")
    with pytest.raises(Exception, match="UnauthorizedOperation"):
        copy()
