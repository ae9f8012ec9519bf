"""Images that cannot be written, and writes that break off.

Follows fedimg/aws/write/utility_instance.py, fedimg/services/writing.py.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedimg.exceptions import (
    EC2ServiceException,
    EC2TestException,
    EC2UtilityException,
)
from fedimg.jobs.semaphores import Semaphores
from fedimg.services.writing import UTILITIES
from fedimg.store.store import Store
from lab import disk
from tests.services.conftest import (
    ORIGIN,
    SMALL,
    Lab,
    Recorder,
)


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
