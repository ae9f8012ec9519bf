"""Store a bundle's parts while the bytes of its image pass by: bounded memory, nothing twice."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fedimg.aws.bundle.keys import BundleKeys
from fedimg.aws.bundle.manifest import manifest
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.stream import LARGEST, BundleStream
from fedimg.aws.client.types import Client
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.thread_group import Pipe, ThreadGroup, TooSlow
from fedimg.exceptions import Cancelled, exhausted
from fedimg.images import Disk, RawImage
from fedimg.untrusted.failures import of_endpoint

# S3 takes 10 MiB in well under a second; each connection holds a part in memory, and so does each
# that waits.
_CONNECTIONS = 3
_PARTS_WAITING = 1
#: For how long, in all, a write waits for S3 to take the parts of the bundle beside it.
_MOST_WAITED_SECONDS = 300.0
#: The progress of a write whose bundle could not be made beside it; the reason follows.
MADE_LATER = "the bundle is made later, by a pass of its own"


@dataclass(frozen=True)
class BundleRecipe:
    """The ingredients of one image's bundle, which the account with a number owns.

    `store` returns the bundle's store, whose calls end when an event is set; `signing` is a client
    for signed URLs to its bucket.
    """

    store: Callable[[threading.Event], BundleStore]
    signing: Client
    keys: BundleKeys
    account: str


def refuse_too_large(size: int) -> None:
    """Raise ImageUnusable for an image that no instance-store AMI can be made of."""
    if size > LARGEST:
        raise ImageUnusable(
            f"it has {size} bytes, and the root disk of an instance-store AMI has at most "
            f"{LARGEST}: remove the type from ec2.amis.types"
        )


class BundlePass:
    """One bundle in the making, in the threads of a group, of an image of `size` bytes.

    `add` gets the image in its order, by one thread at a time. Parts that are `present` in S3 are
    not stored again. A `tolerant` pass keeps S3's failures to itself: `failure` is the first.
    Raises ImageUnusable for an image that is too large.
    """

    def __init__(
        self,
        recipe: BundleRecipe,
        threads: ThreadGroup,
        image: RawImage,
        size: int,
        store: BundleStore,
        present: Mapping[str, str],
        *,
        tolerant: bool = False,
    ) -> None:
        refuse_too_large(size)
        self.failure: Exception | None = None
        self._waited = 0.0
        self._recipe = recipe
        self._image = image
        self._store = store
        self._tolerant = tolerant
        place = store.place
        self._content_key = recipe.keys.content_key(place.id.partition("/fedimg/")[2])
        self._stream = BundleStream(place.name, size, self._content_key)
        self._present = present
        self._numbers = itertools.count()
        self._parts: Pipe[tuple[int, bytes]] = Pipe(threads, _PARTS_WAITING)
        for number in range(_CONNECTIONS):
            threads.start(f"parts {number}", self._send)

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the image; waits while S3 is slower than they come."""
        if not self._over:
            self._put(self._stream.add(piece))

    def finish(self) -> None:
        """Take the end of the image. The group's threads end when all parts are stored."""
        if not self._over:
            self._put(self._stream.finish())
        self._parts.close()

    def seal(self, disk: Disk) -> None:
        """Store the manifest of a bundle whose parts are all stored, made of the bytes `disk`."""
        text = manifest(
            self._stream.bundled(),
            self._image.architecture,
            self._recipe.account,
            self._recipe.keys,
            self._content_key,
        )
        self._store.seal(text, disk)

    @property
    def _over(self) -> bool:
        return self.failure is not None

    def _put(self, parts: Iterator[bytes]) -> None:
        for part in parts:
            began = time.monotonic()
            self._parts.put((next(self._numbers), part))
            self._waited += time.monotonic() - began
            if self._tolerant and self._waited > _MOST_WAITED_SECONDS:
                self.failure = self.failure or TooSlow(
                    f"S3 took the parts so slowly that the write waited for {self._waited:.0f} s"
                )
                return

    def _send(self) -> None:
        for index, part in self._parts:
            # The rest is taken, too: nobody is to wait for a pass that has failed.
            if self._over:
                continue
            try:
                self._store.put(self._store.place.part(index), part, self._present)
            except Cancelled:
                raise
            except Exception as error:
                if exhausted(error) or not self._tolerant:
                    raise
                # Its traceback holds a part of the bundle.
                self.failure = self.failure or error.with_traceback(None)


@dataclass
class BesideTheWrite:
    """A bundle that is made of the bytes that are written to a snapshot, where that is possible.

    What keeps it from being made is told by `on_progress` and is no failure of the write: the
    bundle is then made by a pass of its own, which waits for S3 and tells what it meets.
    """

    recipe: BundleRecipe
    on_progress: Callable[[str], None]
    _making: BundlePass | None = field(default=None, init=False)

    def begin(self, threads: ThreadGroup, image: RawImage, size: int) -> None:
        """Begin, unless S3 has the bundle or does not answer."""
        self._making = None
        store = self.recipe.store(threads.over)
        try:
            present = store.present()
        except Cancelled:
            raise
        except Exception as error:
            if exhausted(error):
                raise
            self._give_up(error)
            return
        if store.place.manifest not in present:
            making = BundlePass(self.recipe, threads, image, size, store, present, tolerant=True)
            self._making = making

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the image."""
        if self._making is not None:
            self._making.add(piece)

    def finish(self) -> None:
        """Take the end of the image."""
        if self._making is not None:
            self._making.finish()

    def seal(self, disk: Disk) -> None:
        """Store the manifest, when all threads have ended well."""
        making, self._making = self._making, None
        if making is None:
            return
        failure = making.failure
        if failure is None:
            try:
                making.seal(disk)
            except Cancelled:
                raise
            except Exception as error:
                if exhausted(error):
                    raise
                failure = error
        if failure is not None:
            self._give_up(failure)

    def _give_up(self, error: Exception) -> None:
        self.on_progress(f"{MADE_LATER}: {of_endpoint(error)}")
