"""Describe an answer on a terminal: lines and tables, which fedimg.cli.terminal draws."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A text in one of rich's styles, such as "bold" or "red"."""

    text: str = ""
    style: str = ""


class Table:
    """A table with these titles of its columns, or with none at all."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns
        self.rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Append a row with a cell for each column."""
        self.rows.append(cells)


#: A part of a page: a line, a line of texts in several styles, or a table.
Part = Text | tuple[Text, ...] | Table
