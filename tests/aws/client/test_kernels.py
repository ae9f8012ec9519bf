"""Test which PV-GRUB kernel is chosen, and which regions are asked and waited for."""

from __future__ import annotations

import threading

from fedimg.aws.client import retrying
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.kernels import Kernels, paravirtual_kernel
from tests.aws.conftest import FURTHER, NO_KERNEL, ORIGIN, REGIONS, Account
from tests.plans import follow
from tests.stopping import Asleep


def test_kernel_is_amazons_for_a_partitioned_x86_64_disk(clients):
    for region in ("us-east-1", "eu-west-1"):
        kernel = paravirtual_kernel(clients.ec2(region))
        (image,) = clients.ec2(region).describe_images(ImageIds=[kernel])["Images"]
        assert image["ImageType"] == "kernel"
        assert image["Name"].startswith("pv-grub-hd00_")
        assert image["Architecture"] == "x86_64"


def test_region_without_kernels_has_none(clients):
    assert paravirtual_kernel(clients.ec2("ap-east-1")) is None


def test_configured_kernel_is_taken_unasked(clients, account):
    before = account.calls().get("DescribeImages")
    configured = {"ap-east-1": "aki-12345678"}
    kernel = Kernels().of(clients.ec2("ap-east-1"), "ap-east-1", configured)
    assert kernel == "aki-12345678"
    assert account.calls().get("DescribeImages") == before


def test_newest_kernel_is_taken_whatever_the_order():
    class Listed:
        """Amazon's list of several kernels; the lab has one only."""

        def describe_images(self, **_):
            versions = ["1.04", "1.10", "1.9", "1.05"]
            names = [f"pv-grub-hd00_{version}-x86_64.gz" for version in versions]
            return {"Images": [{"ImageId": name, "Name": name} for name in names]}

    assert paravirtual_kernel(Listed()) == "pv-grub-hd00_1.10-x86_64.gz"


def found(known: Kernels, clients: Clients, **more) -> dict[str, str | None]:
    """Return the kernels of all regions."""
    given = {"origin": ORIGIN, "at_once": 40, **more}
    return known.lookup(lambda region: retrying.briefly(clients, region), REGIONS, {}, **given)


def hanging(region: str) -> dict[str, object]:
    return {"fault": "slow", "seconds": 100_000, "region": region}


def test_every_region_is_asked_once_a_process(clients: Clients, account: Account) -> None:
    known = Kernels()
    first = found(known, clients)
    asked = account.calls()["DescribeImages"]
    assert found(known, clients) == first
    assert account.calls()["DescribeImages"] == asked
    assert first[NO_KERNEL] is None


def test_region_that_hangs_is_not_waited_for(clients: Clients, account: Account) -> None:
    follow(account, [hanging(FURTHER)])
    asleep = Asleep()
    assert set(found(Kernels(), clients)) == {ORIGIN, NO_KERNEL}
    # A time-out of the call would take five seconds, and the first pause follows that.
    assert asleep.seconds() < 4


def test_asking_keeps_no_process_from_ending(clients: Clients, account: Account) -> None:
    follow(account, [hanging(FURTHER)])
    found(Kernels(), clients)
    asking = [each for each in threading.enumerate() if each.name == "kernels"]
    assert all(each.daemon for each in asking)
