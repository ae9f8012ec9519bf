"""The resources that jobs leave behind are found and removed.

Follows fedimg/aws/resources.py, fedimg/aws/survey.py, fedimg/aws/region_survey.py,
fedimg/aws/client/already_gone.py.
"""

from dataclasses import replace

import boto3
import pytest

from fedimg.aws import amis, cleanup, publish, resources, survey, tags
from fedimg.aws.instance import instances, key_pairs, network
from fedimg.aws.resources import IMAGE, INSTANCE, KEY_PAIR, SECURITY_GROUP, SNAPSHOT, VOLUME
from fedimg.config import AMIs, Network
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Virtualization
from fedimg.ssh import client
from tests.aws.conftest import FURTHER, ORIGIN, REGIONS

NETWORK = Network(allowed_source="127.0.0.0/8")


@pytest.fixture(scope="module")
def utility_ami(ec2, tmp_path_factory) -> str:
    raw = tmp_path_factory.mktemp("raw") / "blank.raw"
    raw.write_bytes(bytes(4096))
    return ec2.default_image(ORIGIN, raw, name="blank")


@pytest.fixture
def register(clients, waiter, image, make_snapshot):
    """Return a function that creates an AMI and its snapshot."""

    def register(labels, *, region=ORIGIN, volume_type="gp2", snapshot=None):
        ami = amis.register(
            clients.ec2(region),
            waiter,
            labels,
            AMIType(Virtualization.HVM, volume_type),
            amis.Basis(image, region, snapshot or make_snapshot(labels, region), None, AMIs()),
        )
        amis.available(clients.ec2(region), waiter, [ami], limit=5, partition="aws")
        return ami

    return register


@pytest.fixture
def published(register, clients, waiter):
    """Return a function that creates a public AMI and its public snapshot."""

    def published(labels, *, region=ORIGIN):
        ami = register(labels, region=region)
        publish.publish_snapshot(clients.ec2(region), waiter, ami.snapshot)
        publish.publish_ami(clients.ec2(region), waiter, ami)
        return ami

    return published


@pytest.fixture
def everything(origin, waiter, labels, register, make_volume, utility_ami):
    """Create one resource of each type, all in use by one another."""
    ami = register(labels)
    volume = make_volume(labels)
    place = network.prepare(origin, waiter, labels, NETWORK)
    wanted = instances.Launch(
        ami=utility_ami,
        instance_type="t3.small",
        user_data="",
        token=labels.token("utility"),
        group=place.group,
        subnet=instances.subnets_for(origin, place, "t3.small", 0)[0],
    )
    instance = instances.launch(origin, waiter, labels, "utility", wanted, NETWORK)
    name = key_pairs.imported(origin, waiter, labels, "test", client.new_identity("test"))
    return {
        INSTANCE: instance,
        KEY_PAIR: name,
        IMAGE: ami.id,
        SNAPSHOT: ami.snapshot,
        VOLUME: volume,
        SECURITY_GROUP: place.group,
    }


def found(clients, labels, *, job=None, spare=()) -> list[tuple[str, str]]:
    left = survey.leftovers(clients, labels.site, REGIONS, job=job, spare=spare)
    return [(item.resource_type, item.id) for item in left]


def clean(clients, waiter, labels, *, job=None, limit=10.0) -> list[tuple[str, str]]:
    gone: list[tuple[str, str]] = []
    cleanup.remove(
        clients,
        waiter,
        survey.leftovers(clients, labels.site, REGIONS, job=job),
        limit=limit,
        removed=lambda item: gone.append((item.resource_type, item.id)),
    )
    return gone


def test_everything_that_is_not_public_is_found(clients, labels, everything):
    items = survey.leftovers(clients, labels.site, REGIONS)
    assert everything.items() <= {(item.resource_type, item.id) for item in items}
    # The instance's own volume goes with it, but nobody promises that.
    assert {item.resource_type for item in items} == set(everything)
    assert {(item.region, item.job) for item in items} == {(ORIGIN, labels.job)}


def test_resources_are_removed_before_those_that_they_use(
    clients, waiter, labels, everything, account
):
    gone = clean(clients, waiter, labels)
    assert everything.items() <= set(gone)
    assert account.live(labels.site) == []
    order = [kind for kind, _ in gone]
    assert order == sorted(order, key=list(everything).index)
    removed = [row["id"] for row in account.removals()]
    assert removed.index(everything[INSTANCE]) < removed.index(everything[SECURITY_GROUP])
    assert removed.index(everything[IMAGE]) < removed.index(everything[SNAPSHOT])


def test_clean_site_has_nothing_left(clients, waiter, labels):
    assert found(clients, labels) == []
    assert clean(clients, waiter, labels) == []


def test_removed_twice_is_removed(clients, waiter, labels, everything, account):
    left = survey.leftovers(clients, labels.site, REGIONS)
    for _ in range(2):
        cleanup.remove(clients, waiter, left, limit=10)
    assert account.live(labels.site) == []


