"""Plans of faults for the lab's EC2, as tests put them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests

from lab.ec2.faults import COMPLETIONS

#: Generous: other tests may keep the machine busy.
_SECONDS = 60


def refusing(codes: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """The faults by which a region refuses actions for good: region, action, EC2's code.

    Of `SnapshotCompletion` and `ImageCompletion` the value is the reason of a failure.
    """
    return [
        {"region": region, "action": action, "fault": "failed", "message": code}
        if action in COMPLETIONS
        else {"region": region, "action": action, "fault": "refused", "code": code}
        for region, actions in codes.items()
        for action, code in actions.items()
    ]


def follow(url: str, faults: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
    """Have the EC2 at `url` follow these faults from now on, and no others."""
    plan = {"seed": seed, "faults": list(faults)}
    answer = requests.put(f"{url}/lab/faults", json=plan, timeout=_SECONDS)
    assert answer.ok, answer.text


def struck(url: str) -> list[int]:
    """How often each rule of the plan has struck."""
    told = requests.get(f"{url}/lab/faults", timeout=_SECONDS).json()
    return [rule["struck"] for rule in told["faults"]]
