"""Run commands on a machine after the login, within limits of time and output."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import paramiko

from fedimg.exceptions import exhausted
from fedimg.ssh.bounded_socket import CHUNK, BoundedSocket
from fedimg.ssh.further import Further
from fedimg.ssh.output import InstanceOutput
from fedimg.ssh.protocol import Command, Failed, Finished, GaveUp
from fedimg.untrusted import failures

#: Most bytes that a machine may send while one command runs; hours of progress are some 10 MB.
LARGEST_OUTPUT = 32 * 1024 * 1024
#: Most lines of one command that are passed on.
MOST_LINES = 1_000_000
#: Interval at which the limits are checked, in seconds.
_POLL_SECONDS = 0.2
#: … and at which further input is looked for: the machine waits for it.
_INPUT_SECONDS = 0.02
#: Seconds for which a connection may outlast a command that the machine's shutdown has killed.
_GOING_DOWN = 2.0


class Session:
    """A login that runs one command after another."""

    def __init__(
        self, transport: paramiko.Transport, bounded_socket: BoundedSocket, where: str
    ) -> None:
        self._transport = transport
        self._socket = bounded_socket
        self._where = where

    def run(
        self,
        request: Command,
        stdin: Further,
        on_lines: Callable[[list[str]], None] = lambda lines: None,
    ) -> Finished:
        """Run a command in the user's login shell with `stdin` on its standard input.

        That is open until the command ends, if `request.more`.

        `on_lines` is called with lines of standard output as they arrive, if `request.lines`. Any
        exit status is a result. Raises GaveUp when a timeout passed, the connection broke, or a
        signal killed the command, and MemoryError when the output takes too much memory; the
        session is over then.
        """
        lines: list[str] = []
        output = InstanceOutput(lines.append if request.lines else lambda line: None)
        errors = InstanceOutput(lambda line: None)
        self._socket.allow(LARGEST_OUTPUT)
        watch = _Watch(self._transport, request.limit, request.idle)

        def on_data() -> None:
            watch.note_data(len(lines))
            if lines:
                on_lines(lines)
                lines.clear()

        try:
            with watch:
                status = self._exchange(request, stdin, output, errors, watch, on_data)
            reason = ""
        except _ConnectionLost as error:
            status, reason = -1, f": {error}"
        if status >= 0:
            return Finished(status, output.tail, errors.tail)
        if not reason:
            # A machine that shuts down kills its commands before it closes its connections.
            self._transport.join(_GOING_DOWN)
        killed = self._transport.is_active()
        if exhausted(self._transport.get_exception()):
            raise MemoryError
        self._transport.close()
        broke = False
        if verdict := watch.verdict or self._socket.verdict:
            problem = f"the command running as {self._where} failed: {verdict}"
        elif killed and not reason:
            problem = (
                f"a signal killed the command running as {self._where}; "
                "the instance's console may say why (out of memory?)"
            )
        else:
            broke = True
            problem = f"the connection broke while a command ran as {self._where}{reason}"
        tails = "\n".join(tail for tail in (output.tail, errors.tail) if tail)
        raise GaveUp(Failed(problem, tails, broke=broke))

    def _exchange(
        self,
        request: Command,
        stdin: Further,
        output: InstanceOutput,
        errors: InstanceOutput,
        watch: _Watch,
        on_data: Callable[[], None],
    ) -> int:
        """Send input, read output; return the command's exit status, -1 if the server sent none."""
        with _connection_errors():
            channel = self._transport.open_session()
            channel.settimeout(_INPUT_SECONDS if request.more else _POLL_SECONDS)
            channel.exec_command(request.command)
        sending = True
        # Output that has arrived is not read to its end when a limit has passed.
        while not watch.over():
            sending = sending and _send(channel, stdin, more=request.more)
            with _connection_errors():
                if channel.recv_stderr_ready():
                    data, stream = channel.recv_stderr(CHUNK), errors
                else:
                    try:
                        data, stream = channel.recv(CHUNK), output
                    except TimeoutError:
                        # There is no output yet, but perhaps input to send.
                        continue
            if data:
                stream.feed(data)
                on_data()
            elif stream is output and not channel.recv_stderr_ready():
                break
        else:
            return -1
        output.end()
        errors.end()
        on_data()
        with _connection_errors():
            status = channel.recv_exit_status()
            channel.close()
        return status


class _ConnectionLost(Exception):
    """The connection broke."""


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise _ConnectionLost(failures.reason(error)) from error


def _send(channel: paramiko.Channel, stdin: Further, *, more: bool) -> bool:
    """Send what the server accepts now; return whether there is, or may be, something to send.

    Without `more`, the command's input is closed when all is sent.
    """
    try:
        while (waiting := stdin.first(CHUNK)) and channel.send_ready():
            stdin.sent(channel.send(waiting))
        if waiting or more:
            return True
        channel.shutdown_write()
    except TimeoutError:
        return True
    except (OSError, EOFError, paramiko.SSHException):
        # A command may end without reading its input; its exit status tells whether it succeeded.
        return False
    return False


class _Watch:
    """Closes the connection of a command that exceeds its timeouts or its number of lines.

    It runs a thread, because paramiko waits without a timeout for answers to some requests and for
    a full socket.
    """

    def __init__(self, transport: paramiko.Transport, limit: float, idle: float) -> None:
        self.verdict = ""
        self._transport = transport
        self._limit = limit
        self._idle = idle
        self._lines = 0
        self._started = self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._check, name="fedimg-ssh-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def note_data(self, lines: int) -> None:
        """Count new lines to pass on, and restart the idle timeout."""
        self._last = time.monotonic()
        self._lines += lines

    def over(self) -> bool:
        """Return whether a limit has passed; `verdict` says which one."""
        now = time.monotonic()
        if self.verdict:
            return True
        if self._lines > MOST_LINES:
            self.verdict = f"it printed more than {MOST_LINES} lines"
        elif now - self._started > self._limit:
            self.verdict = f"timed out after {self._limit:g} s"
        elif now - self._last > self._idle:
            self.verdict = (
                f"no output for {self._idle:g} s; the machine or the network to it may be frozen"
            )
        return bool(self.verdict)

    def _check(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            if self.over():
                self._transport.close()
                return
