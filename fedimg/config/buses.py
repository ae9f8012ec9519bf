"""Define the settings of the buses on which fedimg announces."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat

from fedimg.config.section import Section
from fedimg.config.value_types import Pattern
from fedimg.untrusted import patterns

#: The groups that announcing.name_pattern has.
_GROUPS = {"release", "subvariant"}


def _name_pattern(text: str) -> str:
    if missing := _GROUPS - patterns.groups(text):
        raise ValueError(
            f"has no group (?P<{min(missing)}>…): the website's message takes release and "
            "subvariant from the file's name by these two groups"
        )
    return text


class Announcing(Section):
    """The sending of announcements; the buses' addresses are in the buses' own configuration."""

    confirm_seconds: PositiveFloat = Field(
        10,
        description="Seconds after which a message that a bus has not confirmed is sent again.",
    )
    also: list[Literal["fedora-image-uploader"]] = Field(
        [],
        max_length=1,
        description="Further messages: with `fedora-image-uploader`, the one by which Fedora's "
        "website lists AMIs, for each image when its job has ended. Only on fedora-messaging.",
    )
    name_pattern: Annotated[Pattern, AfterValidator(_name_pattern)] = Field(
        r"Fedora-(?P<subvariant>[A-Za-z]+(?:-[A-Za-z]+)*?)(?:-AmazonEC2)?(?:\.[a-z0-9_]+)?"
        r"-(?P<release>[0-9]{1,4})-",
        description="Regular expression that reads release and subvariant of a build from the "
        "beginning of its file's name, for that message; a hyphen of the subvariant counts as _. A "
        "compose's metadata tells both.",
    )


#: The names of the buses in the configuration.
BusName = Literal["fedmsg", "fedora-messaging"]


FEDMSG: Final = "fedmsg"


FEDORA_MESSAGING: Final = "fedora-messaging"


def _buses(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError(
            "can no longer be a table: name the bus for announcements above the first table, as in "
            'bus = "fedmsg", and move confirm_seconds to [announcing]'
        )
    return [value] if isinstance(value, str) else value


Buses = Annotated[list[BusName], BeforeValidator(_buses), Field(min_length=1)]
