from dataclasses import dataclass, field, replace

import pytest
from botocore.exceptions import ConnectTimeoutError

from fedimg.aws import amis, publish, tags
from fedimg.aws.client.errors import explained
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Virtualization
from lab.ec2.world import Quotas
from tests.aws.conftest import ORIGIN

#: Every test publishes at most one, and takes it back.
EC2_SETTINGS = {"quotas": Quotas(public_images=1)}
FACTS = {tags.TESTED: ORIGIN, tags.DISK: f"sha256:{'a' * 64} 1024"}


@pytest.fixture
def register(origin, waiter, labels, image, snapshot):
    """Return a function that registers private AMIs in the origin; remove them after the test."""
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
            amis.available(origin, waiter, [ami], limit=5, partition="aws")
        return ami

    yield register
    for ami in made:
        amis.deregister(origin, ami)


@pytest.fixture
def published(origin):
    """Return whether an AMI and its snapshot are public."""

    def published(ami):
        (image,) = origin.describe_images(ImageIds=[ami.id])["Images"]
        attribute = origin.describe_snapshot_attribute(
            SnapshotId=ami.snapshot, Attribute="createVolumePermission"
        )
        return image["Public"], attribute["CreateVolumePermissions"] == [{"Group": "all"}]

    return published


@dataclass
class Noted:
    """A record of what becomes public."""

    ids: set = field(default_factory=set)
    published_: list = field(default_factory=list)

    def publishing(self, region, ids):
        assert region == ORIGIN
        new = set(ids) - self.ids
        self.ids |= set(ids)
        return new

    def unpublished(self, region, ids):
        assert region == ORIGIN
        self.ids -= set(ids)

    def published(self, ami):
        self.published_.append(ami)
        return True


def marks(origin, amis) -> set[str]:
    """Return those of the AMIs and their snapshots that are marked as having been public."""
    ids = [id for ami in amis for id in (ami.id, ami.snapshot)]
    shown = origin.describe_tags(Filters=[{"Name": "resource-id", "Values": ids}])["Tags"]
    held: dict[str, dict[str, str]] = {}
    for tag in shown:
        held.setdefault(tag["ResourceId"], {})[tag["Key"]] = tag["Value"]
    return {id for id, values in held.items() if tags.ever_offered(values)}


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


def test_full_quota_is_reported_with_advice(origin, waiter, register, published):
    first, second = register("gp2"), register("gp3")
    publish.publish_ami(origin, waiter, first)
    said = refused(lambda: publish.publish_ami(origin, waiter, second))
    for words in ("ResourceLimitExceeded", "quota", "fedimg retry", ORIGIN):
        assert words in said
    assert not published(second)[0]


def test_amis_that_became_public_are_recorded_though_others_fail(
    origin, waiter, register, published
):
    both = [register("gp2"), register("gp3")]
    noted = Noted()
    # The quota is one: which of the two is first, nobody knows.
    said = refused(
        lambda: publish.publish_all(origin, waiter, both[0].snapshot, both, noted, FACTS)
    )
    assert "ResourceLimitExceeded" in said
    assert [ami for ami in both if published(ami)[0]] == noted.published_
    assert len(noted.published_) == 1
    assert published(both[0])[1]
    # The other one was never public, and may go; the snapshot is used.
    assert marks(origin, both) == noted.ids == {both[0].snapshot, noted.published_[0].id}


def test_mark_is_set_before_anything_is_public(origin, waiter, register, published):
    ami = register()

    class Watching(Noted):
        def publishing(self, region, ids):
            assert (published(ami), marks(origin, [ami])) == ((False, False), set())
            return super().publishing(region, ids)

    class Stopped(Exception):
        pass

    class Between:
        """EC2's client, which fails after the mark is set, as after `kill -9`."""

        def __getattr__(self, name):
            if name == "modify_snapshot_attribute":
                raise Stopped
            return getattr(origin, name)

    noted = Watching()
    with pytest.raises(Stopped):
        publish.publish_all(Between(), waiter, ami.snapshot, [ami], noted, FACTS)
    assert published(ami) == (False, False)
    assert marks(origin, [ami]) == noted.ids == {ami.snapshot, ami.id}


def test_all_of_a_region_are_marked_by_one_call(origin, waiter, register, account):
    ami = register()
    before = account.calls()
    publish.publish_all(origin, waiter, ami.snapshot, [ami], Noted(), FACTS)
    made = {name: count - before.get(name, 0) for name, count in account.calls().items()}
    assert {name: count for name, count in made.items() if count} == {
        "CreateTags": 1,
        "ModifySnapshotAttribute": 1,
        "ModifyImageAttribute": 1,
    }


def test_snapshot_whose_amis_are_all_refused_is_private_and_unmarked_again(
    origin, waiter, register, published, account
):
    ami = register()
    account.refuse(ORIGIN, ModifyImageAttribute="ResourceLimitExceeded")
    noted = Noted()
    refused(lambda: publish.publish_all(origin, waiter, ami.snapshot, [ami], noted, FACTS))
    assert published(ami) == (False, False)
    assert marks(origin, [ami]) == noted.ids == set()


def test_mark_of_an_ami_that_was_public_before_stays_though_it_is_refused_now(
    origin, waiter, register, published, account
):
    ami = register()
    noted = Noted()
    publish.publish_all(origin, waiter, ami.snapshot, [ami], noted, FACTS)
    account.refuse(ORIGIN, ModifyImageAttribute="OperationNotPermitted")

    def again(noted):
        return lambda: publish.publish_all(origin, waiter, ami.snapshot, [ami], noted, FACTS)

    # With and without the record of the first time.
    for record in (noted, Noted()):
        refused(again(record))
        assert marks(origin, [ami]) == record.ids == {ami.snapshot, ami.id}
    assert published(ami) == (True, True)


