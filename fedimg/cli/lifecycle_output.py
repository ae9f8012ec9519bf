"""Render the answers of the commands about the life of public AMIs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from fedimg.cli.output import Answer
from fedimg.cli.page import Table
from fedimg.store import rows as ami_rows

if TYPE_CHECKING:
    from fedimg.lifecycle.comparison import Difference
    from fedimg.lifecycle.decisions import Decision
    from fedimg.lifecycle.recovery_search import Search
    from fedimg.lifecycle.verify import RegionResult
    from fedimg.store.recovered import RecoveredJob
    from fedimg.store.rows import AMIRow


def amis(rows: Sequence[AMIRow], nothing: str) -> Answer:
    """Render AMIs with their states."""
    lines = [[row.region, row.ami, row.state, row.job, row.reason or ""] for row in rows]
    table = Table("Region", "AMI", "State", "Job", "Reason")
    for row, line in zip(rows, lines, strict=True):
        table.add_row(*line[:2], row.shown_state, *line[3:])
    return Answer([asdict(row) for row in rows], lines, [table], nothing)


def audiences(rows: Sequence[AMIRow]) -> Answer:
    """Render with whom AMIs are shared, by name: a row for each member of an audience."""
    lines = [
        [row.region, row.ami, row.state, row.job, kind, member]
        for row in rows
        if row.shared_with is not None
        for each in row.shared_with.launch_permissions() or [{"": "nobody"}]
        for kind, member in each.items()
    ]
    table = Table("Region", "AMI", "State", "Job", "Member")
    for line in lines:
        table.add_row(*line[:4], line[5])
    value = [
        {
            "region": row.region,
            "ami": row.ami,
            "job": row.job,
            "state": row.state,
            "audience": row.audience,
        }
        for row in rows
    ]
    return Answer(value, lines, [table], "")


def decisions(made: Sequence[Decision], nothing: str) -> Answer:
    """Render the decisions of the rules of retention, a row for each AMI."""
    lines = [
        [
            each.row.region,
            each.row.ami,
            each.verdict,
            "-" if each.rule is None else str(each.rule),
            each.row.image,
            each.why,
        ]
        for each in made
    ]
    table = Table("Region", "AMI", "Decision", "Rule", "Image", "Why")
    for line in lines:
        table.add_row(*line)
    value = [
        {
            "region": each.row.region,
            "ami": each.row.ami,
            "image": each.row.image,
            "job": each.row.job,
            "state": each.row.state,
            "decision": each.verdict,
            "rule": each.rule,
            "why": each.why,
            "deprecate_at": each.deprecate_at,
        }
        for each in made
    ]
    return Answer(value, lines, [table], nothing)


def verification(
    results: Sequence[RegionResult],
    differences: Sequence[Difference],
    unread: Mapping[str, str],
) -> Answer:
    """Render a comparison with EC2: a row for each difference, and for each region not compared.

    `unread` tells, by snapshot, why its bytes were not compared, for programs alone.
    """
    failed = [result for result in results if result.error]
    lines = [[each.region, each.kind, each.id, each.job or "-", each.text] for each in differences]
    lines += [[each.region, "not compared", "-", "-", each.error or ""] for each in failed]
    table = Table("Region", "Difference", "Id", "Job", "")
    for line in lines:
        table.add_row(*line)
    compared = [result for result in results if not result.error]
    count = sum(result.amis for result in compared)
    value = {
        "amis": count,
        "regions": [result.region for result in compared],
        "not_compared": {result.region: result.error for result in failed},
        "not_read": dict(unread),
        "differences": [asdict(each) for each in differences],
    }
    nothing = f"{count} AMIs in {len(compared)} regions are as recorded"
    return Answer(value, lines, [table], nothing)


def recovery(found: Search, jobs: Sequence[RecoveredJob], *, dry_run: bool) -> Answer:
    """Render what was found on EC2: a row for each region with unrecorded AMIs, by their state."""
    new = [row for job in jobs for row in job.amis]
    shown = (
        ami_rows.PUBLIC,
        ami_rows.SHARED,
        ami_rows.DISABLED,
        ami_rows.WITHDRAWN,
        ami_rows.WITHDRAWING,
        ami_rows.UNKNOWN,
    )
    counts = Counter((row.region, row.state) for row in new)
    snapshots = Counter(region for region, _ in {(row.region, row.snapshot) for row in new})
    lines = [
        [region, *(str(counts[region, state]) for state in shown), str(snapshots[region])]
        for region in sorted({row.region for row in new})
    ]
    header = ["Region", *(state.capitalize() for state in shown), "Snapshots"]
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    value = {
        "recorded": not dry_run,
        "jobs": [
            {"job": job.image.job, "state": job.state, "error": job.error, "url": job.image.url}
            for job in jobs
            if job.amis
        ],
        "amis": [asdict(row) for row in new],
        "not_recoverable": list(found.left),
        "not_searched": dict(found.errors),
    }
    nothing = (
        f"all {len(found.found)} AMIs of this site that {len(found.searched)} regions have are "
        "recorded"
    )
    return Answer(value, lines, [table], nothing, [each.upper() for each in header])


def recovery_notes(jobs: Sequence[RecoveredJob]) -> list[str]:
    """Return in words what was recovered, what a person has to decide, and what is not known."""
    new = [job for job in jobs if job.amis]
    amis = [row for job in new for row in job.amis]
    if not amis:
        return []
    states = Counter(job.state for job in new)
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    notes = [f"found {len(new)} jobs ({by_state}) with {len(amis)} AMIs that were not recorded"]
    if unknown := [row for row in amis if row.state == ami_rows.UNKNOWN]:
        notes.append(
            f"{len(unknown)} AMIs are private, and nothing publishes or removes them before "
            "'fedimg accept', 'fedimg withdraw' or 'fedimg cleanup --remove': 'fedimg amis --state "
            "unknown' lists them"
        )
    if withdrawing := [job.image.job for job in new if job.to_withdraw]:
        notes.append(
            f"the withdrawal of {', '.join(withdrawing)} is not finished in all regions; the "
            "worker finishes it"
        )
    tested = {(job.image.job, test.virt_type) for job in new for test in job.tests}
    untested = [
        row
        for row in amis
        if row.state == ami_rows.PUBLIC and (row.job, row.virt_type) not in tested
    ]
    if untested:
        notes.append(
            f"{len(untested)} public AMIs have no tag of a passed boot check, as versions before "
            "1.0 set none: 'fedimg verify --repair' and 'fedimg restore' do not publish them again"
        )
    if unmarked := [row for row in amis if row.state == ami_rows.PUBLIC and not row.published_at]:
        notes.append(
            f"{len(unmarked)} AMIs are public, and fedimg did not mark them as published: a person "
            f"may have made them public; the first is {unmarked[0].ami} in {unmarked[0].region}"
        )
    if without := [job.image.job for job in new if job.image.checksum is None]:
        notes.append(
            f"the checksum of {len(without)} jobs is not known, so that the same image from "
            f"another source is not recognized by its bytes: {', '.join(without[:5])}"
        )
    return notes
