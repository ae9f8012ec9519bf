"""KMS's rules for who may use a key: the key's own policy, IAM's policies, and grants.

The rules are those of "Determining access to AWS KMS keys" in the KMS Developer Guide. A policy of
the key that names an account lets that account's IAM decide; one that names a user or a role lets
that one use the key, within the key's account. Of another account both have to allow it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lab.ec2.errors import EC2Error
from lab.ec2.iam.authorization import demand
from lab.ec2.iam.contexts import context
from lab.ec2.iam.documents import Asked, Malformed, Statement, parse
from lab.ec2.iam.resources import Resource
from lab.ec2.world import Call

_EVERYBODY = "*"


def refusal(call: Call, key: Any, action: str, through_ec2: bool = False) -> str:
    """Return why the caller may not do something with a key of moto's; an empty text if it may.

    `through_ec2` says that EC2 asks on the caller's behalf.
    """
    keys: dict[str, Any] = {"kms:CallerAccount": call.account}
    if through_ec2:
        keys |= {
            "kms:ViaService": f"ec2.{call.region}.amazonaws.com",
            "kms:GrantIsForAWSResource": "true" if action == "kms:CreateGrant" else None,
        }
    caller = call.who.arn if call.who else f"arn:aws:iam::{call.account}:root"
    why = f"User: {caller} is not authorized to perform: {action} on resource: {key.arn}"
    known = context({**keys, "aws:PrincipalArn": caller, "aws:PrincipalAccount": call.account})
    try:
        found = list(_statements(key.policy, call, caller, Asked(action, key.arn, known)))
    except Malformed as error:
        return f"The lab cannot evaluate the policy of key {key.arn}: {error}"
    if any(not statement.allow for statement, _ in found):
        return f"{why} with an explicit deny in a resource-based policy"
    if _granted(key, caller, action):
        return ""
    named = [directly for statement, directly in found if statement.allow]
    if not named:
        return f"{why} because no resource-based policy allows the {action} action"
    if call.account == key.account_id and any(named):
        return ""
    return _by_iam(call, action, key.arn, keys)


def _by_iam(call: Call, action: str, arn: str, keys: Mapping[str, Any]) -> str:
    """Return why the caller's own policies do not allow an action; the account's key may all."""
    if call.who is None:
        return ""
    try:
        demand(call, call.who, action, Resource("key", arn, dict(keys)))
    except EC2Error as refused:
        return refused.message
    return ""


def _granted(key: Any, caller: str, action: str) -> bool:
    account = f"arn:aws:iam::{caller.split(':')[4]}:root"
    return any(
        grant.grantee_principal in (caller, account)
        and action.removeprefix("kms:") in grant.operations
        for grant in key.grants.values()
    )


def _statements(
    policy: str, call: Call, caller: str, asked: Asked
) -> Iterator[tuple[Statement, bool]]:
    """Yield the statements that are about a request, and whether each names the caller itself."""
    document = json.loads(policy)
    given = document["Statement"]
    for number, each in enumerate(given if isinstance(given, list) else [given]):
        principals = _principals(each)
        account = {call.account, f"arn:aws:iam::{call.account}:root"}
        if not principals & {caller, _EVERYBODY, *account}:
            continue
        rest = {name: value for name, value in each.items() if name != "Principal"}
        rest["Sid"] = f"#{number}"
        (statement,) = parse(json.dumps({"Version": "2012-10-17", "Statement": [rest]}))
        if statement.fits(asked):
            directly = caller not in account and bool(principals & {caller, _EVERYBODY})
            yield statement, directly or (call.who is None)


def _principals(statement: Mapping[str, Any]) -> set[str]:
    given = statement.get("Principal", {})
    if given == _EVERYBODY:
        return {_EVERYBODY}
    named = given.get("AWS", [])
    return set(named if isinstance(named, list) else [named])
