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


def measured(arguments: list[str], environment: dict[str, str]) -> Cost:
    """Run a command of fedimg's; its own processor time is what the kernel counted of it."""
    program = str(Path(sys.executable).parent / "fedimg")
    began = time.monotonic()
    with subprocess.Popen([program, *arguments], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        printed = run.stdout.read()
        _, _, used = os.wait4(run.pid, 0)
        run.returncode = 0
    wall = time.monotonic() - began
    cpu = used.ru_utime + used.ru_stime
    return Cost(wall, cpu, used.ru_maxrss / 1024, json.loads(printed))
