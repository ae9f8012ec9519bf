"""The unpublished resources of a site's EC2, which a fedimg that has finished left behind."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.running import ask, read


@dataclass(frozen=True)
class Thing:
    """One resource of the account's own; Amazon's are not listed."""

    kind: str
    id: str
    region: str
    state: str
    public: bool
    tags: dict[str, str]

    def __str__(self) -> str:
        tags = " ".join(f"{name}={value}" for name, value in sorted(self.tags.items()))
        return f"{self.region:15} {self.kind:15} {self.id:24} {self.state:10} {tags}".rstrip()


def live(site: Mapping[str, Any]) -> list[Thing]:
    """Everything that the running site's EC2 holds, by region and kind. Raises SiteError."""
    things = [
        Thing(row["kind"], row["id"], row["region"], row["state"], row["public"], row["tags"])
        for row in ask(site, "ledger/live")
    ]
    return sorted(things, key=lambda thing: (thing.region, thing.kind, thing.id))


def unpublished(things: Iterable[Thing]) -> list[Thing]:
    """Those of them that nobody else can use: leaks, once no job is at work."""
    return [thing for thing in things if not thing.public]


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab ledger`; 1 when something unpublished is left."""
    things = live(read(arguments.state))
    left = unpublished(things)
    published = len(things) - len(left)
    print(f"{published} public AMIs and snapshots, {len(left)} things that are not published")
    for thing in left:
        print(thing)
    return 1 if left else 0
