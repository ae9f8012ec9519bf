import json
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import plan
from fedimg.aws.client.clients import Clients
from fedimg.aws.plan import Plan
from fedimg.config import EC2, AMIs, Checking
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Architecture, Virtualization
from fedimg.records import as_record, from_record

HVM = [AMIType(Virtualization.HVM, volume) for volume in ("standard", "gp2")]
PV = [AMIType(Virtualization.PARAVIRTUAL, volume) for volume in ("standard", "gp2")]


def settings(*types: str, **changes) -> EC2:
    return EC2(amis=AMIs(types=list(types)) if types else AMIs(), **changes)


def test_pv_is_left_out_where_there_is_no_kernel_and_said_to_be(image, clients):
    made = plan.make(image, settings(), clients)
    assert made.origin == "us-east-1"
    assert {region: sorted(kinds) for region, kinds in made.types.items()} == {
        "us-east-1": sorted(PV + HVM),
        "eu-west-1": sorted(PV + HVM),
        "ap-east-1": sorted(HVM),
    }
    assert set(made.kernels) == {"us-east-1", "eu-west-1"}
    assert list(made.left_out) == ["ap-east-1"]
    assert "PV-GRUB" in made.left_out["ap-east-1"]


def test_origin_without_a_kernel_means_no_pv_anywhere(image, clients):
    # Nobody could boot it there, and nothing is public that was not booted.
    made = plan.make(image, settings(origin="ap-east-1"), clients)
    assert {tuple(sorted(kinds)) for kinds in made.types.values()} == {tuple(sorted(HVM))}
    assert set(made.left_out) == {"ap-east-1", "eu-west-1", "us-east-1"}
    assert "ap-east-1, where it would be tested" in made.left_out["eu-west-1"]


def test_origin_comes_first_and_the_others_get_copies(image, clients):
    made = plan.make(image, settings(origin="eu-west-1"), clients)
    assert next(iter(made.types)) == "eu-west-1"
    assert made.further == ["ap-east-1", "us-east-1"]


def test_one_ami_of_each_virtualization_type_is_booted_hvm_first(image, clients):
    made = plan.make(image, settings("paravirtual-gp2", "hvm-gp3", "hvm-gp2"), clients)
    assert {region: list(map(str, kinds)) for region, kinds in made.tested.items()} == {
        "us-east-1": ["hvm-gp3", "paravirtual-gp2"]
    }


def test_every_type_and_further_regions_are_booted_where_the_site_says_so(image, clients):
    test = Checking(amis="types", regions=["ap-east-1"])
    made = plan.make(image, settings("paravirtual-gp2", "hvm-gp3", "hvm-gp2", test=test), clients)
    assert {region: list(map(str, kinds)) for region, kinds in made.tested.items()} == {
        "us-east-1": ["hvm-gp3", "hvm-gp2", "paravirtual-gp2"],
        "ap-east-1": ["hvm-gp3", "hvm-gp2"],
    }


def test_booted_region_that_gets_no_ami_is_named(image, clients):
    test = Checking(regions=["eu-west-1"])
    with pytest.raises(EC2ServiceException, match=r"ec2\.test\.regions names eu-west-1"):
        plan.make(image, settings(exclude_regions=["eu-west-1"], test=test), clients)


def test_arm64_gets_only_hvm_amis_and_no_reason_for_missing_ones(image, clients, account):
    before = account.calls().get("DescribeImages")
    made = plan.make(replace(image, architecture=Architecture.ARM64), settings(), clients)
    assert {tuple(sorted(kinds)) for kinds in made.types.values()} == {tuple(sorted(HVM))}
    assert (made.left_out, made.kernels) == ({}, {})
    assert account.calls().get("DescribeImages") == before


def test_region_where_nothing_can_be_made_is_left_out_with_the_reason(image, clients):
    made = plan.make(image, settings("paravirtual-gp2"), clients)
    assert set(made.types) == {"us-east-1", "eu-west-1"}
    assert list(made.left_out) == ["ap-east-1"]


@pytest.mark.parametrize(
    ("architecture", "origin"),
    [(Architecture.X86_64, "ap-east-1"), (Architecture.ARM64, "us-east-1")],
)
def test_no_ami_in_the_origin_is_an_error(image, clients, architecture, origin):
    with pytest.raises(EC2ServiceException, match=r"paravirtual-gp2.*ec2\.amis\.types"):
        plan.make(
            replace(image, architecture=architecture),
            settings("paravirtual-gp2", origin=origin),
            clients,
        )


def test_configured_kernel_makes_pv_possible(image, clients):
    amis = AMIs(types=["paravirtual-gp2"], paravirtual_kernels={"ap-east-1": "aki-12345678"})
    made = plan.make(image, EC2(origin="ap-east-1", amis=amis), clients)
    assert made.kernels["ap-east-1"] == "aki-12345678"
    assert made.left_out == {}


def test_further_region_that_does_not_answer_stops_no_other(image, clients, account):
    account.refuse("eu-west-1", DescribeImages="UnauthorizedOperation")
    made = plan.make(image, settings(), Clients())
    assert sorted(made.types["eu-west-1"]) == sorted(PV + HVM)
    assert set(made.kernels) == {"us-east-1"}
    assert list(made.left_out) == ["ap-east-1"]


def test_origin_that_does_not_answer_is_an_error(image, clients, account):
    account.refuse("us-east-1", DescribeImages="UnauthorizedOperation")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        plan.make(image, settings(), Clients())


def test_regions_are_asked_one_at_a_time_if_no_more_may_be(image, clients):
    made = plan.make(image, settings(limits={"regions": 1}), Clients())
    assert len(made.types) == 3


def test_names_are_those_that_the_amis_get(image, clients):
    names = plan.make(image, settings("hvm-gp2"), clients).names(image)
    assert names["eu-west-1"] == [f"{image.name}-hvm-eu-west-1-gp2-0"]
    assert set(names) == {"us-east-1", "eu-west-1", "ap-east-1"}


def test_plan_survives_the_queue(image, clients):
    made = plan.make(image, settings(), clients)
    again = from_record(Plan, json.loads(json.dumps(as_record(made))))
    assert again == made
    assert list(again.types) == list(made.types)


def test_planning_changes_nothing(image, clients, account):
    before = account.calls()
    plan.make(image, settings(), Clients())
    called = {name for name, count in account.calls().items() if count != before.get(name)}
    assert called == {"DescribeRegions", "DescribeImages"}
