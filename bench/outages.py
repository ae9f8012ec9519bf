"""outages: a further region in each kind of trouble, what others wait for, and when it is back."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.deployment import Deployment, deployed, site
from bench.results import Result
from fedimg.config import Limits
from fedimg.jobs.outages import Outages
from fedimg.store.rows import JobRow
from lab import running
from lab.own_address import OwnAddress

_REGIONS = 4
_SETTINGS = {"[ec2.limits]\n": "[ec2.limits]\nsettle = 5\nretry_after = 10\n"}
BUDGET: dict[str, float] = {}


@dataclass(frozen=True)
class Trouble:
    """A region's trouble, with its beginning, before the job or when it is copied, and its end."""

    name: str
    begin: Callable[[dict[str, Any], OwnAddress, str], object]
    end: Callable[[dict[str, Any], OwnAddress, str], object]
    in_mid_job: bool = False


def _follow(fault: dict[str, Any], told: dict[str, Any], _own: OwnAddress, region: str) -> None:
    running.tell(told, "faults", {"faults": [{**fault, "region": region}]})


def _follow_none(told: dict[str, Any], _own: OwnAddress, _region: str) -> None:
    running.tell(told, "faults", {"faults": []})


def _enable(told: dict[str, Any], _own: OwnAddress, region: str) -> None:
    running.call(told, "ec2.enable", region=region)


def _disable(told: dict[str, Any], _own: OwnAddress, region: str) -> None:
    running.call(told, "ec2.disable", region=region)


TROUBLES = [
    Trouble(
        "refuses_connections",
        lambda told, own, region: own.close(),
        lambda told, own, region: own.open(),
    ),
    Trouble(
        "answers_503",
        partial(_follow, {"fault": "refused", "code": "ServiceUnavailable"}),
        _follow_none,
    ),
    Trouble("answers_after_30_s", partial(_follow, {"fault": "slow", "seconds": 30}), _follow_none),
    Trouble("disabled_in_mid_job", _disable, _enable, in_mid_job=True),
]


@dataclass
class _Run:
    """A deployment, and the region of its site that is in trouble."""

    fedimg: Deployment
    region: str

    def row(self) -> JobRow | None:
        """Return the only job."""
        return next(iter(self.fedimg.jobs()), None)

    def others_public(self, count: int) -> bool | None:
        """Return True when so many regions are public, else None."""
        row = self.row()
        return (row and sum(each.step == "public" for each in row.regions) >= count) or None

    def told_at(self) -> float | None:
        """Return when the outage was recorded and logged, in epoch seconds, or None."""
        if (store := self.fedimg.store()) is None:
            return None
        outages = Outages(store, Limits()).all()
        return next((each.since for each in outages if each.region == self.region), None)

    def complete(self) -> bool | None:
        """Return True when the job is complete, else None."""
        row = self.row()
        return (row and row.state == "complete") or None


def run(tiny: bool) -> Result:
    """Publish one image for each kind of trouble, and one without; then one for a new region.

    `…_others_seconds`: from the announcement to the last public AMI of the other regions;
    `…_told_seconds`: from the announcement, or from the trouble's beginning in mid job, to the
    outage's record and its warning in the log; `…_slot_seconds`: to the end of the run, which then
    holds no place; `…_back_seconds`: from the trouble's end to the last public AMI there.
    """
    figures: dict[str, float] = {"regions": _REGIONS}
    figures["none_others_seconds"] = _without()
    for trouble in TROUBLES[-1:] if tiny else TROUBLES:
        figures |= {f"{trouble.name}_{key}": value for key, value in _with(trouble).items()}
    figures |= {f"appears_{key}": value for key, value in _new_region().items()}
    return Result("outages", figures, BUDGET)


def _without() -> float:
    with site(regions=_REGIONS - 1) as (folder, told), deployed(folder, told) as fedimg:
        began = fedimg.announce([fedimg.build()])
        return fedimg.public_at(1) - began


def _with(trouble: Trouble) -> dict[str, float]:
    with site(regions=_REGIONS) as (folder, told):
        region = told["regions"][-1]
        with closing(OwnAddress(folder, region, told["ec2"])) as own:
            own.open()
            environment = {**told["environment"], **own.environment}
            told = {**told, "environment": environment}
            with deployed(folder, told, changes=_SETTINGS) as fedimg:
                one = _Run(fedimg, region)
                if not trouble.in_mid_job:
                    trouble.begin(told, own, region)
                began = fedimg.announce([fedimg.build()])
                struck = time.time()
                if trouble.in_mid_job:
                    fedimg.until(lambda: _copied(told, region))
                    trouble.begin(told, own, region)
                    struck = time.time()
                fedimg.until(lambda: one.others_public(_REGIONS - 1))
                others = time.monotonic() - began
                told_at = fedimg.until(one.told_at)
                fedimg.ended(1, states=("incomplete",))
                slot = time.monotonic() - began
                trouble.end(told, own, region)
                ended = time.monotonic()
                fedimg.until(one.complete)
                return {
                    "others_seconds": others,
                    "told_seconds": max(0.0, told_at - struck),
                    "slot_seconds": slot,
                    "back_seconds": time.monotonic() - ended,
                }


def _copied(told: dict[str, Any], region: str) -> bool | None:
    """Return True when a snapshot was made in a region."""
    rows = running.ask(told, "ledger")
    return any((row["kind"], row["region"]) == ("snapshot", region) for row in rows) or None


def _new_region() -> dict[str, float]:
    """Return how long a region that appears takes to have a new image, and an older one."""
    with site(regions=_REGIONS) as (folder, told):
        region = told["regions"][-1]
        running.call(told, "ec2.disable", region=region)
        with deployed(folder, told, changes=_SETTINGS) as fedimg:
            fedimg.announce([fedimg.build()])
            (old,) = fedimg.ended(1)
            running.call(told, "ec2.enable", region=region)
            began = fedimg.announce([fedimg.build()])
            new = fedimg.public_at(2) - began
            began = time.monotonic()
            subprocess.run(
                [Path(sys.executable).parent / "fedimg", "retry", old.job, "--region", region],
                env={**fedimg.site["environment"], "FEDIMG_CONFIG": fedimg.site["fedimg_config"]},
                check=True,
                capture_output=True,
            )
            return {"new_job_seconds": new, "old_job_seconds": fedimg.public_at(2) - began}
