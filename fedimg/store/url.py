"""Read the URL of a PostgreSQL, as the configuration has it."""

from __future__ import annotations

import sqlalchemy as sa


def postgresql_url(text: str) -> sa.URL:
    """Return a `postgresql://` URL with the driver that fedimg uses.

    Raises ValueError when the text is no such URL.
    """
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise ValueError("is not a URL such as postgresql://fedimg@host/fedimg") from error
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError("is not a postgresql:// URL")
    return url.set(drivername="postgresql+psycopg")
