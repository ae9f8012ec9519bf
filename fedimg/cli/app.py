"""Give all commands --config and --json, exit codes, and errors in plain text."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fedimg.process.permissions import DATABASE

if TYPE_CHECKING:
    from fedimg.cli.output import Output
    from fedimg.config import Settings
    from fedimg.store.store import Store

# Commands import what they need when they run, so that `status` loads neither boto3 nor fedmsg.

#: Make a group of commands, or a single one, with help in plain text.
plain_app = partial(
    typer.Typer,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Boxes would wrap lines that people search with grep.
    rich_markup_mode=None,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file; by default $FEDIMG_CONFIG, otherwise /etc/fedimg/fedimg.toml.",
    ),
]
JSONOption = Annotated[
    bool,
    typer.Option("--json", help='Print only JSON on standard output; errors as {"error": text}.'),
]


class ExitCode(IntEnum):
    """The exit status of a command; an interrupted one exits with 130."""

    #: Done, or nothing was left to do.
    OK = 0
    #: The job failed or was cancelled, a check found a problem, or AWS refused.
    FAILED = 1
    #: The command line, the configuration or the database cannot be used.
    UNUSABLE = 2
    #: There is no such job or worker.
    UNKNOWN = 3
    #: The job failed in some regions.
    INCOMPLETE = 4
    #: The job's present state, another worker, or the age of the database forbids the command.
    NOT_NOW = 5
    #: A service cannot run with this configuration (fedimg.process.systemd.MISCONFIGURED).
    MISCONFIGURED = 78


class CommandRefused(Exception):
    """A command cannot be carried out; `code` is its exit status."""

    def __init__(self, code: ExitCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Call:
    """The settings, output and database of one command, each created on first use."""

    def __init__(self, config: Path | None, as_json: bool) -> None:
        self._config = config
        self._as_json = as_json
        self._store: Store | None = None

    @cached_property
    def settings(self) -> Settings:
        """The configuration. Raises ConfigError."""
        from fedimg import config

        return config.load(self._config)

    @cached_property
    def output(self) -> Output:
        """The writer of answers, notes and errors."""
        from fedimg.cli.output import Output

        return Output(self._as_json)

    def store(self, *, create: bool = False) -> Store:
        """Return the database, which the first call opens.

        Raises CommandRefused if there is no database file and `create` is False.
        """
        if self._store is not None:
            return self._store
        directory = self.settings.state_directory
        # Opening would create the file, owned by whoever runs this command.
        if not create and not self.has_database():
            raise CommandRefused(
                ExitCode.UNUSABLE,
                f"there is no database in {directory} yet: check state_directory in the "
                "configuration, or start 'fedimg worker', which creates the database",
            )
        from fedimg.store.store import Store

        self._store = Store(directory, self.settings.database)
        return self._store

    def has_database(self) -> bool:
        """Return whether there is a database file, or the database is a PostgreSQL."""
        directory = self.settings.state_directory
        return bool(self.settings.database) or (directory / DATABASE).exists()


#: Commands that change the database itself.
store_app = plain_app(
    name="store",
    help="Create, move or rebuild the database.",
    no_args_is_help=True,
)
#: The commands whose modules are loaded, by name; fedimg.cli.commands loads the modules.
loaded = {"store": store_app}


def command(body: Callable[..., int]) -> Callable[..., int]:
    """Define `body` as a command of the same name that also takes --config and --json."""
    return _command(_alone(body), body)


def service(body: Callable[..., int]) -> Callable[..., int]:
    """Define `body` as a command that systemd runs, and does not repeat for a configuration that
    a person has to correct.
    """
    return _command(_alone(body), body, ExitCode.MISCONFIGURED)


def _alone(body: Callable[..., int]) -> typer.Typer:
    loaded[body.__name__] = plain_app()
    return loaded[body.__name__]


def command_of(group: typer.Typer) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return the decorator that registers a command in `group`."""
    return lambda body: _command(group, body)


def _command(
    group: typer.Typer,
    body: Callable[..., int],
    misconfigured: ExitCode = ExitCode.UNUSABLE,
) -> Callable[..., int]:
    """Register `body`, which takes a Call and returns the exit status, as a command of `group`.

    An exception that a person can act on becomes a paragraph on standard error. `misconfigured` is
    the exit status for a configuration, fedimg's or a bus's, that has to be corrected.
    """

    def run(ctx: typer.Context, config: Path | None, as_json: bool, **arguments: Any) -> None:
        if misconfigured is ExitCode.MISCONFIGURED:
            # A service does not end, and must not keep that much garbage (fedimg.cli.commands).
            gc.set_threshold(20_000)
        early_config, early_json = ctx.obj
        call = Call(config or early_config, as_json or early_json)
        try:
            code = body(call, **arguments)
        except Exception as error:
            explanation = _explain(error, misconfigured)
            if explanation is None:
                raise
            code, text = explanation
            call.output.error(text)
        sys.exit(code)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
    for parameter in own:
        _name_value(parameter)
    shared = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        inspect.Parameter("config", keyword, annotation=ConfigOption, default=None),
        inspect.Parameter("as_json", keyword, annotation=JSONOption, default=False),
    ]
    # Typer reads a command's options from its signature.
    signature = inspect.Signature([*(p.replace(kind=keyword) for p in own), *shared])
    run.__signature__ = signature  # type: ignore[attr-defined]
    group.command(body.__name__, help=inspect.getdoc(body))(run)
    return body


def _name_value(parameter: inspect.Parameter) -> None:
    """Have the help name the value of a command's parameter, where Typer names its Python type."""
    kind, info = get_args(parameter.annotation)
    if info.metavar is None and kind is not bool:
        info.metavar = parameter.name.upper()


def _explain(error: Exception, misconfigured: ExitCode) -> tuple[ExitCode, str] | None:
    """Return the exit status and text of an error that a person can act on; None for a bug."""
    from fedimg.config import ConfigError, ConfigUnusableNow

    if isinstance(error, CommandRefused):
        return error.code, str(error)
    if isinstance(error, ConfigUnusableNow):
        return ExitCode.UNUSABLE, str(error)
    if isinstance(error, ConfigError):
        return misconfigured, str(error)

    import sqlalchemy as sa

    from fedimg.aws.client.errors import FAILURES
    from fedimg.bus.publisher import BusError
    from fedimg.exceptions import EC2ServiceException
    from fedimg.jobs.migration import MoveRefused
    from fedimg.sources.lookup import LookupRefused, SourceUnavailable
    from fedimg.store.store import StoreError
    from fedimg.store.twins import ImageWithdrawn
    from fedimg.untrusted.failures import of_endpoint, reason
    from fedimg.worker.lease import WorkerRunning

    if isinstance(error, WorkerRunning | MoveRefused | ImageWithdrawn):
        return ExitCode.NOT_NOW, str(error)
    if isinstance(error, BusError):
        return misconfigured, str(error)
    if isinstance(error, StoreError):
        return ExitCode.UNUSABLE, str(error)
    if isinstance(error, sa.exc.DatabaseError):
        return ExitCode.UNUSABLE, (
            f"cannot use the database: {reason(error)}; check the owner and free space of "
            "state_directory, or, if `database` is set, that PostgreSQL is running"
        )
    if isinstance(error, EC2ServiceException):
        return ExitCode.FAILED, str(error)
    if isinstance(error, LookupRefused | SourceUnavailable):
        return ExitCode.FAILED, str(error)
    if isinstance(error, FAILURES):
        return (
            ExitCode.FAILED,
            f"a call to AWS failed: {of_endpoint(error)}; run 'fedimg check' to find the reason",
        )
    return None
