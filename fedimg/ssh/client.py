"""Run commands on an instance over SSH with a pinned host key.

An instance may send anything, of any length. A separate process for each login (fedimg.ssh.process)
reads it: the process has limits of memory and time, and nothing of the worker's environment.
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
    Input,
    Lines,
    LoggedIn,
    Login,
    Reached,
    Ready,
    Reply,
    encoded,
)
from fedimg.untrusted.quoting import QuotedError, plain, printable, quoted

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

#: Memory limit of a process, in bytes: it needs 23 MB for itself, and holds at most
#: fedimg.ssh.session.LARGEST_OUTPUT of an instance's output.
MEMORY = 256 * 1024 * 1024
#: Polling interval for a cancellation, in seconds.
POLL_SECONDS = 0.2
#: Timeout for a process to start, in seconds; 0.2 s is usual.
_START_SECONDS = 60.0
#: Most characters of a process's reason for a failure that are quoted.
_LONGEST_PROBLEM = 1000

_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


class SSHError(QuotedError):
    """A login or a command failed; `output` is the tail of the command's output.

    `broke` is true when the connection ended before its command did.
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
    """The server has another host key than the started machine; nothing was sent to it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, reached=Reached.HOST_KEY)


@dataclass(frozen=True)
class Identity:
    """An ed25519 key pair that lives in memory only.

    `public` is the OpenSSH line for authorized_keys; `private_text` is the private key in OpenSSH's
    own format, as cloud-init expects a host key.
    """

    private_text: str = field(repr=False)
    public: str


def new_identity(comment: str) -> Identity:
    """Generate a key pair; `comment` ends its public line."""
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

    Refused connections, late banners and rejected logins (cloud-init installs the user's key some
    time after sshd answers) are tried again for `limit` seconds. `stop` cancels the login and the
    session's commands. `memory` limits the memory for reading the machine's answers, in bytes.

    Raises:
        HostKeyMismatch: at once, when the server does not have `host_key`.
        SSHError: there was no login within the limit, and the text has the reason of the try that
            came furthest; or the machine exceeded another limit.
        Cancelled: `stop` was set.
    """
    where = f"{user}@{address} port {port}"
    process = _Process(stop, f"logging in as {where}")
    try:
        process.receive(time.monotonic() + _START_SECONDS, Ready)
        login = Login(address, port, user, host_key.public, client_key.private_text, limit, memory)
        deadline = time.monotonic() + limit + 2 * GRACE
        process.reached = Reached.PORT
        process.send(encoded(login), deadline)
        process.receive(deadline, LoggedIn)
    except BaseException:
        process.kill()
        raise
    process.reached = Reached.LOGIN
    process.action = f"running a command as {where}"
    return Session(process)


class Session:
    """A login that runs one command after another; close it, or use it as a context manager."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the login, and a command that still runs. A second call does nothing."""
        self._process.kill()

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        limit: float,
        idle: float,
        on_line: Callable[[str], None] | None = None,
        answer: Callable[[str], bytes] | None = None,
    ) -> Finished:
        """Run `command` in the user's login shell with `stdin` on its standard input.

        `on_line` is called with each line of standard output as it arrives, without escape
        sequences and control characters. So is `answer`: what it returns is further standard input,
        which then stays open until the command ends. `limit` is the timeout of the whole command
        and `idle` that since the last byte of either stream, both in seconds. The session is closed
        when the command did not end by itself.

        Raises:
            SSHError: a timeout passed, the connection broke, or a signal killed the command; any
                exit status is a result, not an error.
            Cancelled: the `stop` given to `connect` was set.
        """
        request = Command(
            command,
            len(stdin),
            limit,
            idle,
            lines=on_line is not None or answer is not None,
            more=answer is not None,
        )
        deadline = time.monotonic() + limit + 2 * GRACE
        try:
            self._process.send(encoded(request) + stdin, deadline)
            while True:
                reply = self._process.receive(deadline, Lines, Finished)
                if isinstance(reply, Finished):
                    if answer is not None:
                        self._process.send(encoded(Input(0)), deadline)
                    return Finished(
                        reply.status, _sanitized(reply.output), _sanitized(reply.errors)
                    )
                if isinstance(reply, Lines):
                    for line in map(printable, reply.lines):
                        if on_line is not None:
                            on_line(line)
                        if answer is not None and (further := answer(line)):
                            self._process.send(encoded(Input(len(further))) + further, deadline)
        except BaseException:
            self.close()
            raise


