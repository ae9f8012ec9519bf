"""A campaign against several workers on one PostgreSQL: killed, frozen, thawed, told to stop.

The seed decides which worker is struck, how, and when; the rest is the machine's affair.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.site import Site
from tests.chaos.account import Verdict, amis_of, judge, kinds
from tests.chaos.builds import Builds
from tests.chaos.campaign import REGIONS, TYPES
from tests.system.deployment import Deployment, unhurried

#: Short, so that frozen workers lose their jobs often.
LEASE_SECONDS = 4.0
#: Of every hundred strikes.
_KINDS = {"kill": 45, "freeze": 25, "doze": 15, "stop": 15}


@dataclass
class Report:
    """The actions of a campaign, and their outcome."""

    seed: int
    strikes: Counter[str] = field(default_factory=Counter)
    #: Workers that ended by themselves, as they had lost their lock.
    fenced: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As it is kept in build/chaos."""
        return {
            "seed": self.seed,
            "strikes": dict(sorted(self.strikes.items())),
            "workers that ended as they had lost their lock": self.fenced,
            **self.verdict.figures,
            "problems": self.verdict.problems,
            "seconds": round(self.seconds),
        }


class _Campaign:
    def __init__(self, deployment: Deployment, seed: int, workers: int) -> None:
        self._deployment = deployment
        self._builds = Builds(deployment)
        self._chosen = random.Random(seed)
        self._count = workers
        self._started = 0
        self._awake: list[str] = []
        #: Frozen workers, and when each is to go on.
        self._frozen: dict[str, float] = {}
        self._problems: list[str] = []
        self.report = Report(seed)

    def run(self, strikes: int) -> None:
        self._fill()
        self._deployment.start_hub()
        self._builds.announce()
        self._builds.until_all_ended()
        (amis,) = amis_of(self._deployment).values()
        planned = kinds(amis)
        for _ in range(strikes):
            if self._builds.under_way() < 2 * self._count:
                self._builds.announce()
            self._wait(self._chosen.uniform(0.3, 3.0))
            self._strike()
        for name in list(self._frozen):
            self._thaw(name)
        # Whoever was thawed too late notices within its lease.
        self._wait(LEASE_SECONDS)
        self._builds.until_all_ended()
        self.report.verdict = judge(self._deployment, self._builds.images, planned)
        self.report.verdict.problems += self._problems

    def _strike(self) -> None:
        kind = self._chosen.choices(list(_KINDS), list(_KINDS.values()))[0]
        name = self._chosen.choice(sorted(self._awake))
        self.report.strikes[kind] += 1
        self._awake.remove(name)
        if kind == "kill":
            self._deployment.kill(name)
        elif kind == "stop":
            status = self._deployment.stop(name)
            # Who was only just started has no handler yet, and ends by the signal: systemd takes
            # that for a clean end, too.
            if status not in (0, -signal.SIGTERM):
                self._problems.append(f"a worker told to stop ended with status {status}")
        else:
            self._deployment.freeze(name)
            times = (0.2, 0.6) if kind == "doze" else (1.2, 3.0)
            seconds = LEASE_SECONDS * self._chosen.uniform(*times)
            self._frozen[name] = time.monotonic() + seconds
        self._fill()

    def _wait(self, seconds: float) -> None:
        """Let time pass: who has slept long enough goes on, who has ended is replaced."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, due in list(self._frozen.items()):
                if time.monotonic() > due:
                    self._thaw(name)
            for name, status in self._deployment.reap().items():
                self._ended(name, status)
            self._fill()
            time.sleep(0.1)

    def _thaw(self, name: str) -> None:
        del self._frozen[name]
        self._deployment.thaw(name)
        self._awake.append(name)

    def _ended(self, name: str, status: int) -> None:
        if name in self._awake:
            self._awake.remove(name)
        if status == 1 and "has lost its lock" in self._deployment.log(name):
            self.report.fenced += 1
        else:
            log = self._deployment.log(name)[-500:]
            self._problems.append(f"worker {name} ended with status {status}: {log}")

    def _fill(self) -> None:
        while len(self._awake) < self._count:
            self._started += 1
            name = f"worker-{self._started}"
            self._deployment.start_worker(name)
            self._awake.append(name)


def run(state: Path, database: str, *, seed: int, strikes: int, workers: int = 3) -> Report:
    """Run a whole campaign on a PostgreSQL of its own."""

    def configure(settings: str) -> str:
        lease = f"[worker]\nlease_seconds = {LEASE_SECONDS}\n"
        settings = unhurried(settings).replace("[worker]\n", lease)
        return f"{settings}\n[ec2.amis]\ntypes = {TYPES}\n"

    began = time.monotonic()
    with Site(state, regions=REGIONS) as site, site.bus.listen() as heard:
        deployment = Deployment(site, heard, configure, database=database)
        campaign = _Campaign(deployment, seed, workers)
        try:
            campaign.run(strikes)
        finally:
            deployment.close()
    campaign.report.seconds = time.monotonic() - began
    return campaign.report
