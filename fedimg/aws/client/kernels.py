"""The regions' PV-GRUB kernels: each region is asked once a process, since they never change."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import Client
from fedimg.exceptions import EC2ServiceException

# PV-GRUB for a partitioned disk; `pv-grub-hd0_` would be for a bare file system.
_PV_GRUB = "pv-grub-hd00_*x86_64*"
_VERSION = re.compile(r"_(\d+(?:\.\d+)*)")
#: Regions that have not answered are waited for as long again as the others took, and this many
#: seconds more: what is not known then is asked for when AMIs are registered there.
_STRAGGLERS_SECONDS = 1.0


class Kernels:
    """What has been learnt of the kernels by now; for many threads at once."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def of(self, ec2: Client, region: str, configured: Mapping[str, str]) -> str | None:
        """Return a region's kernel, None where EC2 has none; EC2 is asked unless it is known."""
        if region in configured:
            return configured[region]
        if region not in self._known:
            self._known[region] = paravirtual_kernel(ec2)
        return self._known[region]

    def found(
        self,
        client: Callable[[str], Client],
        regions: Sequence[str],
        configured: Mapping[str, str],
        *,
        origin: str,
        at_once: int,
    ) -> dict[str, str | None]:
        """Return the kernels of the regions that answer: of a further one in time, or not at all.

        A `client` that raises EC2ServiceException, as its region is away, is not waited for. Raises
        botocore's errors when the origin cannot be asked.
        """
        found = {each: configured.get(each, self._known.get(each)) for each in regions}
        missing = [each for each in regions if each not in {**configured, **self._known}]
        began = last = time.monotonic()
        asked = list(missing)
        answers = self._ask(client, asked, at_once)
        while asked:
            late = last + (last - began) + _STRAGGLERS_SECONDS - time.monotonic()
            try:
                # The origin has to answer, and has a limit of its own.
                region, answer = answers.get(timeout=None if origin in asked else max(0.0, late))
            except queue.Empty:
                break
            last = time.monotonic()
            asked.remove(region)
            if not isinstance(answer, Exception):
                missing.remove(region)
                found[region] = answer
            elif region == origin or not isinstance(answer, (*FAILURES, EC2ServiceException)):
                raise answer
        return {region: kernel for region, kernel in found.items() if region not in missing}

    def _ask(
        self, client: Callable[[str], Client], regions: Sequence[str], at_once: int
    ) -> queue.SimpleQueue[tuple[str, str | Exception | None]]:
        """Ask the regions in the background; where their answers come."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[str, str | Exception | None]] = queue.SimpleQueue()
        for region in regions:
            waiting.put(region)

        def ask() -> None:
            while True:
                try:
                    region = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    answers.put((region, self.of(client(region), region, {})))
                except Exception as error:
                    answers.put((region, error))

        for _ in range(min(at_once, len(regions))):
            # Daemons: a region that hangs must not keep the process from ending.
            threading.Thread(target=ask, name="kernels", daemon=True).start()
        return answers


def paravirtual_kernel(ec2: Client) -> str | None:
    """Return a region's newest PV-GRUB kernel; None where EC2 has none.

    The kernels are Amazon's own images of type kernel; only the older regions have them.
    """
    kernels = ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "image-type", "Values": ["kernel"]},
            {"Name": "architecture", "Values": ["x86_64"]},
            {"Name": "name", "Values": [_PV_GRUB]},
        ],
    )["Images"]
    if not kernels:
        return None
    return str(max(kernels, key=lambda kernel: _version(kernel.get("Name", "")))["ImageId"])


def _version(name: str) -> tuple[int, ...]:
    found = _VERSION.search(name)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
