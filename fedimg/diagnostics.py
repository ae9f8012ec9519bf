"""What looking for trouble found, and many looks side by side within one limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad a finding is: only a problem keeps images from being published."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and, where that is not well, what a person can do."""

    name: str
    status: Status
    text: str
    hint: str = ""


Look = Callable[[], list[Finding]]


def gather(looks: Mapping[str, Look], seconds: float) -> dict[str, list[Finding]]:
    """What every look found, by its name and in the order given, within `seconds`.

    A look that raises, or is not done by then, is a problem itself and hides no other.
    """
    done: queue.SimpleQueue[tuple[str, list[Finding]]] = queue.SimpleQueue()

    def run(name: str, look: Look) -> None:
        try:
            found = look()
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            found = [Finding(name, Status.PROBLEM, text)]
        done.put((name, found))

    for name, look in looks.items():
        # Daemons: a look that hangs must not keep the process from ending.
        threading.Thread(target=run, args=(name, look), daemon=True).start()
    found = {
        name: [Finding(name, Status.PROBLEM, f"no answer within {seconds:g} s")] for name in looks
    }
    limit = time.monotonic() + seconds
    for _ in looks:
        try:
            name, findings = done.get(timeout=max(0.0, limit - time.monotonic()))
        except queue.Empty:
            break
        found[name] = findings
    return found
