"""One image through EC2Service, on an EC2 whose instances run: what comes out, what goes wrong.

Follows fedimg/aws/write/utility_instance.py, fedimg/services/job_context.py,
fedimg/services/recorded.py, fedimg/services/region_steps.py, fedimg/services/site.py,
fedimg/services/writing.py.
"""

from __future__ import annotations

import hashlib
import lzma
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws import tags
from fedimg.aws.instance import scripts
from fedimg.config import Check
from fedimg.exceptions import (
    Cancelled,
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.images import AMI, Architecture, Disk, RawImage, Virtualization
from fedimg.jobs.semaphores import Semaphores
from fedimg.progress import CheckState
from fedimg.services.ec2 import Result
from fedimg.services.writing import UTILITIES
from fedimg.store.store import Store
from lab import disk
from tests.services.conftest import (
    ORIGIN,
    PATIENCE,
    PUBLIC_AMIS,
    REGIONS,
    SITE,
    SLOW_REGION,
    Lab,
    Recorder,
    until,
)

#: What is enough where neither regions nor AMI types are what a test is about.
SMALL: dict[str, Any] = {"regions": [ORIGIN], "amis": {"types": ["hvm-gp2"]}}
WITH_COPY: dict[str, Any] = {**SMALL, "regions": [ORIGIN, "us-east-2"]}
WITH_PV: dict[str, Any] = {
    "regions": [ORIGIN, "eu-west-1"],
    "amis": {"types": ["paravirtual-gp2", "hvm-gp2"]},
}
#: A stopped service has to let go within two seconds, on a machine that has nothing else to do.
PROMPTLY = 60.0


def waiting_check(lab: Lab) -> Check:
    """Return a check that passes when the web server has a file `go`."""
    command = f"echo waiting; until curl -sf {lab.web.address}/go; do sleep 0.1; done"
    return Check(name="waits", command=command, timeout=PATIENCE)


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


# The image cannot be written


def test_job_that_gives_up_waiting_for_a_slot_blocks_no_other(lab: Lab, tmp_path: Path) -> None:
    image = lab.image()
    with closing(Store(tmp_path)) as store:
        semaphores = Semaphores(store)
        limits = {"utilities": 1, "copy": 0.5}
        service = lab.service(limits=limits, semaphores=semaphores, **SMALL)
        assert semaphores.acquire(UTILITIES, "before it", 1)
        with pytest.raises(EC2UtilityException, match="a slot among the 1 utility instances"):
            service.upload(image, Recorder())
        semaphores.release(UTILITIES, "before it")
        assert semaphores.acquire(UTILITIES, "behind it", 1)
    assert lab.made_for(image, "instance") == []
    lab.leaves_nothing(image)


def test_missing_file_fails_before_an_instance_starts(lab: Lab) -> None:
    image = lab.image()
    lab.web.files.clear()
    with pytest.raises(EC2UtilityException, match=rf"{image.file_name}.* 404") as failure:
        lab.upload(image, **SMALL)
    assert (failure.value.region, failure.value.step) == (ORIGIN, "write")
    assert failure.value.image == image.name
    assert lab.made_for(image, "instance") == []
    lab.leaves_nothing(image)


def cut_short(content: bytes) -> bytes:
    return content[:-4096]


def too_large(content: bytes) -> bytes:
    # The whole file is its streams together: 1 GiB and 32 MiB.
    return lzma.compress(bytes(32 << 20)) * 33


def no_xz(content: bytes) -> bytes:
    return b"<html>not found</html>" * 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut_short, "not a complete .xz file"),
        (too_large, "image of 2 GiB.*limits.image_gib"),
        (no_xz, "not an .xz file"),
    ],
)
def test_unusable_file_is_refused_before_an_instance_starts(
    lab: Lab, change: Callable[[bytes], bytes], words: str
) -> None:
    image = lab.image(change(lab.packed()))
    with pytest.raises(EC2UtilityException, match=words):
        lab.upload(image, **SMALL)
    assert lab.made_for(image, "instance") == []
    lab.leaves_nothing(image)


def test_file_of_another_size_than_koji_says_is_refused(lab: Lab) -> None:
    image = lab.image(size=12345)
    with pytest.raises(
        EC2UtilityException, match=r"Koji says 12345: .*not the file that was built"
    ):
        lab.upload(image, **SMALL)
    lab.leaves_nothing(image)


