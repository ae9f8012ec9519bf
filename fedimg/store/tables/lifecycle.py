"""Define the tables of AMIs, and of what is compared, changed and told once they are public."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.tables.columns import JSON, Text, metadata

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
#: The table of fedimg.store.withdrawals; a withdrawal that was taken back stays, as a record.
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
#: The table of fedimg.store.changes.
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
#: The table of fedimg.store.catalogue_keys.
catalogue_keys = sa.Table(
    "fedimg_catalogue_keys",
    metadata,
    sa.Column("keyid", sa.String, primary_key=True),
    sa.Column("public", sa.String, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
)
