"""Define the settings of the worker process and of its tasks."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from fedimg.config.section import Section


class Verify(Section):
    """The worker's comparison of the record with EC2."""

    interval: NonNegativeFloat = Field(
        86400,
        description="Seconds between two comparisons of the recorded AMIs with EC2; 0: the worker "
        "makes none.",
    )


class Worker(Section):
    """The worker process: how it stops, and how long it keeps the history."""

    stop_seconds: PositiveFloat = Field(
        20, description="Seconds that running steps have to end when the worker is stopped."
    )
    lease_seconds: float = Field(
        15,
        ge=2,
        description="Seconds without a sign of life, with PostgreSQL, after which a worker loses "
        "its jobs to the other workers and ends.",
    )
    history_days: PositiveFloat = Field(
        90,
        description="Days for which the steps of ended jobs and the texts of sent messages are "
        "kept; the records of jobs and AMIs are kept for ever.",
    )