def test_wrong_checksum_fails_at_once(lab: Lab) -> None:
    image = lab.image(checksum="sha256:" + "0" * 64)
    with pytest.raises(EC2UtilityException, match=r"checksum: .*expected sha256:000") as failure:
        lab.upload(image, **{**SMALL, "limits": {"attempts": 3}})
    assert "failed checksum" in failure.value.output
    # Another instance would read the same bytes.
    assert len(lab.made_for(image, "instance")) == 1
    assert lab.made_for(image, "snapshot") == []
    lab.leaves_nothing(image)


def test_corrupt_file_fails_at_once(lab: Lab) -> None:
    content = bytearray(lab.packed())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    image = lab.image(bytes(content))
    with pytest.raises(EC2UtilityException, match="decompression") as failure:
        lab.upload(image, **{**SMALL, "limits": {"attempts": 3}})
    assert "failed decompression" in failure.value.output
    assert len(lab.made_for(image, "instance")) == 1
    assert lab.made_for(image, "snapshot") == []
    lab.leaves_nothing(image)


@pytest.mark.parametrize(
    ("manner", "words"),
    [("cut", "download: .*bytes remaining"), ("stalled", "download: .*too slow")],
)
def test_download_that_breaks_off_midway_fails(lab: Lab, manner: Any, words: str) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["runs at"] = {
        "cut": lambda: setattr(lab.web, "manner", "cut"),
        "stalled": lab.web.stall,
    }[manner]
    with pytest.raises(EC2UtilityException, match=words) as failure:
        # It is asked again for what is missing.
        lab.upload(image, observer, **{**SMALL, "limits": {"write_idle": 3, "write": 240}})
    assert "failed download" in failure.value.output
    assert lab.made_for(image, "snapshot") == []
    lab.leaves_nothing(image)


def test_utility_instance_that_never_answers_shows_its_console(lab: Lab, tmp_path: Path) -> None:
    raw = disk.make_image(tmp_path / "hangs.raw", size_mib=24, random_mib=0, boot_code=False)
    hangs = lab.default_image(ORIGIN, raw, name="hangs")
    image = lab.image()
    with pytest.raises(EC2UtilityException, match=r"utility instance i-.*no SSH login") as failure:
        lab.upload(image, x86_64={"utility_ami": hangs}, limits={"ssh_ready": 2}, **SMALL)
    assert "Booting from Hard Disk" in failure.value.output
    lab.leaves_nothing(image)


def test_worker_outside_the_allowed_source_cannot_log_in(lab: Lab) -> None:
    image = lab.image()
    network = {"allowed_source": "192.0.2.0/24"}
    with pytest.raises(EC2UtilityException, match="no SSH login") as failure:
        lab.upload(image, network=network, limits={"ssh_ready": 3}, **SMALL)
    assert "Started sshd" in failure.value.output
    lab.leaves_nothing(image)


def break_off(lab: Lab, observer: Recorder, end: str) -> None:
    """Have the first utility instance end, by an EC2 call, in the middle of its download."""

    def stall() -> None:
        lab.web.manner = "stalled"

    def cut() -> None:
        (row,) = lab.live("instance")
        getattr(lab.ec2(), f"{end}_instances")(InstanceIds=[row["id"]])

    def mend() -> None:
        lab.web.manner = "well"

    observer.when.update({"runs at": stall, "% of": cut, "retrying with a new": mend})


@pytest.mark.parametrize("end", ["terminate", "stop"])
def test_write_that_breaks_off_is_made_again_on_a_fresh_instance(lab: Lab, end: str) -> None:
    image, observer = lab.image(), Recorder()
    break_off(lab, observer, end)
    result = lab.upload(image, observer, **{**SMALL, "limits": {"attempts": 2}})
    assert set(result.published) == {ORIGIN}
    assert "attempt 1 failed" in observer.words()
    utility = [
        row for row in lab.made_for(image, "instance") if row["tags"]["fedimg:role"] == "utility"
    ]
    assert len(utility) == 2
    assert len(lab.made_for(image, "snapshot")) == 1
    lab.clean(image)


