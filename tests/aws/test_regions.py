import pytest

from fedimg.aws.regions import expected, wanted
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException


def test_all_enabled_regions_are_wanted_the_origin_first(origin):
    assert wanted(origin, EC2(origin="eu-west-1")) == ["eu-west-1", "ap-east-1", "us-east-1"]


def test_named_regions_are_wanted_alone(origin):
    assert wanted(origin, EC2(regions=["us-east-1", "eu-west-1"])) == ["us-east-1", "eu-west-1"]


def test_origin_is_wanted_even_if_it_is_not_named(origin):
    assert wanted(origin, EC2(regions=["eu-west-1"])) == ["us-east-1", "eu-west-1"]


def test_region_named_twice_is_wanted_once(origin):
    assert wanted(origin, EC2(regions=["eu-west-1"] * 2)) == ["us-east-1", "eu-west-1"]


def test_excluded_regions_are_not_wanted(origin):
    assert wanted(origin, EC2(exclude_regions=["eu-west-1"])) == ["us-east-1", "ap-east-1"]


def test_region_that_is_excluded_need_not_be_enabled(origin):
    assert len(wanted(origin, EC2(exclude_regions=["me-south-1"]))) == 3


@pytest.mark.parametrize("settings", [{"regions": ["me-south-1"]}, {"origin": "me-south-1"}])
def test_region_that_is_not_enabled_is_named(origin, settings):
    with pytest.raises(EC2ServiceException, match=r"me-south-1.*fedimg\.toml"):
        wanted(origin, EC2(**settings))


def test_regions_of_the_origins_kind_are_expected_without_asking(clients):
    known = expected(clients, EC2(origin="eu-west-1", exclude_regions=["us-east-1"]))
    assert known[0] == "eu-west-1"
    assert {"ap-south-1", "us-west-2"} < set(known)
    assert not {"us-east-1", "cn-north-1"} & set(known)
    assert len(set(known)) == len(known)
    assert "cn-northwest-1" in expected(clients, EC2(origin="cn-north-1"))


def test_named_regions_are_expected_alone(clients):
    assert expected(clients, EC2(regions=["sa-east-1"])) == ["us-east-1", "sa-east-1"]


def test_of_a_kind_that_nobody_knows_the_origin_alone_is_expected(clients):
    assert expected(clients, EC2(origin="xx-lab-1")) == ["xx-lab-1"]
