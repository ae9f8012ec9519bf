"""Render jobs, their regions and boot checks, as fedimg.cli.output does other answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedimg.cli.output import Answer, ago, when
from fedimg.cli.page import Part, Table, Text
from fedimg.progress import AWAY, DONE, FAILED_FOR_GOOD, NO_ROOM, CheckState
from fedimg.records import as_record
from fedimg.store.rows import CLEANING, ENDED, waits_for

if TYPE_CHECKING:
    from fedimg.store.rows import BootTestRow, JobRow, RegionRow

_STATE_STYLES = {
    "running": "cyan",
    "complete": "green",
    "incomplete": "yellow",
    "failed": "red",
    "cancelled": "dim",
}
_CHECK_STYLES = {
    CheckState.PASSED: "green",
    CheckState.FAILED: "red",
    CheckState.SKIPPED: "dim",
}
#: How many of the last lines that a test instance printed are shown; JSON has all stored lines.
_SHOWN_LINES = 30


def job_value(row: JobRow) -> dict[str, Any]:
    """Return a job as a JSON object; `image` is the image's name, times are ISO-8601 in UTC.

    `next`, the time of the next retry, is present only when a retry is scheduled, and `waits` only
    when the job waits for something that it names.
    """
    return {
        "job": row.job,
        "image": row.image.name,
        "state": row.state,
        "step": row.step,
        "error": row.error,
        "created": when(row.created),
        "updated": when(row.updated),
        "regions": [
            {**asdict(region), "updated": when(region.updated)}
            for region in sorted(row.regions, key=lambda region: region.region)
        ],
        **({} if row.next is None else {"next": when(row.next)}),
        **({"waits": waits} if (waits := waits_for(row)) else {}),
    }


def test_value(test: BootTestRow) -> dict[str, Any]:
    """Return a boot check as a JSON object; `checks` has the form of the message image.test."""
    checks = [{**as_record(check), "passed": check.passed} for check in test.checks]
    return {**vars(test), "checks": checks, "updated": when(test.updated)}


def submitted(row: JobRow, *, new: bool) -> Answer:
    """Render the job of an uploaded image: a JSON object, or only its name.

    `new` tells whether this upload queued a run of the job.
    """
    return Answer(job_value(row) | {"new": new}, [[row.job]], [Text(row.job)])


def job(row: JobRow) -> Answer:
    """Render one job without its regions: a JSON object, or a line."""
    return Answer(job_value(row), [job_line(row)], _jobs_table([row]))


def jobs(
    rows: Sequence[JobRow], *, details: bool, nothing: str = "there are no jobs yet"
) -> Answer:
    """Render jobs in the given order; with `details`, also their regions and boot checks."""
    lines: list[Sequence[str]] = []
    page = _jobs_table(rows)
    for row in rows:
        lines.append(job_line(row))
        if _reason(row):
            page.append(Text(f"{row.job}: {_reason(row)}", style=_STATE_STYLES.get(row.state, "")))
        if details:
            lines += [region_line(row, region) for region in row.regions]
            page += [Text(), _regions_table(row)]
            for test in row.tests:
                lines += test_lines(row, test)
                page += _test_page(test)
    tests = [{"tests": [test_value(test) for test in row.tests]} if details else {} for row in rows]
    values = [job_value(row) | more for row, more in zip(rows, tests, strict=True)]
    header = ["JOB", "STATE-OR-REGION", "STEP", "UPDATED", "REASON-OR-DETAIL"]
    return Answer(values, lines, page, nothing, header)


def region_line(row: JobRow, region: RegionRow) -> list[str]:
    """Return a job's progress in one region as the fields of a plain line."""
    text = region.error or region.detail
    return [row.job, region.region, region.step, when(region.updated), _one_line(text)]


def test_lines(row: JobRow, test: BootTestRow) -> list[list[str]]:
    """Return a boot check as plain lines: its checks, then the last lines of the console."""
    ami_type = f"{test.virt_type}-{test.volume_type}"
    about = [row.job, test.region, f"test:{ami_type}", when(test.updated)]
    checks = [
        [*about, f"{check.name}: {check.state} ({check.seconds:g} s) {_one_line(check.output)}"]
        for check in test.checks
    ]
    return [[*about, f"{test.ami} {test.status}"], *checks] + [
        [*about, f"| {line}"] for line in _last_lines(test.output)
    ]


def job_line(row: JobRow) -> list[str]:
    """Return a job's state as the fields of a plain line."""
    return [row.job, row.state, row.step, when(row.updated), _one_line(_reason(row))]


def _reason(row: JobRow) -> str:
    """Return a job's error, what it waits for, what a person has to do, and when it is retried."""
    retry = None
    if row.next is not None:
        retry = f"retries at {when(row.next)}"
        for step, what in ((AWAY, "is available again"), (NO_ROOM, "has room for public AMIs")):
            if missing := [region.region for region in row.regions if region.step == step]:
                retry += f", or when {' or '.join(missing)} {what}"
    return "; ".join(filter(None, (row.error, waits_for(row), _needs_person(row), retry)))


def _needs_person(row: JobRow) -> str:
    """Return where an ended job is not completed until a person acts, and how; else empty."""
    final = [region.region for region in row.regions if region.step == FAILED_FOR_GOOD]
    if row.state not in ENDED or row.step == CLEANING:
        return ""
    then = f"correct the cause, then 'fedimg retry {row.job}'"
    if final:
        return f"not retried because of {', '.join(final)}: {then}"
    if row.state == "incomplete" and row.next is None:
        return f"not retried by itself: {then}"
    return ""


def _jobs_table(rows: Sequence[JobRow]) -> list[Part]:
    """Return a table of jobs, or two lines for each where the terminal is narrower than the table.

    A name is never folded, as it is copied from here into other commands.
    """
    cells = []
    for row in rows:
        state = row.state if row.step == row.state else f"{row.state}: {row.step}"
        public = sum(region.step in DONE for region in row.regions)
        cells.append((row.job, state, f"{public} of {len(row.regions)}", ago(row.updated)))
    styles = [_STATE_STYLES.get(row.state, "") for row in rows]
    wide = sum(max((len(each[n]) for each in cells), default=0) + 2 for n in range(4))
    if wide > shutil.get_terminal_size().columns:
        return [
            part
            for (job, state, public, updated), style in zip(cells, styles, strict=True)
            for part in (
                Text(job, "bold"),
                (Text("  "), Text(state, style), Text(f", {public} public, {updated}")),
            )
        ]
    table = Table("Job", "State", "Public", "Updated")
    for (job, state, *others), style in zip(cells, styles, strict=True):
        table.add_row(job, Text(state, style), *others)
    return [table]


def _regions_table(row: JobRow) -> Table:
    table = Table("Region", "Step", "")
    for region in row.regions:
        text = Text(region.error or region.detail, style="red" if region.error else "")
        table.add_row(region.region, region.step, text)
    return table


def _test_page(test: BootTestRow) -> list[Part]:
    title = f"{test.virt_type}-{test.volume_type} in {test.region}, {test.ami}: {test.status}"
    table = Table("Check", "", "Seconds", "")
    for check in test.checks:
        state = Text(check.state, style=_CHECK_STYLES[check.state])
        table.add_row(check.name, state, f"{check.seconds:g}", _one_line(check.output))
    console = [Text(f"  | {line}", style="dim") for line in _last_lines(test.output)]
    return [Text(), Text(title, style="bold"), *([table] if test.checks else []), *console]


def _last_lines(output: str) -> list[str]:
    return output.splitlines()[-_SHOWN_LINES:]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
