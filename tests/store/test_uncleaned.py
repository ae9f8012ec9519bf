"""The list of resources that may be left in regions that do not answer."""

from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.progress import AWAY, PUBLIC
from fedimg.store.store import Store
from fedimg.store.uncleaned import may_be_left

DATABASES = ("sqlite",)
URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7")


def test_private_amis_and_unpublished_regions_are_listed(store: Store) -> None:
    store.add_job(IMAGE, queue=lambda connection, run: None)
    for region, step in (("us-east-1", PUBLIC), ("ap-east-1", AWAY), ("eu-west-1", "register")):
        store.set_region(IMAGE.job, region, step=step)
    ami_type = AMIType(Virtualization.HVM, "gp2")
    store.record_ami(IMAGE, AMI("ami-1", "a name", "ap-east-1", ami_type, "snap-1"))
    left = may_be_left(store, asked={"us-east-1", "eu-west-1"})
    assert list(left) == ["ap-east-1"]
    assert "AMI ami-1 from snap-1" in left["ap-east-1"]
    assert f"fedimg:job={IMAGE.job}" in left["ap-east-1"]
    assert list(may_be_left(store, asked=())) == ["ap-east-1", "eu-west-1"]
