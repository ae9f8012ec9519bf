"""Define the tables of jobs: their regions, tests and retries, and what jobs wait for."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.tables.columns import JSON, Text, metadata

jobs = sa.Table(
    "fedimg_jobs",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("image", sa.String, nullable=False, index=True),
    sa.Column("raw_image", sa.JSON, nullable=False),
    # Each new job looks for a job with the same checksum, and jobs are never deleted.
    sa.Column("checksum", sa.String, index=True),
    # The validators that the file server gave for the file, where it was asked.
    sa.Column("etag", sa.String),
    sa.Column("last_modified", sa.String),
    # Whether an operator had the image published again although another job has the same image.
    sa.Column("on_purpose", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("error", Text),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    # The latest run that failed with an error of which it is not known whether it is transient.
    sa.Column("unknown_run", sa.Integer),
    # The uncompressed image; NULL in jobs whose image an older version wrote.
    sa.Column("disk_sha256", sa.String),
    sa.Column("disk_length", sa.BigInteger),
    # What a compose says of the image; the version before accepts no unknown key in `raw_image`.
    sa.Column("release", sa.Integer),
    sa.Column("subvariant", sa.String),
)
# Lists of jobs are of the active and the newest ones, and jobs are never deleted.
sa.Index("fedimg_jobs_newest", jobs.c.state, jobs.c.created, jobs.c.job)
regions = sa.Table(
    "fedimg_regions",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("detail", Text, nullable=False),
    sa.Column("error", Text),
    sa.Column("updated", sa.Float, nullable=False),
    # How many AMIs are to become public in the region, or have no room there.
    sa.Column("needs", sa.Integer, nullable=False, server_default="0"),
    # The job's run that was at this step; NULL where an older version recorded the step.
    sa.Column("run", sa.Integer),
)


def of_run(run: int | sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Return the condition that a region's row is of this run of its job.

    A run that fails early leaves the rows of the run before. Rows of an older version count.
    """
    return sa.or_(regions.c.run.is_(None), regions.c.run == run)


#: The table of fedimg.store.added_regions.
added = sa.Table(
    "fedimg_added",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", Text, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
)
tests = sa.Table(
    "fedimg_tests",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("virt_type", sa.String, primary_key=True),
    # What the type's text has behind the virtualization, such as gp2 or gp2-encrypted.
    sa.Column("volume_type", sa.String, primary_key=True),
    sa.Column("ami", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("checks", JSON, nullable=False),
    sa.Column("output", Text, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
)
#: The table of fedimg.store.utility_tools.
lacking_tools = sa.Table(
    "fedimg_lacking_tools",
    metadata,
    sa.Column("ami", sa.String, primary_key=True),
    sa.Column("tool", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
#: The table of fedimg.jobs.retries.
retries = sa.Table(
    "fedimg_again",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("run", sa.Integer, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("begun", sa.Boolean, nullable=False),
    # How many of the runs followed an error of which it is not known whether it is transient.
    sa.Column("unknown", sa.Integer, nullable=False, server_default="0"),
)
#: The table of fedimg.jobs.outages; the row of a region that is `back` is kept for its `looks`.
outages = sa.Table(
    "fedimg_outages",
    metadata,
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("looks", sa.Integer, nullable=False),
    sa.Column("due", sa.Float),
    sa.Column("back", sa.Float),
)
#: The table of fedimg.jobs.holds; at most one row is not `released`.
holds = sa.Table(
    "fedimg_holds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("by", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("released", sa.Float),
    sa.Column("released_by", Text),
)
#: The table of fedimg.jobs.semaphores.
semaphores = sa.Table(
    "fedimg_slots",
    metadata,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("job", sa.String, primary_key=True),
    # The position in the queue of this semaphore; the jobs in front hold it.
    sa.Column("turn", sa.Integer, nullable=False, server_default="0"),
)
