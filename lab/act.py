"""`python -m lab act`: have a running site do one of the actions of its control page."""

import argparse
import json
from typing import Any

from lab.running import SiteError, call, read


def take_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "action", help="such as ec2.down, ec2.up, koji.down, koji.up, relay.stop, relay.start"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="NAME=VALUE",
        help="the action's arguments; a value is JSON, or else a text",
    )


def run(parsed: argparse.Namespace) -> int:
    """Do the action, and print its result as JSON if it has one."""
    result = call(read(parsed.state), parsed.action, **dict(map(_argument, parsed.arguments)))
    if result is not None:
        print(json.dumps(result))
    return 0


def _argument(text: str) -> tuple[str, Any]:
    """Return the name and the value of an argument. Raises SiteError if it is none."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SiteError(f"{text!r} is no argument: write NAME=VALUE, such as seconds=5")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
