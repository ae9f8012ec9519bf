"""Define what the tables of all groups have in common: their metadata, and types of columns."""

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


#: fedimg's tables; the database holds DBOS's own as well.
metadata = sa.MetaData()
