"""Log in to a machine that may be hostile, with a pinned host key; runs in a separate process.

The machine's output is bounded in bytes and lines before the login, and for each command; limits of
the process's memory and time catch what these bounds miss.
"""

from __future__ import annotations

import time

from fedimg.ssh.keys import Keys
from fedimg.ssh.login import PAUSE, TryFailed, log_in
from fedimg.ssh.protocol import Failed, GaveUp, Reached
from fedimg.ssh.session import Session

#: Pause between two tries, in seconds, while the machine refuses connections, which costs it
#: nothing; after any other failure it is PAUSE.
PAUSE_CLOSED = 0.2
#: OpenSSH 9.8 and later shut an address out once 15 s of penalties have gathered; each connection
#: whose logins were rejected adds 5 s, which pass with time (sshd_config, PerSourcePenalties). So
#: after some quick connections each takes at least as long as its penalty, and tries the key as
#: often as OpenSSH takes it from one connection (MaxAuthTries, less one).
QUICK_CONNECTIONS = 2
REJECTED_SECONDS = 5.5
TRIES_OF_A_CONNECTION = 5
#: Pause after a server has said that it shuts us out, in seconds; its shortest penalty is 15 s.
PAUSE_SHUT_OUT = 16.0
#: The stages of a try, from the first to the last.
_STAGES = (Reached.NOTHING, Reached.CLOSED, Reached.PORT, Reached.SERVER)


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
    furthest: TryFailed | None = None
    while True:
        tries += 1
        began = time.monotonic()
        often = TRIES_OF_A_CONNECTION if rejected >= QUICK_CONNECTIONS else 1
        try:
            return Session(*log_in(address, port, user, keys, deadline, often), where)
        except TryFailed as reason:
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


def _stage(reason: TryFailed) -> int:
    return _STAGES.index(reason.reached)


def _pause(reason: TryFailed, rejected: int, took: float) -> float:
    """Return the pause after a try of `took` seconds, before which `rejected` logins failed."""
    if reason.shut_out:
        return PAUSE_SHUT_OUT
    if reason.reached is Reached.CLOSED:
        return PAUSE_CLOSED
    if reason.reached is Reached.SERVER and rejected > QUICK_CONNECTIONS:
        return max(PAUSE, REJECTED_SECONDS - took)
    return PAUSE
