"""IAM's comparison of names: wildcards in policies, variables, and ARNs part by part."""

import re
from collections.abc import Mapping
from functools import cache

#: A condition key, in lower case, and its values.
Context = Mapping[str, tuple[str, ...]]

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
# What stands for itself: `${*}` is an asterisk and no wildcard.
_LITERAL = {"*", "?", "$"}


class Unresolved(Exception):
    """A policy variable has no value in this request."""


def like(pattern: str, text: str, context: Context, *, folded: bool = False) -> bool:
    """Return whether a text fits a pattern, in which `*` is anything and `?` any one character.

    Raises Unresolved for a variable of the pattern that has no single value.
    """
    regex = _regex(pattern) if "${" not in pattern else _resolved(pattern, context)
    return bool(re.fullmatch(regex, text, re.DOTALL | (re.IGNORECASE if folded else 0)))


def same(value: str, text: str, context: Context, *, folded: bool = False) -> bool:
    """Return whether a text equals a policy's value, in which `*` and `?` are plain characters."""
    given = _VARIABLE.sub(lambda found: _value(found[1], context), value)
    return given.casefold() == text.casefold() if folded else given == text


def action_fits(pattern: str, action: str) -> bool:
    """Actions are compared without regard to case."""
    return like(pattern, action, {}, folded=True)


def resource_fits(pattern: str, arn: str, context: Context) -> bool:
    """Return whether a resource's ARN fits a policy's.

    An action without resource-level permissions acts on `*`, which no pattern fits but `*`.
    """
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(given) and all(
        like(one, other, context) for one, other in zip(wanted, given, strict=True)
    )


@cache
def _regex(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)


def _resolved(pattern: str, context: Context) -> str:
    pieces = _VARIABLE.split(pattern)
    return "".join(
        re.escape(_value(piece, context)) if place % 2 else _regex(piece)
        for place, piece in enumerate(pieces)
    )


def _value(variable: str, context: Context) -> str:
    if variable in _LITERAL:
        return variable
    name, _, default = variable.partition(",")
    values = context.get(name.strip().lower(), ())
    if len(values) == 1:
        return values[0]
    if default:
        return default.strip().strip("'")
    raise Unresolved(variable)
