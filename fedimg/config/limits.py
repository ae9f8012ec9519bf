"""Define timeouts, and limits of concurrency and of retries."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fedimg.config.section import Section


class Limits(Section):
    """Timeouts, in seconds, and limits of concurrency and of retries."""

    instance_running: PositiveFloat = Field(
        600, description="Timeout for an instance to start running, in seconds."
    )
    instance_gone: PositiveFloat = Field(
        600, description="Timeout for an instance to terminate, in seconds."
    )
    ssh_ready: PositiveFloat = Field(
        600, description="Timeout from a running instance to the first SSH login, in seconds."
    )
    write: PositiveFloat = Field(
        7200, description="Timeout for downloading an image and writing it, in seconds."
    )
    write_idle: PositiveFloat = Field(
        180, description="Timeout for the next byte from a writing instance, in seconds."
    )
    snapshot: PositiveFloat = Field(
        7200, description="Timeout for a snapshot to complete, in seconds."
    )
    copy_: PositiveFloat = Field(
        14400,
        alias="copy",
        description="Timeout for the snapshot copy of one region to complete, in seconds.",
    )
    image: PositiveFloat = Field(
        1800, description="Timeout for an AMI to become available, in seconds."
    )
    settle: PositiveFloat = Field(
        120, description="Timeout for a new resource to become visible in all of EC2, in seconds."
    )
    outage: PositiveFloat = Field(
        3600,
        description="Timeout for EC2 or a region of it to answer again, or to accept the "
        "credentials, in seconds.",
    )
    retries: NonNegativeInt = Field(
        6, description="Automatic retries of a job that failed because of EC2, or in a region."
    )
    retry_after: PositiveFloat = Field(
        900, description="Seconds before the first retry; each later pause is twice as long."
    )
    attempts: PositiveInt = Field(
        3, description="New instances that are tried for one write or one boot check."
    )
    image_gib: PositiveInt = Field(
        64, description="Size of the largest accepted image, uncompressed, in GiB."
    )
    jobs: PositiveInt = Field(4, description="Concurrent jobs of one worker.")
    copies: PositiveInt = Field(
        20, description="Concurrent snapshot copies into one region, of all workers together."
    )
    utilities: PositiveInt = Field(
        20, description="Concurrent utility instances, of all workers together."
    )
    calls: PositiveFloat = Field(
        20, description="EC2 calls per second to one region, of all workers together."
    )
    regions: PositiveInt = Field(40, description="Regions that one job works on concurrently.")
    wait_minimum: PositiveFloat = Field(
        1.0, description="Shortest interval between two polls of EC2, in seconds."
    )
    wait_maximum: PositiveFloat = Field(
        15.0, description="Longest interval between two polls of EC2, in seconds."
    )

    @model_validator(mode="after")
    def _pauses_in_order(self) -> Limits:
        if self.wait_minimum > self.wait_maximum:
            raise ValueError("wait_minimum is longer than wait_maximum")
        return self
