"""Define the tables of the deployment: its database's creation, and its processes."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.tables.columns import metadata

#: One row, the time at which the database was created; empty when an older version created it.
creation = sa.Table(
    "fedimg_made",
    metadata,
    sa.Column("at", sa.Float, primary_key=True),
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
