"""Find the job that an argument names; tell whether somebody works on it and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode

if TYPE_CHECKING:
    from fedimg.store.rows import JobRow
    from fedimg.store.store import Store

JobArgument = Annotated[str, typer.Argument(help="Name of a job, or a unique part of it.")]


def find(store: Store, text: str) -> JobRow:
    """Return the job of that name, else the one whose name begins with the text or contains it.

    Raises CommandRefused if there is none or more than one.
    """
    if row := store.job(text):
        return row
    found = store.job_names(text)
    matches = [name for name in found if name.startswith(text)] or found
    row = store.job(matches[0]) if matches else None
    if row is None:
        raise CommandRefused(
            ExitCode.UNKNOWN, f"there is no job \"{text}\"; 'fedimg status' lists the jobs"
        )
    if len(matches) > 1:
        names = ", ".join(matches)
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f'"{text}" matches several jobs, give more of the name: {names}',
        )
    return row


def exit_code(row: JobRow) -> ExitCode:
    """Return the exit status that tells how a job has ended; OK while it has not."""
    return {
        "incomplete": ExitCode.INCOMPLETE,
        "failed": ExitCode.FAILED,
        "cancelled": ExitCode.FAILED,
    }.get(row.state, ExitCode.OK)


def note_idle_reasons(call: Call, active: Sequence[JobRow] = ()) -> None:
    """Print why no worker will run the queued jobs, or continue these active ones."""
    from fedimg.worker.idle_reasons import idle_reasons

    for text in idle_reasons(call.store(), active):
        call.output.note(text)
    note_hold(call)


def note_hold(call: Call) -> None:
    """Print that an operator holds the site, if one does."""
    from fedimg.jobs.holds import Holds

    if hold := Holds(call.store()).current():
        call.output.note(f"{hold}; 'fedimg release' ends the hold")
