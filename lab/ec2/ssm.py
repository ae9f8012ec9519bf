"""Answers of the service ssm: Parameter Store, where EC2 confirms the AMI of a value afterwards."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from lab.ec2 import parameters
from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error
from lab.ec2.fault_effects import Reset, answered
from lab.ec2.iam import authorization
from lab.ec2.parameters import ADVANCED, IMAGE, STANDARD, TEXT, Parameter
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World, now

log = logging.getLogger(__name__)

_CONTENT = "application/x-amz-json-1.1"
#: The most names of one call.
_MOST_NAMES = 10
#: EC2's codes for what SSM says in words of its own.
_CODES = {
    "AuthFailure": "AccessDeniedException",
    "UnauthorizedOperation": "AccessDeniedException",
    "RequestLimitExceeded": "ThrottlingException",
    "InternalError": "InternalServerError",
}


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    """Answer a request of the service ssm."""
    action = (request.header("X-Amz-Target") or "").removeprefix("AmazonSSM.")
    calls.count("SSM", action or request.method, signer.region)
    try:
        return _serve(world, action, request, signer)
    except EC2Error as refusal:
        code = _CODES.get(refusal.code, refusal.code)
        status = 500 if code == "InternalServerError" else 400
        return _json({"__type": code, "message": refusal.message}, status)
    except Reset:
        raise
    except Exception as failure:
        log.exception("the lab's SSM failed")
        return _json({"__type": "InternalServerError", "message": repr(failure)}, 500)


def _serve(world: World, action: str, request: Request, signer: Signer) -> Answer:
    if signer.region not in world.regions:
        raise EC2Error("UnrecognizedClientException", "The security token is invalid.")
    act = _ACTIONS.get(action)
    if act is None:
        raise EC2Error("UnknownOperationException", f"The lab's SSM has no {action}.")
    params = json.loads(request.body or b"{}")
    call = Call(world, account_of(signer.access_key), signer.region, action, params)

    def authorized(call: Call) -> Answer:
        for name in _named(call.params):
            arn = parameters.arn(call.region, call.account, name)
            authorization.check_plain(call, signer, f"ssm:{action}", arn)
        with call.world.lock:
            return _json(act(call, signer))

    return answered(call, (), authorized)


def _named(params: Mapping[str, Any]) -> list[str]:
    names = params.get("Names") or [params.get("Name")]
    if not all(isinstance(name, str) and name for name in names) or len(names) > _MOST_NAMES:
        raise EC2Error("ValidationException", f"A call names 1 to {_MOST_NAMES} parameters.")
    return list(names)


def _put(call: Call, signer: Signer) -> dict[str, Any]:
    params = call.params
    name = params["Name"]
    there = _table(call).get(name)
    parameters.check_name(call.region, call.account, name)
    if params.get("Type", "String" if there else None) != "String":
        raise EC2Error("UnsupportedParameterType", "The lab keeps parameters of type String alone.")
    kind = params.get("DataType") or (there.data_type if there else TEXT)
    if kind not in parameters.DATA_TYPES:
        raise EC2Error("ValidationException", f"The following data type is not supported: {kind}.")
    tier = params.get("Tier") or (there.tier if there else STANDARD)
    if tier not in (STANDARD, ADVANCED):
        raise EC2Error("ValidationException", f"The lab has no tier {tier}.")
    if there and not params.get("Overwrite"):
        raise EC2Error(
            "ParameterAlreadyExists",
            "The parameter already exists. To overwrite this value, set the overwrite option in "
            "the request to true.",
        )
    if there and params.get("Tags"):
        raise EC2Error(
            "ValidationException", "Invalid request: tags and overwrite can't be used together."
        )
    if there and (there.tier, tier) == (ADVANCED, STANDARD):
        raise EC2Error(
            "ValidationException",
            "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from "
            "the advanced-parameter tier to the standard-parameter tier.",
        )
    parameters.check_value(params.get("Value", ""), tier)
    new = Parameter(
        name,
        call.account,
        call.region,
        params["Value"],
        kind,
        tier,
        params.get("Description") or "",
        there.version + 1 if there else 1,
    )
    if kind != IMAGE:
        _keep(call, new)
    else:
        if not parameters.IMAGE_ID.fullmatch(new.value):
            raise EC2Error(
                "ValidationException", f"{new.value} is not of the format of an AMI's id."
            )
        allowed = _may_describe(call, signer)
        call.world.timeline.after(
            call.world.delays.parameter, lambda: _confirm(call, new, allowed=allowed)
        )
    return {"Version": new.version, "Tier": tier}


def _may_describe(call: Call, signer: Signer) -> bool:
    """Return whether the caller may describe AMIs, which SSM does in his name."""
    try:
        authorization.check_plain(call, signer, "ec2:DescribeImages", "*")
    except EC2Error:
        return False
    return True


def _confirm(call: Call, new: Parameter, *, allowed: bool) -> None:
    """Keep a value whose AMI is available to the account; nothing tells of any other."""
    image = call.world.images.get(new.value)
    if call.world.faults.completing("ParameterValidation", call.region) or not allowed:
        return
    if image is None or image.region != call.region or not call.sees(image):
        return
    if image.state == "available":
        _keep(call, new)


def _keep(call: Call, new: Parameter) -> None:
    table = _table(call)
    if new.id not in table:
        call.world.ledger.created("parameter", new.id, call.region, call.account, {})
    new.modified = now()
    table[new.id] = new


def _table(call: Call) -> dict[str, Parameter]:
    return call.world.parameters.setdefault((call.account, call.region), {})


def _get(call: Call, signer: Signer) -> dict[str, Any]:
    found = _table(call).get(call.params["Name"])
    if found is None:
        raise EC2Error("ParameterNotFound", "")
    return {"Parameter": _row(found)}


def _get_several(call: Call, signer: Signer) -> dict[str, Any]:
    names, table = dict.fromkeys(call.params["Names"]), _table(call)
    return {
        "Parameters": [_row(table[name]) for name in names if name in table],
        "InvalidParameters": [name for name in names if name not in table],
    }


def _delete(call: Call, signer: Signer) -> dict[str, Any]:
    found = _table(call).pop(call.params["Name"], None)
    if found is None:
        raise EC2Error("ParameterNotFound", "")
    call.world.ledger.deleted("parameter", found.id, call.region, call.account, {})
    return {}


def _row(parameter: Parameter) -> dict[str, Any]:
    return {
        "Name": parameter.id,
        "Type": "String",
        "Value": parameter.value,
        "Version": parameter.version,
        "LastModifiedDate": parameter.modified.timestamp(),
        "ARN": parameter.arn,
        "DataType": parameter.data_type,
    }


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), _CONTENT)


_ACTIONS: dict[str, Callable[[Call, Signer], dict[str, Any]]] = {
    "DeleteParameter": _delete,
    "GetParameter": _get,
    "GetParameters": _get_several,
    "PutParameter": _put,
}
