"""Render AMIs, as fedimg.cli.output does other answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from fedimg.cli.output import Answer
from fedimg.cli.page import Part, Table, Text
from fedimg.store import rows as ami_rows

if TYPE_CHECKING:
    from fedimg.store.rows import AMIRow

#: The states of AMIs that others may use.
_USABLE = (ami_rows.PUBLIC, ami_rows.SHARED)


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
