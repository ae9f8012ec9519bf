"""Snapshot and bundle are made of one download; after a crash or a fault of one, it alone is made.

Follows fedimg/aws/write/bundle_pass.py, fedimg/aws/write/bundle_writer.py,
fedimg/services/bundling.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedimg.aws.write import bundle_pass
from fedimg.aws.write.bundle_pass import MADE_LATER
from fedimg.exceptions import EC2UtilityException
from tests.plans import follow
from tests.services.bundled import (
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


def test_snapshot_and_bundle_are_made_of_one_download(lab: Lab, settings: dict[str, Any]) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    begin(lab)
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    assert downloads(lab) == 1
    # Three parts and the manifest.
    assert stored(lab) == 4
    assert "bundling" not in observer.words()
    assert MADE_LATER not in observer.words()
    clean(lab, image, settings)


@pytest.mark.parametrize(
    ("action", "skip"), [("ListObjectsV2", 0), ("PutObject", 1), ("PutObject", 3)]
)
def test_bundle_that_s3_refuses_meanwhile_is_made_alone_of_what_is_missing(
    lab: Lab, settings: dict[str, Any], action: str, skip: int
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    begin(lab)
    fault = {"fault": "refused", "code": "AccessDenied", "action": action}
    follow(lab, [{**fault, "region": ORIGIN, "skip": skip, "count": 1}])
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    assert MADE_LATER in observer.words()
    assert len(lab.made_for(image, "snapshot")) == 2
    assert downloads(lab) == 2
    refused = action == "PutObject"
    assert stored(lab) == 4 + refused
    clean(lab, image, settings)


def test_write_that_waits_for_a_slow_s3_leaves_the_bundle_for_later(
    lab: Lab, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as any wait of this test.
    monkeypatch.setattr(bundle_pass, "_MOST_WAITED_SECONDS", 0.0)
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    begin(lab)
    result = lab.upload(image, observer, **settings)
    assert result.failed == {}
    assert f"{MADE_LATER}: S3 took the parts so slowly" in observer.words()
    assert downloads(lab) == 2
    clean(lab, image, settings)


def test_write_that_was_cut_off_behind_the_bundle_is_repeated_without_it(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    observer.when[f"written {ORIGIN}"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    assert len(keys(lab, ORIGIN)) == 4
    begin(lab)
    result = lab.upload(image, Recorder(), rerun=True, **settings)
    assert result.failed == {}
    assert (downloads(lab), stored(lab)) == (1, 0)
    clean(lab, image, settings)


def test_write_that_was_cut_off_sends_no_part_again(lab: Lab, settings: dict[str, Any]) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    # The manifest is the fourth object.
    fault = {"fault": "refused", "code": "AccessDenied", "action": "PutObject", "skip": 3}
    follow(lab, [fault])
    observer.when[MADE_LATER] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    follow(lab, [])
    begin(lab)
    assert lab.upload(image, Recorder(), rerun=True, **settings).failed == {}
    assert (downloads(lab), stored(lab)) == (1, 1)
    clean(lab, image, settings)


def test_bundle_of_other_bytes_than_the_snapshot_is_made_anew(
    lab: Lab, settings: dict[str, Any]
) -> None:
    image, observer = lab.image(size_mib=48, random_mib=22), Recorder()
    observer.when["registered"] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **settings)
    # A record that tells of the snapshot's bytes tells of the bundle's, too.
    manifest = next(key for key in keys(lab, ORIGIN) if key.endswith(".xml"))
    s3(lab, ORIGIN).put_object(
        Bucket=f"amis-{ORIGIN}", Key=manifest, Body=b"other", Metadata={"disk-sha256": "0" * 64}
    )
    begin(lab)
    result = lab.upload(image, observer, rerun=True, **settings)
    assert result.failed == {}
    assert (downloads(lab), stored(lab)) == (1, 4)
    clean(lab, image, settings)


def test_image_that_is_too_large_for_a_bundle_is_refused_before_it_is_written(
    lab: Lab, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.aws.write.bundle_pass.LARGEST", 1 << 20)
    image = lab.image()
    begin(lab)
    with pytest.raises(EC2UtilityException, match="remove the type from ec2.amis.types"):
        lab.upload(image, **settings)
    assert downloads(lab) == 0
    clean(lab, image, settings)
    assert lab.live() == []
