"""Talk SSH to a machine that may be hostile, with a pinned host key; runs in a separate process.

The machine's output is bounded in bytes and lines before the login, and for each command; limits of
the process's memory and time catch what these bounds miss.
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
from fedimg.untrusted import failures
from fedimg.untrusted.quoting import printable, quoted

#: Timeout of one TCP connection, in seconds. A new try each second finds a booting machine sooner
#: than the kernel's tries at growing intervals.
TCP_TIMEOUT = 1.0
#: Timeout of one try from connection to login, in seconds. A booting machine may send its banner
#: 25 s late, and never on a connection that it forgot while booting.
LOGIN_TIMEOUT = 60.0
#: Pause between two tries, in seconds. A refused connection costs the machine nothing.
PAUSE_CLOSED = 0.2
PAUSE = 1.0
#: OpenSSH 9.8 and later shut an address out once 15 s of penalties have gathered; each connection
#: whose logins were rejected adds 5 s, which pass with time (sshd_config, PerSourcePenalties). So
#: after some quick connections each takes at least as long as its penalty, and tries the key as
#: often as OpenSSH takes it from one connection (MaxAuthTries, less one).
QUICK_CONNECTIONS = 2
REJECTED_SECONDS = 5.5
TRIES_OF_A_CONNECTION = 5
#: Pause after a server has said that it shuts us out, in seconds; its shortest penalty is 15 s.
PAUSE_SHUT_OUT = 16.0
#: What servers say in place of an SSH banner to an address that they shut out for a while.
_SHUT_OUT = ("Not allowed at this time", "Exceeded MaxStartups")
#: Most bytes of what a server says in place of a banner that are quoted.
_QUOTED = 200
#: The stages of a try, from the first to the last.
_STAGES = (Reached.NOTHING, Reached.CLOSED, Reached.PORT, Reached.SERVER)
#: Interval at which the limits are checked, in seconds.
POLL_SECONDS = 0.2
#: Most bytes that a machine may send up to the login, and while one command runs. A login takes
#: some 5 KB, and hours of progress 10 MB.
LARGEST_LOGIN = 256 * 1024
LARGEST_OUTPUT = 32 * 1024 * 1024
#: Most lines of one command that are passed on.
MOST_LINES = 1_000_000

#: Seconds by which paramiko's own timeouts exceed ours.
_PARAMIKO_MARGIN = 5.0
#: Seconds for which a connection may outlast a command that the machine's shutdown has killed.
_GOING_DOWN = 2.0
#: Bytes that are read from a stream at once.
_CHUNK = 32768
#: The name of paramiko's log, which is off: it has a traceback for each failed try, and our errors
#: hold the reason.
_QUIET = "fedimg.ssh.paramiko"
logging.getLogger(_QUIET).setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Keys:
    """The server's host key, and the key for the login."""

    host: paramiko.PKey
    client: paramiko.PKey


def keys(host: str, client: str) -> Keys:
    """Parse a host key's public line, and a client's private key in OpenSSH's own format."""
    return Keys(
        paramiko.Ed25519Key(data=base64.b64decode(host.split()[1])),
        paramiko.Ed25519Key.from_private_key(io.StringIO(client)),
    )


