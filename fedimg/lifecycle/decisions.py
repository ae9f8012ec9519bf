"""Decide by the rules of retention what happens to each AMI: a function of the record and of EC2.

What is not known keeps an AMI. The decisions change nothing by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from fedimg.config import Rule
from fedimg.config.retention import DEPRECATION_DAYS
from fedimg.editions import Edition, belongs_to_no_release, edition
from fedimg.store import rows
from fedimg.store.rows import AMIRow

_DAY = 86400.0
#: EC2 tells the last launch of an AMI a day late.
_LAUNCH_DELAY = _DAY
#: How long after its decision an AMI is deprecated, in seconds: EC2 takes no time that has passed.
_LEAD_SECONDS = 900.0

#: The states of AMIs in others' reach, about which the rules are: everybody's, or an audience's.
IN_REACH = (rows.PUBLIC, rows.SHARED)
#: Why an AMI in one of these states is kept whatever its age.
_KEPT = {
    rows.PRIVATE: "it was never public; 'fedimg cleanup' lists what a job left",
    rows.SHARING: "it is private, and the change of its audience is not finished",
    rows.WITHDRAWING: "its withdrawal is not finished",
    rows.WITHDRAWN: "it is withdrawn, and 'fedimg restore' has to find it",
    rows.RESTORING: "its restoration is not finished",
    rows.HIDDEN: "a person made it private by hand",
    rows.DISABLING: "its disabling is not finished",
    rows.DELETING: "its removal is not finished",
    rows.UNKNOWN: "it is not known whether it was tested",
}


class Verdict(StrEnum):
    """A decision about an AMI."""

    KEEP = "keep"
    DEPRECATE = "deprecate"
    DISABLE = "disable"
    DELETE = "delete"


@dataclass(frozen=True)
class Facts:
    """The facts that EC2 shows of an AMI; times are in epoch seconds, None if EC2 tells none.

    `state` is `available`, `disabled` or another of EC2's words; `public` says that every account
    may launch it. `published_at` is the time in the tag that fedimg set before the AMI became
    public, `shared_at` that before it was shared.
    """

    state: str
    public: bool
    published_at: float | None = None
    created: float | None = None
    deprecated_at: float | None = None
    last_launched: float | None = None
    protection: str = "disabled"
    shared_at: float | None = None

    def usable_as(self, state: str) -> bool:
        """Return whether those may launch the AMI who may by a recorded state in others' reach.

        With whom a private one is shared, no list of EC2's tells.
        """
        return self.public == (state == rows.PUBLIC) and self.state == "available"


@dataclass(frozen=True)
class Decision:
    """The decision about an AMI, and the fact that decided.

    `rule` counts from 1, None if no rule matches; `deprecate_at` is the time that EC2 gets.
    """

    row: AMIRow
    verdict: Verdict
    rule: int | None
    why: str
    deprecate_at: float | None = None


@dataclass(frozen=True)
class _Candidate:
    row: AMIRow
    number: int
    rule: Rule
    edition: Edition | None


def decide(
    rules: Sequence[Rule],
    recorded: Iterable[AMIRow],
    facts: Mapping[tuple[str, str], Facts],
    now: float,
    *,
    changing: Collection[tuple[str, str]] = (),
    unlaunched: bool = False,
) -> list[Decision]:
    """Return the decision about each recorded AMI that is not deleted, in the record's order.

    `recorded` has all AMIs of each region that it is about, as the newest are found among them.
    `facts` are by region and AMI; `changing` are the jobs and regions where a change is not
    finished. With `unlaunched`, an AMI of which EC2 tells no launch counts as never launched.
    """
    recorded = [row for row in recorded if row.state != rows.DELETED]
    decided: dict[tuple[str, str], Decision] = {}
    candidates: list[_Candidate] = []
    for row in recorded:
        kept = _kept_by_state(row, changing)
        number = next((n for n, r in enumerate(rules, 1) if _matches(r, row)), None)
        if kept or number is None:
            why = kept or "no rule matches it"
            decided[row.region, row.ami] = Decision(row, Verdict.KEEP, number, why)
        else:
            known = edition(row.image, row.source, row.build)
            candidates.append(_Candidate(row, number, rules[number - 1], known))
    public = _public(decided.values(), facts)
    # The newest first: what is about to be disabled keeps no older AMI from being the newest.
    candidates.sort(key=lambda each: each.edition.order if each.edition else (), reverse=True)
    for each in candidates:
        newer = 0
        place = _place(each.row, each.edition) if each.edition else None
        if each.edition and place:
            newer = sum(order > each.edition.order for order in public.get(place, ()))
        fact = facts.get((each.row.region, each.row.ami))
        decision = _decide(each, fact, newer, now, unlaunched=unlaunched)
        decided[each.row.region, each.row.ami] = decision
        stays = decision.verdict in (Verdict.KEEP, Verdict.DEPRECATE)
        if each.edition and place and stays and _is_usable(each.row, fact):
            public.setdefault(place, set()).add(each.edition.order)
    return [decided[row.region, row.ami] for row in recorded]


def _matches(rule: Rule, row: AMIRow) -> bool:
    return rule.matches(row.image, row.architecture)


def _kept_by_state(row: AMIRow, changing: Collection[tuple[str, str]]) -> str:
    if row.state not in (*IN_REACH, rows.DISABLED):
        return _KEPT[row.state]
    if (row.job, row.region) in changing:
        return "a change of its job's AMIs in this region is not finished"
    return ""


#: Series, architecture, AMI type, region, and whether it is private, in which keep_newest counts: a
#: newer one that is shared with few replaces none that is everybody's.
_Place = tuple[tuple[str, str], str, str, str, str, bool]


def _is_usable(row: AMIRow, fact: Facts | None) -> bool:
    """Return whether an AMI is in reach by the record and by EC2: only such one is a newest one.

    What a person hid or removed by hand must not make an older one go.
    """
    return row.state in IN_REACH and fact is not None and fact.usable_as(row.state)


def _public(
    decisions: Iterable[Decision], facts: Mapping[tuple[str, str], Facts]
) -> dict[_Place, set[tuple[int, ...]]]:
    """Return the orders of the usable AMIs among these, by place."""
    found: dict[_Place, set[tuple[int, ...]]] = {}
    for each in decisions:
        known = edition(each.row.image, each.row.source, each.row.build)
        if known and _is_usable(each.row, facts.get((each.row.region, each.row.ami))):
            found.setdefault(_place(each.row, known), set()).add(known.order)
    return found


def _place(row: AMIRow, known: Edition) -> _Place:
    private = row.audience is not None or row.state == rows.SHARED
    return known.series, row.architecture, row.virt_type, row.type.storage, row.region, private


def _decide(
    each: _Candidate, fact: Facts | None, newer: int, now: float, *, unlaunched: bool
) -> Decision:
    row, rule = each.row, each.rule

    def keep(why: str) -> Decision:
        return Decision(row, Verdict.KEEP, each.number, why)

    if fact is None:
        return keep("EC2 does not show it")
    if differs := differs_from_record(row.state, fact):
        return keep(differs)
    since = _since(row, fact)
    if since is None:
        return keep("neither the record nor its tags tell when it became public")
    verdict, why = _due(row, rule, since, now)
    if verdict is Verdict.KEEP:
        return keep(why)
    for reason in _reasons_to_keep(each, fact, newer, verdict, now, unlaunched=unlaunched):
        return keep(f"{why}, but {reason}")
    if verdict is not Verdict.DEPRECATE:
        return Decision(row, verdict, each.number, why)
    at = math.ceil((now + _LEAD_SECONDS) / 60) * 60.0
    if fact.deprecated_at is not None and fact.deprecated_at <= at:
        when = "since" if fact.deprecated_at <= now else "at"
        return keep(f"{why}, and EC2 deprecates it {when} {_time(fact.deprecated_at)}")
    if fact.created is None or at > fact.created + DEPRECATION_DAYS * _DAY:
        return keep(f"{why}, but EC2 deprecates no public AMI over two years after its creation")
    return Decision(row, verdict, each.number, why, deprecate_at=at)


def differs_from_record(state: str, fact: Facts) -> str:
    """Return, as a clause, how EC2 shows an AMI otherwise than recorded, or "".

    `state` is the recorded one: public, shared or disabled. Somebody changed such an AMI by hand,
    and a person decides about it: nothing is taken away that others may use by now.
    """
    disabled = fact.state == "disabled" and not fact.public
    if fact.usable_as(state) if state in IN_REACH else disabled:
        return ""
    shown = "public" if fact.public else "private"
    if fact.state != "available":
        shown = f"{shown} and {fact.state}"
    elif state == rows.DISABLED:
        shown = f"{shown} and enabled"
    return f"it is recorded as {state}, and EC2 shows it {shown}: a person has to decide about it"


def _since(row: AMIRow, fact: Facts) -> float | None:
    """Return the time from which an AMI's age counts: when it came into reach, or was restored.

    Versions before 1.0 recorded the first of these times in a tag alone.
    """
    published = row.published_at or fact.published_at or row.shared_at or fact.shared_at
    if published is None:
        return None
    restored = row.changed_at if row.state in IN_REACH else None
    return max(published, restored or 0.0)


def _due(row: AMIRow, rule: Rule, since: float, now: float) -> tuple[Verdict, str]:
    """Return what the days alone demand, and the days in words."""
    age = (now - since) / _DAY
    became = "became public" if row.audience is None else "was shared"
    text = f"it {became} {math.floor(age)} days ago"
    if row.state == rows.DISABLED:
        if not rule.delete_after:
            return Verdict.KEEP, "it is disabled, and the rule has no delete_after"
        if row.changed_at is None:
            return Verdict.KEEP, "the record does not tell when it was disabled"
        disabled = (now - row.changed_at) / _DAY
        rest = rule.delete_after - rule.disable_after
        text += f" and was disabled {math.floor(disabled)} days ago"
        if age < rule.delete_after or disabled < rest:
            return (
                Verdict.KEEP,
                f"{text}: delete_after = {rule.delete_after} is {rest} days after disable_after",
            )
        return Verdict.DELETE, f"{text}: delete_after = {rule.delete_after}"
    if rule.disable_after and age >= rule.disable_after:
        return Verdict.DISABLE, f"{text}: disable_after = {rule.disable_after}"
    if rule.deprecate_after and age >= rule.deprecate_after:
        return Verdict.DEPRECATE, f"{text}: deprecate_after = {rule.deprecate_after}"
    limits = [
        f"{name} = {days}"
        for name, days in (
            ("deprecate_after", rule.deprecate_after),
            ("disable_after", rule.disable_after),
        )
        if age < days
    ]
    return Verdict.KEEP, f"{text}: {', '.join(limits) or 'the rule keeps it'}"


def _reasons_to_keep(
    each: _Candidate, fact: Facts, newer: int, verdict: Verdict, now: float, *, unlaunched: bool
) -> Iterator[str]:
    row, rule = each.row, each.rule
    if rule.keep_newest and not belongs_to_no_release(row.source):
        if each.edition is None:
            yield "the record does not tell its release, by which keep_newest counts"
        elif newer < rule.keep_newest:
            reach = "public" if row.audience is None else "shared"
            yield (
                f"only {newer} newer ones of its release are {reach}: keep_newest = "
                f"{rule.keep_newest}"
            )
    if verdict is Verdict.DEPRECATE:
        return
    if fact.last_launched is None:
        if not unlaunched:
            yield "EC2 does not tell when an instance was last launched from it"
    elif now - fact.last_launched < max(_LAUNCH_DELAY, rule.unused_for * _DAY):
        yield (
            f"an instance was launched from it at {_time(fact.last_launched)}, which EC2 tells a "
            f"day late: unused_for = {rule.unused_for}"
        )
    # What fedimg protected itself, by the configuration, it unprotects itself.
    protected = fact.protection.startswith("enabled") and not row.protected
    if verdict is Verdict.DELETE and protected:
        yield f"its deregistration protection is {fact.protection}; a person has to disable that"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
