"""Buckets, keys and the end of a job, which tests of instance-store AMIs share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws import cleanup, survey
from fedimg.aws.client.waiter import Waiter
from fedimg.images import RawImage
from tests.aws.bundle.unbundler import Pair, pair
from tests.plans import follow
from tests.services.conftest import ORIGIN, REGIONS, SITE, Lab

FURTHER = "eu-west-1"
TYPES = ["hvm-gp2", "hvm-instance"]


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


def cut() -> None:
    """End a process as a power cut does."""
    raise PowerCut


@pytest.fixture(name="owner", scope="module")
def owner_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return the signing key of the site, and its certificate."""
    return pair(tmp_path_factory.mktemp("owner"), "owner")


@pytest.fixture(name="settings")
def bundling_settings(lab: Lab, owner: Pair, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Return settings with which instance-store AMIs are made; the buckets exist."""
    certificate = tmp_path / "ec2.pem"
    certificate.write_bytes(lab.account.certificate)
    for region in REGIONS:
        where: Any = {}
        if region != "us-east-1":
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3(lab, region).create_bucket(
            Bucket=f"amis-{region}", ObjectOwnership="BucketOwnerPreferred", **where
        )
    yield {
        "write_via": "direct",
        "regions": [ORIGIN, FURTHER],
        "amis": {"types": TYPES},
        "instance_store": {
            "bucket": "amis-{region}",
            "signing_key": owner.key,
            "certificate": owner.certificate,
            "ec2_certificate": certificate,
        },
    }
    # Whatever EC2 was told to refuse, it refuses no more.
    follow(lab, [])
    for region in REGIONS:
        for key in keys(lab, region):
            s3(lab, region).delete_object(Bucket=f"amis-{region}", Key=key)
        s3(lab, region).delete_bucket(Bucket=f"amis-{region}")


def downloads(lab: Lab) -> int:
    """Return how often a download of a whole file was begun; sizes are read by small ranges."""
    return sum(asked.partition(" ")[2] in ("", "bytes=0-") for asked in lab.web.asked)


def stored(lab: Lab) -> int:
    """Return how many objects were stored in any bucket since the calls were forgotten."""
    return int(lab.ask("calls").get("S3", {}).get("PutObject", 0))


def begin(lab: Lab) -> None:
    """Count calls and downloads anew."""
    lab.forget_calls()
    lab.web.asked.clear()


def s3(lab: Lab, region: str) -> Any:
    """Return S3's client of a region."""
    return lab.clients.client("s3", region)


def keys(lab: Lab, region: str) -> list[str]:
    """Return the keys of all objects in a region's bucket."""
    found = s3(lab, region).list_objects_v2(Bucket=f"amis-{region}")
    return [each["Key"] for each in found.get("Contents", ())]


def clean(lab: Lab, image: RawImage, settings: dict[str, Any]) -> None:
    """Remove what a job left, as the worker does."""
    chosen = lab.settings(**settings)
    found = survey.leftovers(
        lab.clients, SITE, REGIONS, job=image.job, bucket=chosen.instance_store.bucket_in
    )
    waiter = Waiter(chosen.limits, threading.Event())
    cleanup.remove(lab.clients, waiter, found, limit=60)


def written(lab: Lab, key: str) -> Any:
    """Return when an object of the origin's bucket was stored."""
    return s3(lab, ORIGIN).head_object(Bucket=f"amis-{ORIGIN}", Key=key)["LastModified"]
