"""The commands for several workers on one database, and for getting there."""

from __future__ import annotations

from typing import Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command, command_of, store_app


@command
def workers(call: Call) -> ExitCode:
    """List the workers: whether each lives, and which jobs it has."""
    from fedimg.cli import output
    from fedimg.worker.lease import living
    from fedimg.worker.registry import Registry

    store = call.store()
    members = Registry(store).all()
    call.output.answer(output.workers(members, living(store, [each.name for each in members])))
    return ExitCode.OK


@command
def drain(
    call: Call, worker: Annotated[str, typer.Argument(help="As 'fedimg workers' names it.")]
) -> ExitCode:
    """Have a worker take no new job, and end when those that it has are done."""
    from fedimg.cli import output
    from fedimg.worker.lease import living
    from fedimg.worker.registry import Registry

    store = call.store()
    members = Registry(store)
    if worker not in living(store, [worker]) or not members.drain(worker):
        raise CommandRefused(
            ExitCode.UNKNOWN, f"no worker {worker!r} is running; 'fedimg workers' lists them"
        )
    rows = [each for each in members.all() if each.name == worker]
    call.output.answer(output.workers(rows, {worker}))
    return ExitCode.OK


@command_of(store_app)
def migrate(call: Call) -> ExitCode:
    """Prepare the PostgreSQL of `database`: add what this version needs and it lacks."""
    from fedimg.cli import output
    from fedimg.store.store import Store
    from fedimg.worker.pooler import refuse_shared_connections

    if not call.settings.database:
        raise CommandRefused(
            ExitCode.UNUSABLE, "`database` is not set; a file's tables the worker makes by itself"
        )
    refuse_shared_connections(call.settings.database)
    store = Store(call.settings.state_directory, call.settings.database, make=True)
    call.output.answer(output.migrated(store.place))
    return ExitCode.OK


@command_of(store_app)
def move(call: Call) -> ExitCode:
    """Move from the file in state_directory to the PostgreSQL of `database`, history and all.

    Hub and worker have to be stopped, and no job may be under way: 'fedimg drain worker' first.
    Jobs that wait go on waiting there. The file is kept, as fedimg.db.moved.
    """
    from fedimg.cli import output
    from fedimg.jobs.migration import move as copy
    from fedimg.store.store import Store
    from fedimg.worker.lease import FileLease

    directory, url = call.settings.state_directory, call.settings.database
    if not url:
        raise CommandRefused(
            ExitCode.UNUSABLE, "`database` is not set: name the PostgreSQL to move to"
        )
    if not (directory / "fedimg.db").exists():
        raise CommandRefused(ExitCode.UNUSABLE, f"there is no database in {directory} to move")
    lease = FileLease(directory)
    target = Store(directory, url)
    source = Store(directory)
    moved = copy(source, target)
    source.close()
    source.path.rename(source.path.with_suffix(".db.moved"))
    lease.release()
    call.output.answer(output.moved(moved, target.place))
    return ExitCode.OK
