"""Runs commands on an instance over SSH with a pinned host key; which ones, the caller knows.

An instance may say anything, of any length. Whatever it says is read in a process of its own, one
for each login (fedimg.ssh.process): it has limits of memory and time, nothing of the worker's
environment, and answers with data.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Annotated

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, TypeAdapter, ValidationError

from fedimg.exceptions import OUTPUT_TAIL, Cancelled
from fedimg.ssh.protocol import (
    GRACE,
    LONGEST,
    OUT_OF_MEMORY,
    Command,
    Failed,
    Finished,
    Lines,
    LoggedIn,
    Login,
    Reached,
    Ready,
    Reply,
    encoded,
)
from fedimg.untrusted.quoting import QuotedError, plain, printable

__all__ = [
    "Finished",
    "HostKeyMismatch",
    "Identity",
    "Reached",
    "SSHError",
    "Session",
    "connect",
    "new_identity",
]

#: What a process may have in memory, in bytes: it was seen to take 23 MB for itself, and holds no
#: more than fedimg.ssh.connection.LARGEST_OUTPUT of what an instance sends.
MEMORY = 256 * 1024 * 1024
#: How often a wait looks for cancellation, in seconds.
GLANCE = 0.2
#: How long a process may take to start, in seconds; 0.2 is usual.
_START = 60.0
#: Of the reason that a process gives, so many characters are told.
_PROBLEM = 1000

_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


class SSHError(QuotedError):
    """A login or a command failed; `output` is the tail of what the command had printed.

    `broke` says that the connection ended before its command did.
    """

    def __init__(
        self,
        problem: str,
        output: str = "",
        reached: Reached = Reached.LOGIN,
        *,
        broke: bool = False,
    ) -> None:
        super().__init__(problem)
        self.output = output
        self.reached = reached
        self.broke = broke


class HostKeyMismatch(SSHError):
    """Somebody other than the machine that was started answered; nothing was sent to it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, reached=Reached.HOST_KEY)


@dataclass(frozen=True)
class Identity:
    """An ed25519 key pair that lives in memory only.

    `public` is the OpenSSH line for authorized_keys; `private_text` is the private half in
    OpenSSH's own format, as cloud-init wants it for a host key.
    """

    private_text: str = field(repr=False)
    public: str


def new_identity(comment: str) -> Identity:
    """A key pair made for this attempt; `comment` ends its public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return Identity(private.decode(), f"{public.decode()} {comment}")


def connect(
    address: str,
    port: int,
    user: str,
    *,
    host_key: Identity,
    client_key: Identity,
    limit: float,
    stop: threading.Event,
    memory: int = MEMORY,
) -> Session:
    """Log in to a machine that may still be booting.

    Refused connections, late banners and refused logins (cloud-init installs the user's key some
    time after sshd answers) are tried again for `limit` seconds. `stop` cancels this and whatever
    the session runs. `memory`, in bytes, is what reading the machine's answers may take.

    Raises:
        HostKeyMismatch: at once, when the server cannot show `host_key`.
        SSHError: no login within the limit, and the text has the reason of the last try; or the
            machine went beyond a limit.
        Cancelled: `stop` was set.
    """
    where = f"{user}@{address} port {port}"
    process = _Process(stop, f"waiting for {where}")
    try:
        process.receive(time.monotonic() + _START, Ready)
        login = Login(address, port, user, host_key.public, client_key.private_text, limit, memory)
        deadline = time.monotonic() + limit + 2 * GRACE
        process.reached = Reached.PORT
        process.send(encoded(login), deadline)
        process.receive(deadline, LoggedIn)
    except BaseException:
        process.kill()
        raise
    process.reached = Reached.LOGIN
    process.what = f"a command ran as {where}"
    return Session(process)


class Session:
    """A login, good for one command after another; close it, or use it as a context manager."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the login, and with it a command that still runs. Closing again does nothing."""
        self._process.kill()

    def run(
        self,
        command: str,
        *,
        given: bytes = b"",
        limit: float,
        idle: float,
        heard: Callable[[str], None] | None = None,
    ) -> Finished:
        """Run `command` in the user's login shell with `given` on its standard input.

        Each line of standard output goes to `heard` as it comes, without escape sequences and
        control characters. `limit` is for the whole command and `idle` for the time since the last
        byte of either stream, both in seconds. A session is closed when its command did not end
        by itself.

        Raises:
            SSHError: a limit passed, the link broke, or a signal killed the command; any exit
                status is a result, not an error.
            Cancelled: the `stop` given to `connect` was set.
        """
        asked = Command(command, len(given), limit, idle, lines=heard is not None)
        deadline = time.monotonic() + limit + 2 * GRACE
        try:
            self._process.send(encoded(asked) + given, deadline)
            while True:
                reply = self._process.receive(deadline, Lines, Finished)
                if isinstance(reply, Finished):
                    return Finished(reply.status, _told(reply.output), _told(reply.errors))
                if isinstance(reply, Lines) and heard is not None:
                    for line in reply.lines:
                        heard(printable(line))
        except BaseException:
            self.close()
            raise


