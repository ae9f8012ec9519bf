import pytest

from fedimg.aws.regions import expected, selected
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException


def test_all_enabled_regions_are_selected_the_origin_first(origin):
    assert selected(origin, EC2(origin="eu-west-1")) == ["eu-west-1", "ap-east-1", "us-east-1"]


def test_only_named_regions_are_selected(origin):
    assert selected(origin, EC2(regions=["us-east-1", "eu-west-1"])) == ["us-east-1", "eu-west-1"]


def test_origin_is_selected_even_if_it_is_not_named(origin):
    assert selected(origin, EC2(regions=["eu-west-1"])) == ["us-east-1", "eu-west-1"]


def test_region_named_twice_is_selected_once(origin):
    assert selected(origin, EC2(regions=["eu-west-1"] * 2)) == ["us-east-1", "eu-west-1"]


def test_excluded_regions_are_not_selected(origin):
    assert selected(origin, EC2(exclude_regions=["eu-west-1"])) == ["us-east-1", "ap-east-1"]


def test_region_that_is_excluded_need_not_be_enabled(origin):
    assert len(selected(origin, EC2(exclude_regions=["me-south-1"]))) == 3


@pytest.mark.parametrize("settings", [{"regions": ["me-south-1"]}, {"origin": "me-south-1"}])
def test_region_that_is_not_enabled_is_named(origin, settings):
    with pytest.raises(EC2ServiceException, match=r"me-south-1.*fedimg\.toml"):
        selected(origin, EC2(**settings))


def test_region_of_another_partition_is_told_as_such(origin):
    with pytest.raises(EC2ServiceException, match=r"cn-north-1 is not in aws, the partition of"):
        selected(origin, EC2(regions=["us-east-1", "cn-north-1"]))


def test_services_of_a_partition_are_botocores_data(clients):
    for origin in ("us-east-1", "cn-north-1", "us-gov-west-1", "eusc-de-east-1"):
        assert all(clients.has_service(each, origin) for each in ("ebs", "rbin", "service-quotas"))
    # A region that is newer than the data may have everything.
    assert clients.has_service("ebs", "us-lab-1")
    assert clients.partition("us-lab-1") == "aws"


def test_regions_of_the_origins_partition_are_expected_without_asking_ec2(clients):
    known = expected(clients, EC2(origin="eu-west-1", exclude_regions=["us-east-1"]))
    assert known[0] == "eu-west-1"
    assert {"ap-south-1", "us-west-2"} < set(known)
    assert not {"us-east-1", "cn-north-1"} & set(known)
    assert len(set(known)) == len(known)
    assert "cn-northwest-1" in expected(clients, EC2(origin="cn-north-1"))


def test_only_named_regions_are_expected(clients):
    assert expected(clients, EC2(regions=["sa-east-1"])) == ["us-east-1", "sa-east-1"]


def test_only_the_origin_is_expected_in_an_unknown_partition(clients):
    assert expected(clients, EC2(origin="xx-lab-1")) == ["xx-lab-1"]
