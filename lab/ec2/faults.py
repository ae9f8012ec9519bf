"""A plan of faults: which of EC2's calls go wrong, where, how often and in which way.

lab.ec2.fault_effects does to a call what its fault says.
"""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from random import Random
from typing import Any, get_args, get_type_hints

from lab.machines import BOOT, DROPPED, FOREIGN, FROZEN, FULL, LOGIN

#: What happens to a call …
REFUSED, RESET, SLOW, UNKNOWN, STALE = "refused", "reset", "slow", "unknown", "stale"
#: … and to a snapshot, an image or an instance whose time to be ready has come.
FAILED, UNFINISHED = "failed", "unfinished"
ON_CALLS = (REFUSED, RESET, SLOW, UNKNOWN, STALE)
ON_COMPLETIONS = (FAILED, UNFINISHED)
#: … and to an instance that boots, or is logged into.
ON_MACHINES = {FOREIGN: LOGIN, DROPPED: LOGIN, FROZEN: LOGIN, FULL: BOOT}
#: The names that stand for the second kind where an action's would.
COMPLETIONS = (
    "SnapshotCompletion",
    "ImageCompletion",
    "InstanceStart",
    "SnapshotDeletion",
    "ParameterValidation",
)


class PlanError(ValueError):
    """A plan cannot be used; the text names the rule and the key."""


@dataclass(frozen=True)
class Rule:
    """One way in which calls go wrong; docs/lab.md explains every key."""

    fault: str
    action: str | list[str] = "*"
    region: str | list[str] = "*"
    code: str = ""
    message: str = "The lab's plan of faults has it so."
    reason: str = ""
    late: bool = False
    seconds: float = 0.0
    answers: int = 0
    probability: float = 1.0
    skip: int = 0
    count: int | None = None
    after: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name, value in asdict(self).items():
            if not _fits(value, kinds[name]):
                raise PlanError(f"{name} = {value!r} is none of {_said(kinds[name])}")
        if self.fault not in (*ON_CALLS, *ON_COMPLETIONS, *ON_MACHINES):
            known = ", ".join((*ON_CALLS, *ON_COMPLETIONS, *ON_MACHINES))
            raise PlanError(f"fault = {self.fault!r} is none of {known}")
        if self.fault == REFUSED and not self.code:
            raise PlanError("a refused call needs a code, such as RequestLimitExceeded")
        if self.fault in (SLOW, STALE) and self.seconds <= 0:
            raise PlanError(f"{self.fault} needs seconds")
        if self.fault == UNKNOWN and self.seconds <= 0 and self.answers <= 0:
            raise PlanError("unknown needs seconds, or answers")
        if not 0 <= self.probability <= 1:
            raise PlanError(f"probability = {self.probability} is not between 0 and 1")

    def concerns(self, action: str, region: str) -> bool:
        """Return whether the rule is about this action in this region."""
        return _matches(action, self.action) and _matches(region, self.region)


