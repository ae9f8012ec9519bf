from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import amis
from fedimg.aws.client.kernels import paravirtual_kernel
from fedimg.config import AMIs
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMIType, Architecture, Attributes, Virtualization
from tests.aws.conftest import FURTHER, ORIGIN, wait_until

HVM = AMIType(Virtualization.HVM, "gp2")
PV = AMIType(Virtualization.PARAVIRTUAL, "standard")


@pytest.fixture
def register(origin, waiter, labels, image, snapshot):
    """Return a function that registers an AMI of the test's image in the origin."""

    def register(kind=HVM, *, job=labels, image=image, snapshot=snapshot, **attributes):
        pv = kind.virtualization is Virtualization.PARAVIRTUAL
        return amis.register(
            origin,
            waiter,
            job,
            kind,
            amis.Basis(
                image,
                ORIGIN,
                snapshot,
                paravirtual_kernel(origin) if pv else None,
                AMIs(**attributes),
            ),
        )

    return register


def shown(origin, ami) -> dict:
    return origin.describe_images(ImageIds=[ami.id])["Images"][0]


def test_all_types_at_once_are_in_order_and_found_again_after_a_crash(
    origin, waiter, labels, image, snapshot
):
    kinds = [HVM, AMIType(Virtualization.HVM, "gp3"), AMIType(Virtualization.HVM, "standard")]

    def register():
        return amis.register_all(
            origin, waiter, labels, kinds, amis.Basis(image, ORIGIN, snapshot, None, AMIs())
        )

    made = register()
    assert [ami.type for ami in made] == kinds
    assert register() == made


def test_hvm_ami_has_the_attributes_that_nitro_types_need(origin, register, snapshot):
    image = shown(origin, register())
    assert image["VirtualizationType"] == "hvm"
    assert image["Architecture"] == "x86_64"
    assert image["RootDeviceName"] == "/dev/sda1"
    assert image["EnaSupport"] is True
    assert image["ImdsSupport"] == "v2.0"
    assert "KernelId" not in image
    assert "BootMode" not in image
    assert "TpmSupport" not in image
    (mapping,) = image["BlockDeviceMappings"]
    assert mapping["DeviceName"] == "/dev/sda1"
    assert mapping["Ebs"]["SnapshotId"] == snapshot
    assert mapping["Ebs"]["VolumeType"] == "gp2"
    assert mapping["Ebs"]["DeleteOnTermination"] is True
    assert mapping["Ebs"]["Encrypted"] is False


def test_pv_ami_boots_pv_grub_from_the_first_disk(origin, register):
    image = shown(origin, register(PV, boot_mode="uefi", tpm=True))
    assert image["VirtualizationType"] == "paravirtual"
    assert image["Architecture"] == "x86_64"
    assert image["KernelId"] == paravirtual_kernel(origin)
    assert image["RootDeviceName"] == "/dev/sda"
    assert image["BlockDeviceMappings"][0]["DeviceName"] == "/dev/sda"
    assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] == "standard"
    for attribute in ("BootMode", "TpmSupport", "ImdsSupport", "EnaSupport"):
        assert attribute not in image


def test_pv_ami_is_not_left_to_a_kernel_that_ec2_chooses(
    origin, waiter, labels, image, snapshot, account
):
    with pytest.raises(EC2ServiceException, match="fedimg retry"):
        amis.register(origin, waiter, labels, PV, amis.Basis(image, ORIGIN, snapshot, None, AMIs()))
    assert account.kinds(labels.site) == ["snapshot"]


def test_arm64_ami_boots_by_uefi_whatever_is_said_of_x86(origin, register, image):
    arm = replace(image, architecture=Architecture.ARM64)
    made = shown(origin, register(image=arm, boot_mode="legacy-bios"))
    assert (made["Architecture"], made["BootMode"]) == ("arm64", "uefi")
    assert made["VirtualizationType"] == "hvm"


@pytest.mark.parametrize("mode", ["legacy-bios", "uefi", "uefi-preferred"])
def test_boot_mode_is_the_configured_one(origin, register, mode):
    assert shown(origin, register(boot_mode=mode))["BootMode"] == mode


def test_tpm_imds_and_ena_are_settings(origin, register):
    image = shown(origin, register(boot_mode="uefi", tpm=True, imdsv2=False, ena=False))
    assert image["TpmSupport"] == "v2.0"
    assert "ImdsSupport" not in image
    assert image["EnaSupport"] is False


@pytest.mark.parametrize("volume_type", ["standard", "gp2", "gp3"])
def test_volume_type_is_that_of_the_ami_type(origin, register, volume_type):
    image = shown(origin, register(AMIType(Virtualization.HVM, volume_type)))
    assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] == volume_type


def test_ami_is_private_named_tagged_and_says_where_it_comes_from(origin, register, labels, image):
    ami = register()
    made = shown(origin, ami)
    assert made["Public"] is False
    assert made["Name"] == ami.name == f"{image.name}-hvm-us-east-1-gp2-0"
    assert labels.own(made["Tags"])
    assert made["Description"] == f"{image.build} {image.checksum} {image.url}"


def test_description_is_cut_to_what_ec2_takes(origin, register, image):
    far = replace(image, url=image.url.replace("packages", "p" * 300))
    assert len(shown(origin, register(image=far))["Description"]) == 255


def test_registered_again_is_the_same_ami(register, account, labels):
    assert register() == register()
    assert account.kinds(labels.site).count("image") == 1


