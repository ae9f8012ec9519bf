"""Service Quotas' answers about EC2; what it says of other services is moto's."""

import json
from typing import Any

from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error
from lab.ec2.iam import authorization
from lab.ec2.partitions import COMMERCIAL
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

PUBLIC_IMAGES = "L-0E3CBAB9"
IMAGE_SHARING = "L-70015FFA"
AWS_DEFAULT = {PUBLIC_IMAGES: 5, IMAGE_SHARING: 1000}
_NAMES = {PUBLIC_IMAGES: "Public AMIs", IMAGE_SHARING: "AMI sharing"}


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer | None:
    """Return the answer, or None for moto to give."""
    action = (request.header("X-Amz-Target") or "").split(".")[-1]
    calls.count("ServiceQuotas", action, signer.region)
    asked = json.loads(request.body or b"{}")
    call = Call(world, account_of(signer.access_key), signer.region, action, {})
    try:
        arn = f"arn:{call.partition}:servicequotas:{call.region}:{call.account}:"
        arn += f"{asked.get('ServiceCode', '*')}/{asked.get('QuotaCode', '*')}"
        authorization.check_plain(call, signer, f"servicequotas:{action}", arn)
    except EC2Error as refusal:
        return _json({"__type": "AccessDeniedException", "Message": refusal.message}, 400)
    if asked.get("ServiceCode") != "ec2":
        return None
    # Outside of `aws` nobody has seen a code for the quotas: there is none, though EC2 has limits.
    coded = call.partition == COMMERCIAL
    known = {
        PUBLIC_IMAGES: world.quotas.public(signer.region),
        IMAGE_SHARING: world.quotas.image_sharing,
    }
    applied = known if coded else {}
    default = AWS_DEFAULT if coded else {}
    match action:
        case "GetServiceQuota" | "GetAWSDefaultServiceQuota":
            values = applied if action == "GetServiceQuota" else default
            code = asked.get("QuotaCode", "")
            if code not in values:
                return _missing(code)
            return _json({"Quota": _row(call, code, values[code])})
        case "ListServiceQuotas" | "ListAWSDefaultServiceQuotas":
            values = applied if action == "ListServiceQuotas" else default
            return _json({"Quotas": [_row(call, c, v) for c, v in values.items()]})
    return None


def _row(call: Call, code: str, value: int) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:{call.partition}:servicequotas:{call.region}::ec2/{code}",
        "QuotaCode": code,
        "QuotaName": _NAMES[code],
        "Value": float(value),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }


def _missing(code: str) -> Answer:
    body = {
        "__type": "NoSuchResourceException",
        "Message": f"The request failed because the specified quota {code} does not exist.",
    }
    return _json(body, 400)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/x-amz-json-1.1")
