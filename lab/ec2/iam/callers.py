"""The keys that IAM and STS have given out, their owners, and the owners' policies."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from moto.core.exceptions import ServiceException
from moto.iam.access_control import CreateAccessKeyFailure, create_access_key
from moto.iam.models import Policy, iam_backends
from moto.sts.models import sts_backends

from lab.access_keys import AccessKey
from lab.ec2.iam.documents import Malformed, Statement, parse
from lab.ec2.signatures import Credentials


@dataclass(frozen=True)
class Caller:
    """A user or an assumed role, and every statement of its policies."""

    arn: str
    statements: Sequence[Statement]


def credentials(access_key: str, partition: str) -> Credentials | None:
    """Return a user's active key, or that of a role's session; None for any other."""
    for account, backends in list(iam_backends.items()):
        key = backends[partition].access_keys.get(access_key)
        if key is None:
            continue
        if key.user_name is None:
            return _session(account, partition, access_key)
        return Credentials(key.secret_access_key) if key.status == "Active" else None
    return None


def _session(account: str, partition: str, access_key: str) -> Credentials | None:
    role = sts_backends[account][partition].get_assumed_role_from_access_key(access_key)
    if role is None:
        return None
    expires = role.expiration.replace(tzinfo=UTC)
    return Credentials(role.secret_access_key, role.session_token, expires)


def caller(
    account: str, partition: str, access_key: str, session_token: str | None
) -> Caller | None:
    """Whose key it is, once its signature is verified; None for the account's own.

    Raises Malformed when one of its policies cannot be evaluated.
    """
    headers = {"X-Amz-Security-Token": session_token} if session_token else {}
    try:
        found = create_access_key(account, partition, access_key, headers)
    except CreateAccessKeyFailure:
        return None
    try:
        policies = found.collect_policies()
    except ServiceException:
        # STS gives out sessions of roles that there are not; those may do nothing.
        policies = []
    return Caller(found.arn, [each for policy in policies for each in parse(_document(policy))])


def _document(policy: Any) -> str:
    """Return the text of a policy that moto's IAM keeps in one of three forms: managed, a role's, a
    user's.
    """
    if isinstance(policy, Policy):
        return str(next(each for each in policy.versions if each.is_default).document)
    return policy if isinstance(policy, str) else str(policy["policy_document"])


def user(account: str, partition: str, name: str, policy: str) -> AccessKey:
    """Make a user with a managed policy of the same name; the user's access key.

    Raises Malformed for a policy that IAM does not take, or that the lab cannot evaluate.
    """
    parse(policy)
    iam = iam_backends[account][partition]
    try:
        made = iam.create_policy("", "/", policy, name, [])
    except ServiceException as error:
        raise Malformed(str(error.message)) from error
    # moto takes a partition for a region of it.
    iam.create_user(partition, name)
    iam.attach_user_policy(made.arn, name)
    key = iam.create_access_key(name)
    # moto's own secrets are not meant to be ones.
    key.secret_access_key = AccessKey.new().secret
    return AccessKey(key.access_key_id, key.secret_access_key)
