"""Condition operators: whether what is known of a request is what a statement asks for.

The rules are those of the IAM User Guide: "Condition operators" and "Multivalued context keys".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from lab.ec2.iam.patterns import Context, like, resource_fits, same

#: Whether a policy's value fits a request's.
Fits = Callable[[str, str, Context], bool]


@dataclass(frozen=True)
class Condition:
    """One operator on one key. `every` and `some` are IAM's ForAllValues and ForAnyValue."""

    key: str
    values: tuple[str, ...]
    fits: Fits
    negated: bool = False
    if_exists: bool = False
    every: bool = False
    some: bool = False

    def holds(self, context: Context) -> bool:
        given = context.get(self.key)
        if not given:
            return self.if_exists or (not self.some and (self.every or self.negated))
        if self.some:
            return any(self._passes(value, context) for value in given)
        if self.every or self.negated:
            return all(self._passes(value, context) for value in given)
        return any(self._passes(value, context) for value in given)

    def _passes(self, value: str, context: Context) -> bool:
        return any(self.fits(wanted, value, context) for wanted in self.values) is not self.negated


@dataclass(frozen=True)
class Absence(Condition):
    """IAM's Null: `true` asks for a request that does not have the key."""

    def holds(self, context: Context) -> bool:
        return any((value == "true") is not bool(context.get(self.key)) for value in self.values)


def condition(operator: str, key: str, values: Sequence[str]) -> Condition:
    """One condition of a statement. Raises ValueError for an operator there is not."""
    key = key.lower()
    if operator == "Null":
        if not set(values) <= {"true", "false"}:
            raise ValueError(f"Null of {key} is true or false")
        return Absence(key, tuple(values), _equal)
    name, every, some = operator, False, False
    if name.startswith("ForAllValues:"):
        name, every = name.removeprefix("ForAllValues:"), True
    elif name.startswith("ForAnyValue:"):
        name, some = name.removeprefix("ForAnyValue:"), True
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    negated = name in _NEGATED
    name = _NEGATED.get(name, name)
    if name not in _OPERATORS:
        raise ValueError(f"there is no condition operator {operator}")
    return Condition(key, tuple(values), _OPERATORS[name], negated, if_exists, every, some)


def _equal(wanted: str, given: str, context: Context) -> bool:
    return same(wanted, given, context)


def _equal_folded(wanted: str, given: str, context: Context) -> bool:
    return same(wanted, given, context, folded=True)


def _like(wanted: str, given: str, context: Context) -> bool:
    return like(wanted, given, context)


def _bool(wanted: str, given: str, context: Context) -> bool:
    return wanted.lower() == given.lower()


def _in_network(wanted: str, given: str, context: Context) -> bool:
    network, address = ip_network(wanted, strict=False), ip_address(given)
    return address.version == network.version and address in network


def _number(compare: Callable[[float, float], bool]) -> Fits:
    return lambda wanted, given, context: compare(float(given), float(wanted))


def _date(compare: Callable[[datetime, datetime], bool]) -> Fits:
    return lambda wanted, given, context: compare(_moment(given), _moment(wanted))


def _moment(text: str) -> datetime:
    if text.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(text), UTC)
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_OPERATORS: dict[str, Fits] = {
    "StringEquals": _equal,
    "StringEqualsIgnoreCase": _equal_folded,
    "StringLike": _like,
    "ArnEquals": resource_fits,
    "ArnLike": resource_fits,
    "Bool": _bool,
    "IpAddress": _in_network,
    "NumericEquals": _number(lambda given, wanted: given == wanted),
    "NumericLessThan": _number(lambda given, wanted: given < wanted),
    "NumericLessThanEquals": _number(lambda given, wanted: given <= wanted),
    "NumericGreaterThan": _number(lambda given, wanted: given > wanted),
    "NumericGreaterThanEquals": _number(lambda given, wanted: given >= wanted),
    "DateEquals": _date(lambda given, wanted: given == wanted),
    "DateLessThan": _date(lambda given, wanted: given < wanted),
    "DateLessThanEquals": _date(lambda given, wanted: given <= wanted),
    "DateGreaterThan": _date(lambda given, wanted: given > wanted),
    "DateGreaterThanEquals": _date(lambda given, wanted: given >= wanted),
}
# An operator that says what must not be, and the one that it turns around.
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NotIpAddress": "IpAddress",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
}
