import pytest

from fedimg.aws import amis, publish
from fedimg.aws.refusals import explained
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Virtualization
from lab.ec2.world import Quotas
from tests.aws.conftest import ORIGIN

#: Every test publishes at most one, and takes it back.
EC2_SETTINGS = {"quotas": Quotas(public_images=1)}


@pytest.fixture
def register(origin, waiter, labels, image, snapshot):
    """Makes private AMIs in the origin, and removes them after the test."""
    made = []

    def register(volume_type="gp2", *, available=True):
        ami = amis.register(
            origin,
            waiter,
            labels,
            AMIType(Virtualization.HVM, volume_type),
            amis.Basis(image, ORIGIN, snapshot, None, AMIs()),
        )
        made.append(ami)
        if available:
            amis.available(origin, waiter, [ami], limit=5)
        return ami

    yield register
    for ami in made:
        amis.deregister(origin, ami)


@pytest.fixture
def published(origin):
    """What is public of an AMI and its snapshot."""

    def published(ami):
        (image,) = origin.describe_images(ImageIds=[ami.id])["Images"]
        attribute = origin.describe_snapshot_attribute(
            SnapshotId=ami.snapshot, Attribute="createVolumePermission"
        )
        return image["Public"], attribute["CreateVolumePermissions"] == [{"Group": "all"}]

    return published


def refused(call) -> str:
    with (
        pytest.raises(EC2ServiceException) as caught,
        explained("publish", image="Fedora", region=ORIGIN, step="publish"),
    ):
        call()
    return str(caught.value)


def test_ami_and_snapshot_become_public_each_by_itself(origin, waiter, register, published):
    ami = register()
    assert published(ami) == (False, False)
    publish.publish_snapshot(origin, waiter, ami.snapshot)
    assert published(ami) == (False, True)
    publish.publish_ami(origin, waiter, ami)
    assert published(ami) == (True, True)


def test_published_twice_is_published(origin, waiter, register, published):
    ami = register()
    for _ in range(2):
        publish.publish_snapshot(origin, waiter, ami.snapshot)
        publish.publish_ami(origin, waiter, ami)
    assert published(ami) == (True, True)


def test_ami_that_is_not_available_yet_is_waited_for(origin, waiter, register, published):
    ami = register(available=False)
    publish.publish_ami(origin, waiter, ami)
    assert published(ami)[0]


def test_full_quota_is_told_with_what_to_do(origin, waiter, register, published):
    first, second = register("gp2"), register("gp3")
    publish.publish_ami(origin, waiter, first)
    said = refused(lambda: publish.publish_ami(origin, waiter, second))
    for words in ("ResourceLimitExceeded", "quota", "fedimg retry", ORIGIN):
        assert words in said
    assert not published(second)[0]


def test_of_several_at_once_what_became_public_is_told_and_the_rest_fails(
    origin, waiter, register, published
):
    both = [register("gp2"), register("gp3")]
    told = []

    def publish_both():
        publish.publish_all(origin, waiter, both[0].snapshot, both, told.append)

    # The quota is one: which of the two is first, nobody knows.
    assert "ResourceLimitExceeded" in refused(publish_both)
    assert [ami for ami in both if published(ami)[0]] == told
    assert len(told) == 1
    assert published(both[0])[1]


def test_blocked_public_amis_are_told_with_what_to_do(origin, waiter, register, published):
    ami = register()
    origin.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    try:
        said = refused(lambda: publish.publish_ami(origin, waiter, ami))
    finally:
        origin.disable_image_block_public_access()
    assert "block public access" in said
    assert "fedimg check" in said
    assert not published(ami)[0]


def test_blocked_public_snapshots_are_told_with_what_to_do(origin, waiter, register, published):
    ami = register()
    origin.enable_snapshot_block_public_access(State="block-all-sharing")
    try:
        said = refused(lambda: publish.publish_snapshot(origin, waiter, ami.snapshot))
    finally:
        origin.disable_snapshot_block_public_access()
    assert "block public access" in said
    assert "fedimg check" in said
    assert published(ami) == (False, False)


def test_ami_that_is_gone_is_told_as_such(origin, waiter, register):
    ami = register()
    amis.deregister(origin, ami)
    said = refused(lambda: publish.publish_ami(origin, waiter, ami))
    assert ami.id in said
    assert "utility_ami" not in said
