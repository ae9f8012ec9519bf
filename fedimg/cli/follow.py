"""Follows jobs in the database until they end: bars on a terminal, a line a change elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from fedimg.cli.output import Output, fields, job_line, job_value, region_line
from fedimg.progress import PUBLIC
from fedimg.store.rows import CLEANING, LIVE, JobRow, RegionRow
from fedimg.store.store import Store
from fedimg.untrusted.quoting import plain

# The database is a local file: looking twice a second costs a few milliseconds.
_PAUSE_SECONDS = 0.5
_PERCENT = re.compile(r"\b(\d{1,3})(?:\.\d+)?\s*%")


def follow(store: Store, jobs: Sequence[str], output: Output) -> list[JobRow]:
    """Show how jobs go on until nothing is done for any; how each stands then.

    On a terminal a bar a job, and a bar a region of a single job; with JSON a job's whole row at
    each change of it, one a line; otherwise a line a change of a job or of one of its regions.
    """
    looks = _looks(store, jobs)
    if not output.live:
        return _lines(looks, output)
    rows = _bars(looks)
    for row in rows:
        if row.error:
            output.note(f"{row.job}: {row.error}")
    return rows


def going_on(row: JobRow) -> bool:
    """Whether something is still done for a job; a cancelled one is cleaned up first."""
    return row.state in LIVE or row.step == CLEANING


def _looks(store: Store, jobs: Sequence[str]) -> Iterator[list[JobRow]]:
    while True:
        rows = [row for row in map(store.job, jobs) if row is not None]
        yield rows
        if not any(map(going_on, rows)):
            return
        time.sleep(_PAUSE_SECONDS)


def _lines(looks: Iterator[list[JobRow]], output: Output) -> list[JobRow]:
    told: dict[tuple[str, str], list[str]] = {}
    rows: list[JobRow] = []
    for rows in looks:
        for row in rows:
            # The job's own line last: an end is to be the last that is said.
            lines = {(row.job, region.region): region_line(row, region) for region in row.regions}
            lines |= {(row.job, ""): job_line(row)}
            news = {key: line for key, line in lines.items() if told.get(key) != line}
            told |= news
            if news and output.as_json:
                output.value(job_value(row))
            elif not output.as_json:
                for line in news.values():
                    print(plain("  ".join(fields(line))).rstrip(), flush=True)
    return rows


def _bars(looks: Iterator[list[JobRow]]) -> list[JobRow]:
    rows: list[JobRow] = []
    with Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[said]}", markup=False, table_column=Column(ratio=1)),
        TimeElapsedColumn(),
        expand=True,
    ) as progress:
        bars: dict[tuple[str, str], TaskID] = {}

        def draw(job: str, region: str, said: str, done: float, total: float) -> None:
            if (job, region) not in bars:
                title = f"  {region}" if region else job
                bars[job, region] = progress.add_task(title, total=None, said="")
            progress.update(bars[job, region], said=said, completed=done, total=total or None)

        for rows in looks:
            for row in rows:
                done = sum(region.step == PUBLIC for region in row.regions)
                said = f"{row.state}: {row.step}" if going_on(row) else row.state
                draw(row.job, "", said, done, len(row.regions))
                for region in row.regions if len(rows) == 1 else ():
                    said = " ".join((region.step, region.error or region.detail))
                    draw(row.job, region.region, said, *_fraction(region))
    return rows


def _fraction(region: RegionRow) -> tuple[float, float]:
    """How much of the region's present step is done, out of what; out of 0 when unknown."""
    if region.error or region.step == PUBLIC:
        return float(not region.error), 1
    percent = _PERCENT.search(region.detail)
    return (float(percent[1]), 100) if percent else (0, 0)