def test_public_ami_and_its_snapshot_are_not_left_over(clients, waiter, labels, published):
    published(labels)
    published(labels, region=FURTHER)
    assert found(clients, labels) == []
    assert clean(clients, waiter, labels) == []


def test_snapshot_is_spared_while_one_of_its_amis_is_public(
    clients, waiter, labels, published, register, account
):
    ami = published(labels)
    private = register(labels, volume_type="gp3", snapshot=ami.snapshot)
    assert clean(clients, waiter, labels) == [(IMAGE, private.id)]
    assert account.kinds(labels.site) == ["image", "snapshot"]


def test_public_snapshot_without_a_public_ami_is_left_over(
    clients, waiter, labels, register, account
):
    ami = register(labels)
    publish.publish_snapshot(clients.ec2(ORIGIN), waiter, ami.snapshot)
    assert clean(clients, waiter, labels) == [(IMAGE, ami.id), (SNAPSHOT, ami.snapshot)]
    assert account.live(labels.site) == []


def test_ami_that_becomes_public_meanwhile_is_spared(
    clients, waiter, labels, register, account, origin
):
    ami = register(labels)
    left = survey.leftovers(clients, labels.site, REGIONS)
    publish.publish_ami(origin, waiter, ami)
    with pytest.raises(EC2ServiceException, match=f"{ami.id} became public"):
        cleanup.remove(clients, waiter, left, limit=1)
    assert account.kinds(labels.site) == ["image", "snapshot"]


def mark(ec2, *ids, value="2026-11-28T12:00:00+00:00"):
    ec2.create_tags(Resources=list(ids), Tags=[{"Key": tags.PUBLISHED, "Value": value}])


@pytest.mark.parametrize("by", ["tag", "record"])
def test_formerly_public_resources_are_listed_apart_and_stay(
    clients, waiter, labels, published, origin, account, by
):
    ami = published(labels)
    record = {ami.id, ami.snapshot} if by == "record" else set()
    if by == "tag":
        mark(origin, ami.id, ami.snapshot)
    # By hand.
    origin.modify_image_attribute(ImageId=ami.id, LaunchPermission={"Remove": [{"Group": "all"}]})
    seen = survey.take(clients, labels.site, REGIONS, published=record)
    assert (seen.left, seen.public) == ([], [])
    assert [(item.resource_type, item.id) for item in seen.once_public] == [
        (IMAGE, ami.id),
        (SNAPSHOT, ami.snapshot),
    ]
    cleanup.remove(clients, waiter, seen.left, limit=5)
    assert account.kinds(labels.site) == ["image", "snapshot"]
    # On purpose, it goes.
    cleanup.remove(clients, waiter, seen.once_public, limit=5, once_public=True)
    assert account.live(labels.site) == []


def test_snapshot_of_an_ami_that_was_public_stays_whatever_its_own_mark(
    clients, labels, register, origin
):
    ami = register(labels)
    mark(origin, ami.id)
    seen = survey.take(clients, labels.site, REGIONS)
    assert seen.left == []
    assert {item.id for item in seen.once_public} == {ami.id, ami.snapshot}


def test_snapshot_that_was_public_stays_when_its_amis_are_gone(clients, labels, published, origin):
    ami = published(labels)
    mark(origin, ami.id, ami.snapshot)
    amis.deregister(origin, ami)
    seen = survey.take(clients, labels.site, REGIONS)
    assert seen.left == []
    assert [item.id for item in seen.once_public] == [ami.snapshot]


def test_resource_that_ec2_refused_to_publish_is_left_over(clients, labels, register, origin):
    ami = register(labels)
    mark(origin, ami.id, ami.snapshot, value=tags.NEVER)
    assert found(clients, labels) == [(IMAGE, ami.id), (SNAPSHOT, ami.snapshot)]


def test_ami_that_is_marked_meanwhile_is_spared(clients, waiter, labels, register, account, origin):
    ami = register(labels)
    left = survey.leftovers(clients, labels.site, REGIONS)
    mark(origin, ami.id, ami.snapshot)
    with pytest.raises(EC2ServiceException, match=f"{ami.id} became public"):
        cleanup.remove(clients, waiter, left[:1], limit=1)
    assert account.kinds(labels.site) == ["image", "snapshot"]


def test_leftovers_older_than_the_database_are_reported(clients, labels, register, make_volume):
    public_or_not = register(labels)
    later = replace(labels, job="build-8-Fedora")
    seen = survey.take(clients, labels.site, REGIONS)
    made = seen.left[0].created
    assert made is not None

    def strange(jobs, made):
        there = survey.take(clients, labels.site, REGIONS)
        return {item.id for item in survey.of_unknown_jobs(there, jobs, made)}

    assert strange({labels.job}, made + 60) == set()
    assert strange(set(), made + 60) == {public_or_not.id, public_or_not.snapshot}
    # No job of any kind: nobody knows how old the database is.
    assert strange(set(), None) == {public_or_not.id, public_or_not.snapshot}
    # The database is older.
    assert strange(set(), made - 60) == set()
    make_volume(later)
    assert len(strange({labels.job}, None)) == 1


