"""Define the commands for several workers on one PostgreSQL, and for moving to it."""

from __future__ import annotations

from typing import Annotated

import typer

from fedimg.cli.app import Call, CommandRefused, ExitCode, command, command_of, store_app


@command
def workers(call: Call) -> ExitCode:
    """List the workers with their states and jobs."""
    from fedimg.cli import site_output
    from fedimg.worker.lease import living
    from fedimg.worker.registry import Registry

    store = call.store()
    rows = Registry(store).all()
    call.output.answer(site_output.workers(rows, living(store, [row.name for row in rows])))
    return ExitCode.OK


@command
def drain(
    call: Call,
    worker: Annotated[str, typer.Argument(help="Name of a worker, as 'fedimg workers' lists it.")],
) -> ExitCode:
    """Let a worker finish its jobs, take no other, and exit."""
    from fedimg.cli import site_output
    from fedimg.worker.lease import living
    from fedimg.worker.registry import Registry

    store = call.store()
    registry = Registry(store)
    if worker not in living(store, [worker]) or not registry.drain(worker):
        raise CommandRefused(
            ExitCode.UNKNOWN,
            f'cannot drain worker "{worker}": no worker of that name is running; '
            "'fedimg workers' lists the workers",
        )
    rows = [row for row in registry.all() if row.name == worker]
    call.output.answer(site_output.workers(rows, {worker}))
    return ExitCode.OK


@command_of(store_app)
def migrate(call: Call) -> ExitCode:
    """Add what this version needs to the tables in PostgreSQL."""
    from fedimg.cli import site_output
    from fedimg.store.store import Store
    from fedimg.worker.pooler import refuse_shared_connections

    if not call.settings.database:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            "`database` is not set in the configuration; on a file in state_directory the worker "
            "adds missing tables by itself",
        )
    refuse_shared_connections(call.settings.database)
    store = Store(call.settings.state_directory, call.settings.database, migrate=True)
    call.output.answer(site_output.migrated(store.address))
    return ExitCode.OK


@command_of(store_app)
def move(call: Call) -> ExitCode:
    """Move all data from the file to the PostgreSQL of `database`.

    The file is the one in state_directory. First run 'fedimg drain worker', wait until the worker
    has exited, and stop the hub: no job may be running. Queued jobs stay queued. The command
    renames the file to fedimg.db.moved.
    """
    from fedimg.cli import site_output
    from fedimg.jobs import migration
    from fedimg.store.store import Store
    from fedimg.worker.lease import FileLease

    directory, url = call.settings.state_directory, call.settings.database
    if not url:
        raise CommandRefused(
            ExitCode.UNUSABLE,
            "`database` is not set in the configuration: set it to the URL of the PostgreSQL",
        )
    if not (directory / "fedimg.db").exists():
        raise CommandRefused(
            ExitCode.UNUSABLE,
            f"there is no database in {directory} to move: check state_directory in fedimg.toml",
        )
    lease = FileLease(directory)
    target = Store(directory, url)
    source = Store(directory)
    counts = migration.move(source, target)
    source.close()
    source.path.rename(source.path.with_suffix(".db.moved"))
    lease.release()
    call.output.answer(site_output.moved(counts, target.address))
    return ExitCode.OK
