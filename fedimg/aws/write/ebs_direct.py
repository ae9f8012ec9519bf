"""Write an image into a snapshot through the EBS direct API, while it downloads, without an
instance.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fedimg.aws import snapshots
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import in_doubt, not_found
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.retrying import Current
from fedimg.aws.client.types import Client, EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import ROLE, Labels
from fedimg.aws.write.blocks import BLOCK, Blocks, count
from fedimg.aws.write.bundle_pass import BesideTheWrite
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import ImageSize, measured
from fedimg.aws.write.pipeline import Bounds, stream
from fedimg.aws.write.progress import WriteProgress, now_and_then
from fedimg.aws.write.thread_group import ThreadGroup, TooSlow
from fedimg.aws.write.units import gib
from fedimg.config import EC2
from fedimg.exceptions import Cancelled, EC2UtilityException
from fedimg.images import Disk, RawImage

#: The role of a snapshot until all of its blocks are written. Its state is pending then, as it is
#: until the snapshot is complete.
UNFINISHED = "unfinished-snapshot"
# When a block takes 0.1 s, as between continents, 8 connections take 1.5 times as long as
# decompression alone, and 64 as long. Each connection holds a block in memory.
_CONNECTIONS = 64
# A file of one section is decompressed as it comes, by what may take the most memory of all.
_ONE_SECTION = Bounds(waiting=2 * 1024 * 1024)
# StartSnapshot's, in minutes.
_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT = 10, 4320


@dataclass(frozen=True)
class DirectWriter:
    """Writes one job's image. `ebs_once` is the client that `client` returns.

    `on_progress` is called with progress texts, `on_written` before a snapshot is completed. Of the
    same bytes a bundle is made `beside`, if one is wanted.
    """

    ec2: EC2Client
    ebs_once: Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    on_progress: Callable[[str], None]
    on_written: Callable[[Disk], None]
    beside: BesideTheWrite | None = None

    def write(self, image: RawImage) -> str:
        """Write an image into a snapshot; return its id. The snapshot may still be pending.

        The bytes after the image's last block, up to whole GiB, are left out of the snapshot.
        Raises EC2UtilityException when the image is at fault, or unreachable at the last attempt,
        and botocore's errors when EBS fails. A snapshot that failed is deleted; that of a cancelled
        write is left to the job's clean-up.
        """
        limits = self.settings.limits
        try:
            return first_success(
                lambda _number: self._attempt(image),
                self.waiter,
                attempts=limits.attempts,
                pause=limits.wait_maximum,
                new="snapshot",
                may_pass=_may_pass,
                on_progress=self.on_progress,
            )
        except (ImageUnusable, TooSlow) as error:
            later = isinstance(error, (ImageUnreachable, TooSlow))
            raise EC2UtilityException(str(error), later=later) from error

    def _attempt(self, image: RawImage) -> str:
        size = measured(image, self.settings, self.waiter.stop, self.on_progress)
        snapshot = self._start(size)
        try:
            try:
                self._stream(image, size, snapshot)
            except (ImageUnusable, TooSlow) as error:
                raise type(error)(f"the image was not written: {error}") from error
            finish(self.ec2, self.waiter, snapshot)
        except Cancelled:
            raise
        except Exception:
            self._discard(snapshot)
            raise
        return snapshot

    def _start(self, size: ImageSize) -> str:
        # EBS fails a snapshot that receives no block for the longest time that a write may take.
        timeout = math.ceil(self.settings.limits.write / 60)
        # Each attempt has its own snapshot; a repeated call returns the same one.
        token = self.labels.token(UNFINISHED, secrets.token_hex(16))
        started = self._waiter().settled(
            lambda: self.ebs_once.start_snapshot(
                VolumeSize=gib(size.uncompressed_size),
                Description=f"fedimg: {self.labels.image}"[:255],
                Tags=self.labels.tags(UNFINISHED, self.labels.image),
                ClientToken=token,
                Timeout=min(max(timeout, _SHORTEST_TIMEOUT), _LONGEST_TIMEOUT),
            )
        )
        snapshot = str(started["SnapshotId"])
        self.on_progress(f"snapshot {snapshot} started")
        return snapshot

    def _stream(self, image: RawImage, size: ImageSize, snapshot: str) -> None:
        """Write the image's blocks into the snapshot, and complete it."""
        limits = self.settings.limits
        download = Download.of(image, size.compressed_size, self.settings)
        blocks = Blocks(self.ebs_once, snapshot, skip_zeros=self.settings.zero_blocks == "skip")
        with ThreadGroup(self.waiter.stop, limit=limits.write) as threads:
            beside = self.beside
            if beside is not None:
                beside.begin(threads, image, size.uncompressed_size)
            disk_hash = DiskHash(threads, beside.add) if beside else DiskHash(threads)
            block_waiter = Waiter(limits, threads.over, self.on_progress)
            try:
                stream(
                    threads,
                    download,
                    size,
                    partial(blocks.put, block_waiter),
                    connections=_CONNECTIONS,
                    on_poll=self._report_progress(size, blocks),
                    bounds=Bounds() if len(size.blocks) > 1 else _ONE_SECTION,
                    disk_hash=disk_hash,
                    on_hashed=beside.finish if beside else lambda: None,
                )
                if missing := count(size.uncompressed_size) - blocks.done:
                    raise ImageUnusable(f"decompression: {missing} blocks are missing")
                if beside is not None:
                    beside.seal(disk_hash.disk())
                self.on_written(disk_hash.disk())
                blocks.complete(self._waiter())
            finally:
                download.end()

    def _waiter(self) -> Waiter:
        """Return a waiter for calls to EBS, which reports outages."""
        return Waiter(self.settings.limits, self.waiter.stop, self.on_progress)

    def _report_progress(self, size: ImageSize, blocks: Blocks) -> Callable[[], None]:
        write_progress = WriteProgress(size.uncompressed_size)

        def report() -> None:
            written = min(blocks.done * BLOCK, size.uncompressed_size)
            self.on_progress(write_progress.words(written))

        return now_and_then(report)

    def _discard(self, snapshot: str) -> None:
        try:
            # EC2 may not know a new snapshot yet; then the deletion is retried.
            self.waiter.settled(lambda: self.ec2.delete_snapshot(SnapshotId=snapshot))
        except Exception as error:
            self.on_progress(
                f"could not delete snapshot {snapshot}, the job's clean-up will: {error}"
            )


