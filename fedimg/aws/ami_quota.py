"""Tell how many AMIs of the account may be public in a region, and with how many one is shared."""

from __future__ import annotations

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES

#: The codes of the quotas "Public AMIs" and "AMI sharing" in Service Quotas. The second is how many
#: accounts, organizations and organizational units an AMI can be shared with.
PUBLIC_AMIS, AMI_SHARING = "L-0E3CBAB9", "L-70015FFA"
#: The comparison with EC2 does without an answer.
_ATTEMPTS, _SECONDS = 1, 10.0


def public_amis(clients: Clients, region: str) -> float | None:
    """Return the quota of public AMIs in a region; None where AWS does not tell it."""
    return _quota(clients, region, PUBLIC_AMIS)


def ami_sharing(clients: Clients, region: str) -> float | None:
    """Return the quota of AMI sharing in a region; None where AWS does not tell it."""
    return _quota(clients, region, AMI_SHARING)


def _quota(clients: Clients, region: str, quota: str) -> float | None:
    if not clients.has_service("service-quotas", region):
        return None
    client = clients.client("service-quotas", region, attempts=_ATTEMPTS, seconds=_SECONDS)
    try:
        answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=quota)
    except FAILURES:
        return None
    return float(answer["Quota"]["Value"])
