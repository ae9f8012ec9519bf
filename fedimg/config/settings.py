"""Define the whole of fedimg.toml."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from fedimg.config.buses import FEDMSG, FEDORA_MESSAGING, Announcing, Buses
from fedimg.config.catalogue import Catalogue
from fedimg.config.checks import LOGIN, Check
from fedimg.config.ec2 import EC2
from fedimg.config.retention import Retention
from fedimg.config.section import Section
from fedimg.config.sources import CatchUp, Composes, Intake, Koji
from fedimg.config.value_types import DatabaseAddress
from fedimg.config.web import Web
from fedimg.config.worker import Verify, Worker


class Settings(Section):
    """The whole of fedimg.toml."""

    site: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._-]{1,32}$",
        description="Name of this deployment. It tags every resource that it makes in EC2, and "
        "changes no resource with another site's tag.",
    )
    state_directory: Path = Field(
        Path("/var/lib/fedimg"),
        description="Directory of the database file, unless `database` names a PostgreSQL "
        "database.",
    )
    database: DatabaseAddress = Field(
        "",
        description="postgresql://user@host/name, which several workers can share; empty: a file "
        "in state_directory, for one worker. Put a password into ~/.pgpass or $PGPASSWORD.",
    )
    bus: Buses = Field(
        [FEDMSG], description="Bus to which announcements are sent, or a list of both buses."
    )
    koji: Koji = Koji()
    composes: Composes = Composes()
    intake: Intake = Intake()
    catch_up: CatchUp = CatchUp()
    verify: Verify = Verify()
    catalogue: Catalogue = Catalogue()
    retention: Retention = Retention()
    ec2: EC2 = EC2()
    checks: list[Check] = Field(
        [], description="The site's own boot checks, in addition to those of `ec2.test`."
    )
    announcing: Announcing = Announcing()

    @model_validator(mode="after")
    def _check_bus_of_further_messages(self) -> Settings:
        if self.announcing.also and set(self.bus) != {FEDORA_MESSAGING}:
            raise ValueError(
                "announcing.also: fedora-image-uploader's message has a schema on "
                "fedora-messaging alone, and nobody reads it on fedmsg: set bus = "
                '"fedora-messaging", or remove announcing.also'
            )
        return self

    @field_validator("retention", mode="before")
    @classmethod
    def _refuse_array_of_tables(cls, value: object) -> object:
        if isinstance(value, list):
            raise ValueError(
                "write each rule as [[retention.rules]]: TOML does not allow [[retention]] next to "
                "the settings of [retention]"
            )
        return value

    @model_validator(mode="after")
    def _check_names_are_unique(self) -> Settings:
        names = [LOGIN, *self.ec2.test.shipped, *(check.name for check in self.checks)]
        if len(names) == 1:
            raise ValueError(
                "no boot check is left: name one in ec2.test.shipped, or add a [[checks]] table"
            )
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"two boot checks have the name {', '.join(sorted(duplicates))}: rename one of them"
            )
        return self

    worker: Worker = Worker()
    web: Web = Web()
