"""Measure one command of fedimg's, in a process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """The seconds and memory of one command, and what it printed."""

    wall: float
    cpu: float
    peak_mib: float
    answer: Any


def measured(
    arguments: list[str], environment: dict[str, str], programs: Path = Path(sys.executable).parent
) -> Cost:
    """Run a command of fedimg's; its own processor time is what the kernel counted of it.

    `programs` is the folder of the fedimg that is measured. The answer is text without --json.
    """
    program = str(programs / "fedimg")
    # Else a checkout is compiled by each command, and an installed version never.
    environment = {
        key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"
    }
    began = time.monotonic()
    with subprocess.Popen([program, *arguments], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        printed = run.stdout.read()
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise RuntimeError(f"{program} {' '.join(arguments)} exits with {run.returncode}")
    wall = time.monotonic() - began
    cpu = used.ru_utime + used.ru_stime
    answer = json.loads(printed) if "--json" in arguments else printed.decode()
    return Cost(wall, cpu, used.ru_maxrss / 1024, answer)
