"""Make the bundle of an image by a download of its own, where none was made beside the write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.write.bundle_pass import BundlePass, BundleRecipe
from fedimg.aws.write.disk_hash import DiskHash
from fedimg.aws.write.download import Download
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import ImageSize, measured
from fedimg.aws.write.pipeline import Bounds, decompress
from fedimg.aws.write.progress import WriteProgress, now_and_then
from fedimg.aws.write.thread_group import ThreadGroup, TooSlow
from fedimg.config import EC2
from fedimg.exceptions import EC2UtilityException
from fedimg.images import Disk, RawImage


@dataclass(frozen=True)
class BundleWriter:
    """Makes the bundle of one image by a recipe.

    `disk` are the bytes that it has to have, if they are known; `on_progress` is called with
    progress texts.
    """

    recipe: BundleRecipe
    disk: Disk | None
    waiter: Waiter
    settings: EC2
    on_progress: Callable[[str], None]

    def write(self, image: RawImage) -> None:
        """Store the bundle of an image, the manifest last, unless S3 has the whole of it.

        Parts that an interrupted write has stored are not stored again; a bundle of other bytes is
        deleted. Raises EC2UtilityException when the image is at fault or unreachable, and
        botocore's errors when S3 fails.
        """
        store = self.recipe.store(self.waiter.stop)
        present = store.present()
        if store.place.manifest in present:
            sealed = store.sealed(present)
            same = self.disk is None or sealed.sha256 == self.disk.sha256
            if same and sealed.whole:
                return
            if not same:
                store.delete()
        limits = self.settings.limits
        try:
            first_success(
                lambda _number: self._attempt(image),
                self.waiter,
                attempts=limits.attempts,
                pause=limits.wait_maximum,
                new="bundle",
                # S3 has been waited for already.
                may_pass=lambda error: isinstance(error, ImageUnreachable),
                on_progress=self.on_progress,
            )
        except (ImageUnusable, TooSlow) as error:
            later = isinstance(error, (ImageUnreachable, TooSlow))
            raise EC2UtilityException(f"the image was not bundled: {error}", later=later) from error

    def _attempt(self, image: RawImage) -> None:
        size = measured(image, self.settings, self.waiter.stop, self.on_progress)
        download = Download.of(image, size.compressed_size, self.settings)
        with ThreadGroup(self.waiter.stop, limit=self.settings.limits.write) as threads:
            store = self.recipe.store(threads.over)
            making = BundlePass(
                self.recipe, threads, image, size.uncompressed_size, store, store.present()
            )
            disk_hash = DiskHash(threads, making.add)
            on_poll = self._report_progress(size, disk_hash)
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
                making.finish()
                threads.join(on_poll=on_poll)
                making.seal(disk_hash.disk())
            finally:
                download.end()

    def _report_progress(self, size: ImageSize, disk_hash: DiskHash) -> Callable[[], None]:
        progress = WriteProgress(size.uncompressed_size)

        def report() -> None:
            self.on_progress(f"bundling: {progress.words(disk_hash.disk().length)}")

        return now_and_then(report)
