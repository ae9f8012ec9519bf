"""Answer a utility instance that makes a bundle of the image it writes, and check what it stored.

The instance has no credentials. For each part it gets a URL that stores these very bytes, signed
when it asks, so that no URL is known before its part is. The instance sees the plain image, and
what it says is not believed: S3 itself tells which sizes and SHA-1s it has.
"""

from __future__ import annotations

import base64
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from fedimg.aws.bundle.manifest import manifest
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.stream import PART, Bundled, ContentKey, Part, header, most_parts, tail
from fedimg.aws.write.bundle_pass import MADE_LATER, BundleRecipe, refuse_too_large
from fedimg.exceptions import Cancelled, exhausted
from fedimg.images import Disk, RawImage
from fedimg.parallel import run_parallel
from fedimg.untrusted.failures import of_endpoint
from fedimg.untrusted.quoting import QuotedError

#: The programs of the utility AMI that make bundles.
TOOLS = ("openssl", "gzip", "sha1sum", "base64", "stat", "rm")
#: For how long, in all, the instance waits for S3 to take the parts, in seconds, as a worker does.
_PATIENCE = 300
# With pauses of up to 16 s there are about 25 tries within that time.
_MOST_TRIES = 40
_CHECKS_AT_ONCE = 8
_ASKED = re.compile(r"part (\d{1,4}) (\d{1,8}) ([0-9a-f]{40}) (-|\d{3}/(?:-|[A-Za-z]{1,60}))")
_BUNDLED = re.compile(r"bundled ([0-9a-f]{40}) (\d{1,4})")
_UNBUNDLED = re.compile(r"unbundled (.{1,500})")
_STOP = b"stop\n"


class _GivenUp(QuotedError):
    """The instance makes no bundle; the text says why."""


