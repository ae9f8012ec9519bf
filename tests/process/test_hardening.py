"""What others of a worker's user can see of it: fedmsg-hub is one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# root sees everything by capabilities that no process of a site has.
AS_USER = ["setpriv", "--bounding-set=-all"] if os.getuid() == 0 else []
KEY = "AWS_SECRET_ACCESS_KEY"
LOOK = f"""
import sys
try:
    print({KEY!r} in open(f"/proc/{{sys.argv[1]}}/environ").read())
except PermissionError:
    print("refused")
"""


@pytest.mark.parametrize(("hidden", "seen"), [(False, "True"), (True, "refused")])
def test_keys_in_the_environment_are_hidden_from_the_users_other_processes(
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
            timeout=60,
            check=True,
        )
        worker.stdin.close()
    assert done.stdout.strip() == seen


def test_commands_hide_themselves_before_anything_else() -> None:
    script = (
        "import ctypes, sys; from fedimg.cli.commands import main\n"
        "sys.argv = ['fedimg', '--version']\n"
        "try: main()\n"
        "finally: print(ctypes.CDLL(None).prctl(3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0"
