"""The Recycle Bin of EC2: rules of retention, and what was deleted while one of them matched."""

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

SNAPSHOT, IMAGE = "EBS_SNAPSHOT", "EC2_IMAGE"
Tag = Mapping[str, str]
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class RetentionRule:
    """A rule of one region: matches resources with one of the tags, or all without tags."""

    region: str
    resource_type: str
    days: int
    description: str = ""
    tags: tuple[tuple[str, str | None], ...] = ()
    id: str = field(default_factory=lambda: "".join(secrets.choice(_ALPHABET) for _ in range(11)))

    def matches(self, resource_type: str, region: str, tags: list[dict[str, str]]) -> bool:
        if (resource_type, region) != (self.resource_type, self.region):
            return False
        present = {(tag["Key"], tag["Value"]) for tag in tags}
        keys = {key for key, _ in present}
        return not self.tags or any(
            (key in keys) if value is None else (key, value) in present for key, value in self.tags
        )


@dataclass(frozen=True)
class Recycled:
    """A deleted resource that is kept; `shown` is what the list of the bin says beside the times.

    What the bin holds is out of use: nothing can be launched or made of it.
    """

    resource_type: str
    region: str
    id: str
    entered: datetime
    leaves: datetime
    shown: dict[str, str]


class RecycleBin:
    """The rules, and what is in the bin. The world's lock guards it."""

    def __init__(self) -> None:
        self.rules: dict[str, RetentionRule] = {}
        self._kept: dict[str, Recycled] = {}

    def take_snapshot(
        self, id: str, description: str, volume: str, region: str, tags: list[dict[str, str]]
    ) -> None:
        """Keep a snapshot that is deleted, if a rule matches it."""
        shown = {"SnapshotId": id, "Description": description, "VolumeId": volume}
        self._take(SNAPSHOT, id, region, tags, shown)

    def take_image(self, id: str, name: str, region: str, tags: list[dict[str, str]]) -> None:
        """Keep an image that is deregistered, if a rule matches it."""
        self._take(IMAGE, id, region, tags, {"ImageId": id, "Name": name})

    def contents(self, resource_type: str, region: str) -> list[Recycled]:
        """Return what is kept and has not left the bin yet."""
        present = datetime.now(UTC)
        return [
            each
            for each in self._kept.values()
            if (each.resource_type, each.region) == (resource_type, region)
            and each.leaves > present
        ]

    def _take(
        self,
        resource_type: str,
        id: str,
        region: str,
        tags: list[dict[str, str]],
        shown: dict[str, str],
    ) -> None:
        days = [
            rule.days for rule in self.rules.values() if rule.matches(resource_type, region, tags)
        ]
        if days:
            entered = datetime.now(UTC)
            # The longest of the rules that match counts.
            leaves = entered + timedelta(days=max(days))
            self._kept[id] = Recycled(resource_type, region, id, entered, leaves, shown)
