"""IAM's policy documents, and whether their statements allow one request.

The rules are those of the IAM User Guide: "IAM JSON policy elements reference" and "Policy
evaluation logic".
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lab.ec2.iam.conditions import Condition, condition
from lab.ec2.iam.patterns import Context, Unresolved, action_fits, resource_fits

_PARTS = {
    "Sid",
    "Effect",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
}
_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+")


class Malformed(ValueError):
    """A document that IAM does not take, or that holds what the lab does not evaluate."""


@dataclass(frozen=True)
class Asked:
    """One thing that a call wants to do: an action on a resource, and what is known of both.

    The names of `context`'s keys are in lower case, as IAM does not tell their cases apart.
    """

    action: str
    resource: str
    context: Context


@dataclass(frozen=True)
class Statement:
    sid: str
    allow: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]
    other_actions: bool = False
    other_resources: bool = False

    def fits(self, asked: Asked) -> bool:
        """Return whether the statement is about this request."""
        try:
            acts = any(action_fits(each, asked.action) for each in self.actions)
            on = any(resource_fits(each, asked.resource, asked.context) for each in self.resources)
            return (
                acts is not self.other_actions
                and on is not self.other_resources
                and all(each.holds(asked.context) for each in self.conditions)
            )
        except Unresolved:
            # IAM: a statement with a variable that has no value does not apply.
            return False


@dataclass(frozen=True)
class Decision:
    """`by` names the statements that allow the request, or that deny it explicitly."""

    allowed: bool
    explicit: bool
    by: tuple[str, ...]


def decide(statements: Iterable[Statement], asked: Asked) -> Decision:
    """Judge a call: an explicit Deny wins, then an Allow; without an Allow the call is denied."""
    fitting = [statement for statement in statements if statement.fits(asked)]
    denying = tuple(statement.sid for statement in fitting if not statement.allow)
    if denying:
        return Decision(False, True, denying)
    allowing = tuple(statement.sid for statement in fitting)
    return Decision(bool(allowing), False, allowing)


@cache
def parse(text: str) -> tuple[Statement, ...]:
    """Return the statements of an identity's policy. Raises Malformed."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Malformed(f"no JSON: {error}") from error
    if not isinstance(document, dict) or not document.get("Statement"):
        raise Malformed("a policy has a Statement")
    if document.get("Version") != "2012-10-17":
        raise Malformed("the lab evaluates policies of Version 2012-10-17")
    found = [_statement(given, number) for number, given in enumerate(_list(document["Statement"]))]
    named = [statement.sid for statement in found]
    if len(set(named)) < len(named):
        raise Malformed("two statements have the same Sid")
    return tuple(found)


def _statement(given: Any, number: int) -> Statement:
    if not isinstance(given, Mapping):
        raise Malformed(f"statement {number} is no object")
    sid = str(given.get("Sid") or f"#{number}")
    if unknown := sorted(given.keys() - _PARTS):
        raise Malformed(f"statement {sid} has {', '.join(unknown)}, of which the lab knows nothing")
    if given.get("Effect") not in ("Allow", "Deny"):
        raise Malformed(f"statement {sid} has to Allow or to Deny")
    for one, other in (("Action", "NotAction"), ("Resource", "NotResource")):
        if (one in given) == (other in given):
            raise Malformed(f"statement {sid} needs {one} or {other}")
    actions = _list(given.get("Action", given.get("NotAction")))
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise Malformed(f"statement {sid}: {action!r} is no action")
    resources = _list(given.get("Resource", given.get("NotResource")))
    for resource in resources:
        if resource != "*" and not (resource.startswith("arn:") and resource.count(":") >= 5):
            raise Malformed(f"statement {sid}: {resource!r} is no ARN")
    try:
        conditions = [
            condition(operator, key, [_text(value) for value in _list(values)])
            for operator, keys in given.get("Condition", {}).items()
            for key, values in keys.items()
        ]
    except ValueError as error:
        raise Malformed(f"statement {sid}: {error}") from error
    return Statement(
        sid,
        given["Effect"] == "Allow",
        tuple(actions),
        tuple(resources),
        tuple(conditions),
        "NotAction" in given,
        "NotResource" in given,
    )


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
