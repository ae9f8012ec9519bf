"""Tags, client tokens and names: how everything a job makes is recognized as its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedimg.images import AMIType, RawImage

SITE = "fedimg:site"
JOB = "fedimg:job"
ROLE = "fedimg:role"
IMAGE = "fedimg:image"
#: Since when an AMI, or its snapshot, may have been public; set before it is.
PUBLISHED = "fedimg:published"
#: Its value where EC2 refused the permission: nothing was ever public.
NEVER = "never"

# EC2 RegisterImage: 3 to 128 characters out of these.
_NAME_LENGTH = 128
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9()\[\] ./'@_-]")


@dataclass(frozen=True)
class Labels:
    """What marks the resources of one job of one site."""

    site: str
    job: str
    image: str

    @classmethod
    def of(cls, site: str, image: RawImage) -> Labels:
        """The labels of the job that publishes an image."""
        return cls(site, image.job, image.name)

    def tags(self, role: str, name: str | None = None) -> list[dict[str, str]]:
        """The tags of one resource."""
        values = {
            SITE: self.site,
            JOB: self.job,
            ROLE: role,
            IMAGE: self.image,
            "Name": name or f"fedimg {role} {self.image}",
        }
        return [{"Key": key, "Value": value[:256]} for key, value in values.items()]

    def specifications(
        self, kinds: Iterable[str], role: str, name: str | None = None
    ) -> list[dict[str, Any]]:
        """TagSpecifications for the call that makes the resource."""
        return [{"ResourceType": kind, "Tags": self.tags(role, name)} for kind in kinds]

    def filters(self, role: str | None = None) -> list[dict[str, Any]]:
        """Describe filters that find this job's resources, of one role or of all."""
        wanted = {SITE: self.site, JOB: self.job} | ({ROLE: role} if role else {})
        return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]

    def token(self, *parts: str) -> str:
        """A client token (at most 64 ASCII characters): equal parts, equal token."""
        text = "\0".join((self.site, self.job, *parts))
        return hashlib.sha256(text.encode()).hexdigest()[:48]

    def own(self, tags: Iterable[dict[str, str]] | None) -> bool:
        """Whether a resource with these tags is this job's."""
        values = read(tags)
        return values.get(SITE) == self.site and values.get(JOB) == self.job


def read(tags: Iterable[dict[str, str]] | None) -> dict[str, str]:
    """EC2's list of tags as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags or ()}


def ever_published(values: Mapping[str, str]) -> bool:
    """Whether a resource with these tags is public, or may once have been."""
    return values.get(PUBLISHED, NEVER) != NEVER


def ami_name(image: str, kind: AMIType, region: str, number: int) -> str:
    """`<image>-<virt>-<region>-<volume type>-<n>`, such as
    `Fedora-Cloud-Base-28-1.1.x86_64-hvm-us-east-2-standard-0`, cut to what EC2 allows.
    """
    end = f"-{kind.virtualization}-{region}-{kind.volume_type}-{number}"
    start = _NOT_IN_A_NAME.sub("-", image)
    room = _NAME_LENGTH - len(end)
    if len(start) > room:
        # Two long names with one beginning must not become one.
        start = start[: room - 9] + "-" + hashlib.sha256(image.encode()).hexdigest()[:8]
    return start + end
