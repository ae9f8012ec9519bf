"""An SSH client with a pinned host key, for a machine that may be hostile; in a process of its own.

What the machine sends is bounded in bytes and lines before the login, and by each command; the
process has limits of memory and time for what these bounds miss.
"""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from fedimg.exceptions import exhausted
from fedimg.ssh.output import InstanceOutput
from fedimg.ssh.protocol import Command, Failed, Finished, Reached

#: Longest wait for a TCP connection, in seconds. A fresh try a second finds a booting machine
#: sooner than the kernel's own, ever rarer ones.
TCP_PATIENCE = 1.0
#: Longest one try may take from connection to login, in seconds. Banners were seen 25 s late on a
#: booting machine; a connection that its machine forgot while booting never gets one.
LOGIN_PATIENCE = 60.0
#: Pause between two tries, in seconds. A refused connection costs the machine nothing; who fails
#: at logins too often is shut out for a time (sshd_config, PerSourcePenalties).
PAUSE_CLOSED = 0.2
PAUSE = 1.0
#: How often a wait looks for limits, in seconds.
GLANCE = 0.2
#: What a machine may send up to the login, and while one command runs, in bytes. A login takes some
#: 5 KB, and hours of progress 10 MB.
LARGEST_LOGIN = 256 * 1024
LARGEST_OUTPUT = 32 * 1024 * 1024
#: So many lines of one command are passed on.
MOST_LINES = 1_000_000

#: How much later than a login is given up, in seconds, paramiko would by itself.
_PARAMIKO_LATER = 5.0
#: How long a connection may outlast a command that its machine's end has killed, in seconds.
_GOING_DOWN = 2.0
#: Of a stream so many bytes are taken at once.
_CHUNK = 32768
#: paramiko logs a traceback a failed try; the reason is in our message instead.
_QUIET = "fedimg.ssh.paramiko"
logging.getLogger(_QUIET).setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Keys:
    """The host key that a server has to show, and the key that is logged in with."""

    host: paramiko.PKey
    client: paramiko.PKey


def keys(host: str, client: str) -> Keys:
    """The keys out of a public line, and out of a private half in OpenSSH's own format."""
    return Keys(
        paramiko.Ed25519Key(data=base64.b64decode(host.split()[1])),
        paramiko.Ed25519Key.from_private_key(io.StringIO(client)),
    )


