"""Define the tables of messages: those to be sent, and counts of those that were refused."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.store.tables.columns import JSON, Text, metadata

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
# The outbox relay polls several times a second for the few rows that no bus has confirmed.
sa.Index(
    "fedimg_outbox_waiting",
    outbox.c.id,
    # In a PostgreSQL as well (fedimg.store.schema).
    sqlite_where=outbox.c.announced.is_(None),
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
