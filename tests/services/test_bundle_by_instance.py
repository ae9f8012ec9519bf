"""A utility instance makes snapshot and bundle of one download, and no text has a signed URL.

Follows fedimg/aws/write/utility_instance.py, fedimg/aws/write/part_orders.py,
fedimg/services/writing.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws.write import part_orders
from fedimg.aws.write.bundle_pass import MADE_LATER
from fedimg.exceptions import EC2UtilityException
from tests.aws.bundle.unbundler import Pair, unbundle
from tests.plans import follow
from tests.services.bundled import (
    FURTHER,
    PowerCut,
    begin,
    bundling_settings,  # noqa: F401 (fixture)
    clean,
    cut,
    downloads,
    keys,
    owner_pair,  # noqa: F401 (fixture)
    s3,
    stored,
)
from tests.services.conftest import ORIGIN, Lab, Recorder

#: In each signed URL.
SIGNED = ("X-Amz-Signature", "X-Amz-Credential")


@pytest.fixture(name="settings")
def by_instance(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"write_via": "utility", "regions": [ORIGIN]}


def test_instance_makes_snapshot_and_bundle_of_the_very_bytes_by_one_download(
    lab: Lab,
    owner: Pair,
    settings: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="fedimg")
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    types = ["hvm-gp2", "hvm-instance", "paravirtual-instance"]
    settings = settings | {"amis": {"types": types}, "regions": [ORIGIN, FURTHER]}
    begin(lab)
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    assert (downloads(lab), stored(lab)) == (1, 4)
    assert MADE_LATER not in observer.words()
    _, *bundled = result.published[FURTHER]
    raw = lab.raw(size_mib=48, random_mib=22).read_bytes()
    for ami in bundled:
        _, _, key = lab.described(ami)["ImageLocation"].partition("/")
        folder, _, manifest = key.rpartition("/")

        def read(name: str, folder: str = folder) -> bytes:
            found = s3(lab, FURTHER).get_object(Bucket=f"amis-{FURTHER}", Key=f"{folder}/{name}")
            return bytes(found["Body"].read())

        assert unbundle(read(manifest), read, owner, owner.key, "user", tmp_path) == raw
    told = "\n".join([caplog.text, repr(observer.told), repr(result)])
    assert not any(each in told for each in SIGNED)
    clean(lab, image, settings)
    assert len([row for row in lab.live() if row["kind"] == "object"]) == 8
    assert not [row for row in lab.live() if row["kind"] == "instance"]


def test_bundle_that_is_whole_is_not_made_again_after_a_crash(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    observer.when[f"written {ORIGIN}"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    begin(lab)
    result = lab.upload(image, Recorder(), rerun=True, **settings)
    assert result.failed == {}
    assert (downloads(lab), stored(lab)) == (1, 0)
    clean(lab, image, settings)


def test_part_that_is_there_is_not_sent_again_by_another_instance(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    # The manifest, which the worker stores, is the fourth object.
    fault = {"fault": "refused", "code": "AccessDenied", "action": "PutObject", "skip": 3}
    follow(lab, [fault])
    observer.when[MADE_LATER] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    follow(lab, [])
    assert len(keys(lab, ORIGIN)) == 3
    begin(lab)
    result = lab.upload(image, Recorder(), rerun=True, **settings)
    assert (result.failed, downloads(lab), stored(lab)) == ({}, 1, 1)
    clean(lab, image, settings)


def test_bundle_that_s3_refuses_the_instance_is_made_by_the_worker(
    lab: Lab, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_orders, "_PATIENCE", 1)
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    fault = {"fault": "refused", "code": "AccessDenied", "action": "PutObject"}
    follow(lab, [fault])
    observer.when[MADE_LATER] = lambda: follow(lab, [])
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    words = "the utility instance gave up: part 0 was not stored: 403/AccessDenied"
    assert f"{MADE_LATER}: {words}" in observer.words()
    assert len(lab.made_for(image, "snapshot")) == 1
    clean(lab, image, settings)


def test_utility_ami_that_lacks_openssl_is_refused_before_a_launch(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(), Recorder()
    observer.lacks_tool(lab.utility, "openssl")
    with pytest.raises(EC2UtilityException, match="has no openssl, which makes bundles") as failure:
        lab.upload(image, observer, **settings)
    assert not failure.value.later
    assert lab.made_for(image, "instance") == []
    clean(lab, image, settings)
