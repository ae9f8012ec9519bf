"""Read the environment of a process as another process of the same user, as fedmsg-hub could."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# root could read everything by capabilities that no process of a site has.
AS_USER = ["setpriv", "--bounding-set=-all"] if os.getuid() == 0 else []
KEY = "AWS_SECRET_ACCESS_KEY"
LOOK = f"""
import sys
try:
    print({KEY!r} in open(f"/proc/{{sys.argv[1]}}/environ").read())
except PermissionError:
    print("refused")
"""


@pytest.mark.process
@pytest.mark.parametrize(("hidden", "seen"), [(False, "True"), (True, "refused")])
def test_hidden_environment_is_unreadable_for_other_processes_of_the_user(
    hidden: bool, seen: str
) -> None:
    begin = "from fedimg.process.hardening import hide_memory; hide_memory();" if hidden else ""
    script = f"import sys; {begin} print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [*AS_USER, sys.executable, "-c", script],
        env={**os.environ, KEY: "no real one"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        done = subprocess.run(
            [*AS_USER, sys.executable, "-c", LOOK, str(worker.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        worker.stdin.close()
    assert done.stdout.strip() == seen


@pytest.mark.process
def test_commands_hide_their_memory_first() -> None:
    script = (
        "import ctypes, sys; from fedimg.cli.commands import main\n"
        "sys.argv = ['fedimg', '--version']\n"
        "import atexit; atexit.register(lambda: print(ctypes.CDLL(None).prctl(3), flush=True))\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0"