class GaveUp(Exception):
    """The login failed, or a command did not end by itself; `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.problem)
        self.failed = failed


def connect(address: str, port: int, user: str, keys: Keys, limit: float) -> Session:
    """Log in to a machine that may still be booting.

    Refused connections, late banners and rejected logins (cloud-init installs the user's key some
    time after sshd answers) are tried again for `limit` seconds.

    Raises:
        GaveUp: there was no login within the limit, and the text has the reason of the try that
            came furthest, the latest of these; or, at once, the server does not have the host key,
            or sends too much.
        MemoryError: reading what the server sent takes too much memory.
    """
    where = f"{user}@{address} port {port}"
    deadline = time.monotonic() + limit
    tries = rejected = 0
    furthest: _TryFailed | None = None
    while True:
        tries += 1
        began = time.monotonic()
        often = TRIES_OF_A_CONNECTION if rejected >= QUICK_CONNECTIONS else 1
        try:
            return Session(*_login(address, port, user, keys, deadline, often), where)
        except _TryFailed as reason:
            if furthest is None or _stage(reason) >= _stage(furthest):
                furthest = reason
            rejected += reason.reached is Reached.SERVER
            pause = _pause(reason, rejected, time.monotonic() - began)
            if time.monotonic() + pause >= deadline:
                problem = f"no SSH login as {where} within {limit:g} s ({tries} tries): {furthest}"
                if furthest is not reason:
                    problem += f"; the last try came less far: {reason}"
                raise GaveUp(Failed(problem, reached=furthest.reached)) from reason
        time.sleep(pause)


def _stage(reason: _TryFailed) -> int:
    return _STAGES.index(reason.reached)


def _pause(reason: _TryFailed, rejected: int, took: float) -> float:
    """Return the pause after a try of `took` seconds, before which `rejected` logins failed."""
    if reason.shut_out:
        return PAUSE_SHUT_OUT
    if reason.reached is Reached.CLOSED:
        return PAUSE_CLOSED
    if reason.reached is Reached.SERVER and rejected > QUICK_CONNECTIONS:
        return max(PAUSE, REJECTED_SECONDS - took)
    return PAUSE


class Session:
    """A login that runs one command after another."""

    def __init__(
        self, transport: paramiko.Transport, bounded_socket: _BoundedSocket, where: str
    ) -> None:
        self._transport = transport
        self._socket = bounded_socket
        self._where = where

    def run(
        self,
        request: Command,
        stdin: bytes,
        on_lines: Callable[[list[str]], None] = lambda lines: None,
    ) -> Finished:
        """Run a command in the user's login shell with `stdin` on its standard input.

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
                status = self._exchange(request.command, stdin, output, errors, watch, on_data)
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
        command: str,
        stdin: bytes,
        output: InstanceOutput,
        errors: InstanceOutput,
        watch: _Watch,
        on_data: Callable[[], None],
    ) -> int:
        """Send input, read output; return the command's exit status, -1 if the server sent none."""
        with _connection_errors():
            channel = self._transport.open_session()
            channel.settimeout(POLL_SECONDS)
            channel.exec_command(command)
        unsent: memoryview | None = memoryview(stdin)
        # Output that has arrived is not read to its end when a limit has passed.
        while not watch.over():
            if unsent is not None:
                unsent = _send(channel, unsent)
            with _connection_errors():
                if channel.recv_stderr_ready():
                    data, stream = channel.recv_stderr(_CHUNK), errors
                else:
                    try:
                        data, stream = channel.recv(_CHUNK), output
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


class _TryFailed(Exception):
    """One try at a login failed, and a later try may succeed, as on a booting machine."""

    def __init__(self, problem: str, reached: Reached, *, shut_out: bool = False) -> None:
        super().__init__(problem)
        self.reached = reached
        self.shut_out = shut_out


class _ConnectionLost(Exception):
    """The connection broke."""


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise _ConnectionLost(failures.reason(error)) from error


