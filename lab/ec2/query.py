"""EC2's query API: from a request to the action that answers it, and every error as EC2's XML."""

import logging
import os

from botocore.model import OperationModel
from moto.core.exceptions import ServiceException
from moto.iam.models import get_account_id_from

from lab.ec2 import moto_actions, operations, wire
from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error, missing
from lab.ec2.fault_effects import Reset, answered
from lab.ec2.iam import authorization
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

log = logging.getLogger(__name__)

NOBODY = EC2Error("AuthFailure", "AWS was not able to validate the provided access credentials")


def account_of(access_key: str) -> str:
    """Return the account of an access key that moto's IAM or STS gave out."""
    return os.environ.get("MOTO_ACCOUNT_ID") or str(get_account_id_from(access_key))


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    try:
        return _serve(world, calls, request, signer)
    except EC2Error as refusal:
        return Answer(refusal.status, wire.error(request.id, refusal))
    except ServiceException as refusal:
        # moto's models raise these below the lab's own actions too.
        known = EC2Error(str(refusal.code), str(refusal.message))
        return Answer(known.status, wire.error(request.id, known))
    except Reset:
        raise
    except Exception as failure:
        log.exception("the lab's EC2 failed")
        broken = EC2Error("InternalError", f"An internal error has occurred: {failure!r}")
        return Answer(500, wire.error(request.id, broken))


def _serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    form = wire.only_form(request.query, request.body)
    name = form.get("Action", "")
    region = signer.region
    calls.count("EC2", name or "none", region)
    if region not in world.regions:
        raise NOBODY
    if not name:
        raise missing("Action")
    action = wire.operation(name)
    if action is None:
        raise EC2Error("InvalidAction", f"The action {name} is not valid for this web service.")
    params = wire.parse(action, form)
    call = Call(world, account_of(signer.access_key), region, name, params)

    def act(call: Call) -> Answer:
        authorization.check_ec2(call, signer)
        return _act(authorization.known(call, signer), action, request)

    return answered(call, (), act)


def _act(call: Call, action: OperationModel, request: Request) -> Answer:
    locked = operations.LOCKED.get(call.action)
    unlocked = operations.UNLOCKED.get(call.action)
    if locked is None and unlocked is None:
        return moto_actions.answer(call, request)
    if call.params.pop("DryRun", False):
        raise EC2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    if locked:
        with call.world.lock:
            result = locked(call)
    else:
        assert unlocked
        result = unlocked(call)
    return Answer(200, wire.answer(action, request.id, result))