def test_registered_by_two_at_once_is_one_ami(register, account, labels):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: register(), range(2)))
    assert both[0] == both[1]
    assert account.kinds(labels.site).count("image") == 1


def test_ami_that_is_not_shown_yet_is_waited_for(register, waiter, labels, image, snapshot, origin):
    first = register()

    class Late:
        """EC2 right after a crash: it knows the name, and does not list the AMI yet."""

        left = 3

        def __getattr__(self, name):
            return getattr(origin, name)

        def describe_images(self, **which):
            self.left -= 1
            return {"Images": []} if self.left >= 0 else origin.describe_images(**which)

    again = amis.register(
        Late(), waiter, labels, HVM, amis.Basis(image, ORIGIN, snapshot, None, AMIs())
    )
    assert again == first


@pytest.mark.parametrize("change", [{"site": "elsewhere"}, {"job": "build-8-Fedora"}])
def test_name_that_another_job_has_gets_the_next_number(register, labels, image, change):
    theirs = register(job=replace(labels, **change))
    ours = register()
    assert ours.id != theirs.id
    assert ours.name == f"{image.name}-hvm-us-east-1-gp2-1"
    assert register() == ours


def test_name_of_an_ami_without_tags_gets_the_next_number(origin, register, image, snapshot):
    origin.register_image(
        Name=f"{image.name}-hvm-us-east-1-gp2-0",
        RootDeviceName="/dev/sda1",
        VirtualizationType="hvm",
        Architecture="x86_64",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}],
    )
    assert register().name.endswith("-1")


def test_ami_of_an_earlier_snapshot_is_not_taken_for_this_one(
    register, labels, make_snapshot, origin
):
    earlier = register(snapshot=make_snapshot(labels))
    ours = register()
    assert ours.id != earlier.id
    assert ours.name.endswith("-1")


def test_name_of_a_disabled_ami_gets_the_next_number(origin, waiter, register, labels):
    theirs = register(job=replace(labels, site="elsewhere"))
    amis.available(origin, waiter, [theirs], limit=5, partition="aws")
    origin.disable_image(ImageId=theirs.id)
    assert register().name.endswith("-1")


def test_unknown_snapshot_is_refused(register):
    with pytest.raises(ClientError, match=r"InvalidSnapshot\.NotFound"):
        register(snapshot="snap-00000000000000000")


def test_available_waits_for_all(origin, waiter, register):
    made = [register(), register(PV)]
    amis.available(origin, waiter, made, limit=5, partition="aws")
    assert {shown(origin, ami)["State"] for ami in made} == {"available"}


def test_available_amis_have_the_attributes_that_ec2_shows(origin, waiter, register):
    hvm, paravirtual = amis.available(
        origin, waiter, [register(), register(PV)], limit=5, partition="aws-cn"
    )
    owner = shown(origin, hvm)["OwnerId"]
    assert hvm.attributes == Attributes("aws-cn", owner, imds="v2.0", ena=True)
    assert paravirtual.attributes == Attributes("aws-cn", owner)


def test_available_has_its_limit(origin, waiter, register):
    ami = register()
    with pytest.raises(EC2ServiceException, match=f"AMIs {ami.id} to become available"):
        amis.available(origin, waiter, [ami], limit=0.01, partition="aws")


def test_failed_ami_is_reported_with_ec2s_reason(account, origin, waiter, register):
    account.refuse(ORIGIN, ImageCompletion="Out of cheese")
    ami = register()
    with pytest.raises(EC2ServiceException, match=f"{ami.id} is failed: Out of cheese"):
        amis.available(origin, waiter, [ami], limit=5, partition="aws")


def test_public_is_true_only_if_all_amis_are_public(origin, waiter, register):
    made = [register(), register(PV)]
    amis.available(origin, waiter, made, limit=5, partition="aws")
    assert not amis.public(origin, made)
    for number, ami in enumerate(made):
        origin.modify_image_attribute(ImageId=ami.id, LaunchPermission={"Add": [{"Group": "all"}]})
        assert amis.public(origin, made) is (number == 1)


def test_ami_that_somebody_deregistered_meanwhile_is_reported_as_gone(origin, waiter, register):
    ami = register()
    origin.deregister_image(ImageId=ami.id)
    for ask in (
        lambda: amis.available(origin, waiter, [ami], limit=5, partition="aws"),
        lambda: amis.root(origin, ami),
    ):
        with pytest.raises(EC2ServiceException, match=f"{ami.id} no longer exists"):
            ask()


def test_deregistered_ami_is_gone_and_its_snapshot_stays(origin, register, account, labels):
    ami = register()
    amis.deregister(origin, ami)
    assert account.kinds(labels.site) == ["snapshot"]


def test_ami_that_is_gone_may_be_deregistered(origin, register):
    ami = register()
    amis.deregister(origin, ami)
    amis.deregister(origin, ami)
    amis.deregister(origin, replace(ami, id="ami-00000000000000000"))


def test_further_regions_have_names_of_their_own(
    clients, waiter, labels, image, make_snapshot, register
):
    far = clients.ec2(FURTHER)
    ami = amis.register(
        far,
        waiter,
        labels,
        HVM,
        amis.Basis(image, FURTHER, make_snapshot(labels, FURTHER), None, AMIs()),
    )
    assert ami.name == f"{image.name}-hvm-eu-west-1-gp2-0"
    wait_until(lambda: shown(far, ami)["State"] == "available")
