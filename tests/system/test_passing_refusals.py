"""Refusals that pass, by codes that publishers have seen: each job completes by itself.

Follows tests/corpus/faults/passing-refusals.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.plans import follow, struck
from tests.system.builds import announce_build
from tests.system.deployment import deployed, unhurried

PLAN = Path(__file__).parents[1] / "corpus" / "faults" / "passing-refusals.toml"
FAULTS: list[dict[str, Any]] = tomllib.loads(PLAN.read_text())["faults"]
#: What an instance is written by alone.
BY_UTILITY = [fault for fault in FAULTS if fault["action"] == "CreateSnapshot"]
REGIONS = ("us-east-1", "us-east-2")


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("write_via", ["utility", "direct"])
def test_each_job_completes_though_ec2_refuses_a_call_once(tmp_path: Path, write_via: str) -> None:
    def configured(settings: str) -> str:
        limits = "[ec2.limits]\nsettle = 5\nretry_after = 1\n"
        settings = unhurried(settings).replace("[ec2.limits]\n", limits)
        return settings.replace("[ec2]\n", f'[ec2]\nwrite_via = "{write_via}"\n')

    faults = BY_UTILITY if write_via == "utility" else [f for f in FAULTS if f not in BY_UTILITY]
    with deployed(tmp_path / "site", configure=configured, regions=REGIONS) as deployment:
        for number, fault in enumerate(faults, 1):
            follow(deployment.site.ec2, [fault])
            announce_build(deployment, image={"seed": number}, release=f"{number}.1")

            def complete(number: int = number) -> bool | None:
                states = [job.state for job in deployment.jobs()]
                return states == ["complete"] * number or None

            deployment.until(complete, f"{fault['code']} of {fault['action']}: the job complete")
            assert sum(struck(deployment.site.ec2)) >= 1, fault
        rows = deployment.ended(len(faults))
        assert {row["error"] for row in rows} == {None}
        amis = {"us-east-1": 4 * len(faults), "us-east-2": 2 * len(faults)}
        live = [row for row in deployment.live() if row["kind"] == "image"]
        assert {r: sum(1 for row in live if row["region"] == r) for r in amis} == amis
        assert all(row["public"] for row in live)
