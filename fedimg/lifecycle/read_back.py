"""Compare the bytes of snapshots with the disk that Koji built, by the recorded SHA-256."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedimg.aws import read_back
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.types import Client
from fedimg.aws.read_back import CONNECTIONS, Listing
from fedimg.images import Disk
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.store.rows import AMIRow


@dataclass(frozen=True)
class Reading:
    """A snapshot that is to be read, with one of its AMIs, and the disk that it should hold."""

    row: AMIRow
    disk: Disk
    listing: Listing


def prepare(clients: Clients, recorded: Iterable[AMIRow]) -> list[Reading]:
    """Return one reading for each snapshot of some AMIs whose disk is recorded.

    Raises botocore's errors.
    """
    rows = {
        (row.region, row.snapshot): row
        for row in recorded
        if row.disk_sha256 is not None and row.disk_length is not None
    }
    return [
        Reading(
            row,
            Disk(row.disk_sha256 or "", row.disk_length or 0),
            read_back.listed(_ebs(clients, row.region), row.snapshot),
        )
        for _, row in sorted(rows.items())
    ]


def compare(clients: Clients, reading: Reading) -> Difference | None:
    """Read a snapshot, and return how it differs from the disk. Raises botocore's errors."""
    row = reading.row
    try:
        found = read_back.read(_ebs(clients, row.region), reading.listing, reading.disk.length)
    except read_back.NotZero as error:
        text = str(error)
    else:
        if found == reading.disk:
            return None
        text = f"its disk has sha256:{found.sha256}, recorded is sha256:{reading.disk.sha256}"
    return Difference(Kind.BYTES, row.region, row.snapshot, row.job, row.image, text)


def _ebs(clients: Clients, region: str) -> Client:
    return clients.client("ebs", region, connections=CONNECTIONS)
