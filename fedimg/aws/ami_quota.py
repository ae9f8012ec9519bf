"""Tell how many AMIs of the account may be public in a region."""

from __future__ import annotations

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES

#: The code of the quota "Public AMIs" in Service Quotas.
PUBLIC_AMIS = "L-0E3CBAB9"
#: The comparison with EC2 does without an answer.
_ATTEMPTS, _SECONDS = 1, 10.0


def public_amis(clients: Clients, region: str) -> float | None:
    """Return the quota of public AMIs in a region; None where AWS does not tell it."""
    if not clients.has_service("service-quotas", region):
        return None
    client = clients.client("service-quotas", region, attempts=_ATTEMPTS, seconds=_SECONDS)
    try:
        answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=PUBLIC_AMIS)
    except FAILURES:
        return None
    return float(answer["Quota"]["Value"])
