"""Define the commands that change one job: retry and cancel."""

from __future__ import annotations

from contextlib import closing

from fedimg.cli.app import Call, CommandRefused, ExitCode, command
from fedimg.cli.job_lookup import JobArgument, find, note_idle_reasons


@command
def retry(call: Call, job: JobArgument) -> ExitCode:
    """Queue the next run of an incomplete, failed or cancelled job; it keeps published AMIs."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = find(store, job).job
    with closing(JobQueue(store)) as jobs:
        queued = jobs.retry(name) is not None
    row = find(store, name)
    if queued:
        note_idle_reasons(call)
    elif withdrawn := store.withdrawn(row.image):
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot retry job {name}: the image of job {withdrawn} is withdrawn; 'fedimg restore "
            f"{withdrawn}' comes first",
        )
    elif row.state == "complete":
        call.output.note(f"job {name} is complete: nothing is left to do")
    elif twin := store.twin(row.image):
        call.output.note(f"nothing is left to do: job {twin} publishes the same file")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot retry job {name}: it is {row.state} ({row.step}); wait until it has ended, or "
            f"end it with 'fedimg cancel {name}'",
        )
    call.output.answer(output.job(row))
    return ExitCode.OK


@command
def cancel(call: Call, job: JobArgument) -> ExitCode:
    """End a queued or running job; the worker then removes its resources that are not public."""
    from fedimg.cli import output
    from fedimg.jobs.queue import JobQueue

    store = call.store()
    name = find(store, job).job
    with closing(JobQueue(store)) as jobs:
        cancelled = jobs.cancel(name)
    row = find(store, name)
    if cancelled and row.state != "cancelled":
        call.output.note(
            f"the scheduled retry of job {name} is cancelled; 'fedimg retry {name}' still runs it"
        )
    elif cancelled:
        note_idle_reasons(call)
    elif row.state == "cancelled":
        call.output.note(f"job {name} is cancelled already")
    else:
        raise CommandRefused(
            ExitCode.NOT_NOW,
            f"cannot cancel job {name}: it is {row.state} ({row.step}) and has ended",
        )
    call.output.answer(output.job(row))
    return ExitCode.OK
