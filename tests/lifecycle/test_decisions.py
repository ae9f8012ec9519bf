"""Decisions of the rules of retention: fedimg.lifecycle.decisions, a function of its arguments."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from fedimg.config import Rule
from fedimg.lifecycle.decisions import IN_REACH, Decision, Facts, Verdict, decide
from fedimg.store import rows
from fedimg.store.rows import AMIRow

DAY = 86400.0
NOW = 2_000_000_000.0
RULE = Rule(deprecate_after=100, disable_after=200, delete_after=230, keep_newest=0)
CREATED = NOW - 700 * DAY


def row(number: int = 1, age: float = 0, state: str = rows.PUBLIC, **changes: Any) -> AMIRow:
    """Return an AMI of build `number` that became public `age` days ago."""
    build = f"Fedora-Cloud-Base-43-{number}"
    values: dict[str, Any] = {
        "image": f"{build}.x86_64",
        "job": f"build-{number}",
        "region": "us-east-1",
        "ami": f"ami-{number:08x}",
        "name": build,
        "architecture": "x86_64",
        "virt_type": "hvm",
        "volume_type": "gp3",
        "snapshot": f"snap-{number:08x}",
        "public": state == rows.PUBLIC,
        "source": f"build-{number}",
        "build": build,
        "state": state,
        "published_at": NOW - age * DAY,
        **changes,
    }
    return AMIRow(**values)


def fact(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "state": "available",
        "public": True,
        "created": CREATED,
        "deprecated_at": CREATED + 730 * DAY,
        "last_launched": NOW - 50 * DAY,
        **changes,
    }
    return Facts(**values)


def as_recorded(recorded: AMIRow, facts: Facts) -> Facts:
    """Return the facts with the state of the record."""
    if recorded.state == rows.DISABLED:
        return replace(facts, state="disabled", public=False)
    return replace(facts, public=recorded.public)


def decided(
    recorded: AMIRow | list[AMIRow], *rules: Rule, facts: Facts | None = None, **options: Any
) -> list[Decision]:
    recorded = recorded if isinstance(recorded, list) else [recorded]
    shown = {(each.region, each.ami): as_recorded(each, facts or fact()) for each in recorded}
    return decide(rules or (RULE,), recorded, shown, NOW, **options)


def verdict(recorded: AMIRow, *rules: Rule, **options: Any) -> Verdict:
    (decision,) = decided(recorded, *rules, **options)
    return decision.verdict


@pytest.mark.parametrize(
    ("age", "state", "disabled", "expected"),
    [
        (99, rows.PUBLIC, None, Verdict.KEEP),
        (100, rows.PUBLIC, None, Verdict.DEPRECATE),
        (199, rows.PUBLIC, None, Verdict.DEPRECATE),
        (200, rows.PUBLIC, None, Verdict.DISABLE),
        (900, rows.PUBLIC, None, Verdict.DISABLE),
        (229, rows.DISABLED, 30, Verdict.KEEP),
        (900, rows.DISABLED, 29, Verdict.KEEP),
        (230, rows.DISABLED, 30, Verdict.DELETE),
        (99, rows.SHARED, None, Verdict.KEEP),
        (100, rows.SHARED, None, Verdict.DEPRECATE),
        (200, rows.SHARED, None, Verdict.DISABLE),
    ],
)
def test_age_decides(age: float, state: str, disabled: float | None, expected: Verdict) -> None:
    changed = None if disabled is None else NOW - disabled * DAY
    assert verdict(row(1, age, state, changed_at=changed)) == expected


def test_nothing_is_removed_that_was_not_disabled_before() -> None:
    assert verdict(row(1, 10_000)) == Verdict.DISABLE


@pytest.mark.parametrize(
    "state", [state for state in rows.STATES if state not in (*IN_REACH, rows.DISABLED)]
)
def test_every_other_state_is_kept(state: str) -> None:
    kept = decided(row(1, 10_000, state))
    assert [each.verdict for each in kept] == ([] if state == rows.DELETED else [Verdict.KEEP])


@pytest.mark.parametrize(
    ("changes", "facts", "said"),
    [
        ({"published_at": None}, fact(), "when it became public"),
        ({}, None, "does not show it"),
        ({}, fact(last_launched=None), "when an instance was last launched"),
        ({}, fact(last_launched=NOW - 0.9 * DAY), "a day late"),
    ],
)
def test_what_is_not_known_keeps(changes: dict[str, Any], facts: Facts | None, said: str) -> None:
    old = replace(row(1, 300), **changes)
    shown = {("us-east-1", old.ami): facts} if facts else {}
    (decision,) = decide([RULE], [old], shown, NOW)
    assert decision.verdict == Verdict.KEEP
    assert said in decision.why


def test_tag_tells_when_an_ami_of_an_older_version_became_public() -> None:
    old = row(1, published_at=None)
    assert verdict(old, facts=fact(published_at=NOW - 300 * DAY)) == Verdict.DISABLE
    assert verdict(old, facts=fact(published_at=NOW - 3 * DAY)) == Verdict.KEEP


def test_disabled_ami_of_unknown_time_is_kept() -> None:
    assert verdict(row(1, 900, rows.DISABLED, changed_at=None)) == Verdict.KEEP


def test_person_may_count_what_was_never_launched() -> None:
    never = fact(last_launched=None)
    assert verdict(row(1, 300), facts=never, unlaunched=True) == Verdict.DISABLE
    # The launch of an hour ago is known, and nobody may count it as none.
    late = fact(last_launched=NOW - 3600)
    assert verdict(row(1, 300), facts=late, unlaunched=True) == Verdict.KEEP


def test_ami_in_use_is_kept_as_long_as_the_rule_says() -> None:
    rule = RULE.model_copy(update={"unused_for": 60})
    assert verdict(row(1, 300), rule) == Verdict.KEEP
    assert verdict(row(1, 300), rule, facts=fact(last_launched=NOW - 61 * DAY)) == Verdict.DISABLE


def test_first_rule_that_matches_decides() -> None:
    keeping, all_of_them = Rule(patterns=["Cloud-Base-43-1[.]"]), RULE
    first, second = decided([row(1, 300), row(2, 300)], keeping, all_of_them)
    assert (first.verdict, first.rule) == (Verdict.KEEP, 1)
    assert (second.verdict, second.rule) == (Verdict.DISABLE, 2)
    arm = Rule(architectures=["aarch64"], disable_after=1, keep_newest=0)
    (none,) = decided(row(1, 300), arm)
    assert (none.verdict, none.rule, none.why) == (Verdict.KEEP, None, "no rule matches it")
    assert verdict(row(1, 300, architecture="arm64"), arm) == Verdict.DISABLE


def newest(count: int) -> Rule:
    return RULE.model_copy(update={"keep_newest": count})


def test_newest_are_kept_by_the_order_of_builds_and_not_of_completion() -> None:
    # Build 1 was retried, and became public last.
    amis = [row(1, 300), row(2, 400), row(3, 500)]
    verdicts = [each.verdict for each in decided(amis, newest(2))]
    assert verdicts == [Verdict.DISABLE, Verdict.KEEP, Verdict.KEEP]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "arm64"},
        {"region": "eu-west-1"},
        {"volume_type": "gp2"},
        {"virt_type": "paravirtual"},
        {"image": "Fedora-Cloud-Base-44-2.x86_64", "build": "Fedora-Cloud-Base-44-2"},
        # A scratch build and an upload have a later number, and are no release's newest.
        {"source": "task-9"},
        {"source": "url-0a"},
        # What a compose made is no successor of what a build made.
        {"source": "compose-Fedora-43-20261101.0", "build": "Fedora-43-20261101.0"},
        {"state": rows.WITHDRAWN, "public": False},
        {"state": rows.PRIVATE, "public": False},
        {"state": rows.DISABLED, "public": False},
    ],
)
def test_only_public_amis_of_the_same_place_are_newer(changes: dict[str, Any]) -> None:
    old, newer = row(1, 300), replace(row(2, 10), **changes)
    first, _ = decided([old, newer], newest(1))
    assert first.verdict == Verdict.KEEP
    first, _ = decided([old, row(2, 10)], newest(1))
    assert first.verdict == Verdict.DISABLE


@pytest.mark.parametrize(
    "newer", [None, fact(public=False), fact(public=False, state="disabled"), fact(state="pending")]
)
def test_newer_ami_counts_only_while_ec2_shows_it_public_and_available(
    newer: Facts | None,
) -> None:
    recorded = [row(1, 300), row(2, 10)]
    shown = {("us-east-1", recorded[0].ami): fact()}
    if newer:
        shown["us-east-1", recorded[1].ami] = newer
    first, second = decide([newest(1)], recorded, shown, NOW)
    assert (first.verdict, second.verdict) == (Verdict.KEEP, Verdict.KEEP)
    assert "keep_newest" in first.why
    # Neither does an AMI that a rule keeps for ever.
    other = Rule(patterns=["-43-2[.]"])
    first, second = decide([other, newest(1)], recorded, shown, NOW)
    assert first.verdict == Verdict.KEEP


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (rows.PUBLIC, {"public": False}),
        (rows.PUBLIC, {"public": False, "state": "disabled"}),
        (rows.PUBLIC, {"state": "pending"}),
        (rows.DISABLED, {"public": True}),
        (rows.DISABLED, {"public": False}),
        (rows.DISABLED, {"public": True, "state": "disabled"}),
    ],
)
def test_ami_that_ec2_shows_otherwise_than_recorded_is_kept(
    state: str, shown: dict[str, Any]
) -> None:
    old = row(1, 900, state, changed_at=None if state == rows.PUBLIC else NOW - 40 * DAY)
    (decision,) = decide([RULE], [old], {("us-east-1", old.ami): fact(**shown)}, NOW)
    assert decision.verdict == Verdict.KEEP
    assert f"recorded as {state}, and EC2 shows it" in decision.why


def test_newer_ami_that_is_about_to_go_keeps_no_older_one_from_being_the_newest() -> None:
    going = Rule(patterns=["-43-2[.]"], disable_after=1, keep_newest=0)
    old, newer = decided([row(1, 300), row(2, 10)], going, newest(1))
    assert (old.verdict, newer.verdict) == (Verdict.KEEP, Verdict.DISABLE)


def test_ami_of_an_unknown_release_is_kept_and_a_scratch_build_is_not() -> None:
    assert verdict(row(1, 300, build="other-1-1"), newest(1)) == Verdict.KEEP
    assert verdict(row(1, 300, source="task-1"), newest(1)) == Verdict.DISABLE


def test_days_count_from_a_restoration() -> None:
    restored = row(1, 900, changed_at=NOW - 3 * DAY)
    assert verdict(restored) == Verdict.KEEP


def test_protected_ami_is_not_removed() -> None:
    old = row(1, 900, rows.DISABLED, changed_at=NOW - 40 * DAY)
    for protection in ("enabled-with-cooldown", "enabled-without-cooldown"):
        (decision,) = decided(old, facts=fact(protection=protection))
        assert decision.verdict == Verdict.KEEP
        assert protection in decision.why


def test_unfinished_change_is_not_overtaken() -> None:
    assert verdict(row(1, 300), changing={("build-1", "us-east-1")}) == Verdict.KEEP
    assert verdict(row(1, 300), changing={("build-1", "eu-west-1")}) == Verdict.DISABLE


def test_time_of_deprecation_is_in_the_future_and_of_full_minutes() -> None:
    (decision,) = decided(row(1, 100))
    assert decision.deprecate_at is not None
    assert 900 <= decision.deprecate_at - NOW <= 960
    assert decision.deprecate_at % 60 == 0


@pytest.mark.parametrize(
    "facts",
    [
        fact(deprecated_at=NOW - DAY),
        # EC2's own date comes before the rule's.
        fact(deprecated_at=NOW + 60),
        fact(created=NOW - 730 * DAY, deprecated_at=None),
        fact(created=None, deprecated_at=None),
    ],
)
def test_time_later_than_ec2s_is_told_and_not_tried(facts: Facts) -> None:
    (decision,) = decided(row(1, 150), facts=facts)
    assert decision.verdict == Verdict.KEEP
    assert "EC2 deprecates" in decision.why


def test_properties_of_the_decisions_hold_for_any_record() -> None:
    """A thousand records, made at random from a fixed seed."""
    chance = random.Random(18)
    for _ in range(1000):
        recorded = [_anything(chance, number) for number in range(1, chance.randrange(2, 12))]
        shown = {
            (each.region, each.ami): _any_fact(chance, each)
            for each in recorded
            if chance.random() < 0.9
        }
        rule = Rule(
            deprecate_after=chance.choice([0, 50]),
            disable_after=100,
            delete_after=chance.choice([0, 114, 200]),
            keep_newest=chance.randrange(4),
        )
        made = decide([rule], recorded, shown, NOW)
        assert [each.row for each in made] == [
            each for each in recorded if each.state != rows.DELETED
        ]
        # The order of the record changes nothing.
        shuffled = chance.sample(recorded, len(recorded))
        again = decide([rule], shuffled, shown, NOW)
        assert sorted(map(repr, again)) == sorted(map(repr, made))
        for decision in made:
            _check(decision, rule, made, shown)
        # Less knowledge never makes more go.
        going = {each.row.ami for each in made if each.verdict is not Verdict.KEEP}
        fewer = {key: value for key, value in shown.items() if chance.random() < 0.5}
        less = {
            each.row.ami
            for each in decide([rule], recorded, fewer, NOW)
            if each.verdict is not Verdict.KEEP
        }
        assert less <= going


def _anything(chance: random.Random, number: int) -> AMIRow:
    state = chance.choice([rows.PUBLIC, rows.PUBLIC, rows.DISABLED, *rows.STATES])
    return row(
        number,
        chance.randrange(300),
        state,
        source=chance.choice([f"build-{number}", f"build-{number}", f"task-{number}"]),
        region=chance.choice(["us-east-1", "eu-west-1"]),
        changed_at=chance.choice([None, NOW - chance.randrange(300) * DAY]),
        published_at=chance.choice([None, NOW - 250 * DAY, NOW - 150 * DAY, NOW - 20 * DAY]),
    )


def _any_fact(chance: random.Random, recorded: AMIRow) -> Facts:
    shown = fact(
        public=chance.choice([True, False]),
        state=chance.choice(["available", "disabled"]),
        last_launched=chance.choice([None, NOW - 3600, NOW - 5 * DAY]),
        protection=chance.choice(["disabled", "disabled", "enabled-with-cooldown"]),
    )
    return as_recorded(recorded, shown) if chance.random() < 0.8 else shown


def _check(
    decision: Decision, rule: Rule, made: list[Decision], shown: dict[tuple[str, str], Facts]
) -> None:
    """Fail if a decision breaks a promise."""
    ami = decision.row
    assert decision.why
    if decision.verdict is Verdict.KEEP:
        return
    facts = shown[ami.region, ami.ami]
    if decision.verdict is Verdict.DELETE:
        assert ami.state == rows.DISABLED
        assert ami.changed_at is not None
        assert NOW - ami.changed_at >= 14 * DAY
        assert facts.protection == "disabled"
        assert (facts.state, facts.public) == ("disabled", False)
    else:
        assert ami.state in IN_REACH
        assert (facts.state, facts.public) == ("available", ami.state == rows.PUBLIC)
    if decision.verdict is not Verdict.DEPRECATE:
        assert facts.last_launched is not None
        assert NOW - facts.last_launched >= DAY
    if rule.keep_newest and ami.source and ami.source.startswith("build-"):
        left = [
            each
            for each in made
            if each.row.state in IN_REACH
            # What is shared with few replaces nothing that is everybody's, nor the reverse.
            and (each.row.state == rows.SHARED) == (ami.state == rows.SHARED)
            and _usable(shown.get((each.row.region, each.row.ami)), each.row.state)
            and each.verdict in (Verdict.KEEP, Verdict.DEPRECATE)
            and each.row.region == ami.region
            and str(each.row.source).startswith("build-")
            and int(str(each.row.source)[6:]) > int(ami.source[6:])
        ]
        assert len(left) >= rule.keep_newest


def _usable(facts: Facts | None, state: str) -> bool:
    if facts is None or facts.state != "available":
        return False
    return facts.public == (state == rows.PUBLIC)


def test_newer_private_ami_makes_no_public_one_old() -> None:
    rule = RULE.model_copy(update={"keep_newest": 1})
    public, newer = row(1, 900), row(2, 900, rows.SHARED, audience={})
    kept, also = decided([public, newer], rule)
    assert (kept.verdict, also.verdict) == (Verdict.KEEP, Verdict.KEEP)
    assert "only 0 newer ones of its release are public" in kept.why
