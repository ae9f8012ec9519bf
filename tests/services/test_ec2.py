"""One image through EC2Service, on an EC2 whose instances run: what comes out.

Follows fedimg/services/job_context.py, fedimg/services/site.py.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fedimg.aws import tags
from fedimg.aws.instance import scripts
from fedimg.exceptions import (
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.images import AMI, Architecture, Disk, RawImage, Virtualization
from fedimg.services.outcome import Result
from lab import disk
from tests.services.conftest import (
    ORIGIN,
    REGIONS,
    SITE,
    SLOW_REGION,
    SMALL,
    WITH_PV,
    Lab,
    Recorder,
    until,
    waiting_check,
)


def instances(lab: Lab) -> list[dict[str, Any]]:
    """Return the origin's instances, those that are gone too."""
    return [
        instance
        for reservation in lab.ec2().describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    ]


def role(thing: dict[str, Any]) -> str:
    return str({tag["Key"]: tag["Value"] for tag in thing["Tags"]}["fedimg:role"])


# What comes out


@dataclass
class Published:
    """One image that was published with the default settings, and what was seen of it."""

    lab: Lab
    image: RawImage
    observer: Recorder
    result: Result

    def shown(self, virtualization: Virtualization) -> Iterator[tuple[AMI, dict[str, Any]]]:
        """Return the AMIs of a virtualization type, with what EC2 shows of each."""
        for amis in self.result.published.values():
            for ami in amis:
                if ami.type.virtualization is virtualization:
                    yield ami, self.lab.described(ami)


@pytest.fixture(scope="class")
def published(site: Lab) -> Iterator[Published]:
    image, observer = site.image(), Recorder()
    result = site.upload(image, observer)
    yield Published(site, image, observer, result)
    site.clean(image)
    site.wipe()


