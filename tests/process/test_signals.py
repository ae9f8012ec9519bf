"""Send signals to processes: the first sets the event, whatever the main thread does."""

import signal
import subprocess
import sys
import threading

import pytest

PROCESS = """
import os, signal, sys, threading, time
from fedimg.process.signals import stop_requested

stopping = stop_requested()
print("ready", flush=True)
{}
print("stopping" if stopping.wait(240) else "no signal", flush=True)
time.sleep(60)
"""
#: A thread that begins to wait for the event holds its lock for an instant, also the main thread.
HOLDING = """
with stopping._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
"""
#: The kernel may deliver a signal to another thread, so that the main one does not wake.
ANOTHER_THREAD = """
other = threading.Thread(target=time.sleep, args=[60], daemon=True)
other.start()
threading.Timer(1, lambda: signal.pthread_kill(other.ident, signal.SIGTERM)).start()
"""


def started(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS.format(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.process
@pytest.mark.parametrize("code", [HOLDING, ANOTHER_THREAD])
def test_signal_sets_the_event_whatever_the_main_thread_does(code: str) -> None:
    with started(code) as process:
        killer = threading.Timer(20, process.kill)
        killer.start()
        assert process.stdout
        assert [process.stdout.readline().strip() for _ in range(2)] == ["ready", "stopping"]
        # The second signal ends the process.
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0
        killer.cancel()
