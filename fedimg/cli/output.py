"""Render the answers of commands: JSON for scripts, tables on a terminal, whole lines elsewhere."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fedimg.cli.page import Part, Table, Text
from fedimg.diagnostics import Finding, Status
from fedimg.process.logs import print_error
from fedimg.records import as_record
from fedimg.store import rows as ami_rows
from fedimg.untrusted.failures import reason
from fedimg.untrusted.quoting import plain, plain_values
from fedimg.untrusted.redaction import hide

if TYPE_CHECKING:
    from pathlib import Path

    from fedimg.aws.cost import Cost
    from fedimg.aws.plan import Plan
    from fedimg.aws.resources import Leftover
    from fedimg.catalogue.writer import Written
    from fedimg.images import AMIType, RawImage
    from fedimg.intake.catch_up import Replayed
    from fedimg.jobs.holds import Hold
    from fedimg.jobs.migration import Moved
    from fedimg.services.rehearsal import Rehearsal
    from fedimg.store.parked import ParkedMessage
    from fedimg.store.rows import AMIRow
    from fedimg.worker.registry import RegisteredWorker

#: The states of AMIs that others may use.
_USABLE = (ami_rows.PUBLIC, ami_rows.SHARED)

#: How many resources of unknown jobs an error names; the answer lists all.
_NAMED = 5
_MARKS = {
    Status.OK: ("✓", "+", "green"),
    Status.WARNING: ("!", "!", "yellow"),
    Status.PROBLEM: ("✗", "x", "red"),
}


@dataclass(frozen=True)
class Answer:
    """One answer in its three forms.

    `value` is printed as JSON; `rows` are the fields of the plain lines; `page` is shown on a
    terminal; `nothing` is the note on standard error when `rows` is empty. `header` names the
    fields of the plain lines, in a line before them.
    """

    value: Any
    rows: Sequence[Sequence[str]]
    page: Sequence[Part]
    nothing: str = ""
    header: Sequence[str] = ()


class Output:
    """Write to standard output and standard error, as JSON or for a person.

    A standard output that is closed or full is told in one line on standard error; the command goes
    on and exits with its own status.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # Python has no standard output where the caller closed it (`>&-`).
        self.live = not as_json and sys.stdout is not None and sys.stdout.isatty()
        #: Whether nobody reads standard output any more.
        self.lost = False

    def answer(self, answer: Answer) -> None:
        """Print an answer on standard output."""
        if self.as_json:
            self.value(answer.value)
        elif not answer.rows:
            self.note(answer.nothing)
        elif self.live:
            from fedimg.cli.terminal import drawn

            # Rich removes control characters from texts; its own colour codes have to stay.
            self._write(hide(drawn(answer.page)), end="")
        else:
            for line in _aligned([*([answer.header] if answer.header else []), *answer.rows]):
                self.line(line)

    def line(self, text: str) -> None:
        """Print a line of text on standard output."""
        self._write(plain(text))

    def value(self, value: Any) -> None:
        """Print a line of JSON on standard output."""
        self._write(json.dumps(plain_values(value)))

    def note(self, text: str) -> None:
        """Print a note for a person, which is not part of the answer, on standard error."""
        print(plain(text), file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Print an error on standard error, and with --json also as `{"error": text}`."""
        text = plain(text)
        if self.as_json:
            self.value({"error": text})
        print_error(f"fedimg: {text}")

    def _write(self, text: str, end: str = "\n") -> None:
        if self.lost:
            return
        try:
            if sys.stdout is None:
                raise BrokenPipeError(errno.EBADF, "it is closed")
            print(text, end=end, flush=True)
        except OSError as error:
            self.lost = True
            if sys.stdout is not None:
                # Otherwise Python would write the rest at its exit, and fail once more.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
            with suppress(OSError):
                self.note(
                    f"fedimg: cannot write to standard output: {reason(error)}; the command itself "
                    "is done"
                )


def when(seconds: float) -> str:
    """Format seconds since the epoch as an ISO-8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fields(row: Sequence[str]) -> list[str]:
    """Replace blanks in all fields but the last, so that awk and cut find each field."""
    return [*("-".join(field.split()) or "-" for field in row[:-1]), row[-1]]


def amis(rows: Sequence[AMIRow]) -> Answer:
    """Render AMIs: every field in JSON and lines; on a terminal one table for each job."""
    lines = [
        [
            row.region,
            row.ami,
            row.architecture,
            row.virt_type,
            row.type.storage,
            row.state,
            row.snapshot,
            row.name,
            row.job,
            row.image,
        ]
        for row in rows
    ]
    page: list[Part] = []
    for job_name, group in groupby(rows, key=lambda row: row.job):
        table = Table("Region", "AMI", "Arch", "Virtual", "Volume", "State")
        for row in group:
            table.add_row(
                row.region,
                row.ami,
                row.architecture,
                row.virt_type,
                row.type.storage,
                Text(row.shown_state, style="green" if row.state in _USABLE else "dim"),
            )
        page += [Text(job_name, style="bold"), table]
    header = ["REGION", "AMI", "ARCH", "VIRTUAL", "VOLUME", "STATE", "SNAPSHOT", "NAME"]
    header += ["JOB", "IMAGE"]
    return Answer([asdict(row) for row in rows], lines, page, "no AMI matches", header)


def plan(
    image: RawImage,
    plan: Plan,
    cost: Cost | None,
    attributes: Mapping[AMIType, Mapping[str, Any]],
) -> Answer:
    """Render the plan of an image: a row for each AMI, and one for each region's exclusions.

    JSON and a terminal also have the KMS keys of encrypted types, the estimated `cost`, if there is
    one, and the `attributes` of each AMI type with EC2's names.
    """
    rows = [
        {"region": region, "name": name, "virt_type": ami_type.virtualization}
        | {"volume_type": ami_type.volume_type, "encrypted": ami_type.encrypted}
        for region, names in plan.names(image).items()
        for name, ami_type in zip(names, plan.all_types(region), strict=True)
    ]
    value = {
        "image": image.name,
        "job": image.job,
        "architecture": image.architecture,
        "origin": plan.origin,
        "amis": rows,
        "left_out": [{"region": name, "reason": why} for name, why in plan.left_out.items()],
        "attributes": {str(ami_type): dict(told) for ami_type, told in attributes.items()},
        "public": plan.public,
        "audience": plan.audience.counts,
        **({"keys": dict(plan.keys)} if plan.keys else {}),
        **({"cost": asdict(cost)} if cost else {}),
    }
    lines = [
        [region, str(ami_type.virtualization), ami_type.storage, name]
        for region, names in plan.names(image).items()
        for name, ami_type in zip(names, plan.all_types(region), strict=True)
    ]
    lines += [[region, "-", "-", reason] for region, reason in plan.left_out.items()]
    table = Table("Region", "AMI types", "Left out")
    for region in {**plan.types, **plan.left_out}:
        types = ", ".join(map(str, plan.all_types(region) if region in plan.types else ()))
        table.add_row(region, types, plan.left_out.get(region, ""))
    page: list[Part] = [Text(image.job, style="bold"), table]
    if not plan.public:
        page.append(Text(f"private: shared with {plan.audience} once they are tested"))
    elif plan.keys:
        page.append(Text(f"encrypted types: shared with {plan.audience} once they are tested"))
    for key in sorted(set(plan.keys.values())):
        where = ", ".join(region for region, each in plan.keys.items() if each == key)
        page.append(Text(f"encrypted types: never public, KMS key {key} in {where}"))
    for ami_type, told in attributes.items():
        said = ", ".join(f"{name} {_attribute(each)}" for name, each in told.items())
        page.append(Text(f"{ami_type}: {said or 'no attributes'}"))
    return Answer(value, lines, [*page, *([Text(f"cost: {cost}")] if cost else [])])


def _attribute(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(value) if isinstance(value, list) else str(value)


#: What of an estimate is a rehearsal's: it copies nothing and keeps nothing.
_REHEARSED_COST = ("instance_hours", "blocks", "once", "currency")


def rehearsed(done: Rehearsal, cost: Cost | None) -> Answer:
    """Render what a rehearsal did: a row for each step with its seconds, and the cost if known."""
    rows = [*done.steps, ("in all", done.seconds)]
    value = {
        "job": done.job,
        "region": done.plan.origin,
        "amis": [as_record(ami) for ami in done.amis],
        "booted": [
            {"ami": each.ami.id, "checks": [as_record(check) for check in each.checks]}
            for each in done.booted
        ],
        "steps": [{"step": step, "seconds": round(seconds, 1)} for step, seconds in done.steps],
        "seconds": round(done.seconds, 1),
        "removed": done.removed,
        # Nothing stays, so that there is no monthly cost.
        **({"cost": {each: getattr(cost, each) for each in _REHEARSED_COST}} if cost else {}),
    }
    lines = [[step, f"{seconds:.1f} s"] for step, seconds in rows]
    words = _rehearsal_cost(cost) if cost else ""
    lines += [["cost", words]] if words else []
    table = Table("Step", "Seconds")
    for step, seconds in rows:
        table.add_row(step, f"{seconds:.1f}")
    summary = (
        f"{len(done.amis)} AMIs would be public in {done.plan.origin}; "
        f"{done.removed} resources are removed"
    )
    page: list[Part] = [Text(summary), table]
    return Answer(value, lines, [*page, *([Text(f"cost: {words}")] if words else [])])


def _rehearsal_cost(cost: Cost) -> str:
    """Return what a rehearsal costs at most, or its quantities where no price is set."""
    quantities = f"{cost.instance_hours:g} h of instances, {cost.blocks} blocks"
    return f"at most {cost.once:.2f} {cost.currency} ({quantities})" if cost.once else quantities


def leftovers(
    items: Sequence[Leftover], once_public: Sequence[Leftover], *, removed: bool
) -> Answer:
    """Render leftover resources; JSON also has those of `once_public`, with `was_public`."""
    lines = [[item.region, item.resource_type, item.id, item.job, item.name] for item in items]
    table = Table("Region", "Resource", "Id", "Job")
    for item in items:
        table.add_row(item.region, item.resource_type, item.id, item.job)
    value = [{**_leftover_value(item), "removed": removed} for item in items]
    value += [
        {**_leftover_value(item), "removed": False, "was_public": True} for item in once_public
    ]
    return Answer(value, lines, [table], "EC2 has no leftover resources of this site")


def _leftover_value(item: Leftover) -> dict[str, Any]:
    value = {key: value for key, value in asdict(item).items() if key != "created"}
    # Scripts know the resource's type by this key.
    return {"kind": value.pop("resource_type"), **value}


def once_public(items: Sequence[Leftover]) -> list[str]:
    """Return notes on resources that were public and are private now: one for each, then advice."""
    if not items:
        return []
    lines = [
        f"kept: {item.resource_type} {item.id} in {item.region} of job {item.job} was public "
        "before and is private now"
        for item in items
    ]
    return [
        *lines,
        "fedimg keeps these resources because others may use them; make them public again by hand, "
        "or remove each with 'fedimg cleanup --remove ID', an AMI together with its snapshot",
    ]


def unknown_jobs(items: Sequence[Leftover], database: str) -> str:
    """Return why `cleanup` removed nothing, and what to do about it.

    `database` is the database's path or URL.
    """
    named = ", ".join(f"{item.resource_type} {item.id} in {item.region}" for item in items[:_NAMED])
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (
        f"nothing was removed: the database {database} is younger than some of this site's "
        f"resources in EC2 and has no record of the jobs of {named}{more}, so fedimg cannot tell "
        "whether these were public. Restore the former database; or, if it is lost, rebuild it "
        "with 'fedimg store recover', and remove the resources that nobody needs with 'fedimg "
        "cleanup --remove ID'. If another fedimg deployment made them, give each deployment its "
        "own `site`"
    )


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


def workers(members: Sequence[RegisteredWorker], living: Collection[str]) -> Answer:
    """Render workers with their state and jobs.

    A worker that is not in `living` is `gone`: another worker takes over its jobs.
    """
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
    table = Table("worker", "host", "process", "version", "state", "started", "jobs")
    rows = []
    for each, value in zip(members, values, strict=True):
        columns = [str(text) for key, text in value.items() if key != "jobs"]
        rows.append([*columns, " ".join(job for job, _run in each.jobs) or "-"])
        table.add_row(*rows[-1])
    return Answer(values, rows, [table], "no worker is running")


def _worker_state(member: RegisteredWorker, living: Collection[str]) -> str:
    if member.name not in living:
        return "gone"
    return "draining" if member.draining else "working"


def hold(current: Hold, publishing: Sequence[tuple[str, str]]) -> Answer:
    """Render the hold; `publishing` are the jobs and regions that are finished all the same."""
    value = {
        "held": True,
        **_hold_value(current),
        "publishing": [{"job": job, "region": region} for job, region in publishing],
    }
    return Answer(value, [[str(current)]], [Text(str(current))])


def released(ended: Hold | None, by: str) -> Answer:
    """Render the end of a hold, by whom; the answer has no line if the site was not held."""
    text = f"released by {by}: {ended}"
    value = {"held": False, **(_hold_value(ended) | {"released_by": by} if ended else {})}
    return Answer(
        value,
        [[text]] if ended else [],
        [Text(text)],
        "nothing was changed: publishing is not held",
    )


def parked(messages: Sequence[ParkedMessage], done: Mapping[int, str]) -> Answer:
    """Render the messages that a bus refuses; `done` says by number what became of them."""
    table = Table("number", "bus", "topic", "message", "since", "why")
    rows = []
    for each in messages:
        why = f"{done[each.id]}: {each.reason}" if each.id in done else each.reason
        row = [str(each.id), each.bus, each.topic, each.key, when(each.at), why]
        rows.append(row)
        table.add_row(*row)
    value = [
        {**asdict(each), "at": when(each.at), "became": done.get(each.id, "parked")}
        for each in messages
    ]
    return Answer(value, rows, [table], "no message is parked: no bus refuses one")


def _hold_value(current: Hold) -> dict[str, Any]:
    return {**asdict(current), "since": when(current.since)}


def migrated(database: str) -> Answer:
    """Render the answer of `store migrate`."""
    text = f"{database} has all tables of this version"
    return Answer({"database": database, "prepared": True}, [[text]], [Text(text)])


def moved(counts: Moved, database: str) -> Answer:
    """Render the answer of `store move`: how many rows of each table were copied."""
    text = (
        f"moved {counts.jobs} jobs, {counts.amis} AMIs, {counts.messages} messages and "
        f"{counts.queued} queued runs to {database}"
    )
    return Answer({"database": database, **asdict(counts)}, [[text]], [Text(text)])


def catalogued(written: Written, directory: Path) -> Answer:
    """Render the answer of `catalogue`: how many files were written, and what they tell of."""
    text = f"wrote {written.files} files of the catalogue in {directory}, which tells of {written}"
    if not written.files:
        text = f"the catalogue in {directory} tells of {written} already"
    return Answer({"directory": str(directory), **asdict(written)}, [[text]], [Text(text)])


def key_made(path: Path, keyid: str, old: str | None) -> Answer:
    """Render the answer of `keygen`: the id of the new key, and of the one that it replaces."""
    text = f"{path} has the new key {keyid}"
    if old:
        text += f"; the key {old} is gone, and its public half stays published"
    return Answer({"file": str(path), "keyid": keyid, "replaced": old}, [[text]], [Text(text)])


def findings(found: Sequence[Finding]) -> Answer:
    """Render the findings of `check`: a mark, the name, the finding, and what to do about it."""
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    lines = []
    table = Table()
    for finding in found:
        mark = _MARKS[finding.status][0 if unicode else 1]
        text = f"{finding.text}; {finding.hint}" if finding.hint else finding.text
        lines.append([mark, f"{finding.name}: {text}"])
        table.add_row(Text(mark, style=_MARKS[finding.status][2]), Text(finding.name), Text(text))
    return Answer([asdict(finding) for finding in found], lines, [table])


def ago(seconds: float) -> str:
    """Format the age of a time in seconds since the epoch."""
    age = max(0, int(time.time() - seconds))
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if age >= unit:
            return f"{age // unit} {name} ago"
    return f"{age} s ago"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    filled = [fields(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    for row in filled:
        padded = (field.ljust(width) for field, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
