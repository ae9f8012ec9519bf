"""What the worker and its SSH processes say to each other: JSON, one message a line.

fedimg.ssh.client is the worker's end, fedimg.ssh.process the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

#: No message is longer than this many bytes. The longest has the lines of one read, or two tails.
LONGEST = 1024 * 1024
#: The exit status of a process that reached its limit of memory; it may have none for words.
OUT_OF_MEMORY = 75
#: How long after its own limit, in seconds, a login or a command is ended by force.
GRACE = 5.0


class Reached(StrEnum):
    """How far the last try at a login came."""

    NOTHING = "no answer to TCP"
    CLOSED = "connection refused"
    PORT = "connected, and no SSH server spoke"
    HOST_KEY = "another host key"
    SERVER = "login refused"
    LOGIN = "logged in"


@dataclass(frozen=True)
class Login:
    """To the process, once: log in there, within `limit` seconds and `memory` bytes.

    `host_key` is a public line, `client_key` the private half in OpenSSH's own format.
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
    """To the process: run this; `given` bytes for its standard input follow the message.

    `limit` and `idle` are in seconds; with `lines`, each line is told as it comes.
    """

    command: str
    given: int
    limit: float
    idle: float
    lines: bool


@dataclass(frozen=True)
class Ready:
    """The process has started, and waits for its Login."""

    kind: Literal["ready"] = "ready"


@dataclass(frozen=True)
class LoggedIn:
    """The process has logged in, and waits for a Command."""

    kind: Literal["logged in"] = "logged in"


@dataclass(frozen=True)
class Lines:
    """The next lines of a command's standard output."""

    lines: list[str]
    kind: Literal["lines"] = "lines"


@dataclass(frozen=True)
class Finished:
    """How a command ended; `output` and `errors` are the tails of its two streams, printable and
    without private keys.
    """

    status: int
    output: str
    errors: str
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True)
class Failed:
    """There was no login, or a command did not come to its end; the process says nothing more.

    `output` is the tail of what the command had printed, and `broke` says that the connection
    ended before the command did.
    """

    problem: str
    output: str = ""
    reached: Reached = Reached.LOGIN
    broke: bool = False
    kind: Literal["failed"] = "failed"


Reply = Ready | LoggedIn | Lines | Finished | Failed


def encoded(message: Login | Command | Reply) -> bytes:
    """A message as it goes over the pipe."""
    return json.dumps(vars(message), ensure_ascii=False).encode(errors="replace") + b"\n"
