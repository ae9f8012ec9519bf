"""List the bundles of a site in one region, as its snapshots are listed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedimg.aws import tags
from fedimg.aws.bundle.manifest import LONGEST, listed_parts
from fedimg.aws.bundle.place import at, bundle_id, is_bundle, job_of, jobs_folder
from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client


def listed(s3: Client, bucket: str, site: str, job: str = "") -> dict[str, dict[str, Any]]:
    """Return the bundles in a region's bucket, of a site or of one of its jobs, by id.

    `s3` is a client of that region. Each is described as a snapshot of the job is. A region without
    the bucket has no bundles, and without a `bucket` there are none anywhere. Raises botocore's
    errors.
    """
    if not bucket:
        return {}
    found = _objects(s3, bucket, jobs_folder(site, job))
    return {id: _described(id, site) for id in found}


def whole(
    s3: Client, bucket: str, site: str, recorded: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return the bundles of a region as `listed` does, without those `recorded` that lack a part.

    From these no instance starts. Raises botocore's errors.
    """
    known = {id for id in recorded if is_bundle(id)}
    found = _objects(s3, bucket, jobs_folder(site)) if bucket else {}
    # The setting may have been another one when they were made.
    for id in known - set(found):
        place = at(id, "")
        found |= _objects(s3, place.bucket, place.folder)
    return {
        id: _described(id, site)
        for id, keys in found.items()
        if id not in known or _is_whole(s3, id, keys)
    }


def _described(id: str, site: str) -> dict[str, Any]:
    values = {tags.SITE: site, tags.JOB: job_of(id)}
    return {"SnapshotId": id, "Tags": tags.as_tags(values)}


def _objects(s3: Client, bucket: str, folder: str) -> dict[str, set[str]]:
    """Return the keys of the objects below a folder, by the id of their bundle."""
    found: dict[str, set[str]] = {}
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
        for page in pages:
            for each in page.get("Contents", ()):
                found.setdefault(bundle_id(bucket, each["Key"]), set()).add(str(each["Key"]))
    except Exception as error:
        if code(error) != "NoSuchBucket":
            raise
    return found


def _is_whole(s3: Client, id: str, keys: Collection[str]) -> bool:
    """Return whether a bundle has its manifest, and all parts that the manifest lists."""
    place = at(id, "")
    manifests = [key for key in keys if key.endswith(".manifest.xml")]
    if not manifests:
        return False
    answer = s3.get_object(Bucket=place.bucket, Key=manifests[0])
    text = answer["Body"].read(LONGEST)
    parts = {f"{place.folder}/{name}" for name in listed_parts(text)}
    return bool(parts) and parts <= set(keys)