class _Process:
    """A fresh interpreter that talks to one machine; `what` is being done, `reached` how far it is.

    Fresh, as a fork of a process with threads may hang. It ends when its standard input does, so it
    outlives no worker. It gets no environment: the worker's may hold credentials of AWS's, and the
    database's password. What it prints beside its messages would be a machine's words in our log.
    """

    def __init__(self, stop: threading.Event, what: str) -> None:
        self.what = what
        self.reached = Reached.NOTHING
        self._stop = stop
        self._said = bytearray()
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-m", "fedimg.ssh.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},
            cwd="/",
            # Control-C on a terminal is the worker's.
            start_new_session=True,
        )
        assert self._popen.stdin
        assert self._popen.stdout
        self._in, self._out = self._popen.stdin, self._popen.stdout
        # Where nobody reads, a write would wait without a limit.
        os.set_blocking(self._in.fileno(), False)

    def kill(self) -> None:
        """End the process. Killing it again does nothing."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._in, self._out):
            pipe.close()

    def send(self, data: bytes, deadline: float) -> None:
        """Write everything. Raises as `receive` does."""
        left = memoryview(data)
        while left:
            self._wait(self._in, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._in.fileno(), left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise self._ended() from error

    def receive(self, deadline: float, *kinds: type[Reply]) -> Reply:
        """The next message, of one of these kinds.

        Raises SSHError for a Failed, a process that has ended, one that says nothing until
        `deadline`, and for what is no such message; Cancelled when `stop` is set.
        """
        while (end := self._said.find(b"\n")) < 0:
            if len(self._said) > LONGEST:
                raise self._failed("the process that talks to it sends an endless message")
            self._wait(self._out, select.POLLIN, deadline)
            data = os.read(self._out.fileno(), 65536)
            if not data:
                raise self._ended()
            self._said += data
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        try:
            reply = _REPLY.validate_json(line, strict=True)
        except ValidationError as error:
            raise self._failed("the process that talks to it sends what is no message") from error
        if isinstance(reply, Failed):
            problem = _told(reply.problem).replace("\n", " ")[:_PROBLEM]
            if reply.reached is Reached.HOST_KEY:
                raise HostKeyMismatch(problem)
            raise SSHError(problem, _told(reply.output), reply.reached, broke=reply.broke)
        if not isinstance(reply, kinds):
            raise self._failed(f"the process that talks to it sends {reply.kind!r} out of turn")
        return reply

    def _wait(self, pipe: IO[bytes], event: int, deadline: float) -> None:
        if pipe.closed:
            raise self._failed("the connection was closed before", broke=True)
        poll = select.poll()
        poll.register(pipe, event)
        while not self._stop.is_set():
            if poll.poll(GLANCE * 1000):
                return
            if time.monotonic() >= deadline:
                raise self._late()
        raise Cancelled(f"cancelled while {self.what}")

    def _late(self) -> SSHError:
        return self._failed("the process that talks to it was ended at its deadline")

    def _ended(self) -> SSHError:
        """Why the process is there no more, as its exit status tells.

        What a machine can bring about is held against it.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It closes its pipes a moment before it is gone.
            self._popen.wait(GRACE)
        status = self._popen.returncode
        if self.reached is Reached.NOTHING:
            return self._failed(f"the process for it did not start ({_ending(status)})", broke=True)
        if status == OUT_OF_MEMORY:
            return self._failed("what it sent took more memory than is allowed to it")
        if status == -signal.SIGALRM:
            return self._late()
        # The system's, when the whole machine is out of memory; or somebody's.
        return self._failed(
            f"the process that talks to it ended ({_ending(status)})",
            broke=status == -signal.SIGKILL,
        )

    def _failed(self, problem: str, *, broke: bool = False) -> SSHError:
        return SSHError(f"gave up while {self.what}: {problem}", reached=self.reached, broke=broke)


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return f"signal {-status}"
    return f"exit status {status}"


def _told(text: str) -> str:
    """What a process tells of a machine, fit to be shown: of it, too, nothing is believed."""
    return plain("\n".join(map(printable, text[-OUTPUT_TAIL:].splitlines())))
