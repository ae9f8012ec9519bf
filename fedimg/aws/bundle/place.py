"""Name the bundles of a site: buckets, folders, keys, and ids that stand where snapshots' stand.

A bundle's id is `s3://BUCKET/fedimg/SITE/JOB/FILE`, its folder's URL. `FILE` is of the image's
file, and known before its bytes are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedimg.aws.bundle.manifest import manifest_name, part_name
from fedimg.images import INSTANCE_STORE, RawImage

_SCHEME = "s3://"
_ROOT = "fedimg"
_FILE_LENGTH = 16


@dataclass(frozen=True)
class Place:
    """The bucket of a bundle, the folder in it, and the image's name in the bundle."""

    bucket: str
    folder: str
    name: str

    @property
    def id(self) -> str:
        """Return the bundle's id."""
        return f"{_SCHEME}{self.bucket}/{self.folder}"

    @property
    def manifest(self) -> str:
        """Return the key of the manifest."""
        return f"{self.folder}/{manifest_name(self.name)}"

    @property
    def location(self) -> str:
        """Return the manifest's location as RegisterImage takes it."""
        return f"{self.bucket}/{self.manifest}"

    def part(self, index: int) -> str:
        """Return the key of a part."""
        return f"{self.folder}/{part_name(self.name, index)}"


def place_of(bucket: str, site: str, image: RawImage) -> Place:
    """Return where the bundle of an image is."""
    known = f"{image.url} {image.size} {image.checksum}"
    file = hashlib.sha256(known.encode()).hexdigest()[:_FILE_LENGTH]
    return Place(bucket, f"{jobs_folder(site, image.job)}/{file}", image.name)


def at(id: str, name: str) -> Place:
    """Return the place of the bundle with an id, and of the image with this name."""
    bucket, _, folder = id.removeprefix(_SCHEME).partition("/")
    return Place(bucket, folder, name)


def jobs_folder(site: str, job: str = "") -> str:
    """Return the folder of a job's bundles, or that of all jobs' of a site."""
    return "/".join(filter(None, (_ROOT, site, job)))


def job_of(id: str) -> str:
    """Return the name of the job that a bundle is of."""
    return id.split("/")[-2]


def is_bundle(id: str) -> bool:
    """Return whether an id, recorded as a snapshot's, is a bundle's."""
    return id.startswith(_SCHEME)


def bundle_id(bucket: str, key: str) -> str:
    """Return the id of the bundle that an object belongs to."""
    return f"{_SCHEME}{bucket}/{key.rpartition('/')[0]}"


def bundle_of(image: Mapping[str, Any]) -> str | None:
    """Return the id of the bundle that an AMI, as EC2 describes it, is made from, if it is."""
    if image.get("RootDeviceType") != INSTANCE_STORE or not image.get("ImageLocation"):
        return None
    bucket, _, key = str(image["ImageLocation"]).strip("/").partition("/")
    return bundle_id(bucket, key)
