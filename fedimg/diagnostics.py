"""Define findings of diagnostic checks, and run checks concurrently within one timeout."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fedimg.untrusted.failures import of_endpoint


class Status(StrEnum):
    """The severity of a finding: only a problem keeps images from being published."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of a check: what was checked, its status, and what to do about a problem."""

    name: str
    status: Status
    text: str
    hint: str = ""


DiagnosticCheck = Callable[[], list[Finding]]


def gather(checks: Mapping[str, DiagnosticCheck], seconds: float) -> dict[str, list[Finding]]:
    """Run all checks concurrently and return their findings by name, in the order of `checks`.

    A check that raises, or has no result within `seconds`, becomes a finding of status problem; the
    other checks still count.
    """
    done: queue.SimpleQueue[tuple[str, list[Finding]]] = queue.SimpleQueue()

    def run(name: str, check: DiagnosticCheck) -> None:
        try:
            findings = check()
        except Exception as error:
            findings = [Finding(name, Status.PROBLEM, of_endpoint(error))]
        done.put((name, findings))

    for name, check in checks.items():
        # Daemon threads: a check that hangs must not keep the process from ending.
        threading.Thread(target=run, args=(name, check), daemon=True).start()
    results = {
        name: [Finding(name, Status.PROBLEM, f"no answer within {seconds:g} s")] for name in checks
    }
    limit = time.monotonic() + seconds
    for _ in checks:
        try:
            name, findings = done.get(timeout=max(0.0, limit - time.monotonic()))
        except queue.Empty:
            break
        results[name] = findings
    return results