def client(clients: Clients, region: str, *, jobs: int) -> Client:
    """Return EBS's client for a region without retries, with connections for `jobs` jobs.

    Credentials that have expired are read again, for the next call.
    """
    connections = jobs * _CONNECTIONS
    return Current(
        clients, lambda: clients.client("ebs", region, attempts=1, connections=connections)
    )


def _may_pass(failure: Exception) -> bool:
    return isinstance(failure, ImageUnreachable) or in_doubt(failure) or not_found(failure)


def finish(ec2: EC2Client, waiter: Waiter, snapshot: str) -> None:
    """Tag a snapshot that holds all its blocks, so that it is found as the job's own."""
    waiter.settled(
        lambda: ec2.create_tags(Resources=[snapshot], Tags=[{"Key": ROLE, "Value": snapshots.ROLE}])
    )


def recovered(ec2: EC2Client, waiter: Waiter, labels: Labels) -> str | None:
    """Return the snapshot of the job's interrupted write if it was completed, else None.

    Whether a pending snapshot has all of its blocks cannot be told, and a write cannot be resumed,
    so a pending one is deleted.
    """
    described = ec2.describe_snapshots(OwnerIds=["self"], Filters=labels.filters(UNFINISHED))
    written = None
    for snapshot in described["Snapshots"]:
        if snapshot["State"] == "completed" and not written:
            written = str(snapshot["SnapshotId"])
            finish(ec2, waiter, written)
        else:
            snapshots.delete(ec2, snapshot["SnapshotId"])
    return written
