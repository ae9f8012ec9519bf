"""The process that talks SSH to one machine for the worker: `python -I -m fedimg.ssh.process`.

A machine that breaks it, or what it is made of, has broken a process with little memory, no
environment, and one machine's keys. It is told what to do on standard input, one login and then
commands, and answers on standard output.
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
from fedimg.ssh.protocol import (
    GRACE,
    OUT_OF_MEMORY,
    Command,
    Lines,
    LoggedIn,
    Login,
    Ready,
    Reply,
    encoded,
)

#: Of a thread, in bytes; the usual 8 MiB would count for the limit of memory.
_STACK = 1024 * 1024


def main() -> None:
    """Log in, and run commands until standard input ends."""
    threading.stack_size(_STACK)
    threading.excepthook = _end_with_thread
    threading.Thread(target=_end_with_worker, daemon=True).start()
    # It is told a private key.
    hide_memory()
    _limit(resource.RLIMIT_CORE, 0)
    # paramiko imports it where it is there, for what a client's configuration file may run: half of
    # the time that this process takes to start, and a quarter of its memory.
    sys.modules["invoke"] = None  # type: ignore[assignment]
    from fedimg.ssh import connection

    asked = sys.stdin.buffer
    _say(Ready())
    login = Login(**json.loads(asked.readline()))
    # Of what a process can write to, so that shared libraries, which all of them share, count for
    # nothing (Linux 4.7 and later).
    _limit(resource.RLIMIT_DATA, login.memory)
    try:
        _end_after(login.limit)
        keys = connection.keys(login.host_key, login.client_key)
        session = connection.connect(login.address, login.port, login.user, keys, login.limit)
        signal.alarm(0)
        _say(LoggedIn())
        while message := asked.readline():
            command = Command(**json.loads(message))
            _end_after(command.limit)
            given = asked.read(command.given)
            finished = session.run(command, given, lambda lines: _say(Lines(lines)))
            signal.alarm(0)
            _say(finished)
    except connection.GaveUp as gave_up:
        _say(gave_up.failed)
    except MemoryError:
        # At once: words would take memory, and so may the threads' ending.
        os._exit(OUT_OF_MEMORY)


def _say(reply: Reply) -> None:
    sys.stdout.buffer.write(encoded(reply))
    sys.stdout.buffer.flush()


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def _end_after(seconds: float) -> None:
    """Have the kernel end this process then, whatever it is at."""
    signal.alarm(math.ceil(seconds + GRACE))


def _end_with_thread(args: threading.ExceptHookArgs) -> None:
    """End this process when a thread of it dies: nobody would hear the machine any more."""
    os._exit(OUT_OF_MEMORY if exhausted(args.exc_value) else 1)


def _end_with_worker() -> None:
    """End this process when nobody holds the other end of its standard input.

    Not prctl's PR_SET_PDEATHSIG: that would count for the thread that started this process.
    """
    gone = select.poll()
    gone.register(sys.stdin.fileno(), 0)
    gone.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
