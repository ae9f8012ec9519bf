"""Compare what exists in a site's EC2 with what should: nothing is left over, nothing forgotten."""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.running import ask, read


@dataclass(frozen=True)
class Thing:
    """One resource of the account's own; Amazon's are not listed.

    `shared` tells whether named accounts may use it.
    """

    kind: str
    id: str
    region: str
    state: str
    public: bool
    tags: dict[str, str]
    shared: bool = False

    @property
    def reachable(self) -> bool:
        """Return whether another account may use it."""
        return self.public or self.shared

    def __str__(self) -> str:
        tags = " ".join(f"{name}={value}" for name, value in sorted(self.tags.items()))
        return f"{self.region:15} {self.kind:15} {self.id:24} {self.state:10} {tags}".rstrip()


def live(site: Mapping[str, Any]) -> list[Thing]:
    """Everything that the running site's EC2 holds, by region and kind. Raises SiteError."""
    return things(ask(site, "ledger/live"))


def things(rows: Iterable[Mapping[str, Any]]) -> list[Thing]:
    """Return the rows of the page `ledger/live` as things, by region and kind."""
    listed = [
        Thing(
            row["kind"],
            row["id"],
            row["region"],
            row["state"],
            row["public"],
            row["tags"],
            row.get("shared", False),
        )
        for row in rows
    ]
    return sorted(listed, key=lambda thing: (thing.region, thing.kind, thing.id))


def unpublished(things: Iterable[Thing]) -> list[Thing]:
    """Those of them that nobody else can use: leaks, once no job is at work."""
    return [thing for thing in things if not thing.public]


def forgotten(things: Iterable[Thing], record: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return in words where EC2 and the record of what is public contradict each other.

    `record` has a row for each AMI, as `fedimg amis --json` prints it. Others may use exactly the
    AMIs that are recorded as public, or as shared with somebody, and their snapshots; all work has
    to be finished.
    """
    rows = {(row["region"], row["ami"]): row for row in record}
    public = {
        key: row
        for key, row in rows.items()
        if row["state"] == "public" or (row["state"] == "shared" and any(_audience(row)))
    }
    held = {(row["region"], row["snapshot"]): row for row in rows.values()}
    # EC2 shares snapshots with accounts alone.
    shared = {
        (row["region"], row["snapshot"])
        for row in public.values()
        if row["state"] == "public" or _audience(row)[0]
    }
    problems, reached = [], set()
    for thing in things:
        if thing.kind == "object" and thing.public:
            # What its bundle's AMI needs: the record has the bundle where a snapshot would be.
            reached.add((thing.region, _bundle(thing.id)))
            continue
        key = (thing.region, thing.id)
        if thing.kind not in ("image", "snapshot") or not thing.reachable:
            continue
        reached.add(key)
        known = rows.get(key) if thing.kind == "image" else held.get(key)
        if known is None:
            problems.append(f"{thing.kind} {thing.id} in {thing.region} is public and unrecorded")
        elif key not in public and key not in shared:
            problems.append(
                f"{thing.kind} {thing.id} in {thing.region} is public, and recorded as "
                f"{known['state']}"
            )
    problems += [
        f"{kind} {id} in {region} is recorded as public, and nobody else may use it"
        for kind, ids in (("image", public), ("snapshot", shared))
        for region, id in sorted(ids)
        if (region, id) not in reached
    ]
    return problems


def _audience(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of the accounts, and of the organizations and units, of a record."""
    counts = {part: len(members) for part, members in (row.get("audience") or {}).items()}
    accounts = counts.pop("accounts", 0)
    return accounts, sum(counts.values())


def _bundle(object: str) -> str:
    """Return the id of the bundle that an object belongs to: the URL of its folder."""
    return object.rpartition("/")[0]


def take_options(parser: argparse.ArgumentParser) -> None:
    """Define the options of `python -m lab ledger`."""
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="what 'fedimg amis --json' has printed: also compare it with what is public",
    )


def run(arguments: argparse.Namespace) -> int:
    """`python -m lab ledger`; 1 when something is left unpublished, or published and forgotten."""
    found = live(read(arguments.state))
    record = json.loads(arguments.record.read_text()) if arguments.record else None
    problems = forgotten(found, record) if record is not None else []
    # What was withdrawn is not published, and is no leak.
    kept = {each for row in record or () for each in (row["ami"], row["snapshot"])}
    left = [thing for thing in unpublished(found) if not kept & {thing.id, _bundle(thing.id)}]
    published = sum(thing.public and thing.kind != "object" for thing in found)
    print(f"{published} public AMIs and snapshots, {len(left)} things that are not published")
    for line in (*left, *problems):
        print(line)
    return 1 if left or problems else 0
