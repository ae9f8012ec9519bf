"""Parameters of SSM name the newest public AMIs, on the lab.

Follows fedimg/lifecycle/parameters.py, fedimg/lifecycle/parameter_comparison.py,
fedimg/aws/parameters.py, fedimg/store/parameters.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fedimg.config.parameters import Parameters as ParameterSettings
from fedimg.images import AMIType, RawImage
from fedimg.lifecycle import parameters, repair, targets, verify
from fedimg.lifecycle.comparison import Difference
from fedimg.lifecycle.parameters import ParameterTask
from fedimg.lifecycle.problems import problems
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.process.backoff import Backoff
from fedimg.steps import PlainSteps
from fedimg.store.changes import WITHDRAW, PendingChanges
from fedimg.store.parameters import Parameters
from fedimg.store.pending import PendingRows
from fedimg.store.shared_poll import SharedPoll
from fedimg.store.withdrawals import Withdrawals
from lab.ec2.server import EC2
from tests.lifecycle.conftest import FURTHER, ORIGIN, REGIONS, TYPES, Site
from tests.plans import ask, follow

GP2, GP3 = TYPES


@dataclass
class Named:
    """A site whose newest AMIs have parameters, below a path of its own."""

    site: Site
    task: ParameterTask

    @property
    def path(self) -> str:
        return self.site.settings.ec2.ssm.path

    def name(self, ami_type: AMIType = GP2) -> str:
        return self.path.format(
            release="43",
            arch="x86_64",
            type=ami_type,
            series="Fedora-Cloud-Base-43",
            kind="build",
        )

    def anew(self, **changes: Any) -> Named:
        """Return the site after a restart of its worker, with other settings of the parameters."""
        ssm = ParameterSettings(**{**self.site.settings.ec2.ssm.model_dump(), **changes})
        ec2 = self.site.settings.ec2.model_copy(update={"ssm": ssm})
        site = replace(self.site, settings=self.site.settings.model_copy(update={"ec2": ec2}))
        return Named(site, task_of(site))

    def ssm(self, region: str = ORIGIN) -> Any:
        return self.site.hands.client("ssm", region)

    def shown(self, ami_type: AMIType = GP2, region: str = ORIGIN) -> str | None:
        found = self.ssm(region).get_parameters(Names=[self.name(ami_type)])["Parameters"]
        return found[0]["Value"] if found else None

    def settle(self, regions: Sequence[str] = REGIONS) -> None:
        """Let the worker work until the parameters of these regions are as they are wanted."""
        self.until(lambda: all(row.right for row in self.rows() if row.region in regions))

    def until(self, so: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.task.apply()
            if so():
                return
            assert time.monotonic() < deadline, self.rows()
            time.sleep(0.05)

    def rows(self) -> Any:
        return Parameters(self.site.store).all()

    def ami(self, image: RawImage, region: str = ORIGIN, ami_type: AMIType = GP2) -> str:
        (found,) = [
            row.ami
            for row in self.site.rows(image)
            if (row.region, row.volume_type) == (region, ami_type.volume_type)
        ]
        return found

    def named(self, image: RawImage) -> bool:
        """Return whether all parameters name the AMIs of an image."""
        return all(
            self.shown(ami_type, region) == self.ami(image, region, ami_type)
            for region in REGIONS
            for ami_type in TYPES
        )

    def differences(self) -> list[Difference]:
        results = verify.verify_regions(
            self.site.settings, self.site.store, self.site.clients, REGIONS
        )
        return [each for result in results for each in result.differences]


def withdraw(site: Site, name: str) -> None:
    """Record a withdrawal, as the command does."""
    found = targets.to_withdraw(site.store, name)
    Withdrawals(site.store).withdraw(
        found.amis, found.regions, by="me", reason="bad", replacement=None
    )


def restore(site: Site, name: str) -> None:
    """Record a restoration, as the command does."""
    Withdrawals(site.store).restore(targets.to_restore(site.store, name).amis, by="me")


def carry_out(site: Site) -> None:
    """Make every change that is due, as the workflows do."""
    workflow = WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, PlainSteps(), threading.Event()
    )
    for change in PendingChanges(site.store).due():
        make = workflow.withdraw if change.what == WITHDRAW else workflow.restore
        make(change.job, change.region, change.at)


def task_of(site: Site) -> ParameterTask:
    pending = PendingRows(SharedPoll(site.store.engine), age=0)
    return ParameterTask(
        site.settings,
        site.store,
        site.clients,
        threading.Event(),
        lambda: pending.current().parameters,
    )


@pytest.fixture
def named(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Named]:
    monkeypatch.setattr(parameters, "_BACKOFF", Backoff(0.05, 0.2))
    monkeypatch.setattr(parameters, "_POLL_SECONDS", 0.05)
    path = f"/fedora-{site.settings.site}/{{release}}/{{arch}}/{{type}}/latest"
    yield Named(site, task_of(site)).anew(path=path)
    site.account.refuse_nothing()


def calls(ec2: EC2) -> dict[str, int]:
    return dict(ask(ec2, "calls").get("SSM", {}))


def test_parameters_move_to_the_newest_build_alone(named: Named, ec2: EC2) -> None:
    older, first, second = (named.site.image() for _ in range(3))
    named.site.publish(first)
    named.settle()
    assert len(named.rows()) == len(REGIONS) * len(TYPES)
    assert named.named(first)
    found = named.ssm().get_parameter(Name=named.name())["Parameter"]
    assert (found["DataType"], found["Version"]) == ("aws:ec2:image", 1)
    named.site.publish(second)
    named.settle()
    assert named.named(second)
    # A build that was made before is published late, and is not the newest.
    named.site.publish(older)
    before = calls(ec2)
    named.settle()
    assert named.task.apply() > 0
    assert calls(ec2) == before
    assert named.named(second)
    assert named.differences() == []
    assert problems(named.site.store) == []


def test_calls_of_one_image_are_few(named: Named, ec2: EC2) -> None:
    before = calls(ec2)
    named.site.publish()
    named.settle()
    after = calls(ec2)
    made = {name: after[name] - before.get(name, 0) for name in after}
    assert made["PutParameter"] == len(REGIONS) * len(TYPES)
    assert "DeleteParameter" not in made or not made["DeleteParameter"]


def test_withdrawal_sets_back_or_deletes_and_restoration_sets_anew(named: Named) -> None:
    first, second = named.site.publish(), named.site.publish()
    named.settle()
    withdraw(named.site, second.job)
    # The parameters move as soon as the withdrawal is asked for.
    named.settle()
    assert named.named(first)
    carry_out(named.site)
    withdraw(named.site, first.job)
    named.until(lambda: not named.rows())
    assert named.shown() is None
    carry_out(named.site)
    named.settle()
    assert named.rows() == []
    restore(named.site, second.job)
    named.settle()
    assert named.rows() == []
    carry_out(named.site)
    named.settle()
    assert named.named(second)


def test_region_that_is_away_holds_up_no_other_and_is_not_forgotten(named: Named) -> None:
    account = named.site.account
    codes = {"PutParameter": "InternalServerError", "GetParameters": "InternalServerError"}
    account.refuse(FURTHER, **codes)
    image = named.site.publish()
    named.settle([ORIGIN])
    named.until(lambda: any(FURTHER in text for text in problems(named.site.store)))
    assert named.shown() == named.ami(image)
    account.refuse_nothing()
    restarted = named.anew()
    restarted.settle()
    assert restarted.named(image)
    assert problems(named.site.store) == []


def test_withdrawal_in_a_region_that_is_away_is_not_forgotten(named: Named) -> None:
    first, second = named.site.publish(), named.site.publish()
    named.settle()
    named.site.account.refuse(FURTHER, PutParameter="ServiceUnavailable")
    withdraw(named.site, second.job)
    named.settle([ORIGIN])
    assert named.shown(region=FURTHER) == named.ami(second, FURTHER)
    named.site.account.refuse_nothing()
    named.anew().settle()
    assert named.named(first)


def test_throttling_is_waited_for(named: Named, ec2: EC2) -> None:
    fault = {"fault": "refused", "code": "RequestLimitExceeded", "count": 2}
    follow(ec2, [{**fault, "action": ["PutParameter", "GetParameters", "DeleteParameter"]}])
    image = named.site.publish()
    named.settle()
    assert named.named(image)


@pytest.mark.parametrize("late", [True, False])
def test_cut_connection_is_followed_by_a_look(named: Named, ec2: EC2, late: bool) -> None:
    """Lose the answer, of a call that SSM took or never had: another worker goes on."""
    follow(ec2, [{"fault": "reset", "late": late, "count": 20, "action": "PutParameter"}])
    image = named.site.publish()
    named.task.apply()
    follow(ec2, [])
    restarted = named.anew()
    restarted.settle()
    assert restarted.named(image)


def test_ami_that_ec2_never_confirms_is_told(named: Named, ec2: EC2) -> None:
    follow(ec2, [{"fault": "unfinished", "action": "ParameterValidation"}])
    image = named.site.publish(types=[GP2])
    text = "EC2 does not confirm that the AMI is available"
    named.until(lambda: sum(text in each for each in problems(named.site.store)) == len(REGIONS))
    # The image is public all the same.
    assert {row.state for row in named.site.rows(image)} == {"public"}
    told = [each.text for each in named.differences() if each.kind == "parameter"]
    assert len(told) == len(REGIONS)
    assert all("it does not exist, and ami-" in each and text in each for each in told)
    follow(ec2, [])
    named.settle()
    assert named.shown() == named.ami(image)
    assert named.differences() == problems(named.site.store) == []


def test_refusal_by_a_policy_is_told_and_unpublishes_nothing(named: Named) -> None:
    named.site.account.refuse(ORIGIN, PutParameter="UnauthorizedOperation")
    image = named.site.publish()
    named.until(lambda: any("AccessDenied" in text for text in problems(named.site.store)))
    assert {row.state for row in named.site.rows(image)} == {"public"}
    named.site.account.refuse_nothing()
    named.settle()
    assert named.named(image)


def test_parameter_of_somebody_else_stays(named: Named) -> None:
    named.ssm().put_parameter(Name=named.name(), Value="mine", Type="String")
    image = named.site.publish()
    named.settle([FURTHER])
    named.until(lambda: any("no AMI of this site" in text for text in problems(named.site.store)))
    assert named.shown() == "mine"
    withdraw(named.site, image.job)
    named.until(lambda: len(named.rows()) == 1)
    assert named.shown() == "mine"
    named.ssm().delete_parameter(Name=named.name())
    named.until(lambda: not named.rows())


def test_verify_names_what_differs_and_repair_sets_it(named: Named) -> None:
    image, other = named.site.publish(), named.site.publish()
    named.settle()
    named.ssm().put_parameter(
        Name=named.name(GP2),
        Value=named.ami(image),
        DataType="aws:ec2:image",
        Overwrite=True,
    )
    named.ssm(FURTHER).delete_parameter(Name=named.name(GP3))
    deadline = time.monotonic() + 10
    while named.shown() != named.ami(image) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = {(each.region, each.id): each.text for each in named.differences()}
    assert set(found) == {(ORIGIN, named.name(GP2)), (FURTHER, named.name(GP3))}
    assert found[ORIGIN, named.name()].startswith(f'it names "{named.ami(image)}", and ami-')
    assert "it does not exist" in found[FURTHER, named.name(GP3)]
    site = named.site
    plan = repair.plan(named.differences(), site.store.all_amis(), site.store.job)
    assert [action.what for action in plan.actions] == ["set parameter"] * 2
    assert len(repair.ask(site.store, plan.actions, "me")) == 2
    named.settle()
    assert named.differences() == []
    assert named.named(other)


def test_comparison_that_cannot_ask_ssm_says_so(named: Named) -> None:
    named.site.publish()
    named.settle()
    named.site.account.refuse(FURTHER, GetParameters="UnauthorizedOperation")
    (told,) = named.differences()
    assert (told.kind, told.region) == ("parameter", FURTHER)
    assert "cannot be read" in told.text
    assert "AccessDeniedException" in told.text


def test_parameters_are_deleted_when_the_site_has_none_any_more(named: Named) -> None:
    image = named.site.publish()
    named.settle()
    path = named.path.replace("/latest", "/newest")
    renamed = named.anew(path=path)
    renamed.until(lambda: all(row.right for row in renamed.rows()))
    assert renamed.named(image)
    assert named.shown() is None
    off = renamed.anew(path="")
    off.until(lambda: not off.rows())
    assert renamed.shown() is None


def test_advanced_tier_is_kept(named: Named, ec2: EC2) -> None:
    image = named.site.publish(types=[GP2])
    named.settle()

    def tiers() -> set[str]:
        rows = [row for row in ask(ec2, "ledger/live") if row["kind"] == "parameter"]
        return {row["tier"] for row in rows if row["id"] == named.name()}

    assert tiers() == {"Standard"}
    advanced = named.anew(tier="Advanced")
    advanced.settle()
    # RAM shares it: AWS makes no Standard one of it, and neither does fedimg.
    back = advanced.anew(tier="Standard")
    newer = back.site.publish(types=[GP2])
    back.settle()
    assert tiers() == {"Advanced"}
    assert back.shown() == named.ami(newer) != named.ami(image)


def test_name_of_two_series_stays_with_the_first(named: Named) -> None:
    cloud = named.site.publish(types=[GP2])
    named.settle()
    other = named.site.image(f"Fedora-Atomic-43-{named.site.image().build.split('-')[-1]}.x86_64")
    other = RawImage(
        other.url, other.architecture, other.name.removesuffix(".x86_64"), other.source, 5
    )
    named.site.publish(other, types=[GP2])
    named.settle()
    named.until(lambda: bool(problems(named.site.store)))
    assert named.shown() == named.ami(cloud)
    (text, *_) = problems(named.site.store)
    assert "Fedora-Atomic-43 (build) have the same name; put {series} or {kind}" in text
    path = named.path.replace("{type}", "{series}/{type}")
    renamed = named.anew(path=path)
    renamed.until(lambda: all(row.right for row in renamed.rows()))
    assert renamed.shown() == named.ami(cloud)
    assert problems(named.site.store) == []


def test_put_that_is_confirmed_late_does_not_win(named: Named, ec2: EC2) -> None:
    """The AMI of a put may be confirmed after the parameter was wanted otherwise."""
    image = named.site.publish(types=[GP2])
    named.task.apply()
    assert named.shown() is None
    withdraw(named.site, image.job)
    named.until(lambda: not named.rows())
    time.sleep(0.5)
    assert named.shown() is None
