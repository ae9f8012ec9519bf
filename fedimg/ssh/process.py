"""Talk SSH to one machine for the worker, as the process `python -I -m fedimg.ssh.process`.

A machine that exploits it, or a library of it, has broken into a process with little memory, no
environment, and the keys of one machine. It reads a login and then commands from standard input,
and answers on standard output.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import sys
import threading

from fedimg.exceptions import exhausted
from fedimg.process.hardening import hide_memory
from fedimg.ssh.further import Further
from fedimg.ssh.protocol import (
    GRACE,
    OUT_OF_MEMORY,
    Command,
    GaveUp,
    Input,
    Lines,
    LoggedIn,
    Login,
    Ready,
    Reply,
    encoded,
)

#: Stack size of a thread, in bytes; the default of 8 MiB would count against the memory limit.
_STACK = 1024 * 1024


def main() -> None:
    """Log in, and run commands until standard input ends."""
    threading.stack_size(_STACK)
    threading.excepthook = _end_with_thread
    threading.Thread(target=_end_with_worker, daemon=True).start()
    # The process receives a private key.
    hide_memory()
    _limit(resource.RLIMIT_CORE, 0)
    # paramiko imports invoke, if it is installed, for commands of SSH configuration files: that
    # takes half of this process's start time, and a quarter of its memory.
    sys.modules["invoke"] = None  # type: ignore[assignment]
    from fedimg.ssh import connection, keys

    requests = sys.stdin.buffer
    _send(Ready())
    login = Login(**json.loads(requests.readline()))
    # RLIMIT_DATA counts writable memory only, not shared libraries (Linux 4.7 and later).
    _limit(resource.RLIMIT_DATA, login.memory)
    try:
        _end_after(login.limit)
        pair = keys.parse(login.host_key, login.client_key)
        session = connection.connect(login.address, login.port, login.user, pair, login.limit)
        signal.alarm(0)
        _send(LoggedIn())
        while message := requests.readline():
            command = Command(**json.loads(message))
            _end_after(command.limit)
            further = Further()
            further.add(requests.read(command.given))
            reader = threading.Thread(target=_read_further, args=(further,), daemon=True)
            if command.more:
                reader.start()
            finished = session.run(command, further, lambda lines: _send(Lines(lines)))
            signal.alarm(0)
            _send(finished)
            if command.more:
                # The next message but the last Input is another command.
                reader.join()
    except GaveUp as gave_up:
        _send(gave_up.failed)
    except MemoryError:
        # Exit at once: a message, or an orderly end of the threads, would take memory.
        os._exit(OUT_OF_MEMORY)


def _read_further(further: Further) -> None:
    """Read further standard input of a command until the worker knows that the command ended."""
    requests = sys.stdin.buffer
    while message := requests.readline():
        given = Input(**json.loads(message)).given
        if not given:
            return
        further.add(requests.read(given))


def _send(reply: Reply) -> None:
    sys.stdout.buffer.write(encoded(reply))
    sys.stdout.buffer.flush()


def _limit(limit: int, value: int) -> None:
    resource.setrlimit(limit, (value, value))


def _end_after(seconds: float) -> None:
    """Have the kernel kill this process `seconds` and a grace period from now."""
    signal.alarm(math.ceil(seconds + GRACE))


def _end_with_thread(args: threading.ExceptHookArgs) -> None:
    """End this process when one of its threads fails: nobody would read from the machine."""
    os._exit(OUT_OF_MEMORY if exhausted(args.exc_value) else 1)


def _end_with_worker() -> None:
    """Wait until the other end of standard input is closed, and end this process.

    PR_SET_PDEATHSIG of prctl would end it with the worker's thread that started it.
    """
    hangup = select.poll()
    hangup.register(sys.stdin.fileno(), 0)
    hangup.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
