"""Define the settings of encrypted AMIs: the KMS keys of their snapshots."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from fedimg.config.section import Section

_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(?P<name>.+)")
_ID = r"(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_NAME = re.compile(rf"{_ID}|key/{_ID}|alias/[A-Za-z0-9/_-]{{1,249}}")
#: How the ids of keys begin that KMS replicates to other regions.
_MULTI_REGION = ("mrk-", "key/mrk-")
_ALIAS = "alias/"
#: The aliases of the keys that AWS manages; what is encrypted with one cannot be shared.
_OF_AWS = "alias/aws/"


def _key(text: str) -> str:
    found = _ARN.fullmatch(text)
    name = found["name"] if found else text
    if not _NAME.fullmatch(name) or (not found and name.startswith("key/")):
        raise ValueError(
            "is not the id, the ARN or the alias of a KMS key, such as mrk-…, arn:aws:kms:… or "
            "alias/NAME"
        )
    if name.startswith(_OF_AWS):
        raise ValueError(
            "is a key that AWS manages: nothing that is encrypted with it can be shared; make a "
            "customer managed key"
        )
    return text


KeyName = Annotated[str, AfterValidator(_key)]


class Encryption(Section):
    """The keys with which the snapshots of encrypted AMI types are encrypted."""

    key: Literal[""] | KeyName = Field(
        "",
        description="KMS key of all regions: a multi-region key (mrk-… or its ARN), or an alias "
        "(alias/NAME) that each region has.",
    )
    keys: dict[str, KeyName] = Field(
        {}, description="Region → KMS key, by its id, its ARN or an alias, before `key`."
    )

    @field_validator("key")
    @classmethod
    def _is_in_all_regions(cls, key: str) -> str:
        found = _ARN.fullmatch(key)
        name = found["name"] if found else key
        if name and not name.startswith((*_MULTI_REGION, _ALIAS)):
            raise ValueError(
                "is a key of one region: name a multi-region key (mrk-…) or an alias, or each "
                "region's key in `keys`"
            )
        return key

    @field_validator("keys")
    @classmethod
    def _are_in_their_regions(cls, keys: dict[str, str]) -> dict[str, str]:
        for region, key in keys.items():
            found = _ARN.fullmatch(key)
            if found and found["region"] != region:
                raise ValueError(
                    f"names a key of {found['region']} for {region}: a snapshot is encrypted with "
                    "a key of its own region"
                )
        return keys

    def key_in(self, region: str) -> str:
        """Return the key of a region as EC2 takes it; an empty text if none is named."""
        key = self.keys.get(region, self.key)
        found = _ARN.fullmatch(key)
        if not found:
            return key
        start, end = found.span("region")
        return key[:start] + region + key[end:]
