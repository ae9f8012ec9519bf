"""What a database that an older version made lacks of fedimg.store.tables, and how it gets that.

Found by comparison, and not by a number that is kept in the database: such a number can be wrong
about what is there, and a list of steps behind it would tell fedimg.store.tables once more. It
is enough as tables only grow: a new column may be NULL or has a `server_default`, so that workers
of the version before, which know nothing of it, go on beside the new one's. What has to rewrite
rows needs more than this. The queue's own tables are its library's to bring up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler

from fedimg.store.tables import metadata


class CannotGrow(Exception):
    """The column is missing that the text names, and no row that is there has a value for it."""


@dataclass(frozen=True)
class Lack:
    """A table, column or index that is not there: its name, its table's, and what makes it."""

    name: str
    table: str
    make: sa.schema.ExecutableDDLElement


def lacks(connection: sa.Connection, tables: sa.MetaData = metadata) -> list[Lack]:
    """What is missing, in the order in which it can be made.

    Raises CannotGrow when it cannot be made, as rows would be without a value.
    """
    return list(_lacks(connection, tables))


def grow(
    begin: Callable[[], AbstractContextManager[sa.Connection]], tables: sa.MetaData = metadata
) -> None:
    """Make what is missing. Raises CannotGrow, before anything is made.

    `begin` opens a transaction that keeps out whoever else does the same. Each table has its own:
    who reads several meanwhile waits for one, but never both for each other.
    """
    missing = True
    while missing:
        with begin() as connection:
            found = lacks(connection, tables)
            for lack in found:
                if lack.table == found[0].table:
                    connection.execute(lack.make)
            missing = bool(found)


def _lacks(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Lack]:
    found = sa.inspect(connection)
    columns = {
        name: {column["name"] for column in some}
        for (_, name), some in found.get_multi_columns().items()
    }
    indexes = {index["name"] for some in found.get_multi_indexes().values() for index in some}
    for table in tables.sorted_tables:
        if table.name not in columns:
            yield Lack(table.name, table.name, sa.schema.CreateTable(table))
        else:
            for column in table.columns:
                if column.name not in columns[table.name]:
                    yield Lack(f"{table.name}.{column.name}", table.name, _AddColumn(column))
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            if index.name not in indexes:
                yield Lack(str(index.name), table.name, sa.schema.CreateIndex(index))


class _AddColumn(sa.schema.ExecutableDDLElement):
    def __init__(self, column: sa.Column[Any]) -> None:
        if column.unique or column.foreign_keys or column.primary_key:
            raise NotImplementedError(f"{column} is added without what it is to be held to")
        if not (column.nullable or column.server_default):
            raise CannotGrow(f"{column.table.name}.{column.name}")
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: DDLCompiler, **_: object) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"
