"""STS: the identity of the account's own key, and refusals of sessions; the rest is moto's."""

from lab.ec2 import auth_errors
from lab.ec2.request import Answer, Request

# moto answers these with one key of its documentation's, which is good for nothing.
_NO_SESSIONS = ("GetFederationToken", "GetSessionToken")
_SPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


def answer(
    request: Request, action: str, *, partition: str, account: str, own: bool
) -> Answer | None:
    """Return the answer, or None for moto to give. `own` says that the account's own key asks."""
    if action in _NO_SESSIONS:
        return auth_errors.lacking(request, "sts", action)
    if action != "GetCallerIdentity" or not own:
        return None
    body = (
        f'<GetCallerIdentityResponse xmlns="{_SPACE}"><GetCallerIdentityResult>'
        f"<Arn>arn:{partition}:iam::{account}:root</Arn><UserId>{account}</UserId>"
        f"<Account>{account}</Account></GetCallerIdentityResult><ResponseMetadata>"
        f"<RequestId>{request.id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    return Answer(200, body.encode(), "text/xml")
