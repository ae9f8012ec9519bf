"""Upgrade a database of an older version to the tables of fedimg.store.tables.

The database is compared with fedimg.store.tables; it holds no schema version. A version number can
contradict the tables that exist, and the migrations behind it would repeat fedimg.store.tables.
Comparison is enough because tables only grow: a new column may be NULL or has a `server_default`,
so that workers of the version before, which do not know the column, go on beside the new version's.
A change that rewrites rows needs more than this module. DBOS upgrades its own tables.
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

_SQLITE_COLUMNS = (
    "SELECT found.name, its.name FROM sqlite_schema AS found "
    "JOIN pragma_table_info(found.name) AS its WHERE found.type = 'table'"
)
_SQLITE_INDEXES = "SELECT name FROM sqlite_schema WHERE type = 'index'"


class CannotGrow(Exception):
    """A column, named by the text, cannot be added: existing rows would have no value for it."""


@dataclass(frozen=True)
class Lack:
    """A missing table, column or index: its name, its table's, and the DDL that creates it."""

    name: str
    table: str
    make: sa.schema.ExecutableDDLElement


def lacks(connection: sa.Connection, tables: sa.MetaData = metadata) -> list[Lack]:
    """Return what the database lacks, in an order in which it can be created.

    Raises CannotGrow when a column cannot be added, as rows would have no value for it.
    """
    return list(_lacks(connection, tables))


def grow(
    begin: Callable[[], AbstractContextManager[sa.Connection]], tables: sa.MetaData = metadata
) -> None:
    """Create what the database lacks. Raises CannotGrow before anything is created.

    `begin` opens a transaction that excludes other processes that do the same. Each table gets a
    transaction of its own, so that no deadlock with a reader of several tables is possible.
    """
    missing = True
    while missing:
        with begin() as connection:
            lacking = lacks(connection, tables)
            for lack in lacking:
                if lack.table == lacking[0].table:
                    connection.execute(lack.make)
            missing = bool(lacking)


def _lacks(connection: sa.Connection, tables: sa.MetaData) -> Iterator[Lack]:
    columns, indexes = _found(connection)
    for table in tables.sorted_tables:
        if table.name not in columns:
            yield Lack(table.name, table.name, sa.schema.CreateTable(table))
        else:
            for column in table.columns:
                if column.name not in columns[table.name]:
                    yield Lack(f"{table.name}.{column.name}", table.name, _AddColumn(column))
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            if index.name not in indexes:
                where = index.dialect_options["sqlite"]["where"]
                if where is not None:
                    # Said here, as to say it in fedimg.store.tables loads PostgreSQL's dialect.
                    index.dialect_kwargs[f"{connection.dialect.name}_where"] = where
                yield Lack(str(index.name), table.name, sa.schema.CreateIndex(index))


def _found(connection: sa.Connection) -> tuple[dict[str, set[str]], set[str | None]]:
    """Return the names of each table's columns, and those of all indexes."""
    if connection.dialect.name == "sqlite":
        # By the inspector this takes a query for each table, each time that a command looks.
        columns: dict[str, set[str]] = {}
        for table, column in connection.exec_driver_sql(_SQLITE_COLUMNS):
            columns.setdefault(table, set()).add(column)
        return columns, set(connection.exec_driver_sql(_SQLITE_INDEXES).scalars())
    inspector = sa.inspect(connection)
    columns = {
        table: {column["name"] for column in infos}
        for (_, table), infos in inspector.get_multi_columns().items()
    }
    indexes = inspector.get_multi_indexes().values()
    return columns, {index["name"] for infos in indexes for index in infos}


class _AddColumn(sa.schema.ExecutableDDLElement):
    def __init__(self, column: sa.Column[Any]) -> None:
        if column.unique or column.foreign_keys or column.primary_key:
            raise NotImplementedError(f"cannot add the column {column} with its constraints")
        if not (column.nullable or column.server_default):
            raise CannotGrow(f"{column.table.name}.{column.name}")
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: DDLCompiler, **_: object) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"
