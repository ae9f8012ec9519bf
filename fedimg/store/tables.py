"""Define fedimg's tables; the database holds DBOS's own as well.

The tables only grow, by tables, by indexes, and by columns that may be NULL or have a
`server_default`: so fedimg.store.schema can upgrade a database of an older version.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from fedimg.untrusted.quoting import plain, plain_values


class Text(sa.TypeDecorator[str]):
    """Text of any origin, stored printable and without secrets.

    An instance's console output may hold NUL, which PostgreSQL does not store.
    """

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return the text as it is stored."""
        return value if value is None else plain(value)


class JSON(sa.TypeDecorator[Any]):
    """JSON whose texts are of any origin, each stored printable and without secrets."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return the value as it is stored."""
        return plain_values(value)


metadata = sa.MetaData()

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
amis = sa.Table(
    "fedimg_amis",
    metadata,
    sa.Column("ami", sa.String, primary_key=True),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("image", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("architecture", sa.String, nullable=False),
    sa.Column("virt_type", sa.String, nullable=False),
    sa.Column("volume_type", sa.String, nullable=False),
    sa.Column("snapshot", sa.String, nullable=False),
    sa.Column("public", sa.Boolean, nullable=False),
    # The image: what Koji or a compose calls it, and its bytes. NULL where an older version
    # recorded the AMI, or where it is not known.
    sa.Column("source", sa.String),
    sa.Column("build", sa.String),
    sa.Column("checksum", sa.String),
    sa.Column("disk_sha256", sa.String),
    sa.Column("disk_length", sa.BigInteger),
    # One of fedimg.store.rows.STATES; NULL where an older version wrote: `public` decides then.
    sa.Column("state", sa.String),
    sa.Column("published_at", sa.Float),
    # Who changed the state by a command, when, why, and the name of the image to use instead.
    sa.Column("changed_by", Text),
    sa.Column("changed_at", sa.Float),
    sa.Column("reason", Text),
    sa.Column("replacement", sa.String),
    # When EC2 begins to hide the AMI from searches, by a rule of the site's.
    sa.Column("deprecate_at", sa.Float),
    # The last comparison with EC2: its time, and the differences; "" when there was none.
    # Who might use AMI and snapshot before its withdrawal, as EC2 lists them.
    sa.Column("permissions", JSON(none_as_null=True)),
    sa.Column("verified_at", sa.Float),
    sa.Column("difference", Text),
    # What EC2 says of the AMI (fedimg.images.Attributes); NULL where an older version recorded it.
    sa.Column("attributes", sa.JSON(none_as_null=True)),
    # The catalogue's file with the facts of the AMI's publication, once the file may be written.
    sa.Column("publication", sa.String),
    # The options of the AMI beyond those of every AMI (fedimg.images.Options); NULL: none.
    sa.Column("options", sa.JSON(none_as_null=True)),
    # Whether the snapshot is encrypted with a key of the site's; the AMI is then never public.
    sa.Column("encrypted", sa.Boolean, nullable=False, server_default=sa.false()),
    # With whom a private AMI is to be shared (fedimg.values.audience), once that was decided, and
    # since when it may be; NULL: it is for everybody, or was not tested yet.
    sa.Column("audience", sa.JSON(none_as_null=True)),
    sa.Column("shared_at", sa.Float),
)
# The metrics ask for the last publication of each job, and a job may have hundreds of AMIs.
sa.Index("fedimg_amis_published", amis.c.job, amis.c.published_at)
# Status counts the few AMIs that are unknown, or whose change is not finished.
sa.Index("fedimg_amis_state", amis.c.state)
#: AMIs and snapshots that are public, may be public, or once were.
offered = sa.Table(
    "fedimg_offered",
    metadata,
    sa.Column("id", sa.String, primary_key=True, autoincrement=False),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
)
#: The tables of fedimg.store.withdrawals; a withdrawal that was taken back stays, as a record.
withdrawals = sa.Table(
    "fedimg_withdrawals",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("replacement", sa.String),
    sa.Column("restored_at", sa.Float),
    sa.Column("restored_by", Text),
)
changes = sa.Table(
    "fedimg_changes",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("error", Text),
)
#: The table of fedimg.store.prunings: what the rules of retention did with which AMI.
prunings = sa.Table(
    "fedimg_prunings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("ami", sa.String, nullable=False),
    sa.Column("region", sa.String, nullable=False),
    sa.Column("job", sa.String, nullable=False),
    # What was asked for, when, by whom, and by which rule and facts.
    sa.Column("what", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("by", Text, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("deprecate_at", sa.Float),
    # Whether an AMI of which EC2 tells no launch counts as never launched.
    sa.Column("unlaunched", sa.Boolean, nullable=False, server_default=sa.false()),
    # When it was done or given up; in the second case, why the AMI is kept.
    sa.Column("ended", sa.Float),
    sa.Column("kept", Text),
)
#: The table of fedimg.store.repairs: what a person asked to be made as recorded.
repairs = sa.Table(
    "fedimg_repairs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    # Such as "publish AMI", and the id of the AMI or snapshot.
    sa.Column("what", sa.String, nullable=False),
    sa.Column("resource", sa.String, nullable=False),
    sa.Column("region", sa.String, nullable=False),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", Text, nullable=False),
    # When it was done or given up; in the second case, why.
    sa.Column("ended", sa.Float),
    sa.Column("given_up", Text),
)
#: The table of fedimg.store.verifications.
verified = sa.Table(
    "fedimg_verified",
    metadata,
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("error", Text),
    sa.Column("differences", JSON),
    # How many AMIs of the site are public in the region, and how many of the account may be.
    sa.Column("public_amis", sa.Integer),
    sa.Column("quota", sa.Float),
    # How many of the public AMIs the rules of retention would disable now.
    sa.Column("would_free", sa.Integer),
)
#: The table of fedimg.store.utility_tools.
lacking_tools = sa.Table(
    "fedimg_lacking_tools",
    metadata,
    sa.Column("ami", sa.String, primary_key=True),
    sa.Column("tool", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
#: The table of fedimg.store.catalogue_keys.
catalogue_keys = sa.Table(
    "fedimg_catalogue_keys",
    metadata,
    sa.Column("keyid", sa.String, primary_key=True),
    sa.Column("public", sa.String, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
)
#: One row, the time at which the database was created; empty when an older version created it.
creation = sa.Table(
    "fedimg_made",
    metadata,
    sa.Column("at", sa.Float, primary_key=True),
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
outbox = sa.Table(
    "fedimg_outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String, nullable=False, unique=True),
    sa.Column("topic", sa.String, nullable=False),
    sa.Column("body", JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("announced", sa.Float),
)
#: Which bus has confirmed a message that other buses have not confirmed yet.
delivered = sa.Table(
    "fedimg_delivered",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bus", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
#: The table of fedimg.store.parked: a message that a bus refuses is not sent to that bus before an
#: operator says so.
parked = sa.Table(
    "fedimg_parked",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bus", sa.String, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("reason", Text, nullable=False),
)
refused = sa.Table(
    "fedimg_refused",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("fault", sa.String, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
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
# The outbox relay polls several times a second for the few rows that no bus has confirmed.
sa.Index(
    "fedimg_outbox_waiting",
    outbox.c.id,
    # In a PostgreSQL as well (fedimg.store.schema).
    sqlite_where=outbox.c.announced.is_(None),
)

#: The tables of fedimg.intake.watermarks.
watermarks = sa.Table(
    "fedimg_lists",
    metadata,
    sa.Column("list", sa.String, primary_key=True),
    sa.Column("begin", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)
listed_entries = sa.Table(
    "fedimg_caught",
    metadata,
    sa.Column("entry", sa.String, primary_key=True),
    sa.Column("list", sa.String, nullable=False),
    sa.Column("completed", sa.Float, nullable=False),
)
list_readings = sa.Table(
    "fedimg_looks",
    metadata,
    sa.Column("list", sa.String, primary_key=True),
    sa.Column("succeeded", sa.Float),
    sa.Column("error", Text),
)
#: The table of fedimg.intake.deferred.
deferred_entries = sa.Table(
    "fedimg_waiting",
    metadata,
    sa.Column("entry", sa.String, primary_key=True),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("reason", Text, nullable=False),
    sa.Column("asked", sa.Float, nullable=False),
    sa.Column("pause", sa.Float, nullable=False),
    sa.Column("waited", sa.Float, nullable=False),
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
#: The table of fedimg.store.heartbeats.
heartbeats = sa.Table(
    "fedimg_heartbeats",
    metadata,
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    # When a hub or consumer last received a message.
    sa.Column("heard", sa.Float),
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
#: The table of fedimg.store.parameters: one row for each parameter of SSM that fedimg has put or is
#: to put, without an AMI where it is to be deleted.
parameters = sa.Table(
    "fedimg_parameters",
    metadata,
    sa.Column("region", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("ami", sa.String),
    sa.Column("image", sa.String, nullable=False),
    sa.Column("series", sa.String, nullable=False),
    sa.Column("right", sa.Boolean, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("put_at", sa.Float),
    sa.Column("doubt_until", sa.Float, nullable=False, server_default="0"),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("advanced", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("error", Text),
    sa.Column("note", Text, nullable=False, server_default=""),
)
#: The table of fedimg.jobs.age_exemptions.
age_exempt = sa.Table(
    "fedimg_age_exempt",
    metadata,
    sa.Column("entry", sa.String, primary_key=True),
)
#: The table of fedimg.jobs.entry_images.
entry_images = sa.Table(
    "fedimg_entry_images",
    metadata,
    sa.Column("entry", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("chosen", sa.Boolean, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
#: The tables of fedimg.worker.registry: the workers, and the runs that each works on.
workers = sa.Table(
    "fedimg_workers",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False),
    sa.Column("steps", sa.Integer),
)
runs = sa.Table(
    "fedimg_running",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("run", sa.Integer, primary_key=True),
    sa.Column("worker", sa.String, nullable=False),
    sa.Column("stop", sa.Boolean, nullable=False),
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
