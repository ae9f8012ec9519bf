"""Who makes a call, by the key that signed it, and which policies are theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.iam.access_control import CreateAccessKeyFailure, create_access_key
from moto.iam.models import Policy, iam_backends

from lab.ec2.iam.documents import Malformed, Statement, parse

PARTITION = "aws"


@dataclass(frozen=True)
class Caller:
    """A user or an assumed role, and every statement of its policies."""

    arn: str
    statements: Sequence[Statement]


def caller(account: str, access_key: str, session_token: str | None) -> Caller | None:
    """Whose key it is; None for the account's own, and for one that IAM has not given out.

    Raises Malformed when one of its policies cannot be evaluated.
    """
    headers = {"X-Amz-Security-Token": session_token} if session_token else {}
    try:
        found = create_access_key(account, PARTITION, access_key, headers)
    except CreateAccessKeyFailure:
        return None
    return Caller(
        found.arn,
        [each for policy in found.collect_policies() for each in parse(_document(policy))],
    )


def _document(policy: Any) -> str:
    """The text of what moto's IAM keeps in one of three forms: managed, a role's, a user's."""
    if isinstance(policy, Policy):
        return str(next(each for each in policy.versions if each.is_default).document)
    return policy if isinstance(policy, str) else str(policy["policy_document"])


def user(account: str, name: str, policy: str) -> tuple[str, str]:
    """Make a user with a managed policy of the same name; its access key and secret.

    Raises Malformed for a policy that IAM does not take, or that the lab cannot evaluate.
    """
    parse(policy)
    iam = iam_backends[account][PARTITION]
    try:
        made = iam.create_policy("", "/", policy, name, [])
    except ServiceException as error:
        raise Malformed(str(error.message)) from error
    iam.create_user("us-east-1", name)
    iam.attach_user_policy(made.arn, name)
    key = iam.create_access_key(name)
    return key.access_key_id, key.secret_access_key
