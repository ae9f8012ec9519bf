"""The effects of a plan's faults on one call: refusals, cut connections, delays, stale answers."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from xml.etree import ElementTree

from lab.ec2 import faults
from lab.ec2.errors import EC2Error
from lab.ec2.faults import ON_CALLS, STALE, Due, Rule
from lab.ec2.history import TABLES
from lab.ec2.request import Answer
from lab.ec2.world import Call

#: The codes of EC2, a kind of resource, for one that is not known.
NOT_FOUND = {
    "ami": "InvalidAMIID.NotFound",
    "eni": "InvalidNetworkInterfaceID.NotFound",
    "i": "InvalidInstanceID.NotFound",
    "sg": "InvalidGroup.NotFound",
    "snap": "InvalidSnapshot.NotFound",
    "vol": "InvalidVolume.NotFound",
}
_ID = re.compile(rf"({'|'.join(NOT_FOUND)})-[0-9a-f]{{8,17}}")
#: What each of these shows; any other call has to know the things that it names.
SHOWN = {
    "DescribeImages": "ami",
    "DescribeInstances": "i",
    "DescribeInstanceStatus": "i",
    "DescribeSecurityGroups": "sg",
    "DescribeSnapshots": "snap",
    "DescribeVolumes": "vol",
}


A = TypeVar("A", Answer, Answer | None)


class Reset(ConnectionResetError):
    """The client is to find its connection reset in place of an answer."""


def answered(call: Call, named: Iterable[str], act: Callable[[Call], A]) -> A:
    """Return the answer of `act` to the call, unless a fault of the site's plan is due.

    `named` are the things that the request names beside its parameters. Raises EC2Error for a
    refusal, and Reset for a connection that is to break.
    """
    if kept := call.world.faults.longest(STALE):
        with call.world.lock:
            call.world.history.note(call.world, kept)
    hidden: set[str] = set()
    late: Due | None = None
    for due in call.world.faults.due(ON_CALLS, call.action, call.region):
        match due.rule.fault:
            case faults.SLOW:
                # A thread that waits for longer than the plan holds would be lost to the lab.
                if not call.world.faults.delay(due.strike().seconds):
                    raise Reset("The plan that delayed the call does not hold any more.")
            case faults.STALE:
                if call.action.startswith("Describe"):
                    with call.world.lock:
                        call = _seeing(call, call.world.history.back(due.strike().seconds))
            case faults.UNKNOWN:
                hidden |= _unknown(call, due, {*_ids(call.params), *named})
            case _ if due.rule.late:
                late = due
                break
            case _:
                _end(due.strike())
    answer = act(_seeing_less(call, hidden) if hidden else call)
    if hidden and answer is not None:
        answer = _without(answer, hidden)
    if late:
        _end(late.strike())
    return answer


def _end(rule: Rule) -> None:
    if rule.fault == faults.RESET:
        raise Reset(rule.message)
    raise EC2Error(rule.code, rule.message, rule.reason or None)


def _unknown(call: Call, due: Due, named: set[str]) -> set[str]:
    """Return the resources that are too new for this call to know. Raises EC2Error when the call
    needs one.
    """
    new = call.world.ledger.younger(due.rule.seconds, call.region)
    new |= {
        id for id in named & call.world.ledger.ids(call.region) if due.named(id) <= due.rule.answers
    }
    shown = SHOWN.get(call.action)
    if shown:
        new = {id for id in new if id.startswith(f"{shown}-")}
    # A Describe with its own tables says by itself what is not there; a group's are moto's.
    missing = sorted(new & named) if shown in (None, "sg") else []
    if missing:
        due.strike()
        kind, _, _ = missing[0].partition("-")
        raise EC2Error(NOT_FOUND[kind], f"The ID '{missing[0]}' does not exist")
    if not (shown and new):
        return set()
    due.strike()
    return new


def _ids(value: Any) -> Iterable[str]:
    """Every id of a resource in a request's parameters."""
    if isinstance(value, str) and _ID.fullmatch(value):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _ids(part)


def _seeing_less(call: Call, hidden: set[str]) -> Call:
    with call.world.lock:
        tables = {
            name: {id: thing for id, thing in getattr(call.world, name).items() if id not in hidden}
            for name in TABLES
        }
    return _seeing(call, tables)


def _seeing(call: Call, tables: Mapping[str, dict[str, Any]]) -> Call:
    """Return the call on a world with other tables: good for looking, not for changing."""
    world = copy.copy(call.world)
    for name, table in tables.items():
        setattr(world, name, table)
    return replace(call, world=world)


def _without(answer: Answer, hidden: set[str]) -> Answer:
    """Return an answer of moto's without the security groups that the caller may not see."""
    groups = {id for id in hidden if id.startswith("sg-")}
    if not groups or answer.status != 200:
        return answer
    tree = ElementTree.fromstring(answer.body)
    for rows in tree.iterfind("{*}securityGroupInfo"):
        for row in list(rows):
            if row.findtext("{*}groupId") in groups:
                rows.remove(row)
    ElementTree.register_namespace("", tree.tag[1:].partition("}")[0])
    return replace(answer, body=ElementTree.tostring(tree, encoding="utf-8"))