def test_disabled_ami_is_left_over(clients, labels, register, origin):
    ami = register(labels)
    origin.disable_image(ImageId=ami.id)
    assert (IMAGE, ami.id) in found(clients, labels)


def test_resources_of_another_site_are_never_found(clients, labels, register, make_volume):
    other = replace(labels, site=labels.site + "-other")
    register(other)
    make_volume(other)
    assert found(clients, labels) == []
    assert len(found(clients, other)) == 3


def test_survey_of_one_job_finds_only_its_resources(clients, labels, make_volume):
    other = replace(labels, job="build-8-Fedora")
    mine, theirs = make_volume(labels), make_volume(other)
    assert found(clients, labels, job=labels.job) == [(VOLUME, mine)]
    assert sorted(found(clients, labels)) == sorted([(VOLUME, mine), (VOLUME, theirs)])


def test_live_jobs_are_spared(clients, labels, make_volume):
    live = replace(labels, job="build-8-Fedora")
    mine = make_volume(labels)
    make_volume(live)
    assert found(clients, labels, spare={live.job}) == [(VOLUME, mine)]


def test_only_the_resource_types_that_a_region_may_hold_are_listed(
    clients, labels, everything, make_snapshot, account
):
    copy = make_snapshot(labels, FURTHER)
    before = account.calls()
    items = survey.leftovers(
        clients,
        labels.site,
        [ORIGIN, FURTHER],
        resource_types=lambda region: (IMAGE, SNAPSHOT) if region == ORIGIN else (SNAPSHOT,),
    )
    assert {(item.resource_type, item.id) for item in items} == {
        (IMAGE, everything[IMAGE]),
        (SNAPSHOT, everything[SNAPSHOT]),
        (SNAPSHOT, copy),
    }
    after = account.calls()
    asked = {action: count - before.get(action, 0) for action, count in after.items()}
    assert {action: count for action, count in asked.items() if count} == {
        "DescribeImages": 1,
        "DescribeSnapshots": 2,
    }


def test_every_region_is_cleaned(clients, waiter, labels, make_volume, account):
    for region in REGIONS:
        make_volume(labels, region)
    assert len(clean(clients, waiter, labels)) == len(REGIONS)
    assert account.live(labels.site) == []


def test_failed_removal_is_reported_and_the_other_regions_are_cleaned(
    clients, waiter, labels, make_volume, account
):
    for region in REGIONS:
        make_volume(labels, region)
    account.refuse(FURTHER, DeleteVolume="UnauthorizedOperation")
    with pytest.raises(
        EC2ServiceException, match=r"removing volume .*UnauthorizedOperation"
    ) as caught:
        clean(clients, waiter, labels)
    assert caught.value.region == FURTHER
    assert [row["region"] for row in account.live(labels.site)] == [FURTHER]


def test_recorded_ami_that_we_may_not_remove_is_not_left_over(clients, labels, everything, account):
    ami = everything[IMAGE]
    # By hand: fedimg takes no tags away.
    boto3.client("ec2", ORIGIN, endpoint_url=account.url).delete_tags(Resources=[ami])
    # More than a filter takes, and EC2 knows of one.
    ids = [ami, *(f"ami-{number:017x}" for number in range(250))]
    recorded = [resources.Leftover(IMAGE, each, ORIGIN, labels.job, "x") for each in ids]

    def images() -> list[str]:
        items = survey.leftovers(clients, labels.site, [ORIGIN], recorded=recorded)
        return [item.id for item in items if item.resource_type == IMAGE]

    assert images() == [ami]
    account.refuse(ORIGIN, DeregisterImage="UnauthorizedOperation")
    assert images() == []


def test_region_that_does_not_answer_is_named(clients, labels, account):
    account.refuse(FURTHER, DescribeVolumes="UnauthorizedOperation")
    with pytest.raises(EC2ServiceException, match="UnauthorizedOperation") as caught:
        found(clients, labels)
    assert caught.value.region == FURTHER


def test_region_that_does_not_answer_does_not_stop_the_survey_of_others(
    clients, labels, account, make_volume
):
    for region in REGIONS:
        make_volume(labels, region)
    account.refuse(FURTHER, DescribeVolumes="UnauthorizedOperation")
    unseen: list[EC2ServiceException] = []
    left = survey.leftovers(clients, labels.site, REGIONS, unseen=unseen.append)
    assert {item.region for item in left} == set(REGIONS) - {FURTHER}
    assert [error.region for error in unseen] == [FURTHER]


def test_resource_that_stays_in_use_is_reported_at_the_limit(
    clients, waiter, labels, register, make_snapshot
):
    snapshot = make_snapshot(labels)
    theirs = register(replace(labels, site=labels.site + "-other"), snapshot=snapshot)
    with pytest.raises(EC2ServiceException, match=f"snapshot {snapshot} in {ORIGIN} to be removed"):
        clean(clients, waiter, labels, limit=0.3)
    assert theirs.id
