"""Bring a snapshot and its AMIs into others' reach: everybody's, or that of an audience.

What may come into others' reach is marked before it does, in the `record` and by a tag. A clean-up
honours either mark, and removes nothing that anybody may have launched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from botocore.exceptions import ClientError

from fedimg.aws.client.errors import FAILURES, passing
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.permissions import hide_ami, hide_snapshot, set_tags
from fedimg.aws.tags import NEVER
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.images import AMI
from fedimg.parallel import run_parallel


class Way(Protocol):
    """The way in which a snapshot and its AMIs come into others' reach."""

    @property
    def tag(self) -> str:
        """Return the tag that tells since when they may be."""

    def marking(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Record that AMIs and a snapshot are about to be; return those not recorded before."""

    def unmark(self, region: str, ids: Collection[str]) -> None:
        """Record that these never were after all."""

    def give_snapshot(self, snapshot: str) -> None:
        """Let the others use the snapshot; doing so twice is no error."""

    def give_ami(self, ami: AMI, check: Callable[[], object]) -> None:
        """Let the others launch an AMI; doing so twice is no error.

        `check` is called before each try, and raises if the AMI must not come into their reach.
        """

    def given(self, ami: AMI) -> bool:
        """Record that an AMI is in their reach; return False if it must not be."""

    def refused(self, ami: AMI, error: Exception) -> None:
        """Raise EC2ServiceException if there is more to say about EC2's refusal of an AMI."""

    def out_of_reach(self, amis: Collection[str]) -> set[str]:
        """Return those of the AMIs that nobody else can use."""


def offer_all(
    ec2: EC2Client,
    waiter: Waiter,
    snapshot: str,
    amis: Sequence[AMI],
    way: Way,
    facts: Mapping[str, str],
) -> None:
    """Bring a snapshot into others' reach, then its AMIs in parallel, and record each.

    `facts` are the tags that record the image on EC2; they are set before. When one fails, its
    error is raised after the others have been tried. An AMI that EC2 refused loses its mark. When
    EC2 refused all of them, their snapshot is made private again and loses its mark, too, since
    nobody can have launched anything from it. Of AMIs that somebody took out of others' reach
    meanwhile the snapshot goes private with the last one.
    """
    region = amis[0].region
    ids = [snapshot, *(ami.id for ami in amis)]
    new = set(way.marking(region, ids))
    refused: set[str] = set()
    taken_back: set[str] = set()

    def check(ami: AMI) -> None:
        try:
            way.marking(region, [ami.id])
        except EC2ServiceException:
            taken_back.add(ami.id)
            raise

    def give(ami: AMI) -> None:
        try:
            # Before each try, as EC2 may have kept this step waiting for long.
            way.give_ami(ami, partial(check, ami))
        except Exception as error:
            if surely_refused(error):
                refused.add(ami.id)
                way.refused(ami, error)
            raise
        if not way.given(ami):
            taken_back.add(ami.id)
            hide_ami(ec2, waiter, ami.id)
            raise EC2ServiceException(
                f"AMI {ami.id} was taken out of others' reach while it came into it: it is "
                "private again",
                region=region,
            )

    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        set_tags(ec2, waiter, ids, {**facts, way.tag: now})
    except Exception as error:
        if surely_refused(error):
            way.unmark(region, new)
        raise
    try:
        try:
            way.give_snapshot(snapshot)
        except Exception as error:
            if surely_refused(error):
                refused.update(ami.id for ami in amis)
            raise
        run_parallel({ami.id: partial(give, ami) for ami in amis}, len(amis))
    except Exception:
        # A mark that cannot be removed stays; it only protects the resource from a clean-up.
        with suppress(*FAILURES, EC2ServiceException, Cancelled):
            # Whoever took the AMIs back may have hidden their snapshot before it was given.
            if taken_back and len(way.out_of_reach([ami.id for ami in amis])) == len(amis):
                hide_snapshot(ec2, waiter, snapshot)
            # An earlier try may have given some of them.
            private = way.out_of_reach(refused & new)
            if snapshot in new and len(private) == len(amis):
                hide_snapshot(ec2, waiter, snapshot)
                private.add(snapshot)
            if private:
                set_tags(ec2, waiter, private, {way.tag: NEVER})
                way.unmark(region, private)
        raise


def surely_refused(error: Exception) -> bool:
    """Return whether EC2 itself refused the call, so that it had no effect."""
    return isinstance(error, ClientError) and not passing(error)