class TestPublishedImage:
    """Looks at one upload, which all of them share."""

    def test_every_named_region_has_every_type_it_can_have(self, published: Published) -> None:
        made = {
            region: sorted(str(ami.type) for ami in amis)
            for region, amis in published.result.published.items()
        }
        hvm = ["hvm-gp2", "hvm-standard"]
        both = [*hvm, "paravirtual-gp2", "paravirtual-standard"]
        # EC2 has no PV-GRUB kernel in us-east-2.
        assert made == {"us-east-1": both, "us-east-2": hvm, "eu-west-1": both}
        assert published.result.failed == {}
        assert len(published.lab.live("image")) == 10

    def test_hvm_amis_have_their_attributes(self, published: Published) -> None:
        image = published.image
        for ami, shown in published.shown(Virtualization.HVM):
            assert shown["State"] == "available"
            assert shown["Public"] is True
            assert shown["Architecture"] == "x86_64"
            assert shown["VirtualizationType"] == "hvm"
            assert shown["EnaSupport"] is True
            assert shown["ImdsSupport"] == "v2.0"
            assert "KernelId" not in shown
            assert "BootMode" not in shown
            assert "TpmSupport" not in shown
            assert shown["RootDeviceName"] == "/dev/sda1"
            (root,) = shown["BlockDeviceMappings"]
            assert root["DeviceName"] == "/dev/sda1"
            assert root["Ebs"]["SnapshotId"] == ami.snapshot
            assert root["Ebs"]["VolumeType"] == ami.type.volume_type
            assert root["Ebs"]["DeleteOnTermination"] is True
            assert shown["Name"] == f"{image.name}-hvm-{ami.region}-{ami.type.volume_type}-0"
            assert shown["Description"] == f"{image.build} {image.checksum} {image.url}"[:255]

    def test_pv_amis_have_their_attributes(self, published: Published) -> None:
        for ami, shown in published.shown(Virtualization.PARAVIRTUAL):
            kernel = published.lab.ec2(ami.region).describe_images(ImageIds=[shown["KernelId"]])
            assert kernel["Images"][0]["Name"] == "pv-grub-hd00_1.05-x86_64.gz"
            assert shown["Public"] is True
            assert shown["Architecture"] == "x86_64"
            assert shown["VirtualizationType"] == "paravirtual"
            assert not shown.get("EnaSupport")
            assert shown["RootDeviceName"] == "/dev/sda"
            (root,) = shown["BlockDeviceMappings"]
            assert root["DeviceName"] == "/dev/sda"
            assert root["Ebs"]["SnapshotId"] == ami.snapshot
            assert root["Ebs"]["VolumeType"] == ami.type.volume_type

    def test_each_region_has_one_snapshot_of_the_images_very_bytes(
        self, published: Published
    ) -> None:
        lab = published.lab
        snapshots = {row["region"]: row["id"] for row in lab.live("snapshot")}
        assert len(snapshots) == len(lab.live("snapshot")) == len(REGIONS)
        assert all(row["public"] for row in lab.live("snapshot"))
        raw = lab.raw().read_bytes()
        for region, amis in published.result.published.items():
            assert {ami.snapshot for ami in amis} == {snapshots[region]}
            held = lab.bytes_of(snapshots[region], len(raw))
            assert hashlib.sha256(held).digest() == hashlib.sha256(raw).digest()

    def test_everything_is_tagged_as_the_jobs_own(self, published: Published) -> None:
        for row in published.lab.live():
            assert row["tags"]["fedimg:site"] == SITE
            assert row["tags"]["fedimg:job"] == published.image.job
            assert row["tags"]["fedimg:image"] == published.image.name
            assert row["tags"]["fedimg:role"]
            assert row["tags"]["Name"]

    def test_public_things_carry_the_record_of_the_image(self, published: Published) -> None:
        image, raw = published.image, published.lab.raw().read_bytes()
        rows = [*published.lab.live("image"), *published.lab.live("snapshot")]
        assert len(rows) == 10 + len(REGIONS)
        for row in rows:
            assert row["tags"]["fedimg:url"] == image.url
            assert row["tags"]["fedimg:build"] == image.build
            assert row["tags"]["fedimg:checksum"] == image.checksum
            assert row["tags"]["fedimg:tested"] == ORIGIN
            disk = tags.disk_of(row["tags"])
            assert disk == Disk(hashlib.sha256(raw).hexdigest(), len(raw))

    def test_instances_have_imdsv2_alone_and_no_profile(self, published: Published) -> None:
        seen = instances(published.lab)
        roles = sorted(role(instance) for instance in seen)
        assert roles == ["test-hvm", "test-paravirtual", "utility"]
        for instance in seen:
            assert instance["State"]["Name"] in ("shutting-down", "terminated")
            assert instance["MetadataOptions"]["HttpTokens"] == "required"
            assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
            assert "IamInstanceProfile" not in instance
            # Users get into their instances by a key pair; the utility instance is nobody's.
            assert instance.get("KeyName", "").startswith("fedimg-") == (
                role(instance) != "utility"
            )
        assert published.lab.live("key-pair") == []

    def test_group_lets_in_the_configured_source_alone(self, published: Published) -> None:
        lab = published.lab
        (row,) = lab.live("security-group")
        (group,) = lab.ec2().describe_security_groups(GroupIds=[row["id"]])["SecurityGroups"]
        (rule,) = group["IpPermissions"]
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == (
            "tcp",
            lab.ssh_port,
            lab.ssh_port,
        )
        assert [r["CidrIp"] for r in rule["IpRanges"]] == ["127.0.0.1/32"]
        assert not rule.get("Ipv6Ranges")
        assert not rule.get("UserIdGroupPairs")

    def test_observer_is_told_of_each_ami_once(self, published: Published) -> None:
        observer = published.observer
        everywhere = {ami.id for amis in published.result.published.values() for ami in amis}
        origin = {ami.id for ami in published.result.published[ORIGIN]}
        assert len(observer.of("started")) == 1
        assert sorted(ami.id for ami in observer.amis("registered")) == sorted(origin)
        assert sorted(ami.id for ami in observer.amis("copied")) == sorted(everywhere - origin)
        assert sorted(ami.id for ami in observer.amis("published")) == sorted(everywhere)
        tested = [ami.type.virtualization for ami in observer.amis("test completed")]
        assert sorted(tested) == sorted(Virtualization)
        assert [check.passed for told in observer.of("test completed") for check in told.checks]
        assert observer.of("test failed") == []


