"""SIGTERM is heard whatever the main thread does; a second one ends the process where it stands."""

import signal
import subprocess
import sys
import threading

import pytest

PROCESS = """
import os, signal, sys, threading, time
from fedimg.process.signals import stop_requested

told = stop_requested()
print("ready", flush=True)
{}
print("told" if told.wait(30) else "never told", flush=True)
time.sleep(60)
"""
#: The event's lock is held for an instant by whoever begins to wait for it, the main thread too.
HOLDING = """
with told._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
"""
#: The kernel may give a signal to any thread, which does not wake the main one.
ANOTHER_THREAD = """
other = threading.Thread(target=time.sleep, args=[60], daemon=True)
other.start()
threading.Timer(1, lambda: signal.pthread_kill(other.ident, signal.SIGTERM)).start()
"""


def started(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS.format(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", [HOLDING, ANOTHER_THREAD])
def test_signal_is_heard_in_whatever_the_main_thread_is(code: str) -> None:
    with started(code) as process:
        killer = threading.Timer(20, process.kill)
        killer.start()
        assert process.stdout
        assert [process.stdout.readline().strip() for _ in range(2)] == ["ready", "told"]
        # The second one.
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        killer.cancel()
