"""Draw pages and bars on a terminal. Only what is shown on one loads this module, and rich."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text as RichText

from fedimg.cli.page import Part, Table, Text
from fedimg.progress import DONE
from fedimg.store.rows import JobRow, RegionRow, is_active

_PERCENT = re.compile(r"\b(\d{1,3})(?:\.\d+)?\s*%")


def drawn(page: Sequence[Part]) -> str:
    """Return a page with the terminal's codes, for standard output."""
    console = Console(markup=False, highlight=False)
    with console.capture() as captured:
        for part in page:
            if isinstance(part, Table):
                console.print(_table(part))
            else:
                texts = part if isinstance(part, tuple) else (part,)
                line = RichText.assemble(*((each.text, each.style) for each in texts))
                # Text is not wrapped, so that a name can be copied in one piece.
                console.print(line, soft_wrap=True)
    return captured.get()


def _table(table: Table) -> RichTable:
    made = RichTable(
        box=None,
        padding=(0, 2, 0, 0) if table.columns else (0, 1, 0, 0),
        pad_edge=False,
        header_style="bold underline",
        show_header=bool(table.columns),
    )
    for title in table.columns or ("",) * max(map(len, table.rows), default=0):
        # Folded, never cut: names and ids are copied from here into other commands.
        made.add_column(title, overflow="fold")
    for row in table.rows:
        cells = (each if isinstance(each, Text) else Text(each) for each in row)
        made.add_row(*(RichText(each.text, each.style) for each in cells))
    return made


def bars(snapshots: Iterator[list[JobRow]]) -> list[JobRow]:
    """Draw bars for jobs, as each of their states comes; return the last states.

    A single job also has a bar for each region.
    """
    rows: list[JobRow] = []
    columns = shutil.get_terminal_size().columns
    with Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=max(4, min(20, columns // 8))),
        TextColumn("{task.fields[text]}", markup=False, table_column=Column(ratio=1)),
        TimeElapsedColumn(),
        expand=True,
    ) as progress:
        bars: dict[tuple[str, str], TaskID] = {}

        def draw(job: str, region: str, text: str, done: float, total: float) -> None:
            if (job, region) not in bars:
                # Half of a narrow terminal is for the step; what tells jobs apart is their ends.
                title = f"  {region}" if region else _shortened(job, columns // 2 - 4)
                bars[job, region] = progress.add_task(title, total=None, text="")
            progress.update(bars[job, region], text=text, completed=done, total=total or None)

        for rows in snapshots:
            for row in rows:
                done = sum(region.step in DONE for region in row.regions)
                text = f"{row.state}: {row.step}" if is_active(row) else row.state
                draw(row.job, "", text, done, len(row.regions))
                for region in row.regions if len(rows) == 1 else ():
                    text = " ".join((region.step, region.error or region.detail))
                    draw(row.job, region.region, text, *_fraction(region))
    return rows


def _shortened(name: str, length: int) -> str:
    """Return a name of at most `length` characters, with its middle left out."""
    if len(name) <= length:
        return name
    kept = max(2, length - 1)
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def _fraction(region: RegionRow) -> tuple[float, float]:
    """Return the completed amount of the region's current step and its total; 0, 0 if unknown."""
    if region.error or region.step in DONE:
        return float(not region.error), 1
    percent = _PERCENT.search(region.detail)
    return (float(percent[1]), 100) if percent else (0, 0)
