"""Lets a call through, or refuses it in AWS's words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lab.ec2.errors import EC2Error
from lab.ec2.iam import contexts, resources
from lab.ec2.iam.callers import Caller, caller
from lab.ec2.iam.documents import Asked, Malformed, decide
from lab.ec2.iam.reference import UNKNOWN, kinds
from lab.ec2.iam.resources import Resource
from lab.ec2.request import Signer
from lab.ec2.world import Call


def check_ec2(call: Call, signer: Signer) -> None:
    """Raise UnauthorizedOperation unless the caller's policies allow an EC2 call.

    Every resource that it touches has to be allowed, and CreateTags on what it makes with tags.
    """
    who = caller_of(call, signer)
    if who is None:
        return
    with call.world.lock:
        found = resources.touched(call)
    try:
        for resource in found:
            demand(call, who, f"ec2:{call.action}", resource)
        for resource in found:
            if resource.new:
                _demand_tagging(call, who, resource)
    except EC2Error as refusal:
        message = f"You are not authorized to perform this operation. {refusal.message}"
        raise EC2Error(refusal.code, message) from None


def check_ebs(call: Call, signer: Signer, snapshot: str | None, params: Mapping[str, Any]) -> None:
    """Refuse a call of EBS direct that the policies do not allow, in the words of that service.

    It is about `snapshot`, or about the snapshot that `params` make.
    """
    who = caller_of(call, signer)
    if who is None:
        return
    with call.world.lock:
        if snapshot:
            keys = resources.tags_of(call, "snapshot", snapshot)
            resource = Resource("snapshot", contexts.arn(call, "snapshot", snapshot), keys)
        else:
            parent = params.get("ParentSnapshotId")
            keys = {
                "ebs:Description": params.get("Description"),
                "ebs:ParentSnapshot": contexts.arn(call, "snapshot", parent) if parent else None,
                "ebs:VolumeSize": params.get("VolumeSize"),
                **resources.asked_for(params.get("Tags", [])),
            }
            arn = contexts.arn(call, "snapshot", "*")
            resource = Resource("snapshot", arn, keys, new=True)
    demand(call, who, f"ebs:{call.action}", resource)
    if resource.new:
        _demand_tagging(call, who, resource)


def known(call: Call, signer: Signer) -> Call:
    """Return the call with its caller, whose policies count for what others do on its behalf."""
    return replace(call, who=caller_of(call, signer))


def check_plain(call: Call, signer: Signer, action: str, arn: str) -> None:
    """Refuse an action of another service on a resource unless the policies allow it."""
    who = caller_of(call, signer)
    if who:
        demand(call, who, action, Resource("", arn, {}))


def caller_of(call: Call, signer: Signer) -> Caller | None:
    """Whose policies count for a call; None for the account's own key.

    Raises UnauthorizedOperation when the lab cannot evaluate one of them.
    """
    try:
        return caller(call.account, call.partition, signer.access_key, signer.session_token)
    except Malformed as error:
        raise EC2Error(
            "UnauthorizedOperation", f"The lab cannot evaluate the caller's policy: {error}"
        ) from error


def _demand_tagging(call: Call, who: Caller, resource: Resource) -> None:
    if resource.keys.get("aws:TagKeys"):
        keys = {**resource.keys, "ec2:CreateAction": call.action}
        demand(call, who, "ec2:CreateTags", replace(resource, keys=keys))


def demand(call: Call, who: Caller, action: str, resource: Resource) -> None:
    general = {
        "aws:PrincipalAccount": call.account,
        "aws:PrincipalArn": who.arn,
        "aws:RequestedRegion": call.region,
        "aws:username": who.arn.rsplit("/", 1)[-1] if ":user/" in who.arn else None,
        "ec2:Region": call.region,
    }
    known = kinds(action)
    of_request = known.get("", UNKNOWN).keys
    counting = known.get(resource.kind, UNKNOWN).only(
        contexts.context({**general, **resource.keys}), of_request
    )
    decision = decide(who.statements, Asked(action, resource.arn, counting))
    call.world.decisions.note(who.arn, action, resource.kind, decision.allowed, decision.by)
    if decision.allowed:
        return
    on = "" if resource.arn == "*" else f" on resource: {resource.arn}"
    why = (
        "with an explicit deny in an identity-based policy"
        if decision.explicit
        else f"because no identity-based policy allows the {action} action"
    )
    raise EC2Error(
        "UnauthorizedOperation", f"User: {who.arn} is not authorized to perform: {action}{on} {why}"
    )
