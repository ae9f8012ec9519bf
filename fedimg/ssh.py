"""Runs commands on an instance over SSH with a pinned host key; which ones, the caller knows."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.ssh_exception import IncompatiblePeer

from fedimg.exceptions import Cancelled
from fedimg.printed import Printed
from fedimg.secrets import hide

#: Longest wait for a TCP connection, in seconds. A fresh try a second finds a booting machine
#: sooner than the kernel's own, ever rarer ones, and lets a cancelled job leave at once.
TCP_PATIENCE = 1.0
#: Longest one try may take from connection to login, in seconds. Banners were seen 25 s late on a
#: booting machine; a connection that its machine forgot while booting never gets one.
LOGIN_PATIENCE = 60.0
#: Pause between two tries, in seconds. A refused connection costs the machine nothing; who fails
#: at logins too often is shut out for a time (sshd_config, PerSourcePenalties).
PAUSE_CLOSED = 0.2
PAUSE = 1.0
#: How often a wait looks for cancellation and limits, in seconds.
GLANCE = 0.2

#: How much later than a login is given up, in seconds, paramiko would by itself.
_PARAMIKO_LATER = 5.0
#: paramiko logs a traceback a failed try; the reason is in our error instead.
_QUIET = "fedimg.ssh.paramiko"
logging.getLogger(_QUIET).setLevel(logging.CRITICAL + 1)


class Reached(StrEnum):
    """How far the last try at a login came."""

    NOTHING = "no answer to TCP"
    CLOSED = "connection refused"
    PORT = "connected, and no SSH server spoke"
    HOST_KEY = "another host key"
    SERVER = "login refused"
    LOGIN = "logged in"


class SSHError(Exception):
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

    private: paramiko.PKey = field(repr=False)
    private_text: str = field(repr=False)
    public: str


@dataclass(frozen=True)
class Finished:
    """How a command ended; `output` and `errors` are the tails of its two streams, printable and
    without private keys.
    """

    status: int
    output: str
    errors: str


def new_identity(comment: str) -> Identity:
    """A key pair made for this attempt; `comment` ends its public line."""
    text = (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    return Identity(key, text, f"{key.get_name()} {key.get_base64()} {comment}")


def connect(
    address: str,
    port: int,
    user: str,
    *,
    host_key: Identity,
    client_key: Identity,
    limit: float,
    stop: threading.Event,
) -> Session:
    """Log in to a machine that may still be booting.

    Refused connections, late banners and refused logins (cloud-init installs the user's key some
    time after sshd answers) are tried again for `limit` seconds. `stop` cancels this and whatever
    the session runs.

    Raises:
        HostKeyMismatch: at once, when the server cannot show `host_key`.
        SSHError: no login within the limit; the text has the reason of the last try.
        Cancelled: `stop` was set.
    """
    where = f"{user}@{address} port {port}"
    deadline = time.monotonic() + limit
    tries = 0
    while True:
        tries += 1
        try:
            transport = _login(address, port, user, host_key, client_key, deadline, stop)
        except _NotYet as reason:
            pause = PAUSE_CLOSED if reason.reached is Reached.CLOSED else PAUSE
            if time.monotonic() + pause >= deadline:
                raise SSHError(
                    f"no SSH login as {where} within {limit:g} s ({tries} tries); "
                    f"the last one: {reason}",
                    reached=reason.reached,
                ) from reason
        else:
            return Session(transport, where, stop)
        if stop.wait(pause):
            raise Cancelled(f"cancelled while waiting for {where}")


class Session:
    """A login, good for one command after another; close it, or use it as a context manager."""

    def __init__(self, transport: paramiko.Transport, where: str, stop: threading.Event) -> None:
        self._transport = transport
        self._where = where
        self._stop = stop

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
        self._transport.close()

    def run(
        self,
        command: str,
        *,
        given: bytes = b"",
        limit: float,
        idle: float,
        heard: Callable[[str], None] = lambda line: None,
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
        output, errors = Printed(heard), Printed(lambda line: None)
        watch = _Watch(self._transport, self._stop, limit, idle)
        try:
            with watch:
                status = self._converse(command, given, output, errors, watch)
            reason = ""
        except _LinkDied as error:
            status, reason = -1, f": {error}"
        if status >= 0:
            return Finished(status, hide(output.tail), hide(errors.tail))
        killed = self._transport.is_active()
        broke = False
        self.close()
        if watch.cancelled:
            raise Cancelled(f"cancelled while a command ran as {self._where}")
        if watch.verdict:
            problem = f"gave up on a command running as {self._where}: {watch.verdict}"
        elif killed and not reason:
            problem = (
                f"a signal killed the command running as {self._where}; "
                "the instance's console may say why (out of memory?)"
            )
        else:
            broke = True
            problem = f"the connection broke while a command ran as {self._where}{reason}"
        tails = "\n".join(tail for tail in (output.tail, errors.tail) if tail)
        raise SSHError(problem, hide(tails), broke=broke)

    def _converse(
        self, command: str, given: bytes, output: Printed, errors: Printed, watch: _Watch
    ) -> int:
        """Feed and hear the command; return its exit status, or -1 for one it did not tell."""
        with _link_errors():
            channel = self._transport.open_session()
            channel.settimeout(GLANCE)
            channel.exec_command(command)
        unsent: memoryview | None = memoryview(given)
        while True:
            if unsent is not None:
                unsent = _send(channel, unsent)
            with _link_errors():
                if channel.recv_stderr_ready():
                    data, stream = channel.recv_stderr(65536), errors
                else:
                    try:
                        data, stream = channel.recv(65536), output
                    except TimeoutError:
                        # Nothing to hear yet; there may be something to send.
                        continue
            if data:
                watch.heard()
                stream.feed(data)
            elif stream is output and not channel.recv_stderr_ready():
                break
        output.end()
        errors.end()
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


def _login(
    address: str,
    port: int,
    user: str,
    host_key: Identity,
    client_key: Identity,
    deadline: float,
    stop: threading.Event,
) -> paramiko.Transport:
    if stop.is_set():
        raise Cancelled(f"cancelled before connecting to {address} port {port}")
    until = min(deadline, time.monotonic() + LOGIN_PATIENCE)
    try:
        sock = socket.create_connection((address, port), timeout=TCP_PATIENCE)
    except OSError as error:
        closed = isinstance(error, ConnectionRefusedError)
        raise _NotYet(
            f"no connection: {error.strerror or error}",
            Reached.CLOSED if closed else Reached.NOTHING,
        ) from error
    try:
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    try:
        _handshake(transport, f"{address} port {port}", host_key, until, stop)
        _authenticate(transport, user, client_key, until, stop)
    except BaseException:
        transport.close()
        sock.close()
        raise
    return transport


def _handshake(
    transport: paramiko.Transport,
    where: str,
    host_key: Identity,
    until: float,
    stop: threading.Event,
) -> None:
    pinned = host_key.private
    transport.set_log_channel(_QUIET)
    # Nothing but the pinned key's algorithm is offered: a server without that key ends here.
    transport.get_security_options().key_types = (pinned.get_name(),)
    # Ours is the limit that counts: its words tell which it was.
    left = until - time.monotonic() + _PARAMIKO_LATER
    transport.banner_timeout = transport.handshake_timeout = left
    done = threading.Event()
    transport.start_client(event=done)
    if not _await(done, transport, until, stop):
        raise _NotYet("the port is open, but no SSH server answered there", Reached.PORT)
    error = transport.get_exception()
    if isinstance(error, IncompatiblePeer):
        raise HostKeyMismatch(
            f"the SSH server at {where} has no {pinned.get_name()} host key or none of our "
            f"ciphers, so it is not the machine that was started: {error}"
        )
    if error is not None or not transport.is_active():
        raise _NotYet(f"no SSH handshake: {error or 'the server hung up'}", Reached.PORT)
    if transport.get_remote_server_key().asbytes() != pinned.asbytes():
        raise HostKeyMismatch(
            f"the SSH server at {where} shows another host key than the one made for this "
            "machine: its address went to another machine, its cloud-init did not install the key, "
            "or somebody sits in between; nothing was sent to it"
        )


def _authenticate(
    transport: paramiko.Transport,
    user: str,
    client_key: Identity,
    until: float,
    stop: threading.Event,
) -> None:
    done = threading.Event()
    try:
        transport.auth_publickey(user, client_key.private, event=done)
    except paramiko.SSHException as error:
        raise _NotYet(f"the server hung up before the login: {error}", Reached.SERVER) from error
    if not _await(done, transport, until, stop):
        raise _NotYet("the server did not answer the login", Reached.SERVER)
    if not transport.is_authenticated():
        raise _NotYet(
            f"the server refused the key of user {user!r} ({transport.get_exception()}): is that "
            "the image's default user, and did cloud-init run to its end?",
            Reached.SERVER,
        )


def _await(
    done: threading.Event, transport: paramiko.Transport, until: float, stop: threading.Event
) -> bool:
    """Wait for paramiko's thread; False when `until` passed first."""
    while not done.wait(GLANCE):
        if stop.is_set():
            raise Cancelled("cancelled while logging in")
        if time.monotonic() >= until:
            return False
        if not transport.is_active():
            return True
    return True