@dataclass(frozen=True)
class Plan:
    """The rules, in the order in which a call meets them; `seed` decides where chance does."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, values: Any) -> "Plan":
        """Return the plan that a TOML file or a JSON body holds: `seed`, and a list of `faults`.

        Raises PlanError for whatever it does not understand: a fault that never strikes because
        of a misspelt key would show that all is well.
        """
        if not isinstance(values, Mapping) or set(values) - {"seed", "faults"}:
            raise PlanError("a plan has seed and faults, a list of rules, and nothing else")
        seed, given = values.get("seed", 0), values.get("faults", [])
        if type(seed) is not int or not isinstance(given, list):
            raise PlanError("seed is a whole number, and faults a list")
        return cls(tuple(_rule(number, rule) for number, rule in enumerate(given, 1)), seed)


class Faults:
    """The plan that holds now, and what has struck by it. Thread-safe."""

    def __init__(self, plan: Plan) -> None:
        self._lock = threading.Lock()
        self._superseded = threading.Event()
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """From now on this plan holds, and its times begin now."""
        with self._lock:
            self._superseded.set()
            self._superseded = threading.Event()
            self._plan = plan
            self._began = time.monotonic()
            self._met: Counter[tuple[int, str, str]] = Counter()
            self._struck: Counter[tuple[int, str, str]] = Counter()
            self._named: Counter[tuple[int, str]] = Counter()

    def longest(self, fault: str) -> float:
        """Return the longest time, in seconds, of the rules of this kind; 0 when there is none."""
        return max((rule.seconds for rule in self._plan.rules if rule.fault == fault), default=0.0)

    def delay(self, seconds: float) -> bool:
        """Let a call take so much longer; whether the plan that has it so still holds then."""
        return not self._superseded.wait(seconds)

    def completing(self, completion: str, region: str) -> Rule | None:
        """Return the fault that keeps a snapshot, image or instance from being ready, if one is
        due.
        """
        due = next(self.due(ON_COMPLETIONS, completion, region), None)
        return due.strike() if due else None

    def at_machine(self, moment: str, region: str) -> str:
        """Return the faults that strike an instance at this moment of its machine's life."""
        kinds = [kind for kind, when in ON_MACHINES.items() if when == moment]
        due = next(self.due(kinds, moment, region), None)
        return due.strike().fault if due else ""

    def due(self, kinds: Collection[str], action: str, region: str) -> Iterator["Due"]:
        """Return the rules of these kinds that are due for this call, in order.

        Chance is drawn from the seed, the rule, and how many such calls it has met in that
        region: what other regions do meanwhile changes nothing.
        """
        plan, began = self._plan, self._began
        for number, rule in enumerate(plan.rules):
            if rule.fault not in kinds or not rule.concerns(action, region):
                continue
            passed = time.monotonic() - began
            if passed < rule.after or (rule.until is not None and passed >= rule.until):
                continue
            place = (number, action, region)
            with self._lock:
                self._met[place] += 1
                met = self._met[place]
                spent = rule.count is not None and self._struck[place] >= rule.count
            drawn = Random(f"{plan.seed}/{number}/{action}/{region}/{met}").random()
            if met > rule.skip and not spent and drawn < rule.probability:
                yield Due(rule, self, place)

    def struck(self, place: tuple[int, str, str]) -> None:
        """Count that a rule has struck a call."""
        with self._lock:
            self._struck[place] += 1

    def named(self, rule: int, id: str) -> int:
        """Return how often a rule has met a call that names this thing, this time included."""
        with self._lock:
            self._named[rule, id] += 1
            return self._named[rule, id]

    def told(self) -> dict[str, Any]:
        """Return the plan as JSON, each rule with the number of times it has `struck`."""
        with self._lock:
            rules = [
                {
                    **_shown(rule),
                    "struck": sum(n for place, n in self._struck.items() if place[0] == number),
                }
                for number, rule in enumerate(self._plan.rules)
            ]
            return {"seed": self._plan.seed, "faults": rules}


@dataclass(frozen=True)
class Due:
    """A rule that is due for a call; `strike` counts it."""

    rule: Rule
    faults: Faults = field(repr=False)
    place: tuple[int, str, str]

    def strike(self) -> Rule:
        """Count that the rule has struck, and return the rule."""
        self.faults.struck(self.place)
        return self.rule

    def named(self, id: str) -> int:
        """Return how often the rule has met a call that names this thing, this time included."""
        return self.faults.named(self.place[0], id)


def _rule(number: int, given: Any) -> Rule:
    known = [field.name for field in fields(Rule)]
    if not isinstance(given, Mapping) or "fault" not in given:
        raise PlanError(f"fault {number} is no table with a key fault")
    if unknown := sorted(set(given) - set(known)):
        raise PlanError(
            f"fault {number}: unknown key {', '.join(unknown)}; known: {', '.join(known)}"
        )
    try:
        return Rule(**given)
    except PlanError as error:
        raise PlanError(f"fault {number}: {error}") from error


def _shown(rule: Rule) -> dict[str, Any]:
    """Return the rule without the values that are defaults."""
    defaults = {field.name: field.default for field in fields(Rule)}
    return {name: value for name, value in asdict(rule).items() if value != defaults[name]}


def _fits(value: Any, kind: Any) -> bool:
    for one in get_args(kind) or (kind,):
        if one == list[str]:
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                return True
        elif type(value) is one or (one is float and type(value) is int):
            return True
    return False


def _said(kind: Any) -> str:
    return ", ".join(getattr(one, "__name__", str(one)) for one in get_args(kind) or (kind,))


def _matches(name: str, patterns: str | list[str]) -> bool:
    several = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in several)
