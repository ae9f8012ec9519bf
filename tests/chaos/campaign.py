"""One campaign: builds are announced, worker and hub are killed as a seed says, and all is judged.

The seed decides which strikes there are, in which order, and when those at a moment come. What the
machine does in between is its own affair: two campaigns of one seed are alike, not the same.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fedimg.store.rows import AMIRow
from fedimg.store.tables import amis
from lab.site import Site
from tests.chaos.account import Kind, Verdict, amis_of, forgotten, judge, kinds, removed_but
from tests.chaos.builds import Builds
from tests.chaos.strikes import WORKFLOWS, Database, Strike, Striker
from tests.plans import ask, follow
from tests.system.deployment import Deployment
from tests.system.proxy import Proxy

#: Two regions with PV and one without; three keep a job's steps few enough to hit all of them.
REGIONS = ("us-east-1", "us-east-2", "eu-west-1")
TYPES = '["hvm-gp2", "paravirtual-standard"]'
#: Jobs that are kept going while there are strikes left.
_LIVE = 3
#: How long a strike's moment is waited for.
_STRIKE_SECONDS = 180.0
_FEED_SECONDS = 1.0
_INTAKE = "fedimg.intake"
#: Steps of a withdrawal and of a restoration, which go on region by region.
WITHDRAW_STEPS = ("record", "mark", "hide", "end")
RESTORE_STEPS = ("enable", "mark", "share", "end")
#: Those of the rules of retention, which take an image from public to gone.
DEPRECATE_STEPS = ("check", "date", "end")
DISABLE_STEPS = ("check", "record", "mark", "disable", "end")
DELETE_STEPS = ("check", "remove", "end")
RULES = """
[[retention.rules]]
deprecate_after = 10
disable_after = 20
delete_after = 40
keep_newest = 0
"""
#: How old an image is made for each of them, in days.
_AGES = {"deprecate": 15.0, "disable": 25.0, "delete": 60.0}


@dataclass
class Report:
    """The actions of a campaign, and their outcome."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    hub_kills: Counter[str] = field(default_factory=Counter)
    unstored: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As it is kept in build/chaos."""
        return {
            "seed": self.seed,
            "worker kills": self.kills.total(),
            "by strike": dict(sorted(self.kills.items())),
            "strikes whose moment did not come": dict(sorted(self.missed.items())),
            "hub kills": dict(sorted(self.hub_kills.items())),
            "announcements that the killed hub had not stored": self.unstored,
            **self.verdict.figures,
            "problems": self.verdict.problems,
            "seconds": round(self.seconds),
        }


class Campaign:
    """Kills on one site."""

    def __init__(self, deployment: Deployment, proxy: Proxy, seed: int) -> None:
        self._deployment = deployment
        self._site = deployment.site
        self._database = Database(self._site.state / "state" / "fedimg.db")
        self._striker = Striker(self._database, proxy)
        self._chosen = random.Random(seed)
        self._builds = Builds(deployment)
        self._planned: Counter[Kind] = Counter()
        self._problems: list[str] = []
        self._feeding = threading.Thread()
        self.report = Report(seed)

    def calm(self) -> tuple[list[str], list[str]]:
        """One job that nobody disturbs; the steps it took, and its calls that change something."""
        self._deployment.start_worker()
        self._deployment.start_hub()
        self._builds.announce()
        self._builds.until_all_ended()
        (made,) = amis_of(self._deployment).values()
        self._planned = kinds(made)
        calls = ask(self._site.ec2, "calls")["EC2"]
        changing = [c for c in sorted(calls) if not c.startswith(("Describe", "Get"))]
        self._deployment.kill("worker")
        return self._database.steps(), changing

    def strikes(self, steps: list[str], calls: list[str], moments: int) -> list[Strike]:
        """Each step and each call from both sides once, and so many moments, in a mixed order."""
        chosen = [
            Strike(kind, step) for step in steps for kind in ("unrecorded", "recorded", "told")
        ]
        chosen += [Strike(kind, call) for call in calls for kind in ("called", "acted")]
        chosen += [
            # From the first import to well into the work of a worker that was let be.
            Strike("moment", after=round(self._chosen.uniform(0.5, 12), 3))
            for _ in range(moments)
        ]
        self._chosen.shuffle(chosen)
        return chosen

    def kill_worker(self, strikes: list[Strike]) -> None:
        """Strike after strike, with jobs under way all the time."""
        for number, strike in enumerate(strikes, 1):
            struck = self._striker.strike(
                strike,
                self._deployment.start_worker,
                self._stop_worker if strike.kind == "told" else self._kill_worker,
                self._patience(feed=True),
            )
            (self.report.kills if struck else self.report.missed)[str(strike)] += 1
            _say(f"{number}/{len(strikes)} {strike}: {'killed' if struck else 'did not come'}")
        if self._feeding.is_alive():
            self._feeding.join()

    def _kill_worker(self) -> None:
        self._deployment.kill("worker")

    def _stop_worker(self) -> None:
        status = self._deployment.stop("worker")
        if status != 0:
            self._problems.append(f"a worker told to stop ended with status {status}")

    def kill_hub(self, times: int) -> None:
        """Kill the hub around the storing of an announcement.

        No worker is up: it might find the build in Koji meanwhile, and store it itself.
        """
        for number in range(times):
            kind = ("unrecorded", "recorded", "moment")[number % 3]
            # A message is on the bus a second after its publishing has begun.
            strike = Strike(kind, _INTAKE, round(self._chosen.uniform(0.8, 1.6), 3))
            message = self._builds.build()
            publishing = threading.Thread(target=self._builds.publish, args=[message])
            struck = self._striker.strike(
                strike,
                publishing.start,
                lambda: self._deployment.kill("hub"),
                self._patience(feed=False),
                WORKFLOWS,
            )
            publishing.join()
            (self.report.hub_kills if struck else self.report.missed)[f"hub: {kind}"] += 1
            if f"build:{message['build_id']}" not in self._database.ids():
                self.report.unstored += 1
            _say(f"hub {number + 1}/{times} {kind}: {self.report.unstored} not stored so far")
            self._deployment.start_hub()

    def end(self) -> None:
        """Let everything come to its end, and judge it.

        The worker that starts finds in Koji what the hub was killed over.
        """
        self._deployment.start_worker()
        self._builds.until_all_ended()
        self.report.verdict = judge(self._deployment, self._builds.images, self._planned)
        self.report.verdict.problems += self._problems

    def take_back(self, strikes: list[Strike]) -> None:
        """Withdraw an image, restore it, and so on; the worker is killed at each strike.

        A strike is at a step of a withdrawal, of a restoration, and so on by turns.
        """
        (name, *_) = sorted(self._builds.images)
        for number, strike in enumerate(strikes):
            self._deployment.kill("worker")
            if number % 2:
                self._deployment.fedimg("restore", name, "--yes")
            else:
                self._deployment.fedimg("withdraw", name, "--reason", "chaos", "--yes")
            wanted = "public" if number % 2 else "withdrawn"
            struck = self._striker.strike(
                strike,
                self._deployment.start_worker,
                self._kill_worker,
                self._patience(feed=False),
            )
            (self.report.kills if struck else self.report.missed)[str(strike)] += 1
            _say(f"{wanted} {number + 1}/{len(strikes)} {strike}: {struck}")
            self._deployment.start_worker()
            self._deployment.until(
                lambda wanted=wanted: self._all_are(name, wanted) or None,  # type: ignore[misc]
                f"{name} to be {wanted}",
            )
            self.report.verdict.problems += forgotten(self._deployment)

    def retire(self, lives: Iterable[Sequence[Strike]]) -> None:
        """Let the rules of retention deprecate, disable and remove an image for each life.

        A life has a strike at a step of each of these three, at which the worker is killed.
        """
        images = [name for name in sorted(self._builds.images)[1:] if self._all_are(name, "public")]
        retired: list[AMIRow] = []
        for name, strikes in zip(images, lives, strict=False):
            its_amis = self._rows(name)
            retired += its_amis
            for what, strike in zip(_AGES, strikes, strict=True):
                self._retire(name, what, strike)
        self._deployment.until(
            lambda: not self._deployment.store().unannounced(1) or None, "all to be announced"
        )
        # What was seen on the bus is heard by our own listener at its own pace.
        time.sleep(1)
        self.report.verdict.problems += removed_but(self._deployment, retired)

    def _retire(self, name: str, what: str, strike: Strike) -> None:
        self._deployment.kill("worker")
        store, now = self._deployment.store(), time.time()
        ages = {"published_at": now - _AGES[what] * 86400}
        if what == "delete":
            ages["changed_at"] = now - 30 * 86400
        store.write(sa.update(amis).where(amis.c.image == name).values(**ages))
        self._deployment.fedimg("prune", "--image", name, "--unlaunched", "--yes")
        struck = self._striker.strike(
            strike, self._deployment.start_worker, self._kill_worker, self._patience(feed=False)
        )
        (self.report.kills if struck else self.report.missed)[f"{what}: {strike}"] += 1
        _say(f"{what} {name} {strike}: {struck}")
        self._deployment.start_worker()
        self._deployment.until(
            lambda: self._is(name, what) or None, f"what the rules demand of {name}: {what}"
        )
        self.report.verdict.problems += forgotten(self._deployment)

    def _is(self, name: str, what: str) -> bool:
        rows = self._rows(name)
        if what == "deprecate":
            return all(row.deprecate_at is not None for row in rows)
        return all(row.state == "disabled" for row in rows) if what == "disable" else not rows

    def _rows(self, name: str) -> list[AMIRow]:
        return [row for row in self._deployment.store().amis() if row.image == name]

    def _all_are(self, name: str, state: str) -> bool:
        return {row.state for row in self._rows(name)} == {state}

    def go_wrong(self, faults: Path) -> None:
        """From now on EC2 misbehaves as a plan of the lab says, too."""
        plan = tomllib.loads(faults.read_text())
        follow(self._site.ec2, plan["faults"], plan.get("seed", 0))

    def _patience(self, *, feed: bool) -> Callable[[], bool]:
        """Return whether to wait on for a strike's moment; asked often, it keeps jobs under way."""
        deadline = time.monotonic() + _STRIKE_SECONDS
        fed = 0.0

        def go_on() -> bool:
            nonlocal fed
            now = time.monotonic()
            if feed and now - fed > _FEED_SECONDS:
                fed = now
                if self._builds.under_way() < _LIVE and not self._feeding.is_alive():
                    self._feeding = threading.Thread(target=self._builds.announce)
                    self._feeding.start()
            return now < deadline

        return go_on


