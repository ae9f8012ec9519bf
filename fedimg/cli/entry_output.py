"""Render builds, tasks and composes that a replay found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedimg.cli.output import Answer, when
from fedimg.cli.page import Table

if TYPE_CHECKING:
    from fedimg.intake.catch_up import Replayed


def replayed(entries: Sequence[Replayed]) -> Answer:
    """Render finished builds, tasks and composes: entry, prior state, time, owner and name."""
    rows = [
        {
            "entry": entry.finished.entry,
            "before": str(entry.before),
            "completed": when(entry.finished.completed),
            "owner": entry.finished.owner,
            "name": entry.finished.name,
            "stored": entry.stored,
        }
        for entry in entries
    ]
    columns = ("entry", "before", "completed", "owner", "name")
    lines = [[str(row[column]) for column in columns] for row in rows]
    table = Table("Entry", "Before", "Finished", "Owner", "Name")
    for line in lines:
        table.add_row(*line)
    return Answer(rows, lines, [table], "no build, task or compose has finished since then")
