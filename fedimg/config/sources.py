"""Define the settings of the sources of images, and of what is accepted from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from fedimg.config.section import Section
from fedimg.config.value_types import Pattern, WebAddress


class Koji(Section):
    """The Koji hub, and which of its images are published."""

    hub: WebAddress = Field(
        "https://koji.fedoraproject.org/kojihub", description="The Koji hub's XML-RPC URL."
    )
    topurl: WebAddress = Field(
        "https://kojipkgs.fedoraproject.org", description="The base URL of the Koji hub's files."
    )
    instance: str = Field(
        "primary",
        description="The Koji instance whose messages count; messages of other instances are "
        "ignored, because their ids overlap.",
    )
    build_owners: list[str] = Field(
        ["releng"], description="Owners, as the hub names them, whose builds are published."
    )
    scratch_owners: list[str] = Field(
        [],
        description="Owners whose scratch builds are published; nobody by default, because anybody "
        "can name a scratch build Fedora-Cloud.",
    )
    name_patterns: list[Pattern] = Field(
        [r"^Fedora-(Cloud|Atomic|AtomicHost)\b"],
        description="Regular expressions; an image's file name has to match one of them.",
    )
    exclude_patterns: list[Pattern] = Field(
        [r"(?i)vagrant", r"(?i)docker", r"(?i)container"],
        description="Regular expressions; an image's file name must match none of them.",
    )
    architectures: list[Literal["x86_64", "aarch64"]] = Field(
        ["x86_64", "aarch64"], description="Architectures that are published, by Koji's names."
    )
    timeout: PositiveFloat = Field(
        60, description="Longest wait for one answer of the hub, in seconds."
    )
    retry_seconds: PositiveFloat = Field(
        60, description="Longest pause between two tries to reach the hub, in seconds."
    )


class Composes(Section):
    """The composes that are published; none while `locations` is empty."""

    locations: list[WebAddress] = Field(
        [],
        description="URLs of folders that hold composes, each compose in a folder named by its id.",
    )
    types: list[Literal["production", "nightly", "development", "ci", "test"]] = Field(
        ["production", "nightly"],
        description="Compose types that are published, by productmd's names.",
    )
    release_types: list[str] = Field(
        ["ga", "updates"], description="Release types that are published, by productmd's names."
    )
    variants: list[str] = Field([], description="Variants that are published; empty: all.")
    subvariants: list[str] = Field([], description="Subvariants that are published; empty: all.")
    timeout: PositiveFloat = Field(
        60, description="Longest wait for one file of a compose, in seconds."
    )


class Intake(Section):
    """The announcements of a bus that are accepted."""

    max_age_days: PositiveFloat = Field(
        14,
        description="Announced builds and composes that finished longer ago are not published, "
        "because anybody can send an old message again; Koji or the compose tells the time.",
    )


class CatchUp(Section):
    """The search in Koji and in the composes' locations for announcements that the bus lost."""

    interval: PositiveFloat = Field(600, description="Seconds between two searches.")
    overlap: NonNegativeFloat = Field(
        21600,
        description="How long after its completion time, in seconds, a build may first appear in "
        "Koji: an imported build keeps the time at which its import began.",
    )
    look_back: NonNegativeFloat = Field(
        86400, description="How far back the very first search goes, in seconds."
    )