def test_mark_stays_after_a_call_with_an_unknown_outcome(origin, waiter, register):
    ami = register()
    noted = Noted()

    class Unanswering:
        """EC2's client, which loses its last answer."""

        def __getattr__(self, name):
            if name == "modify_image_attribute":
                raise ConnectTimeoutError(endpoint_url="https://ec2.test")
            return getattr(origin, name)

    refused(lambda: publish.publish_all(Unanswering(), waiter, ami.snapshot, [ami], noted, FACTS))
    assert marks(origin, [ami]) == noted.ids == {ami.snapshot, ami.id}


def test_nothing_is_published_that_cannot_be_marked(origin, waiter, register, published, account):
    ami = register()
    account.refuse(ORIGIN, CreateTags="UnauthorizedOperation")
    noted = Noted()
    said = refused(lambda: publish.publish_all(origin, waiter, ami.snapshot, [ami], noted, FACTS))
    assert "IAM policy" in said
    assert published(ami) == (False, False)
    assert noted.ids == set()


def test_blocked_public_amis_are_reported_with_advice(origin, waiter, register, published):
    ami = register()
    origin.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    try:
        said = refused(lambda: publish.publish_ami(origin, waiter, ami))
    finally:
        origin.disable_image_block_public_access()
    assert "block public access" in said
    assert "fedimg check" in said
    assert not published(ami)[0]


def test_blocked_public_snapshots_are_reported_with_advice(origin, waiter, register, published):
    ami = register()
    origin.enable_snapshot_block_public_access(State="block-all-sharing")
    try:
        said = refused(lambda: publish.publish_snapshot(origin, waiter, ami.snapshot))
    finally:
        origin.disable_snapshot_block_public_access()
    assert "block public access" in said
    assert "fedimg check" in said
    assert published(ami) == (False, False)


def test_ami_that_is_gone_is_reported_as_gone(origin, waiter, register):
    ami = register()
    amis.deregister(origin, ami)
    said = refused(lambda: publish.publish_ami(origin, waiter, ami))
    assert ami.id in said
    assert "utility_ami" not in said


def test_record_on_ec2_precedes_the_permission(origin, waiter, register):
    ami = register()

    def held():
        by_id = [{"Name": "resource-id", "Values": [ami.id, ami.snapshot]}]
        shown = origin.describe_tags(Filters=by_id)["Tags"]
        return {(tag["ResourceId"], tag["Key"]): tag["Value"] for tag in shown}

    class Watched:
        """An EC2 that notes which tags there were when a permission was asked for."""

        def __init__(self):
            self.before = []

        def __getattr__(self, name):
            if name.startswith("modify_"):
                self.before.append(held())
            return getattr(origin, name)

    watched = Watched()
    publish.publish_all(watched, waiter, ami.snapshot, [ami], Noted(), FACTS)
    assert len(watched.before) == 2
    for seen in watched.before:
        for id in (ami.id, ami.snapshot):
            assert {key: seen[id, key] for key in FACTS} == FACTS
            assert (id, tags.PUBLISHED) in seen


def test_ami_that_somebody_takes_back_meanwhile_does_not_become_public(
    origin, waiter, register, published
):
    """A step that EC2 kept waiting asks the record again before each try."""
    ami = register(available=False)

    class TakenBack(Noted):
        def publishing(self, region, ids):
            if list(ids) == [ami.id]:
                raise EC2ServiceException("it is recorded as disabled")
            return super().publishing(region, ids)

    noted = TakenBack()
    with pytest.raises(EC2ServiceException, match="recorded as disabled"):
        publish.publish_all(origin, waiter, ami.snapshot, [ami], noted, FACTS)
    # The snapshot, which was public for a moment, is not either.
    assert published(ami) == (False, False)
    assert noted.published_ == []


def test_ami_that_is_taken_back_while_it_becomes_public_is_hidden_again(
    origin, waiter, register, published
):
    ami = register()

    class TakenBack(Noted):
        def published(self, ami):
            return False

    with pytest.raises(EC2ServiceException, match="it is private again"):
        publish.publish_all(origin, waiter, ami.snapshot, [ami], TakenBack(), FACTS)
    assert published(ami) == (False, False)


def test_snapshot_of_an_ami_that_is_taken_back_stays_public_for_the_others(
    origin, waiter, register, published
):
    ami = register()
    publish.publish_all(origin, waiter, ami.snapshot, [ami], Noted(), FACTS)
    other = replace(register("standard"), snapshot=ami.snapshot)

    class TakenBack(Noted):
        def publishing(self, region, ids):
            if list(ids) == [other.id]:
                raise EC2ServiceException("it is recorded as disabled")
            return super().publishing(region, ids)

    with pytest.raises(EC2ServiceException, match="recorded as disabled"):
        publish.publish_all(origin, waiter, ami.snapshot, [ami, other], TakenBack(), FACTS)
    assert published(ami) == (True, True)
    assert not published(other)[0]


def test_disabled_ami_is_not_published(origin, waiter, register):
    ami = register()
    origin.disable_image(ImageId=ami.id)
    refused(lambda: publish.publish_all(origin, waiter, ami.snapshot, [ami], Noted(), FACTS))
    (image,) = origin.describe_images(ImageIds=[ami.id], IncludeDisabled=True)["Images"]
    assert (image["Public"], image["State"]) == (False, "disabled")