class _BoundedSocket(socket.socket):
    """A socket that receives no more bytes than allowed, and keeps the first ones.

    It derives from socket.socket because paramiko uses more of it than send and recv.
    """

    def __init__(self, connected: socket.socket, allowed: int) -> None:
        timeout = connected.gettimeout()
        super().__init__(fileno=connected.detach())
        self.settimeout(timeout)
        self.verdict = ""
        self.beginning = b""
        self.allow(allowed)

    def allow(self, count: int) -> None:
        """Allow `count` bytes from now on."""
        self._allowed = self._left = count

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Receive at most `count` bytes; beyond the limit, none, as from a closed connection."""
        # socket.recv allocates `count` bytes, which the machine may have chosen, before any arrive.
        data = super().recv(min(count, _CHUNK), flags)
        self._left -= len(data)
        if len(self.beginning) < _QUOTED:
            self.beginning += data[: _QUOTED - len(self.beginning)]
        if self._left < 0:
            self.verdict = f"the machine sent more than {self._allowed >> 10} KiB"
            return b""
        return data


def _login(
    address: str, port: int, user: str, keys: Keys, deadline: float, often: int
) -> tuple[paramiko.Transport, _BoundedSocket]:
    until = min(deadline, time.monotonic() + LOGIN_TIMEOUT)
    try:
        sock = socket.create_connection((address, port), timeout=TCP_TIMEOUT)
    except OSError as error:
        closed = isinstance(error, ConnectionRefusedError)
        raise _TryFailed(
            f"no TCP connection: {failures.reason(error)}",
            Reached.CLOSED if closed else Reached.NOTHING,
        ) from error
    bounded_socket = _BoundedSocket(sock, LARGEST_LOGIN)
    transport = paramiko.Transport(bounded_socket)
    try:
        _handshake(transport, bounded_socket, f"{address} port {port}", keys.host, until)
        for left in reversed(range(often)):
            try:
                _authenticate(transport, user, keys.client, until)
                break
            except _TryFailed:
                if not left or not transport.is_active() or time.monotonic() + PAUSE >= until:
                    raise
                time.sleep(PAUSE)
    except _TryFailed as reason:
        transport.close()
        if bounded_socket.verdict:
            problem = (
                f"no SSH login as {user}@{address} port {port}: {bounded_socket.verdict} before "
                "the login"
            )
            raise GaveUp(Failed(problem, reached=reason.reached)) from reason
        raise
    return transport, bounded_socket


def _handshake(
    transport: paramiko.Transport,
    bounded_socket: _BoundedSocket,
    where: str,
    pinned: paramiko.PKey,
    until: float,
) -> None:
    transport.set_log_channel(_QUIET)
    # Offer only the algorithm of the pinned key: a server without such a key fails here.
    transport.get_security_options().key_types = (pinned.get_name(),)
    # Our own timeouts pass first: their errors say which one it was.
    left = until - time.monotonic() + _PARAMIKO_MARGIN
    transport.banner_timeout = transport.handshake_timeout = left
    done = threading.Event()
    transport.start_client(event=done)
    answered = _await(done, transport, until)
    error = transport.get_exception()
    failed = not answered or error is not None or not transport.is_active()
    said = _in_place_of_banner(bounded_socket.beginning)
    if failed and said and not bounded_socket.verdict:
        raise _TryFailed(
            f'the port is open, and the server said "{said}" in place of an SSH banner',
            Reached.PORT,
            shut_out=said.startswith(_SHUT_OUT),
        )
    if not answered:
        raise _TryFailed("the port is open, but no SSH server answered", Reached.PORT)
    if exhausted(error):
        raise MemoryError
    if isinstance(error, IncompatiblePeer):
        problem = (
            f"the SSH server at {where} is not that of the started machine: it has no "
            f"{pinned.get_name()} host key, or supports none of our ciphers: {error}"
        )
        raise GaveUp(Failed(problem, reached=Reached.HOST_KEY))
    if error is not None or not transport.is_active():
        why = "the server closed the connection" if error is None else failures.reason(error)
        raise _TryFailed(f"the SSH handshake failed: {why}", Reached.PORT)
    if transport.get_remote_server_key().asbytes() != pinned.asbytes():
        problem = (
            f"the SSH server at {where} has another host key than the started machine: the address "
            "went to another machine, cloud-init did not install the key, or somebody intercepts "
            "the connection; nothing was sent to the server"
        )
        raise GaveUp(Failed(problem, reached=Reached.HOST_KEY))


def _authenticate(
    transport: paramiko.Transport, user: str, key: paramiko.PKey, until: float
) -> None:
    done = threading.Event()
    try:
        transport.auth_publickey(user, key, event=done)
    except paramiko.SSHException as error:
        raise _TryFailed(
            f"the server closed the connection before the login: {failures.reason(error)}",
            Reached.SERVER,
        ) from error
    if not _await(done, transport, until):
        raise _TryFailed("the server did not answer the login", Reached.SERVER)
    if not transport.is_authenticated():
        reason = transport.get_exception()
        if exhausted(reason):
            raise MemoryError
        raise _TryFailed(
            f"the server ({_printed(transport.remote_version)}) rejected the key of user "
            f"{quoted(user)}: {_refusal(transport, key, reason)}; check that this is the image's "
            "default user, and that cloud-init ended",
            Reached.SERVER,
        )


def _refusal(
    transport: paramiko.Transport, key: paramiko.PKey, reason: BaseException | None
) -> str:
    """Return which ways to log in the server offers, which one it refused, and its own words."""
    if isinstance(reason, paramiko.BadAuthenticationType):
        offered = ", ".join(map(_printed, reason.allowed_types)) or "nothing"
        text = f"it offers {offered}, and no public keys"
    elif isinstance(reason, paramiko.SSHException):
        text = failures.reason(reason)
    elif not transport.is_active():
        text = f"it closed the connection when the {key.get_name()} key was offered"
    else:
        text = f"it offers public keys, and refused this {key.get_name()} key"
    banner = transport.get_banner()
    return f'{text}; it says "{_printed(banner.decode(errors="replace"))}"' if banner else text


def _in_place_of_banner(received: bytes) -> str:
    """Return the first line that a server sent, if it sent no SSH banner; else an empty text."""
    lines = received.decode(errors="replace").splitlines()
    if not lines or any(line.startswith("SSH-") for line in lines):
        return ""
    return _printed(lines[0])


def _printed(text: object) -> str:
    return " ".join(printable(str(text)).split())[:_QUOTED]


def _await(done: threading.Event, transport: paramiko.Transport, until: float) -> bool:
    """Wait for paramiko's thread; return False when `until` passed first."""
    while not done.wait(POLL_SECONDS):
        if time.monotonic() >= until:
            return False
        if not transport.is_active():
            return True
    return True


def _send(channel: paramiko.Channel, unsent: memoryview) -> memoryview | None:
    """Send what the server accepts now; return the rest, None if all is sent or input is closed."""
    try:
        while unsent and channel.send_ready():
            unsent = unsent[channel.send(unsent[:_CHUNK].tobytes()) :]
        if unsent:
            return unsent
        channel.shutdown_write()
    except TimeoutError:
        return unsent
    except (OSError, EOFError, paramiko.SSHException):
        # A command may end without reading its input; its exit status tells whether it succeeded.
        return None
    return None


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
        while not self._done.wait(POLL_SECONDS):
            if self.over():
                self._transport.close()
                return
