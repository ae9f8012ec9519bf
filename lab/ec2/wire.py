"""EC2's query protocol from botocore's own model: a form into typed parameters, a dict into XML."""

import base64
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.utils import parse_timestamp

from lab.ec2.errors import EC2Error, invalid, missing

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
# What every query request carries besides its parameters; the X-Amz ones sign a URL.
ENVELOPE = {"Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod", "Timestamp"}
ENVELOPE |= {"SignatureVersion", "SecurityToken", "Expires"}


@cache
def model() -> ServiceModel:
    return botocore.session.get_session().get_service_model("ec2")


@cache
def operation(action: str) -> OperationModel | None:
    """EC2's own description of an action, or None when EC2 has no such action."""
    if action not in model().operation_names:
        return None
    return model().operation_model(action)


def form_of(query: str, body: bytes) -> dict[str, str]:
    """Return the flat name=value pairs of a request, from its query and its body."""
    pairs = parse_qsl(query, keep_blank_values=True)
    pairs += parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return dict(pairs)


def only_form(query: str, body: bytes) -> dict[str, str]:
    """Return the pairs of a request whose parameters can be read in one way alone.

    Raises EC2Error: MalformedQueryString for parameters in URL and body at once, of which moto
    takes those of the URL, and for a parameter that is there twice.
    """
    if query and body:
        raise EC2Error(
            "MalformedQueryString", "The parameters are to be in the URL or in the body."
        )
    form = form_of(query, body)
    text = query or body.decode("utf-8", "replace")
    if len(form) < len(parse_qsl(text, keep_blank_values=True)):
        raise EC2Error("MalformedQueryString", "The request has a parameter twice.")
    return form


def parse(action: OperationModel, form: dict[str, str]) -> dict[str, Any]:
    """Return the parameters of a request, typed and nested as botocore's callers write them.

    Raises EC2Error: UnknownParameter, MissingParameter, or InvalidParameterValue for a number or
    a boolean that is none.
    """
    tree: dict[str, Any] = {}
    for name, value in form.items():
        if name in ENVELOPE or name.startswith("X-Amz-"):
            continue
        node = tree
        *above, last = name.split(".")
        for part in above:
            inner = node.setdefault(part, {})
            if not isinstance(inner, dict):
                raise EC2Error("InvalidParameterCombination", f"{name} contradicts {part}")
            node = inner
        node[last] = value
    shape = action.input_shape
    if shape is None:
        return {}
    parsed: dict[str, Any] = _structure(shape, tree, "")
    for required in shape.required_members:
        if required not in parsed and shape.members[required].type_name != "boolean":
            raise missing(_query_name(shape.members[required], required))
    return parsed


def _query_name(shape: Shape, member: str) -> str:
    queried = shape.serialization.get("queryName")
    if queried:
        return str(queried)
    name = str(shape.serialization.get("name", member))
    return name[0].upper() + name[1:]


def _structure(shape: Any, node: Any, where: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise invalid(node, where)
    known = {_query_name(member, name): (name, member) for name, member in shape.members.items()}
    parsed = {}
    for given, value in node.items():
        if given not in known:
            full = f"{where}.{given}" if where else given
            raise EC2Error("UnknownParameter", f"The parameter {full} is not recognized")
        name, member = known[given]
        parsed[name] = _value(member, value, f"{where}.{given}" if where else given)
    return parsed


def _value(shape: Any, node: Any, where: str) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _structure(shape, node, where)
    if kind == "list":
        if not isinstance(node, dict):
            return []
        # An SDK that is not told the list is flat puts the member's name between.
        if list(node) in (["member"], ["item"]):
            node = next(iter(node.values()))
        try:
            places = sorted(node, key=int)
        except ValueError:
            raise invalid(next(iter(node)), where) from None
        return [_value(shape.member, node[place], f"{where}.{place}") for place in places]
    if isinstance(node, dict):
        raise invalid("", where)
    if kind in ("integer", "long"):
        try:
            return int(node)
        except ValueError:
            raise invalid(node, where, "Expected an integer.") from None
    if kind in ("float", "double"):
        return float(node)
    if kind == "boolean":
        if node.lower() not in ("true", "false", "1", "0"):
            raise invalid(node, where, "Expected true or false.")
        return node.lower() in ("true", "1")
    if kind == "timestamp":
        try:
            return parse_timestamp(node).astimezone(UTC)
        except ValueError:
            raise invalid(node, where, "Expected a date and time.") from None
    if kind == "blob":
        return base64.b64decode(node)
    return node


def answer(action: OperationModel, request_id: str, result: dict[str, Any]) -> bytes:
    """Return the whole XML answer of an action that succeeded."""
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<{action.name}Response xmlns="{NAMESPACE}"><requestId>{request_id}</requestId>'
    ]
    shape: Any = action.output_shape
    if shape is None or not shape.members:
        out.append("<return>true</return>")
    else:
        _members(shape, result, out)
    out.append(f"</{action.name}Response>")
    return "".join(out).encode()


def error(request_id: str, refusal: EC2Error) -> bytes:
    """Return the XML of a refusal."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Errors><Error><Code>{escape(refusal.code)}</Code>"
        f"<Message>{escape(refusal.message)}</Message></Error></Errors>"
        f"<RequestID>{request_id}</RequestID></Response>"
    ).encode()


def _members(shape: Any, values: dict[str, Any], out: list[str]) -> None:
    for name, value in values.items():
        if value is None:
            continue
        member = shape.members[name]
        _element(member, str(member.serialization.get("name", name)), value, out)


def _element(shape: Any, tag: str, value: Any, out: list[str]) -> None:
    kind = shape.type_name
    if kind == "list":
        item = str(shape.member.serialization.get("name", "item"))
        if shape.serialization.get("flattened"):
            for one in value:
                _element(shape.member, tag, one, out)
            return
        out.append(f"<{tag}>")
        for one in value:
            _element(shape.member, item, one, out)
        out.append(f"</{tag}>")
        return
    out.append(f"<{tag}>")
    if kind == "structure":
        _members(shape, value, out)
    elif kind == "boolean":
        out.append("true" if value else "false")
    elif kind == "timestamp":
        out.append(iso(value))
    elif kind == "blob":
        out.append(base64.b64encode(value).decode())
    else:
        out.append(escape(str(value)))
    out.append(f"</{tag}>")


def iso(moment: datetime) -> str:
    """Return a time as EC2 writes it: UTC, milliseconds, Z."""
    return (
        moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
    )
