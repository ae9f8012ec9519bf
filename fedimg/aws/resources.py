"""Define the resources that fedimg makes in AWS, and who may be using one of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from fedimg.aws import tags

INSTANCE = "instance"
IMAGE = "image"
SNAPSHOT = "snapshot"
#: The objects of a bundle; its id is as in `AMI.snapshot`.
BUNDLE = "bundle"
VOLUME = "volume"
SECURITY_GROUP = "security-group"
KEY_PAIR = "key-pair"
#: In the order of removal: a resource comes before those that it uses.
RESOURCE_TYPES = (INSTANCE, KEY_PAIR, IMAGE, SNAPSHOT, BUNDLE, VOLUME, SECURITY_GROUP)
#: The types of what AMIs are, and are made from.
OF_AMIS = (IMAGE, SNAPSHOT, BUNDLE)


@dataclass(frozen=True)
class Leftover:
    """A resource of this site. A key pair's id is its name.

    `created` is the time of its creation in seconds since the epoch, by EC2's clock; None where EC2
    does not report it.
    """

    resource_type: str
    id: str
    region: str
    job: str
    name: str
    created: float | None = field(default=None, compare=False)


class Standing(Enum):
    """A resource's possible users, who decide whether it may be removed."""

    #: Only the job that created it.
    LEFT = auto()
    #: Anybody: it is public.
    PUBLIC = auto()
    #: Anybody who used it while it was, or may have been, public.
    ONCE_PUBLIC = auto()


def standing_of(id: str, described: Mapping[str, Any], published: Collection[str]) -> Standing:
    """Return the standing of an AMI or a snapshot by its own attributes."""
    if described.get("Public"):
        return Standing.PUBLIC
    values = tags.read(described.get("Tags"))
    # Former versions published without a tag of it; a withdrawal's tag has the same meaning.
    once = id in published or tags.ever_offered(values) or tags.WITHDRAWN in values
    return Standing.ONCE_PUBLIC if once else Standing.LEFT
