"""The EBS direct API: a raw image becomes a snapshot while it is downloaded, with no instance."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fedimg.aws import snapshots
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import in_doubt, not_found
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import ROLE, Labels
from fedimg.aws.write.blocks import BLOCK, Blocks, count
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_size import ImageSize, ImageUnreachable, ImageUnusable, gib, measured
from fedimg.aws.write.pipeline import Bounds, stream
from fedimg.aws.write.progress import WriteProgress
from fedimg.aws.write.thread_group import ThreadGroup, TooSlow
from fedimg.config import EC2
from fedimg.exceptions import Cancelled, EC2UtilityException
from fedimg.images import RawImage
from fedimg.sources.file_server import Trusted

#: A snapshot that is being written. EC2 shows it as pending, like one that only has to be waited
#: for; its role tells them apart until it is sealed.
UNFINISHED = "unfinished-snapshot"
# Where a block takes a tenth of a second, as between continents, 8 connections take half again as
# long as decompression alone, and 64 as long. More take memory: each holds a block.
_CONNECTIONS = 64
# StartSnapshot's, in minutes.
_SHORTEST_TIMEOUT, _LONGEST_TIMEOUT = 10, 4320
_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class DirectWriter:
    """Writes one job's image. `ebs_once` is what `client` makes.

    `on_progress` is told what happens, in words.
    """

    ec2: Client
    ebs_once: Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    on_progress: Callable[[str], None]

    def write(self, image: RawImage) -> str:
        """Write an image into a snapshot; its id. It may have to be waited for still.

        What is behind the image's last block, up to whole GiB, is left out of the snapshot.
        Raises EC2UtilityException when the image is at fault, or unreachable to the last attempt,
        and botocore's errors when EBS is. A snapshot that failed is removed; that of a cancelled
        write is left for the job's clean-up.
        """
        limits = self.settings.limits
        try:
            for number in range(1, limits.attempts):
                try:
                    return self._attempt(image)
                except Exception as failure:
                    if not _may_pass(failure):
                        raise
                    self.on_progress(
                        f"attempt {number} failed, retrying with a new snapshot: {failure}"
                    )
                self.waiter.pause(limits.wait_maximum)
            return self._attempt(image)
        except (ImageUnusable, TooSlow) as error:
            later = isinstance(error, (ImageUnreachable, TooSlow))
            raise EC2UtilityException(str(error), later=later) from error

    def _attempt(self, image: RawImage) -> str:
        size = measured(image, self.settings, self.waiter.stop)
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
        # Nothing of this write takes longer, and what is dead by then EBS gives up by itself.
        timeout = math.ceil(self.settings.limits.write / 60)
        # An attempt of its own is a snapshot of its own; the same call twice is one.
        token = self.labels.token(UNFINISHED, secrets.token_hex(16))
        started = self._patience().settled(
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
        """The image's blocks on their way into the snapshot, which is sealed then."""
        limits = self.settings.limits
        download = Download(
            image.url,
            size=size.compressed_size,
            checksum=image.checksum,
            idle=limits.write_idle,
            trusted=Trusted.of(self.settings, image),
        )
        blocks = Blocks(self.ebs_once, snapshot, skip_zeros=self.settings.zero_blocks == "skip")
        with ThreadGroup(self.waiter.stop, limit=limits.write) as threads:
            patience = Waiter(limits, threads.over, self.on_progress)
            try:
                stream(
                    threads,
                    download,
                    size,
                    partial(blocks.put, patience),
                    connections=_CONNECTIONS,
                    glance=self._telling(size, blocks),
                    bounds=Bounds(),
                )
                if missing := count(size.uncompressed_size) - blocks.done:
                    raise ImageUnusable(f"decompression: {missing} blocks are missing")
                blocks.complete(self._patience())
            finally:
                download.end()

    def _patience(self) -> Waiter:
        """The waiter for what EBS is asked: it says when that is away."""
        return Waiter(self.settings.limits, self.waiter.stop, self.on_progress)

    def _telling(self, size: ImageSize, blocks: Blocks) -> Callable[[], None]:
        told = time.monotonic()
        write_progress = WriteProgress(size.uncompressed_size)

        def tell() -> None:
            nonlocal told
            if time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                self.on_progress(
                    write_progress.words(min(blocks.done * BLOCK, size.uncompressed_size))
                )

        return tell

    def _discard(self, snapshot: str) -> None:
        try:
            # A new one may not be known to EC2 yet, and is not to be forgotten for that.
            self.waiter.settled(lambda: self.ec2.delete_snapshot(SnapshotId=snapshot))
        except Exception as error:
            self.on_progress(
                f"could not delete snapshot {snapshot}, the job's clean-up will: {error}"
            )


def client(clients: Clients, region: str, *, jobs: int) -> Client:
    """EBS in a region, for as many jobs at once; each call is tried once."""
    return clients.client("ebs", region, attempts=1, connections=jobs * _CONNECTIONS)


def _may_pass(failure: Exception) -> bool:
    return isinstance(failure, ImageUnreachable) or in_doubt(failure) or not_found(failure)


def finish(ec2: Client, waiter: Waiter, snapshot: str) -> None:
    """Let a snapshot that holds all its blocks be found as the job's own."""
    waiter.settled(
        lambda: ec2.create_tags(Resources=[snapshot], Tags=[{"Key": ROLE, "Value": snapshots.ROLE}])
    )


def recovered(ec2: Client, waiter: Waiter, labels: Labels) -> str | None:
    """What an interrupted write of the job left: its snapshot, if it was sealed, or nothing.

    One that is pending cannot be told from one whose last block never came: it is removed, as no
    write goes on where another one ended.
    """
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=labels.filters(UNFINISHED))
    written = None
    for snapshot in found["Snapshots"]:
        if snapshot["State"] == "completed" and not written:
            written = str(snapshot["SnapshotId"])
            finish(ec2, waiter, written)
        else:
            snapshots.delete(ec2, snapshot["SnapshotId"])
    return written
