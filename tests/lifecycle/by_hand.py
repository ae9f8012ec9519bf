"""Change AMIs on EC2 as a person does; return the differences that a comparison then finds."""

from __future__ import annotations

from tests.lifecycle.conftest import ORIGIN, Site


def snapshot_hidden(site: Site) -> list[tuple[str, str]]:
    row = site.row(site.publish())
    site.ec2().reset_snapshot_attribute(SnapshotId=row.snapshot, Attribute="createVolumePermission")
    return [("snapshot private", row.snapshot)] * 2


def published_untested(site: Site) -> list[tuple[str, str]]:
    image = site.image()
    (ami, *_) = site.register(image, ORIGIN)
    site.store.record_ami(image, ami)
    site.ec2().modify_image_attribute(ImageId=ami.id, LaunchPermission={"Add": [{"Group": "all"}]})
    site.ec2().deregister_image(ImageId=_[0].id)
    return [("public", ami.id)]
