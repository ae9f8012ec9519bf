"""Define tags, client tokens and names, by which the resources of a job are recognized."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from fedimg.aws.client.types import Filter, ResourceType, Tag, TagSpecification
from fedimg.images import AMIType, Disk, RawImage

SITE = "fedimg:site"
JOB = "fedimg:job"
ROLE = "fedimg:role"
IMAGE = "fedimg:image"
#: The time from which an AMI or snapshot may have been public; set before it becomes public.
PUBLISHED = "fedimg:published"
#: The time from which the audience of a private AMI may have used it or its snapshot; set before.
SHARED = "fedimg:shared"
#: The value of both after EC2 refused the permission: the resource was never in others' reach.
NEVER = "never"
#: The record of an AMI and its snapshot, set before they become public: the image's URL, build,
#: checksum and size as its source tells them; the SHA-256 and length of its uncompressed bytes; and
#: the region where a test instance booted from these bytes and passed its checks.
URL = "fedimg:url"
BUILD = "fedimg:build"
CHECKSUM = "fedimg:checksum"
SIZE = "fedimg:size"
DISK = "fedimg:disk"
TESTED = "fedimg:tested"
#: The time of the withdrawal; set before the permission is removed. `restored` and a time after it;
#: `disabled` and a time before a rule of retention disables an AMI; `kept` and a time when the rule
#: gave that up.
WITHDRAWN = "fedimg:withdrawn"
_RESTORED = "restored "
_DISABLED = "disabled "
_KEPT = "kept "

# EC2's limit on the characters of a tag's value.
_VALUE_LENGTH = 256
# EC2 RegisterImage: names have 3 to 128 characters of this set.
_NAME_LENGTH = 128
_DISK = re.compile(r"sha256:([0-9a-f]{64}) ([1-9][0-9]{0,15})")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9()\[\] ./'@_-]")


@dataclass(frozen=True)
class Labels:
    """The identity that marks the resources of one job of one site."""

    site: str
    job: str
    image: str

    @classmethod
    def of(cls, site: str, image: RawImage) -> Labels:
        """Return the labels of an image's job."""
        return cls(site, image.job, image.name)

    def tags(self, role: str, name: str | None = None) -> list[Tag]:
        """Return the tags of one resource."""
        values = {
            SITE: self.site,
            JOB: self.job,
            ROLE: role,
            IMAGE: self.image,
            "Name": name or f"fedimg {role} {self.image}",
        }
        return as_tags({key: value[:_VALUE_LENGTH] for key, value in values.items()})

    def specifications(
        self, resource_types: Iterable[ResourceType], role: str, name: str | None = None
    ) -> list[TagSpecification]:
        """Return the TagSpecifications of a call that creates resources of these types."""
        return [{"ResourceType": each, "Tags": self.tags(role, name)} for each in resource_types]

    def filters(self, role: str | None = None) -> list[Filter]:
        """Return the Describe filters for this job's resources, of one role or of all."""
        values = {SITE: self.site, JOB: self.job} | ({ROLE: role} if role else {})
        return [{"Name": f"tag:{key}", "Values": [value]} for key, value in values.items()]

    def token(self, *parts: str) -> str:
        """Return a client token of 48 ASCII characters; equal parts give an equal token."""
        text = "\0".join((self.site, self.job, *parts))
        return hashlib.sha256(text.encode()).hexdigest()[:48]

    def own(self, tags: Iterable[Tag] | None) -> bool:
        """Return whether a resource with these tags is this job's."""
        values = read(tags)
        return values.get(SITE) == self.site and values.get(JOB) == self.job


def read(tags: Iterable[Tag] | None) -> dict[str, str]:
    """Return EC2's list of tags as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags or ()}


def as_tags(values: Mapping[str, str]) -> list[Tag]:
    """Return a mapping as EC2's list of tags."""
    return [{"Key": key, "Value": value} for key, value in values.items()]