class GaveUp(Exception):
    """There is no login, or a command did not come to its end; `failed` tells why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.problem)
        self.failed = failed


def connect(address: str, port: int, user: str, keys: Keys, limit: float) -> Session:
    """Log in to a machine that may still be booting.

    Refused connections, late banners and refused logins (cloud-init installs the user's key some
    time after sshd answers) are tried again for `limit` seconds.

    Raises:
        GaveUp: no login within the limit, and the text has the reason of the last try; or, at
            once, the server cannot show its key, or sends too much.
        MemoryError: it sent what takes too much memory.
    """
    where = f"{user}@{address} port {port}"
    deadline = time.monotonic() + limit
    tries = 0
    while True:
        tries += 1
        try:
            return Session(*_login(address, port, user, keys, deadline), where)
        except _NotYet as reason:
            pause = PAUSE_CLOSED if reason.reached is Reached.CLOSED else PAUSE
            if time.monotonic() + pause >= deadline:
                problem = (
                    f"no SSH login as {where} within {limit:g} s ({tries} tries); "
                    f"the last one: {reason}"
                )
                raise GaveUp(Failed(problem, reached=reason.reached)) from reason
        time.sleep(pause)


class Session:
    """A login, good for one command after another."""

    def __init__(self, transport: paramiko.Transport, line: _Line, where: str) -> None:
        self._transport = transport
        self._line = line
        self._where = where

    def run(
        self, asked: Command, given: bytes, tell: Callable[[list[str]], None] = lambda lines: None
    ) -> Finished:
        """Run a command in the user's login shell with `given` on its standard input.

        Lines of standard output go to `tell` as they come, where they were asked for. Raises
        GaveUp when a limit passed, the link broke, or a signal killed the command, and
        MemoryError for what takes too much memory; any exit status is a result. After either the
        session is over.
        """
        lines: list[str] = []
        output = InstanceOutput(lines.append if asked.lines else lambda line: None)
        errors = InstanceOutput(lambda line: None)
        self._line.allow(LARGEST_OUTPUT)
        watch = _Watch(self._transport, asked.limit, asked.idle)

        def heard() -> None:
            watch.heard(len(lines))
            if lines:
                tell(lines)
                lines.clear()

        try:
            with watch:
                status = self._converse(asked.command, given, output, errors, watch, heard)
            reason = ""
        except _LinkDied as error:
            status, reason = -1, f": {error}"
        if status >= 0:
            return Finished(status, output.tail, errors.tail)
        if not reason:
            # A machine that goes down ends what runs before it ends its connections.
            self._transport.join(_GOING_DOWN)
        killed = self._transport.is_active()
        if exhausted(self._transport.get_exception()):
            raise MemoryError
        self._transport.close()
        broke = False
        if verdict := watch.verdict or self._line.verdict:
            problem = f"gave up on a command running as {self._where}: {verdict}"
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

    def _converse(
        self,
        command: str,
        given: bytes,
        output: InstanceOutput,
        errors: InstanceOutput,
        watch: _Watch,
        heard: Callable[[], None],
    ) -> int:
        """Feed and hear the command; return its exit status, or -1 for one it did not tell."""
        with _link_errors():
            channel = self._transport.open_session()
            channel.settimeout(GLANCE)
            channel.exec_command(command)
        unsent: memoryview | None = memoryview(given)
        # What has come already is not read to its end when it is over.
        while not watch.over():
            if unsent is not None:
                unsent = _send(channel, unsent)
            with _link_errors():
                if channel.recv_stderr_ready():
                    data, stream = channel.recv_stderr(_CHUNK), errors
                else:
                    try:
                        data, stream = channel.recv(_CHUNK), output
                    except TimeoutError:
                        # Nothing to hear yet; there may be something to send.
                        continue
            if data:
                stream.feed(data)
                heard()
            elif stream is output and not channel.recv_stderr_ready():
                break
        else:
            return -1
        output.end()
        errors.end()
        heard()
        with _link_errors():
            status = channel.recv_exit_status()
            channel.close()
        return status


class _NotYet(Exception):
    """One try at a login failed in a way that a booting machine's may."""

    def __init__(self, problem: str, reached: Reached) -> None:
        super().__init__(problem)
        self.reached = reached


class _LinkDied(Exception):
    """paramiko could not go on."""


@contextmanager
def _link_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise _LinkDied(str(error) or type(error).__name__) from error


