"""AWS's Service Authorization Reference, as far as the lab answers calls.

reference.json is made by tools/authorization-reference. It maps an action to its resource types,
each with the condition keys that count there; `*` marks a type that every call of the action has.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.ec2.iam.patterns import Context


@dataclass(frozen=True)
class Kind:
    """A resource type of an action; `keys` are condition keys in lower case, tags without name."""

    required: bool
    keys: frozenset[str]

    def only(self, given: Context, general: frozenset[str]) -> Context:
        """Return those keys of a request that count here; keys of AWS's own (aws:…) count
        everywhere.
        """
        return {key: value for key, value in given.items() if self._counts(key, general)}

    def _counts(self, key: str, general: frozenset[str]) -> bool:
        # A key may have a slash of its own, as ec2:Add/group.
        names = {key, key.split("/")[0]}
        if names & (self.keys | general):
            return True
        return key.startswith("aws:") and not names & _OF_TAGS


_OF_TAGS = {"aws:requesttag", "aws:resourcetag", "aws:tagkeys"}
UNKNOWN = Kind(False, frozenset())


@cache
def kinds(action: str) -> Mapping[str, Kind]:
    """Return an action's resource types, by name; those of its request in general under ''."""
    return {
        name.lstrip("*"): Kind(name.startswith("*"), frozenset(key.lower() for key in keys))
        for name, keys in _table().get(action, {}).items()
    }


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(
        Path(__file__).with_name("reference.json").read_text()
    )
    return found