def test_write_that_breaks_off_at_the_last_attempt_fails(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    break_off(lab, observer, "terminate")
    with pytest.raises(
        EC2UtilityException, match=r"utility instance i-.*the connection broke"
    ) as failure:
        lab.upload(image, observer, **SMALL)
    assert "progress 0" in failure.value.output
    lab.leaves_nothing(image)


def test_failed_origin_snapshot_raises_ec2serviceexception(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({ORIGIN: {"SnapshotCompletion": "the lab lost a block"}})
    with pytest.raises(
        EC2ServiceException, match=r"snap-.* failed: the lab lost a block"
    ) as failure:
        lab.upload(image, **SMALL)
    assert not isinstance(failure.value, (EC2UtilityException, EC2TestException))
    assert (failure.value.region, failure.value.step) == (ORIGIN, "snapshot")
    lab.leaves_nothing(image)


# The image does not pass


def test_image_that_does_not_boot_is_never_public(lab: Lab) -> None:
    image, observer = lab.image(boot_code=False, menu_lst=False), Recorder()
    with pytest.raises(EC2TestException, match=r"hvm-gp2 AMI ami-.*no SSH login") as failure:
        # An instance that boots needs less; the utility instance has to.
        lab.upload(image, observer, limits={"ssh_ready": 6}, **WITH_COPY)
    assert failure.value.step == "boot-check:hvm"
    assert "Booting from Hard Disk" in failure.value.output
    (failed,) = observer.of("test failed")
    assert failed.output == failure.value.output
    (login,) = failed.checks
    assert (login.name, login.state) == ("login", CheckState.FAILED)
    assert "no SSH login" in login.output
    lab.leaves_nothing(image)


@pytest.mark.parametrize(
    ("check", "printed"),
    [
        ({"command": "echo unwell; exit 1"}, "unwell"),
        ({"command": "echo Fedora 27", "output": "^Fedora 28$"}, "Fedora 27"),
        ({"command": "echo begun; sleep 60", "timeout": 1}, "begun"),
    ],
    ids=["status", "output", "time"],
)
def test_image_that_fails_a_check_is_never_public(
    lab: Lab, check: dict[str, Any], printed: str
) -> None:
    image, observer = lab.image(), Recorder()
    checks = [
        Check(name="passes", command="echo all is well"),
        Check(name="the failing one", **check),
    ]
    with pytest.raises(EC2TestException, match="the failing one") as failure:
        lab.upload(image, observer, checks=checks, **SMALL)
    assert "all is well" in failure.value.output
    assert printed in failure.value.output
    (failed,) = observer.of("test failed")
    assert [(c.name, c.passed) for c in failed.checks] == [
        ("login", True),
        ("passes", True),
        ("the failing one", False),
    ]
    lab.leaves_nothing(image)


def test_image_that_boots_as_hvm_alone_loses_its_pv_amis_everywhere(lab: Lab) -> None:
    image, observer = lab.image(menu_lst=False), Recorder()
    result = lab.upload(image, observer, limits={"ssh_ready": 6}, **WITH_PV)
    assert {r: [str(a.type) for a in made] for r, made in result.published.items()} == {
        ORIGIN: ["hvm-gp2"],
        "eu-west-1": ["hvm-gp2"],
    }
    assert result.failed == {}
    dropped = observer.amis("dropped")
    assert sorted((ami.region, str(ami.type)) for ami in dropped) == [
        ("eu-west-1", "paravirtual-gp2"),
        (ORIGIN, "paravirtual-gp2"),
    ]
    (failed,) = observer.of("test failed")
    assert failed.ami
    assert failed.ami.type.virtualization is Virtualization.PARAVIRTUAL
    assert "menu.lst" in failed.output
    lab.clean(image)
    kinds = sorted(row["kind"] for row in lab.live())
    assert kinds == ["image", "image", "snapshot", "snapshot"]


def test_check_is_skipped_when_the_image_has_nothing_for_it(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    pv_alone = {"types": ["paravirtual"], "command": "exit 1"}
    checks = [
        Check(name="not here", command="echo no such thing; exit 77"),
        Check(name="expects it", command="exit 77", status=77),
        Check(name="of others", **pv_alone),
        Check(name="of arm", command="exit 1", architectures=["aarch64"]),
    ]
    lab.upload(image, observer, checks=checks, **SMALL)
    (told,) = observer.of("test completed")
    assert [(c.name, c.state, c.output) for c in told.checks[1:]] == [
        ("not here", CheckState.SKIPPED, "no such thing"),
        ("expects it", CheckState.PASSED, ""),
    ]
    assert (told.checks[0].name, told.checks[0].state) == ("login", CheckState.PASSED)
    lab.clean(image)


# A further region fails


def test_region_that_refuses_its_copy_is_completed_by_a_later_try(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse({"eu-west-1": {"CopySnapshot": "UnauthorizedOperation"}})
    first = lab.upload(image, observer)
    assert set(first.published) == {ORIGIN, "us-east-2"}
    (reason,) = (first.failed["eu-west-1"],)
    assert "UnauthorizedOperation" in reason
    assert "IAM policy" in reason
    assert "eu-west-1, copy" in reason
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN, "us-east-2"}

    lab.refuse({})
    started = len(lab.made_for(image, "instance"))
    second = lab.upload(image, Recorder(), rerun=True)
    assert second.failed == {}
    assert set(second.published) == set(REGIONS)
    for region in (ORIGIN, "us-east-2"):
        assert set(second.published[region]) == set(first.published[region])
    # What is public was tested: neither a utility nor a test instance starts.
    assert len(lab.made_for(image, "instance")) == started
    lab.clean(image)
    assert len(lab.live("image")) == 10
    assert len(lab.live("snapshot")) == 3


def test_copy_that_ec2_gives_up_is_made_again(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({"us-east-2": {"SnapshotCompletion": "the lab lost a block"}})

    def mend() -> None:
        until(lambda: lab.made_for(image, "snapshot", "delete"), "the failed copy removed")
        lab.refuse({})

    mending = threading.Thread(target=mend)
    mending.start()
    result = lab.upload(image, **{**WITH_COPY, "limits": {"attempts": 5, "regions": 1}})
    mending.join()
    assert set(result.published) == {ORIGIN, "us-east-2"}
    (gone, *_) = lab.made_for(image, "snapshot", "delete")
    assert gone["region"] == "us-east-2"
    lab.clean(image)
    assert len(lab.live("snapshot")) == 2


def test_regions_that_fail_to_make_amis_delay_no_other(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lab.refuse(
        {
            "us-east-2": {"RegisterImage": "UnauthorizedOperation"},
            "eu-west-1": {"ImageCompletion": "the lab lost an image"},
        }
    )
    result = lab.upload(image, observer)
    assert set(result.published) == {ORIGIN}
    assert "UnauthorizedOperation" in result.failed["us-east-2"]
    assert "us-east-2, register" in result.failed["us-east-2"]
    assert "the lab lost an image" in result.failed["eu-west-1"]
    assert f"us-east-2 failed for good  {result.failed['us-east-2']}" in observer.words()
    assert f"eu-west-1 failed  {result.failed['eu-west-1']}" in observer.words()
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN}


def test_blocked_public_access_fails_its_region_alone(lab: Lab) -> None:
    image = lab.image()
    images, snapshots = lab.ec2("eu-west-1"), lab.ec2("us-east-2")
    images.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    snapshots.enable_snapshot_block_public_access(State="block-new-sharing")
    try:
        result = lab.upload(image)
    finally:
        images.disable_image_block_public_access()
        snapshots.disable_snapshot_block_public_access()
    assert set(result.published) == {ORIGIN}
    for region in ("eu-west-1", "us-east-2"):
        assert "block public access" in result.failed[region]
        assert (
            f"block-public-access --region {region}', then 'fedimg retry'" in result.failed[region]
        )
        assert f"{region}, copy" in result.failed[region]
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN}


def test_full_quota_of_public_amis_is_reported_and_a_later_run_publishes_the_rest(lab: Lab) -> None:
    before, image = lab.image(), lab.image()
    three: dict[str, Any] = {**WITH_COPY, "amis": {"types": ["hvm-standard", "hvm-gp2", "hvm-gp3"]}}
    two: dict[str, Any] = {**WITH_COPY, "amis": {"types": ["hvm-standard", "hvm-gp2"]}}
    assert PUBLIC_AMIS == 3 + 1
    older = lab.upload(before, **three)
    for ami in older.published[ORIGIN]:
        lab.ec2().deregister_image(ImageId=ami.id)

    result = lab.upload(image, **two)
    assert len(result.published[ORIGIN]) == 2
    assert "has no room for 2 more public AMIs" in result.failed["us-east-2"]
    assert "higher quota" in result.failed["us-east-2"]

    for ami in older.published["us-east-2"]:
        lab.ec2("us-east-2").deregister_image(ImageId=ami.id)
    lab.clean(image)
    result = lab.upload(image, rerun=True, **two)
    assert {region: len(made) for region, made in result.published.items()} == {
        ORIGIN: 2,
        "us-east-2": 2,
    }
    lab.clean(before)
    lab.clean(image)
    assert len(lab.live("image")) == 4
    # Those of the AMIs that were deregistered by hand, too: they are public, and anybody's.
    assert len(lab.live("snapshot")) == 4


def test_origin_that_refuses_publication_fails_the_job(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({ORIGIN: {"ModifyImageAttribute": "UnauthorizedOperation"}})
    with pytest.raises(EC2ServiceException, match="UnauthorizedOperation") as failure:
        lab.upload(image, **SMALL)
    assert (failure.value.region, failure.value.step) == (ORIGIN, "publish")
    assert failure.value.request_id
    lab.clean(image)
    # Its snapshot was public by then; no AMI is made from it, so it goes.
    assert lab.live() == []


# Clean-up


def test_clean_up_goes_on_after_a_resource_that_cannot_be_removed(lab: Lab) -> None:
    image = lab.image()
    fails = Check(name="fails", command="false")
    with pytest.raises(EC2TestException):
        lab.upload(image, checks=[fails], **{**SMALL, "amis": {"types": ["hvm-gp2", "hvm-gp3"]}})
    lab.refuse({ORIGIN: {"DeregisterImage": "UnauthorizedOperation"}})
    with pytest.raises(EC2ServiceException, match=r"removing image ami-.*UnauthorizedOperation"):
        lab.clean(image)
    # The snapshot is in use, and not waited for.
    assert sorted(row["kind"] for row in lab.live()) == ["image", "image", "snapshot"]
    lab.refuse({})
    lab.leaves_nothing(image)


# Breaking off


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


@pytest.mark.parametrize("moment", ["runs at", "registered", "published us-east-1"])
def test_upload_that_was_cut_off_is_completed_without_duplicates(lab: Lab, moment: str) -> None:
    image, observer = lab.image(), Recorder()

    def cut() -> None:
        raise PowerCut

    observer.when[moment] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **WITH_COPY)
    result = lab.upload(image, rerun=True, **WITH_COPY)
    assert set(result.published) == {ORIGIN, "us-east-2"}
    assert result.failed == {}
    assert len(lab.made_for(image, "image")) == 2
    assert len(lab.made_for(image, "snapshot")) == 2
    lab.clean(image)
    assert len(lab.live()) == 4


def stops(upload: Callable[[threading.Event], object], moment: Callable[[], object]) -> None:
    """Stop an upload at a moment; it ends Cancelled, and soon."""
    stop, ended = threading.Event(), []

    def run() -> None:
        try:
            upload(stop)
        except BaseException as error:
            ended.append(error)

    job = threading.Thread(target=run)
    job.start()
    try:
        until(moment, "the moment to stop")
    finally:
        stop.set()
        stopped = time.monotonic()
        job.join(PATIENCE)
    assert not job.is_alive()
    assert time.monotonic() - stopped < PROMPTLY
    assert [type(error) for error in ended] == [Cancelled]


def test_stop_ends_a_write(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["runs at"] = lambda: setattr(lab.web, "manner", "stalled")
    stops(
        lambda stop: lab.upload(image, observer, stop=stop, **SMALL),
        lambda: "% of" in observer.words(),
    )
    lab.leaves_nothing(image)


def test_stop_ends_a_boot_check(lab: Lab) -> None:
    image = lab.image()
    stops(
        lambda stop: lab.upload(image, stop=stop, checks=[waiting_check(lab)], **SMALL),
        lambda: "/go" in lab.web.asked,
    )
    lab.leaves_nothing(image)


def test_stop_ends_a_copy_and_keeps_what_is_public(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    regions = [ORIGIN, SLOW_REGION]
    stops(
        lambda stop: lab.upload(image, observer, stop=stop, **{**SMALL, "regions": regions}),
        lambda: f"{ORIGIN} public" in observer.words(),
    )
    assert lab.made_for(image, "snapshot")[-1]["region"] == SLOW_REGION
    lab.clean(image)
    assert [row["region"] for row in lab.live()] == [ORIGIN, ORIGIN]