class _Line(socket.socket):
    """A connection that carries no more bytes to us than it is allowed to.

    A socket, as paramiko looks into it.
    """

    def __init__(self, connected: socket.socket, allowed: int) -> None:
        timeout = connected.gettimeout()
        super().__init__(fileno=connected.detach())
        self.settimeout(timeout)
        self.verdict = ""
        self.allow(allowed)

    def allow(self, count: int) -> None:
        """From now on so many bytes may come."""
        self._allowed = self._left = count

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Receive at most `count` bytes; none, as from a closed connection, beyond the limit."""
        # A length that a machine names would be set aside in memory before anything comes.
        data = super().recv(min(count, _CHUNK), flags)
        self._left -= len(data)
        if self._left < 0:
            self.verdict = f"the machine sent more than {self._allowed >> 10} KiB"
            return b""
        return data


def _login(
    address: str, port: int, user: str, keys: Keys, deadline: float
) -> tuple[paramiko.Transport, _Line]:
    until = min(deadline, time.monotonic() + LOGIN_PATIENCE)
    try:
        sock = socket.create_connection((address, port), timeout=TCP_PATIENCE)
    except OSError as error:
        closed = isinstance(error, ConnectionRefusedError)
        raise _NotYet(
            f"no connection: {error.strerror or error}",
            Reached.CLOSED if closed else Reached.NOTHING,
        ) from error
    line = _Line(sock, LARGEST_LOGIN)
    transport = paramiko.Transport(line)
    try:
        _handshake(transport, f"{address} port {port}", keys.host, until)
        _authenticate(transport, user, keys.client, until)
    except _NotYet as reason:
        transport.close()
        if line.verdict:
            problem = f"no SSH login as {user}@{address} port {port}: {line.verdict} before it"
            raise GaveUp(Failed(problem, reached=reason.reached)) from reason
        raise
    return transport, line


def _handshake(
    transport: paramiko.Transport, where: str, pinned: paramiko.PKey, until: float
) -> None:
    transport.set_log_channel(_QUIET)
    # Nothing but the pinned key's algorithm is offered: a server without that key ends here.
    transport.get_security_options().key_types = (pinned.get_name(),)
    # Ours is the limit that counts: its words tell which it was.
    left = until - time.monotonic() + _PARAMIKO_LATER
    transport.banner_timeout = transport.handshake_timeout = left
    done = threading.Event()
    transport.start_client(event=done)
    if not _await(done, transport, until):
        raise _NotYet("the port is open, but no SSH server answered there", Reached.PORT)
    error = transport.get_exception()
    if exhausted(error):
        raise MemoryError
    if isinstance(error, IncompatiblePeer):
        problem = (
            f"the SSH server at {where} has no {pinned.get_name()} host key or none of our "
            f"ciphers, so it is not the machine that was started: {error}"
        )
        raise GaveUp(Failed(problem, reached=Reached.HOST_KEY))
    if error is not None or not transport.is_active():
        raise _NotYet(f"no SSH handshake: {error or 'the server hung up'}", Reached.PORT)
    if transport.get_remote_server_key().asbytes() != pinned.asbytes():
        problem = (
            f"the SSH server at {where} shows another host key than the one made for this "
            "machine: its address went to another machine, its cloud-init did not install the key, "
            "or somebody sits in between; nothing was sent to it"
        )
        raise GaveUp(Failed(problem, reached=Reached.HOST_KEY))


def _authenticate(
    transport: paramiko.Transport, user: str, key: paramiko.PKey, until: float
) -> None:
    done = threading.Event()
    try:
        transport.auth_publickey(user, key, event=done)
    except paramiko.SSHException as error:
        raise _NotYet(f"the server hung up before the login: {error}", Reached.SERVER) from error
    if not _await(done, transport, until):
        raise _NotYet("the server did not answer the login", Reached.SERVER)
    if not transport.is_authenticated():
        reason = transport.get_exception()
        if exhausted(reason):
            raise MemoryError
        raise _NotYet(
            f"the server refused the key of user {user!r} ({reason}): is that "
            "the image's default user, and did cloud-init run to its end?",
            Reached.SERVER,
        )


def _await(done: threading.Event, transport: paramiko.Transport, until: float) -> bool:
    """Wait for paramiko's thread; False when `until` passed first."""
    while not done.wait(GLANCE):
        if time.monotonic() >= until:
            return False
        if not transport.is_active():
            return True
    return True


def _send(channel: paramiko.Channel, unsent: memoryview) -> memoryview | None:
    """Send what the server takes at once; None when all is sent or nobody reads it any more."""
    try:
        while unsent and channel.send_ready():
            unsent = unsent[channel.send(unsent[:_CHUNK].tobytes()) :]
        if unsent:
            return unsent
        channel.shutdown_write()
    except TimeoutError:
        return unsent
    except (OSError, EOFError, paramiko.SSHException):
        # A command may end without reading its input; its exit status tells whether that is well.
        return None
    return None


class _Watch:
    """Closes the connection of a command that is out of time, or has told too much.

    A thread of its own, because paramiko waits without limit for the answers to some requests and
    for a full socket.
    """

    def __init__(self, transport: paramiko.Transport, limit: float, idle: float) -> None:
        self.verdict = ""
        self._transport = transport
        self._limit = limit
        self._idle = idle
        self._lines = 0
        self._started = self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fedimg-ssh-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def heard(self, lines: int) -> None:
        """Something came, so many lines to pass on among it: the idle limit counts from now."""
        self._last = time.monotonic()
        self._lines += lines

    def over(self) -> bool:
        """Whether a limit has passed; `verdict` says which."""
        now = time.monotonic()
        if self.verdict:
            return True
        if self._lines > MOST_LINES:
            self.verdict = f"it printed more than {MOST_LINES} lines"
        elif now - self._started > self._limit:
            self.verdict = f"it was not done after {self._limit:g} s"
        elif now - self._last > self._idle:
            self.verdict = (
                f"nothing was heard from it for {self._idle:g} s; "
                "the machine or the link to it is frozen"
            )
        return bool(self.verdict)

    def _look(self) -> None:
        while not self._done.wait(GLANCE):
            if self.over():
                self._transport.close()
                return
