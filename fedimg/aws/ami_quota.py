"""Tell how many AMIs of the account may be public in a region, and with how many one is shared."""

from __future__ import annotations

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, code

#: The codes of the quotas "Public AMIs" and "AMI sharing" in Service Quotas. The second is how many
#: accounts, organizations and organizational units an AMI can be shared with.
PUBLIC_AMIS, AMI_SHARING = "L-0E3CBAB9", "L-70015FFA"
#: Service Quotas' error code for a quota that it does not have.
_NO_QUOTA = "NoSuchResourceException"
#: Whoever waits for the answer can do without.
_SECONDS = 10.0


def public_amis(clients: Clients, region: str) -> float | None:
    """Return the quota of public AMIs in a region; None where AWS does not tell it."""
    return _told(clients, region, PUBLIC_AMIS)


def ami_sharing(clients: Clients, region: str) -> float | None:
    """Return the quota of AMI sharing in a region; None where AWS does not tell it."""
    return _told(clients, region, AMI_SHARING)


def ask(clients: Clients, region: str, quota: str, *, attempts: int = 1) -> float | None:
    """Return a quota of EC2 in a region; None where Service Quotas does not have it.

    Raises botocore's errors.
    """
    if not clients.has_service("service-quotas", region):
        return None
    client = clients.client("service-quotas", region, attempts=attempts, seconds=_SECONDS)
    try:
        answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=quota)
    except FAILURES as error:
        if code(error) == _NO_QUOTA:
            return None
        raise
    return float(answer["Quota"]["Value"])


def _told(clients: Clients, region: str, quota: str) -> float | None:
    try:
        return ask(clients, region, quota)
    except FAILURES:
        return None
