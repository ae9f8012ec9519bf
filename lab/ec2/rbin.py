"""Answers of the service rbin, which has the rules of the Recycle Bin."""

import json
from typing import Any

from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error
from lab.ec2.iam import authorization
from lab.ec2.query import account_of
from lab.ec2.recycle_bin import IMAGE, SNAPSHOT, RetentionRule
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

_ACTIONS = {
    ("POST", "/rules"): "CreateRule",
    ("POST", "/list-rules"): "ListRules",
    ("GET", "/rules/"): "GetRule",
    ("DELETE", "/rules/"): "DeleteRule",
}
_MOST_DAYS = 365


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    """Answer a request of the service rbin, which has the rules."""
    start, _, id = request.path.partition("/rules/")
    path = "/rules/" if id and not start else request.path
    action = _ACTIONS.get((request.method, path))
    calls.count("RBIN", action or request.method, signer.region)
    if action is None:
        return _error(404, "ResourceNotFoundException", f"There is no {request.path}.")
    asked: dict[str, Any] = json.loads(request.body or b"{}")
    call = Call(world, account_of(signer.access_key), signer.region, action, asked)
    arn = f"arn:{call.partition}:rbin:{call.region}:{call.account}:rule/{id or '*'}"
    try:
        authorization.check_plain(call, signer, f"rbin:{action}", arn)
    except EC2Error as refusal:
        return _error(403, "AccessDeniedException", refusal.message)
    with world.lock:
        match action:
            case "CreateRule":
                return _create(call)
            case "ListRules":
                rules = _rules(call, asked.get("ResourceType", ""))
                return _json({"Rules": [_row(call, rule) for rule in rules]})
        rule = world.recycle_bin.rules.get(id)
        if rule is None or rule.region != call.region:
            return _error(404, "ResourceNotFoundException", f"Rule {id} does not exist.")
        if action == "DeleteRule":
            del world.recycle_bin.rules[id]
            return Answer(204, b"", "application/json")
        return _json({**_row(call, rule), "ResourceType": rule.resource_type})


def _create(call: Call) -> Answer:
    asked = call.params
    period = asked.get("RetentionPeriod", {})
    days = period.get("RetentionPeriodValue")
    if asked.get("ResourceType") not in (SNAPSHOT, IMAGE):
        return _error(400, "ValidationException", "The lab keeps snapshots and images alone.")
    if period.get("RetentionPeriodUnit") != "DAYS" or not 1 <= int(days or 0) <= _MOST_DAYS:
        return _error(400, "ValidationException", "RetentionPeriod is not valid.")
    rule = RetentionRule(
        call.region,
        asked["ResourceType"],
        days,
        asked.get("Description", ""),
        tuple(
            (tag["ResourceTagKey"], tag.get("ResourceTagValue"))
            for tag in asked.get("ResourceTags", [])
        ),
    )
    call.world.recycle_bin.rules[rule.id] = rule
    return _json(
        {**_row(call, rule), "ResourceType": rule.resource_type, "Status": "available"}, 201
    )


def _rules(call: Call, resource_type: str) -> list[RetentionRule]:
    return [
        rule
        for rule in call.world.recycle_bin.rules.values()
        if (rule.region, rule.resource_type) == (call.region, resource_type)
    ]


def _row(call: Call, rule: RetentionRule) -> dict[str, Any]:
    return {
        "Identifier": rule.id,
        "Description": rule.description,
        "RetentionPeriod": {"RetentionPeriodValue": rule.days, "RetentionPeriodUnit": "DAYS"},
        "LockState": "unlocked",
        "RuleArn": f"arn:{call.partition}:rbin:{call.region}:{call.account}:rule/{rule.id}",
    }


def _error(status: int, code: str, message: str) -> Answer:
    answer = _json({"message": message}, status)
    return Answer(status, answer.body, answer.content_type, {"x-amzn-ErrorType": code})


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/json")
