"""`python -m lab faults`: what went wrong in a running site's EC2, and what is to go wrong."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from lab.ec2.faults import Plan
from lab.running import SiteError, ask, read, tell


def values(path: Path) -> dict[str, Any]:
    """Read a plan's file. Raises SiteError when it holds no plan."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        Plan.of(said)
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}") from error
    return said


def plan(path: Path) -> Plan:
    """Read the plan in a file. Raises SiteError when it holds none."""
    return Plan.of(values(path))


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab faults`."""
    site = read(arguments.state)
    if arguments.plan:
        tell(site, "faults", values(arguments.plan))
    for rule in ask(site, "faults")["faults"]:
        struck = rule.pop("struck")
        print(f"{struck:7}  {', '.join(f'{key} = {value}' for key, value in rule.items())}")
    return 0
