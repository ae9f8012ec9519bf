"""What all commands share: --config and --json on both sides of the name, errors, exit codes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedimg.process.permissions import DATABASE

if TYPE_CHECKING:
    from fedimg.cli.output import Output
    from fedimg.config import Settings
    from fedimg.store.store import Store

# What a command needs is imported when it runs: a look at the database loads no AWS and no bus.

app = typer.Typer(
    name="fedimg",
    help="Publishes Koji's disk images as AMIs in every EC2 region.",
    epilog="Exit status: 0 done; 1 failed; 2 command line, configuration or state directory "
    "unusable; 3 no such job; 4 job incomplete; 5 not now; 6 worker drained; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Boxes and colours would wrap what people grep for.
    rich_markup_mode=None,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The configuration; else $FEDIMG_CONFIG, else /etc/fedimg/fedimg.toml."
    ),
]
JSONOption = Annotated[
    bool, typer.Option("--json", help='JSON alone on standard output; errors as {"error": text}.')
]


class ExitCode(IntEnum):
    """How a command ended, for scripts; 130 is a command that was interrupted."""

    #: Done, or nothing was left to do.
    OK = 0
    #: The job failed or was cancelled, a check found a problem, or AWS refused.
    FAILED = 1
    #: The command line, the configuration or the state directory cannot be used.
    UNUSABLE = 2
    #: There is no such job.
    UNKNOWN = 3
    #: The job failed in some regions.
    INCOMPLETE = 4
    #: The job's present state, or another worker, forbids it.
    NOT_NOW = 5


class CommandRefused(Exception):
    """The command cannot do what was asked; `code` is its exit status."""

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Call:
    """One command as it was typed; what it needs is made when first asked for."""

    def __init__(self, config: Path | None, as_json: bool) -> None:
        self._config = config
        self._as_json = as_json

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises ConfigError."""
        from fedimg import config

        return config.load(self._config)

    @cached_property
    def output(self) -> Output:
        """Where answers go."""
        from fedimg.cli.output import Output

        return Output(self._as_json)

    def store(self, *, create: bool = False) -> Store:
        """The database. Raises CommandRefused when there is none yet, unless `create`."""
        directory = self.settings.state_directory
        # Opening makes what is missing, owned by whoever asked: a look must not do that.
        url = self.settings.database
        if not create and not url and not (directory / DATABASE).exists():
            raise CommandRefused(
                ExitCode.UNUSABLE,
                f"there is no database in {directory} yet: check state_directory in the "
                "configuration, or start 'fedimg worker', which makes it",
            )
        from fedimg.store.store import Store

        return Store(directory, url)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedimg {version('fedimg')}")
        raise typer.Exit


@app.callback()
def _before_the_name(
    ctx: typer.Context,
    config: ConfigOption = None,
    as_json: JSONOption = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    ctx.obj = (config, as_json)


#: What is about the database itself.
store_app = typer.Typer(
    name="store", help="Prepare a PostgreSQL, or move to it.", no_args_is_help=True
)
app.add_typer(store_app)


def command(body: Callable[..., int]) -> Callable[..., int]:
    """Make `body` a command of its name, which also takes --config and --json."""
    return command_of(app)(body)


def command_of(group: typer.Typer) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The same for a command in a group."""
    return lambda body: _command(group, body)


def _command(group: typer.Typer, body: Callable[..., int]) -> Callable[..., int]:
    """Add a command.

    Its first argument is the Call and its result the exit status; what it raises for a reason
    that a person can act on becomes one paragraph on standard error.
    """

    def run(ctx: typer.Context, config: Path | None, as_json: bool, **given: Any) -> None:
        early_config, early_json = ctx.obj
        call = Call(config or early_config, as_json or early_json)
        try:
            code = body(call, **given)
        except Exception as error:
            explained = _explained(error)
            if explained is None:
                raise
            code, text = explained
            call.output.error(text)
        sys.exit(code)

    named = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter("ctx", named, annotation=typer.Context),
        inspect.Parameter("config", named, annotation=ConfigOption, default=None),
        inspect.Parameter("as_json", named, annotation=JSONOption, default=False),
    ]
    # Typer reads a command's options off its signature.
    signature = inspect.Signature([*(p.replace(kind=named) for p in own), *shared])
    run.__signature__ = signature  # type: ignore[attr-defined]
    group.command(body.__name__, help=inspect.getdoc(body))(run)
    return body


def _explained(error: Exception) -> tuple[ExitCode, str] | None:
    """The exit status and the text of an error that a person can act on; None for a bug."""
    from fedimg.config import ConfigError

    if isinstance(error, CommandRefused):
        return error.code, str(error)
    if isinstance(error, ConfigError):
        return ExitCode.UNUSABLE, str(error)

    import sqlalchemy as sa

    from fedimg.aws.client.errors import FAILURES
    from fedimg.bus.publisher import BusError
    from fedimg.exceptions import EC2ServiceException
    from fedimg.jobs.migration import MoveRefused
    from fedimg.sources.lookup import LookupRefused as NotListed
    from fedimg.sources.lookup import SourceUnavailable
    from fedimg.store.store import StoreError
    from fedimg.worker.lease import WorkerRunning

    if isinstance(error, WorkerRunning | MoveRefused):
        return ExitCode.NOT_NOW, str(error)
    if isinstance(error, StoreError | BusError):
        return ExitCode.UNUSABLE, str(error)
    if isinstance(error, sa.exc.DatabaseError):
        return ExitCode.UNUSABLE, (
            f"the database failed: {error.orig}; check the owner of state_directory and the free "
            "space there, or, with `database`, that PostgreSQL runs"
        )
    if isinstance(error, EC2ServiceException):
        return ExitCode.FAILED, str(error)
    if isinstance(error, NotListed | SourceUnavailable):
        return ExitCode.FAILED, str(error)
    if isinstance(error, FAILURES):
        return ExitCode.FAILED, f"AWS: {error}; 'fedimg check' looks for the reason"
    return None
