"""Render the answers of the commands about the life of public AMIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from fedimg.cli.output import Answer

if TYPE_CHECKING:
    from fedimg.lifecycle.comparison import Difference
    from fedimg.lifecycle.verify import RegionResult
    from fedimg.store.rows import AMIRow


def amis(rows: Sequence[AMIRow], nothing: str) -> Answer:
    """Render AMIs with their states."""
    lines = [[row.region, row.ami, row.state, row.job, row.reason or ""] for row in rows]
    table = Table("Region", "AMI", "State", "Job", "Reason", box=None)
    for line in lines:
        table.add_row(*line)
    return Answer([asdict(row) for row in rows], lines, [table], nothing)


def verification(results: Sequence[RegionResult], differences: Sequence[Difference]) -> Answer:
    """Render a comparison with EC2: a row for each difference, and for each region not compared."""
    failed = [result for result in results if result.error]
    lines = [[each.region, each.kind, each.id, each.job or "-", each.text] for each in differences]
    lines += [[each.region, "not compared", "-", "-", each.error or ""] for each in failed]
    table = Table("Region", "Difference", "Id", "Job", "", box=None)
    for line in lines:
        table.add_row(*line)
    compared = [result for result in results if not result.error]
    count = sum(result.amis for result in compared)
    value = {
        "amis": count,
        "regions": [result.region for result in compared],
        "not_compared": {result.region: result.error for result in failed},
        "differences": [asdict(each) for each in differences],
    }
    nothing = f"{count} AMIs in {len(compared)} regions are as recorded"
    return Answer(value, lines, [table], nothing)