class _Process:
    """A new interpreter that talks to one machine; `action` is what it does, for errors.

    It is a new interpreter, as a fork of a process with threads may hang. It ends when its standard
    input ends, and so does not outlive the worker. It has no environment, because the worker's may
    hold AWS credentials and the database's password. Its standard error is discarded, because it
    would bring foreign text into the log.
    """

    def __init__(self, stop: threading.Event, action: str) -> None:
        self.action = action
        self.reached = Reached.NOTHING
        self._stop = stop
        self._buffer = bytearray()
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-m", "fedimg.ssh.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},
            cwd="/",
            # Control-C on a terminal is for the worker only.
            start_new_session=True,
        )
        assert self._popen.stdin
        assert self._popen.stdout
        self._in, self._out = self._popen.stdin, self._popen.stdout
        # A write to a process that does not read must not block.
        os.set_blocking(self._in.fileno(), False)

    def kill(self) -> None:
        """Kill the process. A second call does nothing."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._in, self._out):
            pipe.close()

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of `data`. Raises as `receive` does."""
        left = memoryview(data)
        while left:
            self._wait(self._in, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._in.fileno(), left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise self._ended() from error

    def receive(self, deadline: float, *expected: type[Reply]) -> Reply:
        """Return the next message, which is of one of the `expected` types.

        Raises SSHError when the message is Failed or of another type, when the process has ended,
        and when no message arrives until `deadline`; Cancelled when `stop` is set.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LONGEST:
                raise self._failed(f"its SSH process sent a message of over {LONGEST} bytes")
            self._wait(self._out, select.POLLIN, deadline)
            data = os.read(self._out.fileno(), 65536)
            if not data:
                raise self._ended()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            reply = _REPLY.validate_json(line, strict=True)
        except ValidationError as error:
            raise self._failed("its SSH process sent an invalid message") from error
        if isinstance(reply, Failed):
            problem = _sanitized(reply.problem).replace("\n", " ")[:_LONGEST_PROBLEM]
            if reply.reached is Reached.HOST_KEY:
                raise HostKeyMismatch(problem)
            raise SSHError(problem, _sanitized(reply.output), reply.reached, broke=reply.broke)
        if not isinstance(reply, expected):
            raise self._failed(f"its SSH process sent the message {quoted(reply.kind)} out of turn")
        return reply

    def _wait(self, pipe: IO[bytes], event: int, deadline: float) -> None:
        if pipe.closed:
            raise self._failed("the connection is already closed", broke=True)
        poll = select.poll()
        poll.register(pipe, event)
        while not self._stop.is_set():
            if poll.poll(POLL_SECONDS * 1000):
                return
            if time.monotonic() >= deadline:
                raise self._overdue()
        raise Cancelled(f"cancelled while {self.action}")

    def _overdue(self) -> SSHError:
        return self._failed("its SSH process did not end in time and was killed")

    def _ended(self) -> SSHError:
        """Return the error for a process that has ended, by its exit status.

        Ends that the machine can cause count as failures of the machine.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The process closes its pipes a moment before it ends.
            self._popen.wait(GRACE)
        status = self._popen.returncode
        if self.reached is Reached.NOTHING:
            return self._failed(f"its SSH process did not start ({_exit_text(status)})", broke=True)
        if status == OUT_OF_MEMORY:
            return self._failed("reading what the machine sent took more memory than the limit")
        if status == -signal.SIGALRM:
            return self._overdue()
        # SIGKILL comes from the kernel when the worker's machine is out of memory, or from a
        # person.
        return self._failed(
            f"its SSH process ended ({_exit_text(status)})",
            broke=status == -signal.SIGKILL,
        )

    def _failed(self, problem: str, *, broke: bool = False) -> SSHError:
        return SSHError(f"failed while {self.action}: {problem}", reached=self.reached, broke=broke)


def _exit_text(status: int | None) -> str:
    if status is not None and status < 0:
        return f"signal {-status}"
    return f"exit status {status}"


def _sanitized(text: str) -> str:
    """Return text of a process printable and without secrets: the process is untrusted, too."""
    return plain("\n".join(map(printable, text[-OUTPUT_TAIL:].splitlines())))
