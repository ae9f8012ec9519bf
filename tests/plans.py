"""Requests of tests to a lab's EC2 below /lab/: its ledger, and plans of faults for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lab import running
from lab.ec2.faults import COMPLETIONS


class Told(Protocol):
    """An EC2 of the lab, or whatever knows where it is and which token it asks for."""

    @property
    def url(self) -> str: ...

    @property
    def token(self) -> str: ...


def ask(ec2: Told, page: str) -> Any:
    """Return the lab's answer on a page such as `ledger/live`."""
    return running.ask(_site(ec2), page)


def forget_calls(ec2: Told) -> None:
    """Have the lab count calls anew."""
    running.post(_site(ec2), "calls/reset")


def refusing(codes: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the faults by which a region refuses actions for good: region, action, EC2's code.

    Of `SnapshotCompletion` and `ImageCompletion` the value is the reason of a failure.
    """
    return [
        {"region": region, "action": action, "fault": "failed", "message": code}
        if action in COMPLETIONS
        else {"region": region, "action": action, "fault": "refused", "code": code}
        for region, actions in codes.items()
        for action, code in actions.items()
    ]


def follow(ec2: Told, faults: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
    """Have the EC2 follow these faults from now on, and no others."""
    running.tell(_site(ec2), "faults", {"seed": seed, "faults": list(faults)})


def struck(ec2: Told) -> list[int]:
    """Return how often each rule of the plan has struck."""
    return [rule["struck"] for rule in ask(ec2, "faults")["faults"]]


def _site(ec2: Told) -> dict[str, str]:
    return {"ec2": ec2.url, "control_token": ec2.token}
