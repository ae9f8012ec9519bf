"""Render the site itself: its findings, workers, hold, buses, database and catalogue."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedimg.cli.output import Answer, when
from fedimg.cli.page import Table, Text
from fedimg.diagnostics import Finding, Status

if TYPE_CHECKING:
    from pathlib import Path

    from fedimg.catalogue.writer import Written
    from fedimg.jobs.holds import Hold
    from fedimg.jobs.migration import Moved
    from fedimg.store.parked import ParkedMessage
    from fedimg.worker.registry import RegisteredWorker

_MARKS = {
    Status.OK: ("✓", "+", "green"),
    Status.WARNING: ("!", "!", "yellow"),
    Status.PROBLEM: ("✗", "x", "red"),
}


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


def _hold_value(current: Hold) -> dict[str, Any]:
    return {**asdict(current), "since": when(current.since)}


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
