"""Define the tables of entries: which were listed, wait for their source, or have which images."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.tables.columns import Text, metadata

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
