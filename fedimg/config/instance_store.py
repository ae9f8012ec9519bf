"""Define the settings of instance-store AMIs: the buckets of their bundles, and the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from fedimg.config.section import Section

#: Stands for the region in a bucket's name.
REGION = "{region}"
_FILES = ("signing_key", "certificate", "ec2_certificate")


class InstanceStore(Section):
    """The buckets and keys of bundles, from which instance-store AMIs are made."""

    bucket: str = Field(
        "",
        pattern=r"^([a-z0-9.-]*\{region\}[a-z0-9.-]*)?$",
        description="Name of each region's bucket, with {region} in it. The buckets have to exist, "
        "each in its region, and to allow ACLs.",
    )
    signing_key: Path | Literal[""] = Field(
        "",
        description="File of the RSA key that signs bundles, in PEM without a password, readable "
        "by the worker's user alone.",
    )
    certificate: Path | Literal[""] = Field(
        "", description="File of the signing key's X.509 certificate, in PEM."
    )
    ec2_certificate: Path | Literal[""] = Field(
        "",
        description="File of EC2's own certificate for bundles, in PEM; AWS ships it with its "
        "AMI tools, another one for each partition.",
    )
    test_type: str = Field(
        "m3.large", description="Instance type that boots instance-store AMIs, HVM and PV."
    )

    @property
    def missing(self) -> list[str]:
        """Return the keys that are not set, and have no default that a site could use."""
        return [key for key in ("bucket", *_FILES) if not getattr(self, key)]

    def beside(self, folder: Path) -> InstanceStore:
        """Return the settings with paths relative to a folder."""
        given = {key: getattr(self, key) for key in _FILES}
        return self.model_copy(update={key: folder / path for key, path in given.items() if path})

    def bucket_in(self, region: str) -> str:
        """Return the name of a region's bucket."""
        return self.bucket.replace(REGION, region)
