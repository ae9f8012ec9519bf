"""One image through EC2Service with write_via = "direct": no utility instance has a part in it.

Follows fedimg/services/ec2.py, fedimg/aws/write/ebs_direct.py.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fedimg.exceptions import Cancelled, EC2UtilityException
from tests.services.conftest import ORIGIN, Lab, Recorder

DIRECT: dict[str, Any] = {
    "write_via": "direct",
    "x86_64": {"utility_ami": ""},
    "regions": [ORIGIN, "us-east-2"],
    "amis": {"types": ["hvm-gp2"]},
}


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


def cut() -> None:
    raise PowerCut


def roles(lab: Lab, image: Any, kind: str) -> list[str]:
    return [row["tags"]["fedimg:role"] for row in lab.made_for(image, kind)]


def test_image_becomes_public_amis_of_its_very_bytes(lab: Lab) -> None:
    image, observer = lab.image(streams=2), Recorder()
    result = lab.upload(image, observer, **DIRECT)
    assert set(result.published) == {ORIGIN, "us-east-2"}
    assert result.failed == {}
    raw = lab.raw().read_bytes()
    for (ami,) in result.published.values():
        assert lab.bytes_of(ami.snapshot, len(raw)) == raw
    # The instance that was started is the one that booted from the AMI.
    assert roles(lab, image, "instance") == ["test-hvm"]
    assert len(observer.of("started")) == 1
    lab.clean(image)
    assert sorted(row["kind"] for row in lab.live()) == ["image", "image", "snapshot", "snapshot"]
    assert all(row["public"] for row in lab.live())


def test_wrong_checksum_makes_nothing(lab: Lab) -> None:
    image = lab.image(checksum="sha256:" + "0" * 64)
    with pytest.raises(EC2UtilityException, match=r"checksum: .*expected sha256:000") as failure:
        lab.upload(image, **DIRECT)
    assert (failure.value.region, failure.value.step) == (ORIGIN, "write")
    assert failure.value.image == image.name
    assert lab.made_for(image, "instance") == lab.live("snapshot") == []
    lab.leaves_nothing(image)


def test_refused_blocks_are_reported_with_the_missing_permission(lab: Lab) -> None:
    image = lab.image()
    lab.refuse({ORIGIN: {"PutSnapshotBlock": "UnauthorizedOperation"}})
    with pytest.raises(EC2UtilityException, match=r"AccessDeniedException.*IAM policy") as failure:
        lab.upload(image, **DIRECT)
    assert failure.value.request_id
    lab.leaves_nothing(image)


def test_write_that_was_cut_off_starts_again_on_a_snapshot_of_its_own(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["snap-"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **DIRECT)
    (dead,) = lab.live("snapshot")
    result = lab.upload(image, rerun=True, **DIRECT)
    assert set(result.published) == {ORIGIN, "us-east-2"}
    assert dead["id"] not in [row["id"] for row in lab.live("snapshot")]
    # The dead one, the origin's and its copy.
    assert len(lab.made_for(image, "snapshot")) == 3
    lab.clean(image)
    assert len(lab.live("snapshot")) == 2


def test_utility_instance_does_not_reuse_the_snapshot_of_an_interrupted_direct_write(
    lab: Lab,
) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["snap-"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **DIRECT)
    (dead,) = lab.live("snapshot")
    # Somebody has changed the configuration meanwhile.
    result = lab.upload(image, rerun=True, regions=[ORIGIN], amis={"types": ["hvm-gp2"]})
    assert set(result.published) == {ORIGIN}
    assert [row["id"] for row in lab.live("snapshot")] != [dead["id"]]
    lab.clean(image)
    assert len(lab.live("snapshot")) == 1


def test_written_image_is_not_written_again_after_a_crash(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["registered"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **DIRECT)
    lab.upload(image, rerun=True, **DIRECT)
    assert len(lab.made_for(image, "snapshot")) == 2
    lab.clean(image)


def test_stop_ends_a_write(lab: Lab) -> None:
    image, observer, stop = lab.image(), Recorder(), threading.Event()
    observer.when["snap-"] = stop.set
    with pytest.raises(Cancelled):
        lab.upload(image, observer, stop=stop, **DIRECT)
    lab.leaves_nothing(image)
