"""Compare the bytes of snapshots with the disk that Koji built, by the recorded SHA-256."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedimg.aws import read_back
from fedimg.aws.bundle.place import is_bundle
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import Client
from fedimg.aws.read_back import CONNECTIONS, Listing
from fedimg.images import Disk
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.store.rows import AMIRow
from fedimg.untrusted.quoting import one_line


@dataclass(frozen=True)
class Reading:
    """A snapshot that is to be read, with one of its AMIs, and the disk that it should hold."""

    row: AMIRow
    disk: Disk
    listing: Listing


@dataclass(frozen=True)
class Prepared:
    """The readings of some snapshots; `unread` tells, by snapshot, why another cannot be read."""

    readings: Sequence[Reading]
    unread: dict[str, str]


def prepare(clients: Clients, recorded: Iterable[AMIRow]) -> Prepared:
    """Return one reading for each snapshot of some AMIs whose disk is recorded."""
    rows: dict[tuple[str, str], AMIRow] = {}
    for row in recorded:
        if (row.region, row.snapshot) not in rows or row.disk_sha256 is not None:
            rows[row.region, row.snapshot] = row
    readings: list[Reading] = []
    unread: dict[str, str] = {}
    for (region, snapshot), row in sorted(rows.items()):
        if is_bundle(snapshot):
            unread[snapshot] = f"{region}: a bundle's bytes are not compared; it is booted instead"
            continue
        if row.disk_sha256 is None or row.disk_length is None:
            unread[snapshot] = f"{region}: the SHA-256 of its disk was never recorded"
            continue
        if not clients.has_service("ebs", region):
            unread[snapshot] = f"{region} has no EBS direct API, by which blocks are read"
            continue
        try:
            listing = read_back.listed(_ebs(clients, region), snapshot)
        except FAILURES as error:
            unread[snapshot] = f"{region}: its blocks cannot be listed: {one_line(str(error))}"
            continue
        readings.append(Reading(row, Disk(row.disk_sha256, row.disk_length), listing))
    return Prepared(readings, unread)


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
