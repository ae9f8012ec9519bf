"""AMIs get the options of the configuration, and only calls that an option needs are made.

Follows fedimg/aws/ami_options.py and fedimg/config/ami_options.py.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws import ami_options, amis, publish
from fedimg.aws.client.kernels import paravirtual_kernel
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Architecture, Options, Virtualization
from tests.aws.conftest import ORIGIN
from tests.plans import ask, forget_calls

GP3 = AMIType(Virtualization.HVM, "gp3")
GP2 = AMIType(Virtualization.HVM, "gp2")
PV = AMIType(Virtualization.PARAVIRTUAL, "standard")
STORE = base64.b64encode(b"AMZNUEFI" + bytes(24)).decode()


class Unwatched:
    """Takes the place of a record: what is published is of no interest here."""

    def publishing(self, region: str, ids: Any) -> Any:
        return set(ids)

    def unpublished(self, region: str, ids: Any) -> None:
        pass

    def published(self, ami: Any) -> bool:
        return True


@pytest.fixture
def make(origin, waiter, labels, image, snapshot):
    """Return a function that makes an available AMI of the test's image, with these settings."""

    def make(kind: AMIType, **settings: Any):
        pv = kind.virtualization is Virtualization.PARAVIRTUAL
        kernel = paravirtual_kernel(origin) if pv else None
        basis = amis.Basis(image, ORIGIN, snapshot, kernel, AMIs(**settings))
        made = amis.register_all(origin, waiter, labels, [kind], basis)
        (ami,) = amis.available(origin, waiter, made, limit=10, partition="aws")
        ami_options.specify(origin, waiter, [ami])
        return ami

    return make


def shown(origin, ami) -> dict[str, Any]:
    return origin.describe_images(ImageIds=[ami.id])["Images"][0]


def test_each_option_is_seen_on_ec2(origin, make, tmp_path: Path):
    file = tmp_path / "uefi"
    file.write_text(f"{STORE}\n")
    ami = make(
        GP3,
        boot_mode="uefi",
        tpm=True,
        uefi_data=file,
        sriov=True,
        gp3_throughput=500,
        supported_instance_types={"x86_64": ["m5.*", "t3.*"], "arm64": ["t4g.*"]},
        unsupported_instance_types={"x86_64": ["t3.nano"]},
    )
    image = shown(origin, ami)
    assert (image["SriovNetSupport"], image["TpmSupport"]) == ("simple", "v2.0")
    (mapping,) = image["BlockDeviceMappings"]
    assert (mapping["Ebs"]["Iops"], mapping["Ebs"]["Throughput"]) == (3000, 500)
    assert image["InstanceTypeSpecification"] == {
        "SupportedInstanceTypes": [{"InstanceType": "m5.*"}, {"InstanceType": "t3.*"}],
        "UnsupportedInstanceTypes": [{"InstanceType": "t3.nano"}],
    }
    told = origin.describe_image_attribute(ImageId=ami.id, Attribute="uefiData")
    assert told["UefiData"]["Value"] == STORE
    assert ami.options is not None
    assert ami.options.supported == ("m5.*", "t3.*")
    assert len(ami.options.uefi_data) == 64


def test_paravirtual_ami_has_its_own_types_and_nothing_of_hvm(origin, make):
    settings = {
        "sriov": True,
        "gp3_iops": 4000,
        "supported_instance_types": {"paravirtual": ["m3.*", "c3.*"], "x86_64": ["m5.*"]},
    }
    ami = make(PV, **settings)
    image = shown(origin, ami)
    assert image["InstanceTypeSpecification"] == {
        "SupportedInstanceTypes": [{"InstanceType": "m3.*"}, {"InstanceType": "c3.*"}]
    }
    assert "SriovNetSupport" not in image
    assert "Iops" not in image["BlockDeviceMappings"][0]["Ebs"]
    assert ami.options == Options(supported=("m3.*", "c3.*"))


@pytest.mark.parametrize("kind", [GP3, GP2, PV])
def test_without_options_there_is_no_call_more(origin, waiter, make, ec2, snapshot, kind):
    forget_calls(ec2)
    ami = make(kind)
    publish.publish_all(origin, waiter, snapshot, [ami], Unwatched(), {})
    assert ami.options is None
    made = ask(ec2, "calls")["EC2"]
    assert "ReplaceImageInstanceTypeSpecification" not in made
    assert "EnableImageDeregistrationProtection" not in made
    assert shown(origin, ami)["DeregistrationProtection"] == "disabled"


def test_protection_is_on_once_the_ami_is_public_and_ends_for_a_removal(
    origin, waiter, make, snapshot
):
    ami = make(GP2, deregistration_protection="on")
    assert shown(origin, ami)["DeregistrationProtection"] == "disabled"
    publish.publish_all(origin, waiter, snapshot, [ami], Unwatched(), {})
    assert shown(origin, ami)["DeregistrationProtection"] == "enabled-without-cooldown"
    ami_options.deregister_protected(origin, ami.id)
    assert origin.describe_images(ImageIds=[ami.id])["Images"] == []


def test_cool_down_is_told(origin, waiter, make, snapshot):
    ami = make(GP2, deregistration_protection="with cool-down")
    publish.publish_all(origin, waiter, snapshot, [ami], Unwatched(), {})
    assert shown(origin, ami)["DeregistrationProtection"] == "enabled-with-cooldown"
    for _ in range(2):
        with pytest.raises(EC2ServiceException, match="its cool-down lasts up to 24 hours") as told:
            ami_options.deregister_protected(origin, ami.id)
        assert told.value.later
    assert shown(origin, ami)["DeregistrationProtection"] == "disabled"


def test_ami_with_a_watermark_is_not_published_and_the_words_say_why(
    origin, waiter, make, hands, snapshot
):
    ami = make(GP2)
    key = hands.ec2(ORIGIN).attach_image_watermark(ImageId=ami.id, WatermarkName="approved")
    with pytest.raises(EC2ServiceException, match="lets no AMI with one become public") as told:
        publish.publish_all(origin, waiter, snapshot, [ami], Unwatched(), {})
    assert f"--watermark-key {key['WatermarkKey']}'" in told.value.problem
    assert not shown(origin, ami)["Public"]


def test_file_that_is_gone_is_told(make, tmp_path: Path):
    with pytest.raises(EC2ServiceException, match=r"ec2\.amis\.uefi_data: cannot read"):
        make(GP2, boot_mode="uefi", uefi_data=tmp_path / "gone")


def test_plan_tells_all_that_ec2_is_told(tmp_path: Path):
    file = tmp_path / "uefi"
    file.write_text(STORE)
    settings = AMIs(
        boot_mode="uefi",
        uefi_data=file,
        sriov=True,
        gp3_throughput=200,
        supported_instance_types={"x86_64": ["m5.*"], "arm64": ["m6g.*"]},
        deregistration_protection="with cool-down",
    )
    told = ami_options.told(GP3, Architecture.X86_64, settings)
    assert told.pop("UefiData").startswith("sha256:")
    assert told == {
        "BootMode": "uefi",
        "ImdsSupport": "v2.0",
        "SriovNetSupport": "simple",
        "EnaSupport": True,
        "Iops": 3000,
        "Throughput": 200,
        "SupportedInstanceTypes": ["m5.*"],
        "DeregistrationProtection": "enabled-with-cooldown",
    }
    arm = ami_options.told(GP2, Architecture.ARM64, settings)
    assert arm["SupportedInstanceTypes"] == ["m6g.*"]
    assert "UefiData" not in arm
    assert ami_options.told(PV, Architecture.X86_64, AMIs()) == {}
