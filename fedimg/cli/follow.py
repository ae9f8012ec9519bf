"""Follow jobs in the database until they end: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from fedimg.cli.job_output import job_line, job_value, region_line
from fedimg.cli.output import Output, fields
from fedimg.progress import DONE
from fedimg.store.rows import CLEANING, LIVE, JobRow, RegionRow
from fedimg.store.store import Store

# A read of the database takes a few milliseconds.
_PAUSE_SECONDS = 0.5
_PERCENT = re.compile(r"\b(\d{1,3})(?:\.\d+)?\s*%")


def follow(store: Store, jobs: Sequence[str], output: Output) -> list[JobRow]:
    """Show the progress of jobs until none is active; return their last rows.

    A terminal shows a bar for each job, and for a single job a bar for each region. With --json
    each change prints the whole job as one line; otherwise each change of a job or of one of its
    regions prints a line.
    """
    snapshots = _poll(store, jobs)
    if not output.live:
        return _lines(snapshots, output)
    rows = _bars(snapshots)
    for row in rows:
        if row.error:
            output.note(f"{row.job}: {row.error}")
    return rows


def is_active(row: JobRow) -> bool:
    """Return whether a job is queued, running, or cancelled and not yet cleaned up."""
    return row.state in LIVE or row.step == CLEANING


def _poll(store: Store, jobs: Sequence[str]) -> Iterator[list[JobRow]]:
    while True:
        rows = [row for row in map(store.job, jobs) if row is not None]
        yield rows
        if not any(map(is_active, rows)):
            return
        time.sleep(_PAUSE_SECONDS)


def _lines(snapshots: Iterator[list[JobRow]], output: Output) -> list[JobRow]:
    printed: dict[tuple[str, str], list[str]] = {}
    rows: list[JobRow] = []
    for rows in snapshots:
        for row in rows:
            # The job's own line comes last, so that the last line tells the job's end.
            lines = {(row.job, region.region): region_line(row, region) for region in row.regions}
            lines |= {(row.job, ""): job_line(row)}
            # What has only a new time is no change.
            texts = {key: [*line[:3], *line[4:]] for key, line in lines.items()}
            changed = {key: line for key, line in lines.items() if printed.get(key) != texts[key]}
            printed |= texts
            if changed and output.as_json:
                output.value(job_value(row))
            elif not output.as_json:
                for line in changed.values():
                    output.line("  ".join(fields(line)).rstrip())
            if output.lost:
                return rows
    return rows


def _bars(snapshots: Iterator[list[JobRow]]) -> list[JobRow]:
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