def facts(image: RawImage, disk: Disk | None, tested_in: str) -> dict[str, str]:
    """Return the tags that record an image on EC2, without what is unknown or too long for a tag.

    `tested_in` is the region where a test instance passed its checks.
    """
    values = {
        URL: image.url,
        BUILD: image.build,
        CHECKSUM: image.checksum,
        SIZE: str(image.size) if image.size is not None else None,
        DISK: f"sha256:{disk.sha256} {disk.length}" if disk else None,
        TESTED: tested_in,
    }
    return {key: value for key, value in values.items() if value and len(value) <= _VALUE_LENGTH}


def disk_of(values: Mapping[str, str]) -> Disk | None:
    """Return the uncompressed bytes that a resource with these tags was made of, if they tell."""
    match = _DISK.fullmatch(values.get(DISK, ""))
    return Disk(match[1], int(match[2])) if match else None


def ever_offered(values: Mapping[str, str]) -> bool:
    """Return whether a resource with these tags is or may have been public, or shared."""
    return any(values.get(key, NEVER) != NEVER for key in (PUBLISHED, SHARED))


def published_at(values: Mapping[str, str]) -> float | None:
    """Return since when a resource with these tags may have been public, in epoch seconds."""
    return _seconds(values.get(PUBLISHED, NEVER))


def shared_at(values: Mapping[str, str]) -> float | None:
    """Return since when a resource with these tags may have been shared, in epoch seconds."""
    return _seconds(values.get(SHARED, NEVER))


def withdrawn_at(values: Mapping[str, str]) -> tuple[float, bool] | None:
    """Return when a resource with these tags was last withdrawn or restored; None if never.

    The time is in epoch seconds; the second value tells whether it is withdrawn since.
    """
    value = values.get(WITHDRAWN, "")
    at = _seconds(value.removeprefix(_RESTORED))
    return None if at is None else (at, not value.startswith(_RESTORED))


def disabled_at(values: Mapping[str, str]) -> float | None:
    """Return when a rule disabled an AMI with these tags, in epoch seconds.

    None if none did, or if the AMI was withdrawn or restored since.
    """
    value = values.get(WITHDRAWN, "")
    return _seconds(value.removeprefix(_DISABLED)) if value.startswith(_DISABLED) else None


def disabling(at: datetime) -> str:
    """Return the tag's value of a disabling by a rule at a time."""
    return f"{_DISABLED}{at.isoformat(timespec='seconds')}"


def kept(at: datetime) -> str:
    """Return the tag's value of a disabling that a rule gave up at a time."""
    return f"{_KEPT}{at.isoformat(timespec='seconds')}"


def taken_away(values: Mapping[str, str]) -> bool:
    """Return whether a resource with these tags was withdrawn or disabled, and maybe restored."""
    return not values.get(WITHDRAWN, _KEPT).startswith(_KEPT)


def withdrawal(at: datetime, *, restored: bool) -> str:
    """Return the tag's value of a withdrawal, or of a restoration, at a time."""
    return f"{_RESTORED if restored else ''}{at.isoformat(timespec='seconds')}"


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        # A person may have changed the tag.
        return None


def ami_name(image: str, ami_type: AMIType, region: str, number: int) -> str:
    """Return `<image>-<virt>-<region>-<volume type>[-encrypted]-<n>`, shortened to EC2's limit.

    An example is `Fedora-Cloud-Base-28-1.1.x86_64-hvm-us-east-2-standard-0`.
    """
    end = f"-{ami_type.virtualization}-{region}-{ami_type.storage}-{number}"
    start = _NOT_IN_A_NAME.sub("-", image)
    room = _NAME_LENGTH - len(end)
    if len(start) > room:
        # Two long names with the same beginning must stay different.
        start = start[: room - 9] + "-" + hashlib.sha256(image.encode()).hexdigest()[:8]
    return start + end