def _send(channel: paramiko.Channel, unsent: memoryview) -> memoryview | None:
    """Send what the server takes at once; None when all is sent or nobody reads it any more."""
    try:
        while unsent and channel.send_ready():
            unsent = unsent[channel.send(unsent[:32768].tobytes()) :]
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
    """Closes the connection of a command that is cancelled or out of time.

    A thread of its own, because paramiko waits without limit for the answers to some requests and
    for a full socket.
    """

    def __init__(
        self, transport: paramiko.Transport, stop: threading.Event, limit: float, idle: float
    ) -> None:
        self.verdict = ""
        self.cancelled = False
        self._transport = transport
        self._stop = stop
        self._limit = limit
        self._idle = idle
        self._started = self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fedimg-ssh-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def heard(self) -> None:
        """Something came: the idle limit counts from now."""
        self._last = time.monotonic()

    def _look(self) -> None:
        while not self._over.wait(GLANCE):
            now = time.monotonic()
            if self._stop.is_set():
                self.cancelled = True
            elif now - self._started > self._limit:
                self.verdict = f"it was not done after {self._limit:g} s"
            elif now - self._last > self._idle:
                self.verdict = (
                    f"nothing was heard from it for {self._idle:g} s; "
                    "the machine or the link to it is frozen"
                )
            else:
                continue
            self._transport.close()
            return
