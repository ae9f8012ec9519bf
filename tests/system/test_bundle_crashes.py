"""`kill -9` of the worker in each step of a bundle: nothing is made twice, lost or left.

Follows fedimg/services/bundling.py, fedimg/aws/write/bundle_pass.py,
fedimg/aws/write/part_orders.py, fedimg/aws/bundle/objects.py.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lab import leaks
from lab.site import Site
from tests.plans import follow
from tests.system.builds import announce_build
from tests.system.deployment import REGIONS, Deployment, unhurried
from tests.system.proxy import Proxy

#: Of hvm-gp2, hvm-instance and paravirtual-instance; us-east-2 has no PV.
AMIS = {"us-east-1": 3, "us-east-2": 2, "eu-west-1": 3}
#: What cannot be compressed makes three parts; the manifest is the fourth object.
IMAGE = {"size_mib": 48, "random_mib": 22}
OBJECTS = 4
ORIGIN, FURTHER = "us-east-1", "eu-west-1"


class Striking:
    """Kills the worker at the first call that a pattern fits, and remembers what S3 has stored."""

    def __init__(self, site: Site, proxy: Proxy, deployment: Deployment) -> None:
        self.site, self.deployment = site, deployment
        self.struck = threading.Event()
        self.stored: Counter[str] = Counter()
        #: How many of them were stored by signed URLs.
        self.signed = 0
        self._pattern = re.compile("never")
        self._acted = True
        self._lock = threading.Lock()
        proxy.before = lambda called: not self._acted and self._strike(called)
        proxy.after = self._after

    def at(self, pattern: str, *, acted: bool) -> None:
        """Strike before S3 sees such a call, or when it has acted."""
        self._pattern, self._acted = re.compile(pattern), acted

    def _after(self, called: str) -> bool:
        if called.startswith(f"PUT /lab-amis-{ORIGIN}/"):
            object, _, query = called.partition("?")
            self.stored[object] += 1
            self.signed += "X-Amz-Signature" in query
        return self._acted and self._strike(called)

    def _strike(self, called: str) -> bool:
        with self._lock:
            if self.struck.is_set() or not self._pattern.search(called):
                return False
            self.struck.set()
            self.deployment.kill("worker")
            self.deployment.start_worker()
            return True


@contextmanager
def striking(state: Path, write_via: str = "direct") -> Iterator[Striking]:
    def configure(settings: str) -> str:
        return unhurried(settings).replace("[ec2]\n", f'[ec2]\nwrite_via = "{write_via}"\n')

    site = Site(state, regions=REGIONS, instance_store=True)
    with site, Proxy(site.ec2.url) as proxy, site.bus.listen() as heard:
        site.environment["AWS_ENDPOINT_URL"] = proxy.url
        deployment = Deployment(site, heard, configure)
        try:
            yield Striking(site, proxy, deployment)
        finally:
            deployment.close()


def announce(deployment: Deployment) -> None:
    deployment.start_worker()
    deployment.start_hub()
    announce_build(deployment, image=IMAGE)


def nothing_but_published(deployment: Deployment) -> None:
    """Expect the AMIs, a snapshot and a bundle a region, all public, and nothing else."""
    live = deployment.live()
    assert [row for row in live if not row["public"]] == []
    found = Counter((row["region"], row["kind"]) for row in live)
    wanted = {(region, "image"): count for region, count in AMIS.items()}
    wanted |= {(region, "snapshot"): 1 for region in AMIS}
    wanted |= {(region, "object"): OBJECTS for region in AMIS}
    assert found == wanted
    record = [asdict(row) for row in deployment.store().amis()]
    assert leaks.forgotten(leaks.things(live), record) == []


def moment(words: str, pattern: str, *, acted: bool = True, long: bool = True) -> Any:
    return pytest.param(pattern, acted, id=words, marks=pytest.mark.long if long else ())


@pytest.mark.parametrize(
    ("pattern", "acted"),
    [
        moment("a part stored", rf"^PUT /lab-amis-{ORIGIN}/.*\.part\.01", long=False),
        moment("all parts stored", rf"^PUT /lab-amis-{ORIGIN}/.*\.xml", acted=False),
        moment("bundle whole, snapshot not", rf"^PUT /lab-amis-{ORIGIN}/.*\.xml"),
        moment("a part copied", rf"^PUT /lab-amis-{FURTHER}/.*\.part\.01"),
        moment("bundle copied, not recorded", rf"^PUT /lab-amis-{FURTHER}/.*\.xml", long=False),
    ],
)
def test_worker_killed_while_bundles_are_made_sends_nothing_twice(
    tmp_path: Path, pattern: str, acted: bool
) -> None:
    with striking(tmp_path / "site") as at_work:
        at_work.at(pattern, acted=acted)
        announce(at_work.deployment)
        (job,) = at_work.deployment.ended()
        assert at_work.struck.is_set()
        assert (job["state"], job["error"]) == ("complete", None)
        nothing_but_published(at_work.deployment)
        assert set(at_work.stored.values()) == {1}, at_work.stored


@pytest.mark.parametrize(
    ("pattern", "acted"),
    [
        moment("a part stored", rf"^PUT /lab-amis-{ORIGIN}/.*\.part\.01", long=False),
        moment("all parts stored", rf"^PUT /lab-amis-{ORIGIN}/.*\.xml", acted=False),
        moment("bundle whole, snapshot not", rf"^PUT /lab-amis-{ORIGIN}/.*\.xml"),
    ],
)
def test_worker_killed_while_an_instance_makes_the_bundle_has_nothing_sent_twice(
    tmp_path: Path, pattern: str, acted: bool
) -> None:
    with striking(tmp_path / "site", "utility") as at_work:
        deployment = at_work.deployment
        at_work.at(pattern, acted=acted)
        announce(deployment)
        (job,) = deployment.ended()
        assert at_work.struck.is_set()
        assert (job["state"], job["error"]) == ("complete", None)
        nothing_but_published(deployment)
        # The manifest is the worker's; before it is stored, S3 may not see it once.
        sent = {object.rpartition("/")[2]: count for object, count in at_work.stored.items()}
        assert len(sent) == OBJECTS
        assert set(sent.values()) == {1}, sent
        assert at_work.signed == OBJECTS - 1
        # Nobody is told a signed URL: neither the log, nor an operator, nor the database.
        told = deployment.log("worker") + deployment.told("status", job["job"])
        files = [path for path in (tmp_path / "site/state").rglob("*") if path.is_file()]
        assert any(path.suffix == ".sqlite" or "db" in path.name for path in files), files
        written = b"".join(path.read_bytes() for path in files)
        assert "X-Amz-" not in told
        assert b"X-Amz-" not in written


@pytest.mark.long
def test_worker_killed_in_a_pass_of_the_bundle_alone_sends_nothing_twice(tmp_path: Path) -> None:
    with striking(tmp_path / "site") as at_work:
        # The first part is refused beside the write, so that the bundle is made alone.
        fault = {"fault": "refused", "code": "AccessDenied", "action": "PutObject", "count": 1}
        follow(at_work.site.ec2, [fault])
        at_work.at(rf"^PUT /lab-amis-{ORIGIN}/.*\.part\.02", acted=True)
        announce(at_work.deployment)
        (job,) = at_work.deployment.ended()
        assert at_work.struck.is_set()
        assert (job["state"], job["error"]) == ("complete", None)
        nothing_but_published(at_work.deployment)
        # The refused call is among them.
        assert sorted(at_work.stored.values()) == [1, 1, 1, 2], at_work.stored


@pytest.mark.long
@pytest.mark.parametrize("acted", [False, True])
def test_worker_killed_while_a_bundle_is_removed_leaves_nothing(
    tmp_path: Path, acted: bool
) -> None:
    with striking(tmp_path / "site") as at_work:
        # A person's mistake, as far as EC2 tells: the job fails for good.
        fault = {"fault": "refused", "code": "InvalidParameterValue", "action": "RegisterImage"}
        follow(at_work.site.ec2, [fault])
        at_work.at(rf"^POST /lab-amis-{ORIGIN}\?delete", acted=acted)
        announce(at_work.deployment)
        (job,) = at_work.deployment.ended()
        assert at_work.struck.is_set()
        assert job["state"] == "failed"
        assert at_work.deployment.live() == []
