"""Define the settings of AWS's prices, by which `fedimg plan` estimates what an image costs."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from fedimg.config.section import Section


class Prices(Section):
    """AWS's prices for this account, by which `fedimg plan` estimates what an image costs."""

    currency: str = Field("USD", description="What the prices are in.")
    snapshot_gib_month: NonNegativeFloat = Field(0, description="A GiB of snapshot, for a month.")
    transfer_gib: NonNegativeFloat = Field(
        0, description="The transfer of a GiB from the origin to another region."
    )
    instance_hour: NonNegativeFloat = Field(
        0, description="An hour of a utility or test instance, with its volume and address."
    )
    thousand_blocks: NonNegativeFloat = Field(
        0, description="A thousand calls of PutSnapshotBlock, where images are written directly."
    )

    @property
    def known(self) -> bool:
        """True if the site has set a price."""
        return any(value for name, value in self if name != "currency")
