"""Rules of access to objects: ACLs, ownership, and the bucket's own region.

Moto knows of these, and enforces none of them.
"""

from typing import Any
from urllib.parse import parse_qs, unquote

from moto.core.exceptions import ServiceException
from moto.s3 import responses
from moto.s3.models import FakeAcl, FakeGrant, FakeGrantee, get_canned_acl, s3_backends

from lab.ec2.errors import EC2Error
from lab.ec2.request import Request, Signer

#: The grantee of the canned ACL aws-exec-read: EC2, when it fetches bundles.
EC2_READER = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c"
_EXEC_READ = "aws-exec-read"
# Since April 2023 the ownership of every new bucket is the first of these, without ACLs.
_NO_ACLS = ("None", "BucketOwnerEnforced")


def _canned(acl: str) -> FakeAcl:
    made = get_canned_acl(acl)
    if acl == _EXEC_READ:
        made.grants.append(FakeGrant([FakeGrantee(grantee_id=EC2_READER)], ["READ"]))
    return made


# Moto takes this ACL and grants nothing by it.
vars(responses)["get_canned_acl"] = _canned


def ec2_may_read(found: Any) -> bool:
    """Return whether an object's ACL lets EC2 fetch it."""
    grants = found.acl.grants if found.acl else []
    return any(
        grantee.id == EC2_READER and {"READ", "FULL_CONTROL"} & set(grant.permissions)
        for grant in grants
        for grantee in grant.grantees
    )


def refused(account: str, request: Request, signer: Signer) -> EC2Error | None:
    """Return S3's refusal of a call by its bucket's rules; None if they allow it."""
    name = unquote(request.path).strip("/").split("/")[0]
    try:
        bucket = s3_backends[account]["aws"].get_bucket(name)
    except ServiceException:
        return None
    asked = parse_qs(request.query, keep_blank_values=True)
    if signer.region != bucket.region_name and "location" not in asked:
        return EC2Error(
            "AuthorizationHeaderMalformed",
            f"The authorization header is malformed; the region '{signer.region}' is wrong; "
            f"expecting '{bucket.region_name}'",
        )
    given = request.header("x-amz-acl")
    if str(bucket.ownership_rule) not in _NO_ACLS or given == "bucket-owner-full-control":
        return None
    if given or (request.method == "PUT" and "acl" in asked):
        return EC2Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    return None
