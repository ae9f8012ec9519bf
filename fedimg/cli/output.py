"""How answers look: JSON for scripts, tables on a terminal, uncut lines anywhere else."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from fedimg.diagnostics import Finding, Status
from fedimg.progress import AWAY, PUBLIC, CheckState
from fedimg.untrusted.quoting import plain, plain_values
from fedimg.untrusted.redaction import hide

if TYPE_CHECKING:
    from fedimg.aws.cleanup import Leftover
    from fedimg.aws.plan import Plan
    from fedimg.images import RawImage
    from fedimg.intake.catch_up import Replayed
    from fedimg.jobs.migration import Moved
    from fedimg.store.rows import AMIRow, BootTestRow, JobRow, RegionRow
    from fedimg.worker.registry import RegisteredWorker

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
#: How much of what a failed test instance printed is shown; JSON has all that is kept.
_TOLD_LINES = 30
#: Of what is refused, so many are named; all are in the list.
_NAMED = 5
_MARKS = {
    Status.OK: ("✓", "+", "green"),
    Status.WARNING: ("!", "!", "yellow"),
    Status.PROBLEM: ("✗", "x", "red"),
}


@dataclass(frozen=True)
class Answer:
    """One answer in its three forms.

    `value` is what JSON holds; `rows` are the plain lines' fields; `page` is what a terminal
    shows; `nothing` is what is told, on standard error, when there is no row.
    """

    value: Any
    rows: Sequence[Sequence[str]]
    page: Sequence[RenderableType]
    nothing: str = ""


class Output:
    """Standard output and standard error, in the form that the caller asked for."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.live = not as_json and sys.stdout.isatty()

    def answer(self, answer: Answer) -> None:
        """Print an answer on standard output."""
        if self.as_json:
            self.value(answer.value)
        elif not answer.rows:
            self.note(answer.nothing)
        elif self.live:
            console = Console(markup=False, highlight=False)
            with console.capture() as drawn:
                for part in answer.page:
                    # Lines may be longer than the terminal is wide: a name is copied in one piece.
                    console.print(part, soft_wrap=isinstance(part, Text))
            # Rich leaves no control character of others; its own colours have to stay.
            print(hide(drawn.get()), end="", flush=True)
        else:
            for line in _aligned(answer.rows):
                print(plain(line), flush=True)

    def value(self, value: Any) -> None:
        """Print a line of JSON on standard output."""
        print(json.dumps(plain_values(value)), flush=True)

    def note(self, text: str) -> None:
        """Tell a person something that is no part of the answer, on standard error."""
        print(plain(text), file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Say what went wrong: on standard error, and as `{"error": text}` where JSON is read."""
        text = plain(text)
        if self.as_json:
            self.value({"error": text})
        print(f"fedimg: {text}", file=sys.stderr, flush=True)


def when(seconds: float) -> str:
    """Seconds since the epoch as an ISO-8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_value(row: JobRow) -> dict[str, Any]:
    """A job as JSON has it; `image` is the image's name, times are ISO-8601 in UTC.

    There is a `next` only where the job runs again by itself.
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
    }


def test_value(test: BootTestRow) -> dict[str, Any]:
    """A boot check as JSON has it; `checks` are as in image.test."""
    checks = [{**check.to_json(), "passed": check.passed} for check in test.checks]
    return {**vars(test), "checks": checks, "updated": when(test.updated)}


def submitted(row: JobRow, *, new: bool) -> Answer:
    """An uploaded image's job: a JSON object, or its name alone.

    `new` says that a run of it was queued just now.
    """
    return Answer(job_value(row) | {"new": new}, [[row.job]], [Text(row.job)])


def job(row: JobRow) -> Answer:
    """One job, in short: a JSON object, or a line."""
    return Answer(job_value(row), [job_line(row)], [_jobs_table([row])])


def jobs(rows: Sequence[JobRow], *, details: bool) -> Answer:
    """Jobs, oldest first; with `details`, each one's regions and boot checks."""
    lines: list[Sequence[str]] = []
    page: list[RenderableType] = [_jobs_table(rows)]
    for row in rows:
        lines.append(job_line(row))
        if row.error:
            page.append(Text(f"{row.job}: {_reason(row)}", style=_STATE_STYLES.get(row.state, "")))
        if details:
            lines += [region_line(row, region) for region in row.regions]
            page += [Text(), _regions_table(row)]
            for test in row.tests:
                lines += test_lines(row, test)
                page += _test_page(test)
    tests = [{"tests": [test_value(test) for test in row.tests]} if details else {} for row in rows]
    values = [job_value(row) | more for row, more in zip(rows, tests, strict=True)]
    return Answer(values, lines, page, "no jobs yet")


def region_line(row: JobRow, region: RegionRow) -> list[str]:
    """Where a job stands in one region, as the fields of a plain line."""
    said = region.error or region.detail
    return [row.job, region.region, region.step, when(region.updated), _one_line(said)]


def test_lines(row: JobRow, test: BootTestRow) -> list[list[str]]:
    """A boot check as plain lines: its checks, then the end of what a failed one printed."""
    kind = f"{test.virt_type}-{test.volume_type}"
    about = [row.job, test.region, f"test:{kind}", when(test.updated)]
    checks = [
        [*about, f"{check.name}: {check.state} ({check.seconds:g} s) {_one_line(check.output)}"]
        for check in test.checks
    ]
    return [[*about, f"{test.ami} {test.status}"], *checks] + [
        [*about, f"| {line}"] for line in _last_lines(test.output)
    ]


def job_line(row: JobRow) -> list[str]:
    """How a job stands, as the fields of a plain line."""
    return [row.job, row.state, row.step, when(row.updated), _one_line(_reason(row))]


def _reason(row: JobRow) -> str:
    """Return why a job is not well, and when it runs again by itself."""
    away = [region.region for region in row.regions if region.step == AWAY]
    told = f"runs again when {' or '.join(away)} is back, and" if away else "runs again"
    later = None if row.next is None else f"{told} at {when(row.next)}"
    return "; ".join(filter(None, (row.error, later)))


def fields(row: Sequence[str]) -> list[str]:
    """A line's fields, of which the last alone holds blanks: awk and cut find each."""
    return [*("-".join(field.split()) or "-" for field in row[:-1]), row[-1]]


def _jobs_table(rows: Iterable[JobRow]) -> Table:
    table = _table("Job", "State", "Public", "Updated")
    for row in rows:
        style = _STATE_STYLES.get(row.state, "")
        state = row.state if row.step == row.state else f"{row.state}: {row.step}"
        public = sum(region.step == PUBLIC for region in row.regions)
        table.add_row(
            row.job,
            Text(state, style=style),
            f"{public} of {len(row.regions)}",
            _ago(row.updated),
        )
    return table


def _regions_table(row: JobRow) -> Table:
    table = _table("Region", "Step", "")
    for region in row.regions:
        said = Text(region.error or region.detail, style="red" if region.error else "")
        table.add_row(region.region, region.step, said)
    return table


def _test_page(test: BootTestRow) -> list[RenderableType]:
    title = f"{test.virt_type}-{test.volume_type} in {test.region}, {test.ami}: {test.status}"
    table = _table("Check", "", "Seconds", "")
    for check in test.checks:
        state = Text(check.state, style=_CHECK_STYLES[check.state])
        table.add_row(check.name, state, f"{check.seconds:g}", _one_line(check.output))
    told = [Text(f"  | {line}", style="dim") for line in _last_lines(test.output)]
    return [Text(), Text(title, style="bold"), *([table] if test.checks else []), *told]


def _last_lines(output: str) -> list[str]:
    return output.splitlines()[-_TOLD_LINES:]


def amis(rows: Sequence[AMIRow]) -> Answer:
    """AMIs: everything known in JSON and lines, a table a job of what differs within it."""
    lines = [
        [
            row.region,
            row.ami,
            row.architecture,
            row.virt_type,
            row.volume_type,
            "public" if row.public else "private",
            row.snapshot,
            row.name,
            row.job,
            row.image,
        ]
        for row in rows
    ]
    page: list[RenderableType] = []
    for job_name, group in groupby(rows, key=lambda row: row.job):
        table = _table("Region", "AMI", "Arch", "Virtual", "Volume", "Public")
        for row in group:
            table.add_row(
                row.region,
                row.ami,
                row.architecture,
                row.virt_type,
                row.volume_type,
                Text("yes", style="green") if row.public else Text("no", style="dim"),
            )
        page += [Text(job_name, style="bold"), table]
    return Answer([asdict(row) for row in rows], lines, page, "no such AMIs")


def plan(image: RawImage, made: Plan) -> Answer:
    """What would be made of an image: a row an AMI, and one for what is left out of a region."""
    rows = [
        {"region": region, "name": name, "virt_type": kind.virtualization}
        | {"volume_type": kind.volume_type}
        for region, names in made.names(image).items()
        for name, kind in zip(names, made.types[region], strict=True)
    ]
    value = {
        "image": image.name,
        "job": image.job,
        "architecture": image.architecture,
        "origin": made.origin,
        "amis": rows,
        "left_out": [{"region": name, "reason": why} for name, why in made.left_out.items()],
    }
    lines = [[row["region"], row["virt_type"], row["volume_type"], row["name"]] for row in rows]
    lines += [[region, "-", "-", reason] for region, reason in made.left_out.items()]
    table = _table("Region", "AMI types", "Left out")
    for region in {**made.types, **made.left_out}:
        types = ", ".join(map(str, made.types.get(region, ())))
        table.add_row(region, types, made.left_out.get(region, ""))
    return Answer(value, lines, [Text(image.job, style="bold"), table])


def leftovers(
    found: Sequence[Leftover], once_public: Sequence[Leftover], *, removed: bool
) -> Answer:
    """What was left over in EC2; in JSON also what was public once, where it says `was_public`."""
    lines = [[item.region, item.kind, item.id, item.job, item.name] for item in found]
    table = _table("Region", "Kind", "Id", "Job")
    for item in found:
        table.add_row(item.region, item.kind, item.id, item.job)
    value = [{**_leftover_value(item), "removed": removed} for item in found]
    value += [
        {**_leftover_value(item), "removed": False, "was_public": True} for item in once_public
    ]
    return Answer(value, lines, [table], "nothing is left over")


def _leftover_value(item: Leftover) -> dict[str, Any]:
    return {key: value for key, value in asdict(item).items() if key != "created"}


def once_public(items: Sequence[Leftover]) -> list[str]:
    """What a person is told of things that were public, and may do about them."""
    if not items:
        return []
    lines = [
        f"was public, is private now: {item.kind} {item.id} in {item.region}, of {item.job}"
        for item in items
    ]
    return [
        *lines,
        "these stay, as others may use them: make them public again by hand, or remove them with "
        "'fedimg cleanup --remove ID', an AMI with its snapshot",
    ]


def unknown_jobs(items: Sequence[Leftover], place: str) -> str:
    """Why nothing is cleaned up, and what a person may do."""
    named = ", ".join(f"{item.kind} {item.id} in {item.region}" for item in items[:_NAMED])
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (
        f"nothing is removed: the database {place} is younger than what the site has in EC2, and "
        f"does not know the jobs of {named}{more}. Nobody can tell whether any of that was public. "
        "If the former database is lost, remove what you know is not needed with 'fedimg cleanup "
        "--remove ID'; if it is not, put it back, or give each of two fedimgs a `site` of its own"
    )


def replayed(found: Sequence[Replayed]) -> Answer:
    """What finished in Koji: its entry, what had become of it, when and what it was, and whose."""
    rows = [
        {
            "entry": one.finished.entry,
            "before": str(one.before),
            "completed": when(one.finished.completed),
            "owner": one.finished.owner,
            "name": one.finished.name,
            "stored": one.stored,
        }
        for one in found
    ]
    columns = ("entry", "before", "completed", "owner", "name")
    lines = [[str(row[column]) for column in columns] for row in rows]
    table = _table("Entry", "Before", "Finished", "Owner", "Name")
    for line in lines:
        table.add_row(*line)
    return Answer(rows, lines, [table], "nothing finished since then")


def workers(members: Sequence[RegisteredWorker], living: Collection[str]) -> Answer:
    """Workers, by name, and what each does; one that is gone is being taken over from."""
    values = [
        {
            "worker": each.name,
            "host": each.host,
            "pid": each.pid,
            "version": each.version,
            "state": _worker_state(each, living),
            "started": when(each.started),
            "jobs": [job for job, _run in each.jobs],
        }
        for each in members
    ]
    table = _table("worker", "host", "process", "version", "state", "started", "jobs")
    rows = []
    for each, value in zip(members, values, strict=True):
        told = [str(text) for key, text in value.items() if key != "jobs"]
        rows.append([*told, " ".join(job for job, _run in each.jobs) or "-"])
        table.add_row(*rows[-1])
    return Answer(values, rows, [table], "no worker is running")


def _worker_state(member: RegisteredWorker, living: Collection[str]) -> str:
    if member.name not in living:
        return "gone"
    return "draining" if member.draining else "working"


def migrated(place: str) -> Answer:
    """A PostgreSQL that is prepared."""
    text = f"{place} is prepared"
    return Answer({"database": place, "prepared": True}, [[text]], [Text(text)])


def moved(what: Moved, place: str) -> Answer:
    """What a PostgreSQL got."""
    text = (
        f"{place} has {what.jobs} jobs, {what.amis} AMIs and {what.messages} messages now; "
        f"{what.queued} wait in its queues"
    )
    return Answer({"database": place, **asdict(what)}, [[text]], [Text(text)])


def findings(found: Sequence[Finding]) -> Answer:
    """How each thing that was looked at is, and what to do where that is not well."""
    fancy = "utf" in (sys.stdout.encoding or "").lower()
    lines = []
    table = Table.grid(padding=(0, 1))
    for one in found:
        mark = _MARKS[one.status][0 if fancy else 1]
        said = f"{one.text}; {one.hint}" if one.hint else one.text
        lines.append([mark, f"{one.name}: {said}"])
        table.add_row(Text(mark, style=_MARKS[one.status][2]), Text(one.name), Text(said))
    return Answer([asdict(one) for one in found], lines, [table])


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold underline")
    for column in columns:
        # Folded, never cut: what is read here is copied into other commands.
        table.add_column(column, overflow="fold")
    return table


def _ago(seconds: float) -> str:
    gone = max(0, int(time.time() - seconds))
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if gone >= unit:
            return f"{gone // unit} {name} ago"
    return f"{gone} s ago"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    filled = [fields(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    for row in filled:
        padded = (field.ljust(width) for field, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
