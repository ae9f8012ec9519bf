"""Define the messages between the worker and its SSH processes: JSON, one message per line.

fedimg.ssh.client is the worker's end, fedimg.ssh.process the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

#: Largest message, in bytes. The largest hold the lines of one read, or two tails of output.
LONGEST = 1024 * 1024
#: Exit status of a process that reached its memory limit, when it may have no memory for a message.
OUT_OF_MEMORY = 75
#: Seconds after its own timeout at which a login or a command is killed.
GRACE = 5.0


class Reached(StrEnum):
    """The furthest stage that a try at a login reached."""

    NOTHING = "no answer to TCP"
    CLOSED = "connection refused"
    PORT = "connected, and no SSH server spoke"
    HOST_KEY = "another host key"
    SERVER = "login refused"
    LOGIN = "logged in"


@dataclass(frozen=True)
class Login:
    """First request to the process: log in within `limit` seconds and `memory` bytes.

    `host_key` is a public line, `client_key` a private key in OpenSSH's own format.
    """

    address: str
    port: int
    user: str
    host_key: str
    client_key: str = field(repr=False)
    limit: float
    memory: int


@dataclass(frozen=True)
class Command:
    """Request to the process: run a command; `given` bytes of standard input follow the message.

    `limit` and `idle` are timeouts in seconds; with `lines`, each line is sent as it arrives. With
    `more`, any number of Input messages follow while the command runs.
    """

    command: str
    given: int
    limit: float
    idle: float
    lines: bool
    more: bool = False


@dataclass(frozen=True)
class Input:
    """Further standard input of the running command: `given` bytes follow the message.

    The last one, after the command's end, has none.
    """

    given: int


@dataclass(frozen=True)
class Ready:
    """The process has started and waits for a Login."""

    kind: Literal["ready"] = "ready"


@dataclass(frozen=True)
class LoggedIn:
    """The process has logged in and waits for a Command."""

    kind: Literal["logged in"] = "logged in"


@dataclass(frozen=True)
class Lines:
    """The next lines of a command's standard output."""

    lines: list[str]
    kind: Literal["lines"] = "lines"


@dataclass(frozen=True)
class Finished:
    """The exit status of a command, and the tails of its standard output and standard error."""

    status: int
    output: str
    errors: str
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True)
class Failed:
    """The login failed, or a command did not end by itself; this is the last message.

    `output` is the tail of the command's output, and `broke` is true when the connection ended
    before the command did.
    """

    problem: str
    output: str = ""
    reached: Reached = Reached.LOGIN
    broke: bool = False
    kind: Literal["failed"] = "failed"


class GaveUp(Exception):
    """The login failed, or a command did not end by itself; `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.problem)
        self.failed = failed


Reply = Ready | LoggedIn | Lines | Finished | Failed


def encoded(message: Login | Command | Input | Reply) -> bytes:
    """Encode a message as a line of JSON."""
    return json.dumps(vars(message), ensure_ascii=False).encode(errors="replace") + b"\n"
