"""Define the settings of the buses on which fedimg announces."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from fedimg.config.section import Section


class Announcing(Section):
    """The sending of announcements; the buses' addresses are in the buses' own configuration."""

    confirm_seconds: PositiveFloat = Field(
        10,
        description="Seconds after which a message that a bus has not confirmed is sent again.",
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
