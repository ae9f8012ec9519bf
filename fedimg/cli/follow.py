"""Follow jobs in the database until they end: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from fedimg.cli.job_output import job_line, job_value, region_line
from fedimg.cli.output import Output, fields
from fedimg.store.rows import JobRow, is_active
from fedimg.store.store import Store

# A read of the database takes a few milliseconds.
_PAUSE_SECONDS = 0.5


def follow(store: Store, jobs: Sequence[str], output: Output) -> list[JobRow]:
    """Show the progress of jobs until none is active; return their last rows.

    A terminal shows a bar for each job, and for a single job a bar for each region. With --json
    each change prints the whole job as one line; otherwise each change of a job or of one of its
    regions prints a line.
    """
    snapshots = _poll(store, jobs)
    if not output.live:
        return _lines(snapshots, output)
    from fedimg.cli.terminal import bars

    rows = bars(snapshots)
    for row in rows:
        if row.error:
            output.note(f"{row.job}: {row.error}")
    return rows


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
