"""Judge whether the policy of a KMS key lets an account use what is encrypted with the key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

#: What an account needs to launch another one's encrypted AMI.
TO_USE = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


def lacking(policy: str, account: str) -> list[str] | None:
    """Return which of TO_USE a key's policy does not allow an account; None if that is not clear.

    Conditions, denials and exceptions, of which only KMS knows how they turn out, are not clear.
    Raises ValueError for a policy that is no JSON.
    """
    allowed: set[str] = set()
    unclear = False
    given = json.loads(policy)["Statement"]
    for statement in given if isinstance(given, list) else [given]:
        if not _may_name(statement, account):
            continue
        if (
            statement.get("Effect") != "Allow"
            or {"Condition", "NotAction"} & set(statement)
            or "NotPrincipal" in statement
        ):
            unclear = True
        else:
            allowed |= _matched(statement.get("Action", ()))
    missing = [each for each in TO_USE if each not in allowed]
    return None if unclear else missing


def _may_name(statement: Mapping[str, Any], account: str) -> bool:
    if "NotPrincipal" in statement:
        return True
    principal = statement.get("Principal", {})
    named = principal.get("AWS", ()) if isinstance(principal, Mapping) else principal
    listed = [named] if isinstance(named, str) else named
    # An account's user or role that is named is not the account.
    return any(each in ("*", account) or each.endswith(f"::{account}:root") for each in listed)


def _matched(actions: str | Iterable[str]) -> set[str]:
    patterns = [actions] if isinstance(actions, str) else list(actions)
    return {
        each
        for each in TO_USE
        if any(fnmatchcase(each.lower(), pattern.lower()) for pattern in patterns)
    }