def test_nothing_waits_for_instances_that_are_slow_to_go(lab: Lab) -> None:
    image = lab.image()
    result = lab.upload(image, limits={"instance_gone": 0.001}, **SMALL)
    assert set(result.published) == {ORIGIN}
    lab.clean(image)


def test_nothing_is_public_before_the_boot_check_has_passed(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    service = lab.service(checks=[waiting_check(lab)], **WITH_PV)
    results: list[Result] = []
    job = threading.Thread(target=lambda: results.append(service.upload(image, observer)))
    job.start()
    try:
        until(
            lambda: (
                observer.words().count("waiting for the boot check") == 2
                and lab.web.asked.count("/go") > 2
            ),
            "everything ready but the check",
        )
        assert len(lab.live("image")) == 4
        assert lab.public() == []
        assert observer.of("published") == []
    finally:
        lab.web.put("go", b"")
        job.join()
        del lab.web.files["/go"]
    assert set(results[0].published) == {ORIGIN, "eu-west-1"}
    assert len(lab.public()) == 4 + 2
    first = next(i for i, told in enumerate(observer.told) if told.what == "published")
    assert len([t for t in observer.told[:first] if t.what == "test completed"]) == 2


def test_uefi_image_of_several_streams_becomes_gp3_amis_with_a_tpm(lab: Lab) -> None:
    attributes = {"uefi": True, "boot_code": False, "menu_lst": False}
    image = lab.image(streams=3, **attributes)
    amis = {"types": ["hvm-gp3"], "boot_mode": "uefi", "tpm": True}
    result = lab.upload(image, regions=[ORIGIN, "us-east-2"], amis=amis)
    assert set(result.published) == {ORIGIN, "us-east-2"}
    raw = lab.raw(**attributes).read_bytes()
    for (ami,) in result.published.values():
        shown = lab.described(ami)
        assert (shown["BootMode"], shown["TpmSupport"]) == ("uefi", "v2.0")
        assert shown["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] == "gp3"
        assert lab.bytes_of(ami.snapshot, len(raw)) == raw


def test_aarch64_image_becomes_private_arm64_amis_that_no_lab_machine_boots(lab: Lab) -> None:
    image = lab.image(architecture=Architecture.ARM64, uefi=True)
    observer, shown = Recorder(), []
    observer.when["test started"] = lambda: shown.extend(
        lab.described(ami) for ami in observer.amis("registered")
    )
    with pytest.raises(
        EC2TestException, match=r"hvm-.* AMI ami-.* no arm64 machine .* no SSH login"
    ) as failure:
        # An x86 machine writes it: what is written does not depend on who writes.
        lab.upload(
            image,
            observer,
            regions=[ORIGIN],
            aarch64={"utility_ami": lab.utility, "utility_type": "m5.large"},
            # The machine that writes it has to be there in time, however busy this one is.
            limits={"ssh_ready": 10},
        )
    assert "no arm64 machine runs here" in failure.value.output
    # PV is for x86 alone.
    assert [ami["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] for ami in shown] == [
        "standard",
        "gp2",
    ]
    for ami in shown:
        assert (ami["Architecture"], ami["VirtualizationType"]) == ("arm64", "hvm")
        assert (ami["BootMode"], ami["EnaSupport"]) == ("uefi", True)
    tested = [i["InstanceType"] for i in instances(lab) if role(i) == "test-hvm"]
    assert tested[-1] == "t4g.small"
    lab.leaves_nothing(image)


def test_architecture_without_a_utility_ami_is_named(lab: Lab) -> None:
    image = lab.image(architecture=Architecture.ARM64)
    with pytest.raises(EC2UtilityException, match=r"no utility AMI for arm64 .* 'fedimg check'"):
        lab.upload(image, **SMALL)
    assert lab.made_for(image, "instance") == []
    lab.leaves_nothing(image)


@pytest.mark.parametrize("suffix", [".raw.zst", ".raw.gz", ".raw"])
def test_image_in_another_format_becomes_public(lab: Lab, suffix: str) -> None:
    raw = lab.raw()
    content = disk.packed_as(raw, suffix.removeprefix(".raw")).read_bytes()
    image = lab.image(content, suffix=suffix)
    result = lab.upload(image, **SMALL)
    ami = result.published[ORIGIN][0]
    size = raw.stat().st_size
    assert lab.bytes_of(ami.snapshot, size) == raw.read_bytes()
    lab.clean(image)


def test_utility_ami_without_the_tool_is_found_out_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = disk.packed_as(lab.raw(), ".zst").read_bytes()
    image, observer = lab.image(content, suffix=".raw.zst"), Recorder()
    text = scripts.text
    # The function stands for an AMI without zstd.
    lack = 'command() { case $2 in zstd) return 1 ;; *) builtin command "$@" ;; esac; }\n'
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "text", lambda name: lack + text(name))
        with pytest.raises(EC2UtilityException, match="the utility AMI has no zstd; install it"):
            lab.upload(image, observer, **SMALL)
    assert len(lab.made_for(image, "instance")) == 1
    with pytest.raises(EC2UtilityException, match=r"ami-\w+ has no zstd, which unpacks \.raw\.zst"):
        lab.upload(image, observer, rerun=True, **SMALL)
    assert len(lab.made_for(image, "instance")) == 1
    lab.leaves_nothing(image)


def test_plan_goes_everywhere_but_the_excluded_and_touches_nothing(lab: Lab) -> None:
    everywhere = {r["RegionName"] for r in lab.ec2().describe_regions()["Regions"]}
    plan = lab.service(regions=[], exclude_regions=["eu-west-1", SLOW_REGION]).plan(lab.image())
    assert set(plan.types) == everywhere - {"eu-west-1", SLOW_REGION}
    assert next(iter(plan.types)) == plan.origin == ORIGIN
    assert "us-east-2" in plan.left_out
    assert "no PV-GRUB kernel" in plan.left_out["us-east-2"]
    assert ORIGIN not in plan.left_out
    assert lab.live() == []


def test_region_that_the_account_does_not_have_is_named(lab: Lab) -> None:
    with pytest.raises(EC2ServiceException, match="has not enabled xx-nowhere-1"):
        lab.upload(lab.image(), regions=[ORIGIN, "xx-nowhere-1"])
    assert lab.live() == []


def test_private_addresses_in_a_named_subnet_are_enough(lab: Lab) -> None:
    ec2 = lab.ec2()
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24", AvailabilityZone=f"{ORIGIN}a")[
        "Subnet"
    ]["SubnetId"]
    image, observer = lab.image(), Recorder()
    seen: list[dict[str, Any]] = []
    for moment in ("runs at", "test started"):
        observer.when[moment] = lambda: seen.extend(instances(lab))
    network = {"address": "private", "vpc": vpc, "subnet": subnet}
    lab.upload(image, observer, network=network, **SMALL)
    running = [instance for instance in seen if instance["State"]["Name"] == "running"]
    assert running
    for instance in running:
        assert (instance["VpcId"], instance["SubnetId"]) == (vpc, subnet)
        assert "PublicIpAddress" not in instance
    (group,) = lab.live("security-group")
    (shown,) = ec2.describe_security_groups(GroupIds=[group["id"]])["SecurityGroups"]
    assert shown["VpcId"] == vpc
    lab.clean(image)


def test_calls_stay_few_when_regions_are_many(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    image = lab.image()
    lab.forget_calls()
    result = lab.upload(image, regions=[], exclude_regions=[SLOW_REGION])
    calls = lab.ask("calls")["EC2"]
    amis = sum(len(made) for made in result.published.values())
    each = sum(calls.values()) / amis
    print(f"{sum(calls.values())} EC2 calls for {amis} AMIs in {len(result.published)} regions:")
    print(f"{each:.2f} an AMI, {calls}")
    record_property("ec2_calls_per_ami", round(each, 2))
    assert result.failed == {}
    assert amis > 2 * len(result.published) > 40
    assert each <= 8
