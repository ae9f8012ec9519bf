"""Define what all jobs of a process share: their site, and what the workers decide together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedimg.aws.client.availability import Outages
from fedimg.aws.client.clients import Clients
from fedimg.aws.public_access import PublicAccess
from fedimg.config import EC2, Check


class Semaphores(Protocol):
    """Counts what all jobs of all workers may have so many of at once."""

    def acquire(self, kind: str, job: str, limit: int) -> bool:
        """Return whether a job has its slot among `limit`; until it has, it stands in line."""

    def release(self, kind: str, job: str) -> None:
        """Give a job's slot back, or leave the line."""


class Holds(Protocol):
    """Tells whether the site publishes nothing for now, by an operator's word."""

    def current(self) -> object | None:
        """Return the hold, whose text says who began it and why; None if the site is not held."""

    def wait_for_release(self, stop: threading.Event) -> None:
        """Wait until the hold has ended. Raises Cancelled if `stop` is set."""


@dataclass(frozen=True)
class Site:
    """The site that publishes.

    `settings` are its [ec2] settings, and `checks` its own commands for the boot check. Every
    resource is tagged with its `name`. `clients` are the AWS clients of the process, and
    `public_access` is what it knows of the regions' quotas and blocks. A site that does not
    `publish` keeps all AMIs private, for a rehearsal.
    """

    settings: EC2
    name: str
    checks: Sequence[Check]
    clients: Clients
    public_access: PublicAccess = field(default_factory=PublicAccess)
    publish: bool = True


@dataclass(frozen=True)
class Coordination:
    """The limits and decisions that the jobs of all workers share.

    Without `semaphores` there are no limits across workers; without `outages` no region is known to
    be away; without `holds` nothing keeps an image from becoming public.
    """

    semaphores: Semaphores | None = None
    outages: Outages | None = None
    holds: Holds | None = None
