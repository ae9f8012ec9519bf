"""Try once to log in to a machine: from the TCP connection to the accepted key."""

from __future__ import annotations

import logging
import socket
import threading
import time

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from fedimg.exceptions import exhausted
from fedimg.ssh.bounded_socket import KEPT, BoundedSocket
from fedimg.ssh.keys import Keys
from fedimg.ssh.protocol import Failed, GaveUp, Reached
from fedimg.untrusted import failures
from fedimg.untrusted.quoting import printable, quoted

#: Timeout of one TCP connection, in seconds. A new try each second finds a booting machine sooner
#: than the kernel's tries at growing intervals.
TCP_TIMEOUT = 1.0
#: Timeout of one try from connection to login, in seconds. A booting machine may send its banner
#: 25 s late, and never on a connection that it forgot while booting.
LOGIN_TIMEOUT = 60.0
#: Pause before the key is tried again on the same connection, in seconds.
PAUSE = 1.0
#: Most bytes that a machine may send up to the login, which takes some 5 KB.
LARGEST_LOGIN = 256 * 1024
#: What servers say in place of an SSH banner to an address that they shut out for a while.
_SHUT_OUT = ("Not allowed at this time", "Exceeded MaxStartups")
#: Interval at which the limits are checked, in seconds.
_POLL_SECONDS = 0.2
#: Seconds by which paramiko's own timeouts exceed ours.
_PARAMIKO_MARGIN = 5.0
#: The name of paramiko's log, which is off: it has a traceback for each failed try, and our errors
#: hold the reason.
_QUIET = "fedimg.ssh.paramiko"
logging.getLogger(_QUIET).setLevel(logging.CRITICAL + 1)


class TryFailed(Exception):
    """One try at a login failed, and a later try may succeed, as on a booting machine."""

    def __init__(self, problem: str, reached: Reached, *, shut_out: bool = False) -> None:
        super().__init__(problem)
        self.reached = reached
        self.shut_out = shut_out


def log_in(
    address: str, port: int, user: str, keys: Keys, deadline: float, often: int
) -> tuple[paramiko.Transport, BoundedSocket]:
    """Return a connection on which `user` is logged in, and its socket.

    The key is tried `often` times on the connection, which ends at `deadline` of the monotonic
    clock, or after LOGIN_TIMEOUT. Raises TryFailed when a later try may succeed, and GaveUp when
    the server is another one or sends too much.
    """
    until = min(deadline, time.monotonic() + LOGIN_TIMEOUT)
    try:
        sock = socket.create_connection((address, port), timeout=TCP_TIMEOUT)
    except OSError as error:
        closed = isinstance(error, ConnectionRefusedError)
        raise TryFailed(
            f"no TCP connection: {failures.reason(error)}",
            Reached.CLOSED if closed else Reached.NOTHING,
        ) from error
    bounded_socket = BoundedSocket(sock, LARGEST_LOGIN)
    transport = paramiko.Transport(bounded_socket)
    try:
        _handshake(transport, bounded_socket, f"{address} port {port}", keys.host, until)
        for left in reversed(range(often)):
            try:
                _authenticate(transport, user, keys.client, until)
                break
            except TryFailed:
                if not left or not transport.is_active() or time.monotonic() + PAUSE >= until:
                    raise
                time.sleep(PAUSE)
    except TryFailed as reason:
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
    bounded_socket: BoundedSocket,
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
        raise TryFailed(
            f'the port is open, and the server said "{said}" in place of an SSH banner',
            Reached.PORT,
            shut_out=said.startswith(_SHUT_OUT),
        )
    if not answered:
        raise TryFailed("the port is open, but no SSH server answered", Reached.PORT)
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
        raise TryFailed(f"the SSH handshake failed: {why}", Reached.PORT)
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
        raise TryFailed(
            f"the server closed the connection before the login: {failures.reason(error)}",
            Reached.SERVER,
        ) from error
    if not _await(done, transport, until):
        raise TryFailed("the server did not answer the login", Reached.SERVER)
    if not transport.is_authenticated():
        reason = transport.get_exception()
        if exhausted(reason):
            raise MemoryError
        raise TryFailed(
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
    return " ".join(printable(str(text)).split())[:KEPT]


def _await(done: threading.Event, transport: paramiko.Transport, until: float) -> bool:
    """Wait for paramiko's thread; return False when `until` passed first."""
    while not done.wait(_POLL_SECONDS):
        if time.monotonic() >= until:
            return False
        if not transport.is_active():
            return True
    return True
