from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from fedimg.aws.instance import network
from fedimg.config import Network
from fedimg.exceptions import Cancelled, EC2ServiceException

NETWORK = Network(allowed_source="192.0.2.7")


def group(origin, job_network):
    return origin.describe_security_groups(GroupIds=[job_network.group])["SecurityGroups"][0]


def admitted(origin, job_network) -> list[tuple]:
    """Return the permissions of a group: protocol, ports, ranges."""
    return [
        (
            rule["IpProtocol"],
            rule.get("FromPort"),
            rule.get("ToPort"),
            [each["CidrIp"] for each in rule["IpRanges"]],
            [each["CidrIpv6"] for each in rule["Ipv6Ranges"]],
            rule["UserIdGroupPairs"],
        )
        for rule in group(origin, job_network)["IpPermissions"]
    ]


def test_only_the_configured_source_is_let_in_and_by_ssh_alone(origin, waiter, labels):
    job_network = network.prepare(origin, waiter, labels, NETWORK)
    assert admitted(origin, job_network) == [("tcp", 22, 22, ["192.0.2.7/32"], [], [])]


def test_port_and_range_are_the_configured_ones(origin, waiter, labels):
    settings = Network(allowed_source="2001:db8::/64", ssh_port=2222)
    job_network = network.prepare(origin, waiter, labels, settings)
    assert admitted(origin, job_network) == [("tcp", 2222, 2222, [], ["2001:db8::/64"], [])]


def test_group_is_the_jobs_own(origin, waiter, labels):
    job_network = network.prepare(origin, waiter, labels, NETWORK)
    assert labels.own(group(origin, job_network)["Tags"])
    other = replace(labels, job="build-8-Fedora")
    assert network.prepare(origin, waiter, other, NETWORK).group != job_network.group


def test_prepared_twice_is_one_group_with_one_rule(origin, waiter, labels, account):
    first = network.prepare(origin, waiter, labels, NETWORK)
    assert network.prepare(origin, waiter, labels, NETWORK) == first
    assert len(admitted(origin, first)) == 1
    assert account.kinds(labels.site) == ["security-group"]


def test_prepared_by_two_at_once_is_one_group(origin, waiter, labels, account):
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda _: network.prepare(origin, waiter, labels, NETWORK).group, range(2))
    assert len(set(both)) == 1
    assert account.kinds(labels.site) == ["security-group"]


def test_source_that_is_no_longer_configured_is_shut_out(origin, waiter, labels):
    network.prepare(origin, waiter, labels, Network(allowed_source="198.51.100.0/24"))
    job_network = network.prepare(origin, waiter, labels, NETWORK)
    assert admitted(origin, job_network) == [("tcp", 22, 22, ["192.0.2.7/32"], [], [])]


def test_without_a_source_no_group_is_made(origin, waiter, labels, account):
    with pytest.raises(EC2ServiceException, match=r"allowed_source.*fedimg\.toml"):
        network.prepare(origin, waiter, labels, Network())
    assert account.kinds(labels.site) == []


def test_instances_go_to_the_default_vpcs_subnets(origin, waiter, labels):
    job_network = network.prepare(origin, waiter, labels, NETWORK)
    (vpc,) = origin.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert group(origin, job_network)["VpcId"] == vpc["VpcId"]
    subnets = origin.describe_subnets(SubnetIds=list(job_network.subnets))["Subnets"]
    assert {subnet["VpcId"] for subnet in subnets} == {vpc["VpcId"]}
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in subnets}
    assert job_network.subnets == zones
    assert len(zones) > 1


def test_subnet_that_was_added_to_the_default_vpc_is_not_its_default(origin, waiter, labels):
    (vpc,) = origin.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    added = origin.create_subnet(VpcId=vpc["VpcId"], CidrBlock="172.31.240.0/24")["Subnet"]
    try:
        job_network = network.prepare(origin, waiter, labels, NETWORK)
        assert job_network.subnets
        assert added["SubnetId"] not in job_network.subnets
    finally:
        origin.delete_subnet(SubnetId=added["SubnetId"])


@pytest.fixture
def vpc(origin):
    """Create a VPC besides the default one."""
    made = origin.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    yield made
    for subnet in origin.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [made]}])[
        "Subnets"
    ]:
        origin.delete_subnet(SubnetId=subnet["SubnetId"])


def subnet_of(origin, vpc: str) -> str:
    return origin.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]


def test_configured_subnet_is_the_only_one_and_has_the_group_in_its_vpc(
    origin, waiter, labels, vpc
):
    subnet = subnet_of(origin, vpc)
    settings = Network(allowed_source="192.0.2.7", subnet=subnet)
    job_network = network.prepare(origin, waiter, labels, settings)
    assert list(job_network.subnets) == [subnet]
    assert group(origin, job_network)["VpcId"] == vpc


def test_configured_vpc_offers_its_subnets(origin, waiter, labels, vpc):
    subnet = subnet_of(origin, vpc)
    settings = Network(allowed_source="192.0.2.7", vpc=vpc)
    assert list(network.prepare(origin, waiter, labels, settings).subnets) == [subnet]


def test_vpc_without_subnets_is_named(origin, waiter, labels, vpc):
    with pytest.raises(EC2ServiceException, match=f"{vpc} has no subnet"):
        network.prepare(origin, waiter, labels, Network(allowed_source="192.0.2.7", vpc=vpc))


def test_unknown_subnet_raises_ec2s_error(origin, waiter, labels):
    settings = Network(allowed_source="192.0.2.7", subnet="subnet-0123456789abcdef0")
    with pytest.raises(ClientError, match="subnet-0123456789abcdef0"):
        network.prepare(origin, waiter, labels, settings)


def test_stopped_job_makes_no_group(origin, waiter, labels, account):
    waiter.stop.set()
    with pytest.raises(Cancelled):
        network.prepare(origin, waiter, labels, NETWORK)
    assert account.kinds(labels.site) == []