@contextmanager
def campaign(state: Path, seed: int, write_via: str) -> Iterator[Campaign]:
    """Run a site with a proxy before its EC2; no fedimg process runs on it yet."""
    with Site(state, regions=REGIONS) as site, Proxy(site.ec2.url) as proxy:
        site.environment["AWS_ENDPOINT_URL"] = proxy.url
        settings = site.fedimg_config.read_text()
        settings = settings.replace("[ec2]\n", f'[ec2]\nwrite_via = "{write_via}"\n')
        site.fedimg_config.write_text(f"{settings}\n[ec2.amis]\ntypes = {TYPES}\n{RULES}")
        with site.bus.listen() as heard:
            deployment = Deployment(site, heard)
            try:
                yield Campaign(deployment, proxy, seed)
            finally:
                deployment.close()


@dataclass(frozen=True)
class Orders:
    """The settings of a campaign.

    `sample` is how many of the worker's kills there are, else all; `faults` a plan of the lab's.
    """

    seed: int
    write_via: str = "utility"
    moments: int = 0
    hub_kills: int = 0
    sample: int | None = None
    faults: Path | None = None


def run(state: Path, orders: Orders) -> Report:
    """Run a whole campaign."""
    started = time.monotonic()
    with campaign(state, orders.seed, orders.write_via) as one:
        strikes = one.strikes(*one.calm(), orders.moments)
        if orders.faults:
            one.go_wrong(orders.faults)
        one.kill_worker(strikes[: orders.sample])
        one.kill_hub(orders.hub_kills)
        one.end()
        one.take_back(
            [
                Strike(kind, f"{step}:*")
                for kind in ("unrecorded", "recorded")
                for steps in zip(WITHDRAW_STEPS, RESTORE_STEPS, strict=True)
                for step in steps
            ]
        )
        one.retire(lives())
        one.report.seconds = time.monotonic() - started
        return one.report


def lives() -> Iterator[Sequence[Strike]]:
    """Yield for an image each the strikes of its end, until each step was struck both ways."""
    stages = (DEPRECATE_STEPS, DISABLE_STEPS, DELETE_STEPS)
    for kind in ("unrecorded", "recorded"):
        for number in range(max(map(len, stages))):
            yield [Strike(kind, f"{steps[number % len(steps)]}:*") for steps in stages]


def _say(text: str) -> None:
    print(f"chaos: {text}", file=sys.stderr, flush=True)
