"""The actions that moto answers: networks, groups, key pairs, types; with what moto forgets."""

import re
from collections.abc import Callable
from typing import Any

from moto.core import request as moto_request
from moto.core.utils import camelcase_to_underscores, method_names_from_class
from moto.ec2.responses import EC2Response

from lab.ec2 import network
from lab.ec2.errors import EC2Error, invalid
from lab.ec2.operations import OUT_OF_REACH
from lab.ec2.request import Answer, Request
from lab.ec2.tagging import as_tags
from lab.ec2.wire import NAMESPACE
from lab.ec2.world import Call, Tags

Answers = Callable[[], Answer]


class _Request(moto_request.Request):
    from_wsgi_server = True


_NAMESPACE = re.compile(rb'xmlns="http://ec2\.amazonaws\.com/doc/[^"]*"')
KNOWN = frozenset(method_names_from_class(EC2Response))


def answer(call: Call, request: Request) -> Answer:
    """Answer as moto does. Raises EC2Error for an action of EC2's that neither moto nor the lab
    has.
    """
    if camelcase_to_underscores(call.action) not in KNOWN or call.action in OUT_OF_REACH:
        raise EC2Error("UnsupportedOperation", f"The lab's EC2 does not do {call.action}.")
    for specification in call.params.get("TagSpecifications", []):
        as_tags(specification.get("Tags", []))
    around = AROUND.get(call.action)
    if around:
        return around(call, lambda: _moto(call.action, request))
    return _moto(call.action, request)


def _moto(action: str, request: Request) -> Answer:
    try:
        status, _, body = EC2Response.dispatch(_Request(request.environ))
    except NotImplementedError as error:
        unknown = re.match(r"The filter '(.+)' for ", str(error))
        if unknown:
            raise EC2Error(
                "InvalidParameterValue", f"The filter '{unknown[1]}' is invalid"
            ) from error
        raise EC2Error(
            "UnsupportedOperation", f"The lab's EC2 does not do all of {action}: {error}"
        ) from error
    if isinstance(body, str):
        body = body.encode()
    # moto names older versions of the API, and a strict reader finds nothing in their namespaces.
    body = _NAMESPACE.sub(f'xmlns="{NAMESPACE}"'.encode(), body)
    # moto leaves a placeholder where an answer's own id belongs.
    body = re.sub(
        rb"<(requestId|RequestID|RequestId)>[^<]*<",
        lambda found: b"<" + found[1] + b">" + request.id.encode() + b"<",
        body,
    )
    # Where moto names what it did not find, it prints a set.
    body = re.sub(rb"'\{'([^']*)'\}'", rb"'\1'", body)
    return Answer(int(status), body)


def _created(call: Call, kind: str, id: str, tags: Tags) -> None:
    call.world.ledger.created(kind, id, call.region, call.account, tags)


def _create_group(call: Call, forward: Answers) -> Answer:
    done = forward()
    found = re.search(rb"<groupId>(sg-\w+)</groupId>", done.body)
    if done.status == 200 and found:
        id = found[1].decode()
        _created(call, "security-group", id, call.world.tags(call.account, call.region, id))
    return done


def _delete_group(call: Call, forward: Answers) -> Answer:
    id, name = call.params.get("GroupId"), call.params.get("GroupName")
    if id:
        group = call.moto.get_security_group_from_id(id)
    elif name:
        group = call.moto.get_security_group_from_name(name, call.moto.default_vpc.id)
    else:
        raise EC2Error("MissingParameter", "The request must contain the parameter groupId")
    if group is None:
        raise EC2Error("InvalidGroup.NotFound", f"The security group '{id or name}' does not exist")
    if group.is_default:
        raise EC2Error(
            "CannotDelete",
            f'the specified group: "{group.id}" name: "default" cannot be deleted by a user',
        )
    with call.world.lock:
        _check_unused(call, group)
        tags = call.world.tags(call.account, call.region, group.id)
        done = forward()
    if done.status == 200:
        call.world.ledger.deleted("security-group", group.id, call.region, call.account, tags)
        call.moto.tags.pop(group.id, None)
    return done


def _check_unused(call: Call, group: Any) -> None:
    in_use = bool(network.users_of_group(call.world, call.account, call.region, group.id))
    in_use = in_use or any(group in eni._group_set for eni in list(call.moto.enis.values()))
    for others in list(call.moto.groups.values()):
        for other in list(others.values()):
            if other.id != group.id:
                rules = [*other.ingress_rules, *other.egress_rules]
                in_use = in_use or any(
                    (rule.source_group or {}).get("GroupId") == group.id for rule in rules
                )
    if in_use:
        raise EC2Error("DependencyViolation", f"resource {group.id} has a dependent object")


def _make_key(call: Call, forward: Answers) -> Answer:
    done = forward()
    pair = call.moto.key_pairs.get(call.params.get("KeyName"))
    if done.status == 200 and pair:
        tags = call.world.tags(call.account, call.region, pair.id)
        _created(call, "key-pair", pair.id, tags)
    return done


def _delete_key(call: Call, forward: Answers) -> Answer:
    name, id = call.params.get("KeyName"), call.params.get("KeyPairId")
    pairs = call.moto.key_pairs
    for pair in list(pairs.values()):
        if pair.key_name == name or pair.id == id:
            tags = call.world.tags(call.account, call.region, pair.id)
            pairs.pop(pair.key_name, None)
            call.world.ledger.deleted("key-pair", pair.id, call.region, call.account, tags)
            call.moto.tags.pop(pair.id, None)
    if id and not name and not id.startswith("key-"):
        raise invalid(id, "keyPairId")
    # EC2 says the same whether there was such a pair or not.
    return forward()


def _delete_subnet(call: Call, forward: Answers) -> Answer:
    id = call.params["SubnetId"]
    if any(eni.subnet.id == id for eni in list(call.moto.enis.values())):
        raise EC2Error(
            "DependencyViolation", f"The subnet '{id}' has dependencies and cannot be deleted."
        )
    return forward()


def _associate_address(call: Call, forward: Answers) -> Answer:
    if "InstanceId" in call.params:
        raise EC2Error(
            "UnsupportedOperation",
            "Instances of the lab have loopback addresses of their own; give the subnet or the "
            "launch a public address instead of an elastic one.",
        )
    return forward()


AROUND: dict[str, Callable[[Call, Answers], Answer]] = {
    "AssociateAddress": _associate_address,
    "CreateKeyPair": _make_key,
    "CreateSecurityGroup": _create_group,
    "DeleteKeyPair": _delete_key,
    "DeleteSecurityGroup": _delete_group,
    "DeleteSubnet": _delete_subnet,
    "ImportKeyPair": _make_key,
}
