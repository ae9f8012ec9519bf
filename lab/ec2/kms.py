"""KMS's answers about keys: who may read them is judged here, and all else is moto's."""

import json
from typing import Any

from lab.ec2 import kms_keys
from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error
from lab.ec2.fault_effects import answered
from lab.ec2.iam import authorization, key_policies
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

# Which name a key that may be another account's.
_OWN = ("DescribeKey", "GetKeyPolicy")


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer | None:
    """Return the answer, or None for moto to give."""
    action = (request.header("X-Amz-Target") or "").split(".")[-1]
    calls.count("KMS", action, signer.region)
    asked: dict[str, Any] = json.loads(request.body or b"{}")
    call = Call(world, account_of(signer.access_key), signer.region, action, asked)
    try:
        call = authorization.known(call, signer)
        if action in _OWN:
            return answered(call, (), _answer)
        key = kms_keys.find(call, str(asked.get("KeyId", "")))
        if key is None:
            authorization.check_plain(call, signer, f"kms:{action}", "*")
        elif why := key_policies.refusal(call, key, f"kms:{action}"):
            raise EC2Error("AccessDeniedException", why)
        elif asked.get("DryRun"):
            message = "The request would have succeeded, but the DryRun option is set."
            raise EC2Error("DryRunOperationException", message)
    except EC2Error as refusal:
        code = refusal.code
        if code == "UnauthorizedOperation":
            code = "AccessDeniedException"
        return _json({"__type": code, "message": refusal.message}, 400)
    return None


def _answer(call: Call) -> Answer:
    name = str(call.params.get("KeyId", ""))
    key = kms_keys.find(call, name)
    if key is None:
        raise EC2Error("NotFoundException", f"Key '{name}' does not exist")
    if why := key_policies.refusal(call, key, f"kms:{call.action}"):
        raise EC2Error("AccessDeniedException", why)
    if call.action == "GetKeyPolicy":
        return _json({"Policy": key.policy, "PolicyName": "default"})
    return _json(key.to_dict())


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/x-amz-json-1.1")
