from dataclasses import replace

import pytest

from fedimg.aws.client.errors import code, no_capacity
from fedimg.aws.instance import instances
from fedimg.aws.instance.network import prepare
from fedimg.config import Network
from fedimg.exceptions import EC2ServiceException
from tests.aws.conftest import ORIGIN, wait_until

NETWORK = Network(allowed_source="127.0.0.0/8")
BLANK = {"VolumeSize": 1, "VolumeType": "gp3", "DeleteOnTermination": True}


@pytest.fixture(scope="module")
def ami(ec2, tmp_path_factory) -> str:
    """Register an AMI whose disk does not boot."""
    raw = tmp_path_factory.mktemp("raw") / "blank.raw"
    raw.write_bytes(bytes(4096))
    return ec2.default_image(ORIGIN, raw, name="blank")


@pytest.fixture
def job_network(origin, waiter, labels):
    return prepare(origin, waiter, labels, NETWORK)


@pytest.fixture
def launch(origin, waiter, labels, ami, job_network):
    """Return a function that launches an instance of the test's job; terminate all at the end."""

    def launch(role="utility", *, token="1", job=labels, network=NETWORK, client=origin, **changes):
        given = {
            "ami": ami,
            "instance_type": "t3.small",
            "user_data": "#cloud-config\n",
            "token": job.token(role, token),
            "group": job_network.group,
            "subnet": instances.subnets_for(origin, job_network, "t3.small", 0)[0],
            **changes,
        }
        return instances.launch(client, waiter, job, role, instances.Launch(**given), network)

    yield launch
    waiter.stop.clear()
    for role in ("utility", "test-hvm"):
        instances.end(origin, waiter, labels, role, limit=10)


def shown(origin, instance) -> dict:
    (reservation,) = origin.describe_instances(InstanceIds=[instance])["Reservations"]
    return reservation["Instances"][0]


def test_instance_is_locked_down(origin, launch, job_network):
    made = shown(origin, launch())
    assert made["MetadataOptions"]["HttpTokens"] == "required"
    assert "IamInstanceProfile" not in made
    assert [group["GroupId"] for group in made["SecurityGroups"]] == [job_network.group]
    behaviour = origin.describe_instance_attribute(
        InstanceId=made["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_everything_of_an_instance_is_tagged(origin, waiter, launch, labels, account):
    instance = launch(volumes=[{"DeviceName": "/dev/sdf", "Ebs": BLANK}])
    assert labels.own(shown(origin, instance)["Tags"])
    assert account.kinds(labels.site) == ["instance", "security-group", "volume", "volume"]
    interfaces = origin.describe_network_interfaces(Filters=labels.filters("utility"))
    assert len(interfaces["NetworkInterfaces"]) == 1


def test_equal_calls_with_one_token_are_one_instance(launch, account, labels):
    assert launch() == launch()
    assert launch(token="2") != launch()
    assert account.kinds(labels.site).count("instance") == 2


def test_running_instance_has_its_address_and_volumes(origin, waiter, launch):
    instance = launch(volumes=[{"DeviceName": "/dev/sdf", "Ebs": BLANK}])
    running = instances.running(origin, waiter, instance, NETWORK, limit=10)
    made = shown(origin, instance)
    assert running.id == instance
    assert running.address == made["PublicIpAddress"]
    assert set(running.volumes) == {"/dev/sda1", "/dev/sdf"}
    volume = origin.describe_volumes(VolumeIds=[running.volumes["/dev/sdf"]])["Volumes"][0]
    assert (volume["Size"], volume["VolumeType"]) == (1, "gp3")


def test_private_instance_has_no_public_address(origin, waiter, launch):
    network = Network(allowed_source="127.0.0.0/8", address="private")
    instance = launch(network=network)
    running = instances.running(origin, waiter, instance, network, limit=10)
    made = shown(origin, instance)
    assert running.address == made["PrivateIpAddress"]
    assert "PublicIpAddress" not in made


def test_running_has_its_limit(origin, waiter, launch):
    with pytest.raises(EC2ServiceException, match="to run and to have an address"):
        instances.running(origin, waiter, launch(), NETWORK, limit=0.01)


def test_instance_that_ends_before_it_runs_is_reported_with_ec2s_reason(origin, waiter, launch):
    instance = launch()
    origin.terminate_instances(InstanceIds=[instance])
    with pytest.raises(EC2ServiceException, match=f"{instance} is .*User initiated shutdown"):
        instances.running(origin, waiter, instance, NETWORK, limit=10)


def test_console_says_why_an_instance_does_not_boot(origin, waiter, launch):
    instance = launch()
    instances.running(origin, waiter, instance, NETWORK, limit=10)
    wait_until(lambda: instances.console(origin, instance) != "")


def test_console_of_an_unknown_instance_is_empty(origin):
    assert instances.console(origin, "i-00000000000000000") == ""


def test_ended_role_is_gone_with_its_volumes(origin, waiter, launch, labels, account):
    launch(token="1", volumes=[{"DeviceName": "/dev/sdf", "Ebs": BLANK}])
    launch(token="2")
    instances.end(origin, waiter, labels, "utility", limit=10)
    assert account.kinds(labels.site) == ["security-group"]


def test_other_roles_and_jobs_are_not_ended(origin, waiter, launch, labels, account):
    other = replace(labels, job="build-8-Fedora")
    kept = {launch("test-hvm"), launch(job=other)}
    launch()
    instances.end(origin, waiter, labels, "utility", limit=10)
    live = {row["id"] for row in account.live(labels.site) if row["kind"] == "instance"}
    assert live == kept
    instances.end(origin, waiter, other, "utility", limit=10)


def test_end_of_nothing_is_at_once(origin, waiter, labels):
    instances.end(origin, waiter, labels, "utility", limit=0.01)


def test_end_has_its_limit(origin, waiter, launch, labels):
    launch()
    with pytest.raises(EC2ServiceException, match=r"utility instances of .* to terminate"):
        instances.end(origin, waiter, labels, "utility", limit=0.01)


@pytest.mark.parametrize(
    "name", ["InsufficientInstanceCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported"]
)
def test_lack_of_capacity_is_recognized(account, clients, launch, name):
    account.refuse(ORIGIN, RunInstances=name)
    with pytest.raises(Exception, match=name) as caught:
        launch(client=clients.ec2_once(ORIGIN))
    assert no_capacity(caught.value)


def test_bad_request_is_not_taken_for_lack_of_capacity(origin, launch):
    with pytest.raises(Exception, match="InvalidAMIID") as caught:
        launch(ami="ami-00000000000000000")
    assert code(caught.value)
    assert not no_capacity(caught.value)


def test_attempts_go_round_the_zones_that_offer_the_type(origin, job_network):
    offers = origin.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": ["t3.small"]}],
    )["InstanceTypeOfferings"]
    zones = {offer["Location"] for offer in offers}
    fit = [subnet for subnet, zone in job_network.subnets.items() if zone in zones]
    tried = [instances.subnets_for(origin, job_network, "t3.small", n) for n in range(len(fit) + 1)]
    assert [first for first, *_ in tried] == [*fit, fit[0]]
    assert all(sorted(each) == sorted(fit) for each in tried)


def test_type_that_no_zone_is_known_to_offer_is_left_to_ec2(origin, job_network):
    assert instances.subnets_for(origin, job_network, "x99.huge", 0) == list(job_network.subnets)
