"""Define the settings of the parameters that name the newest AMIs: their names and their tier."""

from __future__ import annotations

import re
import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedimg.config.section import Section

#: The fields of a name, each with the most characters that it stands for.
FIELDS = {"release": 64, "arch": 6, "type": 32, "series": 200, "kind": 7}
#: The fields without which AMIs of several kinds would have one name.
NEEDED = ("release", "arch", "type")
#: SSM's limits: the most characters of a name, those of the ARN before it included, and the most
#: levels; and the longest ARN before a name.
_MOST_CHARACTERS, _DEEPEST = 1011, 15
_LONGEST_ARN = len("arn:aws-us-gov:ssm:ap-southeast-99:123456789012:parameter/")
_RESERVED = ("aws", "ssm")
_CHARACTERS = re.compile(r"[A-Za-z0-9_.\-/]*")


def fault(name: str) -> str:
    """Return why SSM takes no parameter of this name, or an empty text."""
    if not _CHARACTERS.fullmatch(name):
        return "has a character other than letters, digits and . - _ /"
    if not name.startswith("/") or name.endswith("/") or "//" in name:
        return "does not begin with a slash, ends in one, or has two in a row"
    if name[1:].lower().startswith(_RESERVED):
        return 'begins with "aws" or "ssm", which AWS keeps to itself'
    if name.count("/") > _DEEPEST:
        return f"has over {_DEEPEST} levels"
    if _LONGEST_ARN + len(name) > _MOST_CHARACTERS:
        return f"has over {_MOST_CHARACTERS - _LONGEST_ARN} characters"
    return ""


def _path(text: str) -> str:
    if not text:
        return text
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError("has a brace that closes or opens no field") from error
    named = [field for _, field, _, _ in parts if field is not None]
    if unknown := sorted(set(named) - set(FIELDS)):
        raise ValueError(
            f"has the field {{{unknown[0]}}}; known fields are {', '.join(sorted(FIELDS))}"
        )
    if any(form or conversion for _, _, form, conversion in parts):
        raise ValueError("has a field with a format; write the field's name alone")
    if missing := [field for field in NEEDED if field not in named]:
        raise ValueError(
            f"lacks {', '.join(f'{{{field}}}' for field in missing)}: AMIs that are not each "
            "other's successors would have one name"
        )
    longest = text.format(**{field: "x" * most for field, most in FIELDS.items()})
    if why := fault(longest):
        raise ValueError(f"makes names that SSM does not take: such a name {why}")
    return text


class Parameters(Section):
    """Parameters of SSM that name the newest public AMI of each region, architecture and type."""

    path: Annotated[str, AfterValidator(_path)] = Field(
        "",
        description="Name of the parameters, with {release}, {arch} and {type}, and {series} and "
        '{kind} where images of several names or sources are published: "/fedora/{release}/{arch}/'
        '{type}/latest". Empty: there are none, and those that fedimg put are deleted.',
    )
    tier: Literal["Standard", "Advanced"] = Field(
        "Standard",
        description="Tier of the parameters: RAM shares Advanced ones alone, for which AWS "
        "charges, and which never become Standard ones again.",
    )
