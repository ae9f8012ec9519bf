"""Make the bundle of an image while it downloads: one pass, and bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from fedimg.aws.bundle.keys import BundleKeys
from fedimg.aws.bundle.manifest import manifest
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.stream import LARGEST, BundleStream
from fedimg.aws.client.errors import in_doubt
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import ImageSize, measured
from fedimg.aws.write.pipeline import Bounds, decompress
from fedimg.aws.write.progress import WriteProgress, now_and_then
from fedimg.aws.write.thread_group import Pipe, ThreadGroup, TooSlow
from fedimg.config import EC2
from fedimg.exceptions import EC2UtilityException
from fedimg.images import Disk, RawImage

# S3 takes 10 MiB in well under a second; each connection holds a part in memory, and so does each
# that waits.
_CONNECTIONS = 3
_PARTS_WAITING = 1


@dataclass(frozen=True)
class BundleWriter:
    """Makes the bundle of one image, which the account with a number owns.

    `disk` are the bytes that it has to have, if they are known; `on_progress` is called with
    progress texts.
    """

    store: BundleStore
    keys: BundleKeys
    account: str
    disk: Disk | None
    waiter: Waiter
    settings: EC2
    on_progress: Callable[[str], None]

    def write(self, image: RawImage) -> None:
        """Store the bundle of an image, the manifest last.

        A bundle that has its manifest is whole, and parts that an interrupted write has stored are
        not stored again. Raises EC2UtilityException when the image is at fault or unreachable, and
        botocore's errors when S3 fails.
        """
        if self.store.place.manifest in self.store.present():
            return
        limits = self.settings.limits
        try:
            first_success(
                lambda _number: self._attempt(image),
                self.waiter,
                attempts=limits.attempts,
                pause=limits.wait_maximum,
                new="bundle",
                may_pass=lambda error: isinstance(error, ImageUnreachable) or in_doubt(error),
                on_progress=self.on_progress,
            )
        except (ImageUnusable, TooSlow) as error:
            later = isinstance(error, (ImageUnreachable, TooSlow))
            raise EC2UtilityException(f"the image was not bundled: {error}", later=later) from error

    def _attempt(self, image: RawImage) -> None:
        size = measured(image, self.settings, self.waiter.stop, self.on_progress)
        if size.uncompressed_size > LARGEST:
            raise ImageUnusable(
                f"it has {size.uncompressed_size} bytes, and the root disk of an instance-store "
                f"AMI has at most {LARGEST}: remove the type from ec2.amis.types"
            )
        place = self.store.place
        content_key = self.keys.content_key(place.id.partition("/fedimg/")[2])
        bundle = BundleStream(place.name, size.uncompressed_size, content_key)
        self._stream(image, size, bundle)
        text = manifest(bundle.bundled(), image.architecture, self.account, self.keys, content_key)
        self.store.put(place.manifest, text, {})

    def _stream(self, image: RawImage, size: ImageSize, bundle: BundleStream) -> None:
        """Store the parts of the bundle."""
        limits, place, present = self.settings.limits, self.store.place, self.store.present()
        download = Download.of(image, size.compressed_size, self.settings)
        with ThreadGroup(self.waiter.stop, limit=limits.write) as threads:
            parts: Pipe[tuple[int, bytes]] = Pipe(threads, _PARTS_WAITING)
            numbers = itertools.count()

            def add(piece: bytes) -> None:
                for part in bundle.add(piece):
                    parts.put((next(numbers), part))

            def store() -> None:
                for index, part in parts:
                    self.store.put(place.part(index), part, present)

            disk_hash = DiskHash(threads, add)
            on_poll = self._report_progress(size, disk_hash)
            for number in range(_CONNECTIONS):
                threads.start(f"parts {number}", store)
            try:
                decompress(
                    threads,
                    download,
                    size,
                    lambda _at, _part: None,
                    on_poll=on_poll,
                    bounds=Bounds(),
                    disk_hash=disk_hash,
                )
                if self.disk and disk_hash.disk() != self.disk:
                    raise ImageUnusable(
                        "it has other bytes than those that were written to the snapshot: the file "
                        "has been changed meanwhile"
                    )
                for part in bundle.finish():
                    parts.put((next(numbers), part))
                parts.close()
                threads.join(on_poll=on_poll)
            finally:
                download.end()

    def _report_progress(self, size: ImageSize, disk_hash: DiskHash) -> Callable[[], None]:
        progress = WriteProgress(size.uncompressed_size)

        def report() -> None:
            self.on_progress(f"bundling: {progress.words(disk_hash.disk().length)}")

        return now_and_then(report)