@dataclass(frozen=True)
class PartOrders:
    """The orders for one bundle, of an image of `size` bytes, to an instance that writes it.

    Parts that are `present` in S3, by the keys of their objects, may stay. `failure` is why there
    is no bundle.
    """

    recipe: BundleRecipe
    store: BundleStore
    image: RawImage
    size: int
    present: Mapping[str, str]
    _parts: list[Part] = field(default_factory=list, init=False)
    _tries: Counter[int] = field(default_factory=Counter, init=False)
    _known: set[int] = field(default_factory=set, init=False)
    _failures: list[Exception] = field(default_factory=list, init=False)
    _digests: list[str] = field(default_factory=list, init=False)

    @property
    def failure(self) -> Exception | None:
        """Return the first failure, if there was one."""
        return self._failures[0] if self._failures else None

    def values(self) -> dict[str, object]:
        """Return the values that the instance's script gets; one of them is the secret."""
        return {
            "bundle": "yes",
            "header": base64.b64encode(header(self.store.place.name, self.size)).decode(),
            "tail": tail(self.size),
            "part": PART,
            "secret": self.recipe.keys.passphrase(self._name),
            "patience": _PATIENCE,
        }

    def answer(self, line: str) -> bytes:
        """Return what the instance gets for a line of its output; nothing for most of them.

        Failures are kept: the image is written without a bundle then. Raises Cancelled, and what
        says that this process has no memory.
        """
        if found := _ASKED.fullmatch(line):
            if self._failures:
                return _STOP
            try:
                return self._order(int(found[1]), Part(int(found[2]), found[3]), found[4])
            except Exception as error:
                self._keep(error)
                return _STOP
        if found := _BUNDLED.fullmatch(line):
            if int(found[2]) == len(self._parts):
                self._digests.append(found[1])
        elif found := _UNBUNDLED.fullmatch(line):
            self._keep(_GivenUp(f"the utility instance gave up: {found[1]}"))
        return b""

    def seal(self, disk: Disk) -> None:
        """Store the manifest of a bundle of the bytes `disk`, if S3 has all of its parts.

        What keeps it from being stored is kept as the failure.
        """
        if self._failures:
            return
        try:
            self._check()
            bundled = Bundled(
                self.store.place.name, self._digests[-1], self.size, tuple(self._parts)
            )
            keys = self.recipe.keys
            text = manifest(
                bundled, self.image.architecture, self.recipe.account, keys, self._content_key
            )
            self.store.seal(text, disk)
        except Exception as error:
            self._keep(error)

    @property
    def _name(self) -> str:
        return self.store.place.id.partition("/fedimg/")[2]

    @property
    def _content_key(self) -> ContentKey:
        return self.recipe.keys.content_key(self._name)

    def _order(self, index: int, part: Part, reason: str) -> bytes:
        self._note(index, part, reason)
        if self._is_there(index, part):
            self._known.add(index)
            return f"have {index}\n".encode()
        signed = self.store.signed(self.recipe.signing, index, part)
        return f"put {index} {signed.checksum} {signed.url}\n".encode()

    def _note(self, index: int, part: Part, reason: str) -> None:
        """Note a part. Raises _GivenUp for one that no bundle of the image has."""
        self._tries[index] += 1
        if self._tries[index] > _MOST_TRIES:
            raise _GivenUp(f"S3 did not take part {index} in {_MOST_TRIES} tries: {reason}")
        if index < len(self._parts):
            fits = self._parts[index] == part
        else:
            fits = index == len(self._parts) and index < most_parts(self.size)
            # The last part alone may be smaller.
            fits = fits and 0 < part.size <= PART and all(one.size == PART for one in self._parts)
            self._parts.append(part)
        if not fits:
            raise _GivenUp(f"the utility instance asked for a part {index} that cannot be one")

    def _is_there(self, index: int, part: Part) -> bool:
        return self.store.place.part(index) in self.present and self.store.stored_by_url(
            index, part
        )

    def _check(self) -> None:
        """Raise _GivenUp unless S3 says that it has all parts, with their sizes and SHA-1s."""
        if not self._digests or not self._parts:
            raise _GivenUp("the utility instance did not finish it")
        unknown = [index for index in range(len(self._parts)) if index not in self._known]
        found = run_parallel(
            {
                str(index): partial(self.store.stored_by_url, index, self._parts[index])
                for index in unknown
            },
            _CHECKS_AT_ONCE,
        )
        if missing := [index for index, there in found.items() if not there]:
            raise _GivenUp(
                f"S3 does not have part {missing[0]} as the utility instance said that it stored it"
            )

    def _keep(self, error: Exception) -> None:
        if isinstance(error, Cancelled) or exhausted(error):
            raise error
        self._failures.append(error)


@dataclass(frozen=True)
class ByTheInstance:
    """The bundle that a utility instance makes of what it writes, where that is possible.

    What keeps it from being made is told by `on_progress` and is no failure of the write: a pass of
    the worker makes it then. `stop` ends every wait.
    """

    recipe: BundleRecipe
    stop: threading.Event
    on_progress: Callable[[str], None]

    def begin(self, image: RawImage, size: int) -> PartOrders | None:
        """Return the orders for an image of `size` bytes, unless S3 has its bundle or is away.

        Raises ImageUnusable for an image that is too large.
        """
        refuse_too_large(size)
        store = self.recipe.store(self.stop)
        try:
            present = store.present()
        except Exception as error:
            if isinstance(error, Cancelled) or exhausted(error):
                raise
            self._give_up(error)
            return None
        if store.place.manifest in present:
            return None
        return PartOrders(self.recipe, store, image, size, present)

    def end(self, orders: PartOrders, disk: Disk) -> None:
        """Store the manifest of a bundle of the bytes `disk`, which are on the volume."""
        orders.seal(disk)
        if orders.failure is not None:
            self._give_up(orders.failure)

    def _give_up(self, error: Exception) -> None:
        self.on_progress(f"{MADE_LATER}: {of_endpoint(error)}")
