"""Filters and pages: how every Describe action chooses what it shows."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from fnmatch import translate
from functools import cache, lru_cache
from typing import Any

from lab.ec2.errors import EC2Error, combination, invalid
from lab.ec2.wire import iso, operation
from lab.ec2.world import Call

# An end of a list in EC2's description of filters, or an entry of one.
_LISTED = re.compile(r"<(?P<end>/?)ul>|<li>\s*<p>\s*<code>(?P<name>[a-z][\w.-]*)</code>\s*[-–—]")

# What a filter looks at: one value, several, or none.
Values = Callable[[Any], Any]


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    # EC2 knows * and ?, not the brackets that fnmatch also has.
    return re.compile(translate(text.replace("[", "[[]")))


def matches(actual: Any, wanted: Iterable[str]) -> bool:
    """Return whether any actual value is one of the wanted ones, wildcards included."""
    if actual is None:
        return False
    several = actual if isinstance(actual, (list, set, tuple)) else [actual]
    texts = [_text(one) for one in several]
    return any(_pattern(pattern).match(text) for pattern in wanted for text in texts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return iso(value) if isinstance(value, datetime) else str(value)


def select(
    rows: Iterable[dict[str, Any]],
    call: Call,
    known: Mapping[str, Values],
) -> list[dict[str, Any]]:
    """Return the rows that pass every filter of the call. Raises EC2Error for a filter that its
    action does not have, and in words of its own for one that EC2 has and the lab has no values of.
    """
    tests: list[tuple[Values, list[str]]] = []
    for given in call.params.get("Filters") or []:
        name, wanted = given.get("Name"), given.get("Values", [])
        if not name:
            raise EC2Error("InvalidParameterValue", "The filter 'null' is invalid")
        if len(wanted) > 200:
            raise EC2Error("FilterLimitExceeded", "The maximum number of filter values is 200")
        if name.startswith("tag:"):
            tests.append((_tag(name[4:]), wanted))
        elif name == "tag-key":
            tests.append((lambda row: [tag["Key"] for tag in row.get("Tags", [])], wanted))
        elif name == "tag-value":
            tests.append((lambda row: [tag["Value"] for tag in row.get("Tags", [])], wanted))
        elif name in known:
            tests.append((known[name], wanted))
        elif name in documented(call.action):
            raise EC2Error(
                "UnsupportedOperation",
                f"The lab's EC2 does not do the filter '{name}' of {call.action}.",
            )
        else:
            raise EC2Error("InvalidParameterValue", f"The filter '{name}' is invalid")
    return [row for row in rows if all(matches(look(row), wanted) for look, wanted in tests)]


@cache
def documented(action: str) -> frozenset[str]:
    """Return the names of an action's filters, as EC2's own description lists them; not `tag:`,
    which each has.
    """
    described = operation(action)
    taken = described.input_shape.members if described and described.input_shape else {}
    text = str(taken["Filters"].documentation) if "Filters" in taken else ""
    names, depth = set(), 0
    for found in _LISTED.finditer(text):
        if found["name"] is None:
            depth += -1 if found["end"] else 1
        # Deeper lists are of a filter's values.
        elif depth == 1:
            names.add(found["name"])
    return frozenset(names)


def _tag(key: str) -> Values:
    return lambda row: [tag["Value"] for tag in row.get("Tags", []) if tag["Key"] == key]


def field(*path: str) -> Values:
    """Return the values of a field of a row; where a list is on the way, those of each item."""

    def look(row: Any) -> Any:
        values = [row]
        for name in path:
            inner = [value[name] for value in values if name in value and value[name] is not None]
            values = []
            for value in inner:
                values.extend(value if isinstance(value, list) else [value])
        return values

    return look


def page(
    rows: list[dict[str, Any]], params: dict[str, Any], key: str, smallest: int = 5
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of the rows and the token of the next, as MaxResults and NextToken ask."""
    size, token = params.get("MaxResults"), params.get("NextToken")
    start = 0
    if token:
        try:
            start = int(base64.urlsafe_b64decode(token.encode()).decode())
        except ValueError:
            raise EC2Error("InvalidNextToken", "The token is not valid") from None
    if size is None:
        return rows[start:], None
    if params.get(key):
        raise combination(f"The parameter {key} cannot be used with the parameter maxResults")
    if size < smallest:
        raise invalid(size, "maxResults", f"Expecting a value greater than {smallest}.")
    end = start + size
    following = base64.urlsafe_b64encode(str(end).encode()).decode() if end < len(rows) else None
    return rows[start:end], following
