"""Look up the regions' PV-GRUB kernels once for each region, since they never change."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client
from fedimg.exceptions import EC2ServiceException

# PV-GRUB for a partitioned disk; `pv-grub-hd0_` would be for a bare file system.
_PV_GRUB = "pv-grub-hd00_*x86_64*"
_VERSION = re.compile(r"_(\d+(?:\.\d+)*)")
#: The remaining regions are waited for as long again as the others took, plus so many seconds; a
#: kernel that is unknown then is looked up when AMIs are registered in its region.
_STRAGGLERS_SECONDS = 1.0


class Kernels:
    """The kernels that are known so far; safe to use from many threads."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def of(self, ec2: EC2Client, region: str, configured: Mapping[str, str]) -> str | None:
        """Return a region's kernel, None where EC2 has none; EC2 is asked unless it is known."""
        if region in configured:
            return configured[region]
        if region not in self._known:
            self._known[region] = paravirtual_kernel(ec2)
        return self._known[region]

    def lookup(
        self,
        client: Callable[[str], EC2Client],
        regions: Sequence[str],
        configured: Mapping[str, str],
        *,
        origin: str,
        at_once: int,
    ) -> dict[str, str | None]:
        """Return the kernels of those regions that answer soon enough; the origin is waited for.

        A region whose `client` raises EC2ServiceException, since it is unavailable, is left out. At
        most `at_once` regions are asked at a time. Raises botocore's errors when the origin does
        not answer.
        """
        kernels = {each: configured.get(each, self._known.get(each)) for each in regions}
        missing = [each for each in regions if each not in {**configured, **self._known}]
        began = last = time.monotonic()
        pending = list(missing)
        answers = self._query(client, pending, at_once)
        while pending:
            remaining = last + (last - began) + _STRAGGLERS_SECONDS - time.monotonic()
            try:
                # The origin has to answer, and has a limit of its own.
                region, answer = answers.get(
                    timeout=None if origin in pending else max(0.0, remaining)
                )
            except queue.Empty:
                break
            last = time.monotonic()
            pending.remove(region)
            if not isinstance(answer, Exception):
                missing.remove(region)
                kernels[region] = answer
            elif region == origin or not isinstance(answer, (*FAILURES, EC2ServiceException)):
                raise answer
        return {region: kernel for region, kernel in kernels.items() if region not in missing}

    def _query(
        self, client: Callable[[str], EC2Client], regions: Sequence[str], at_once: int
    ) -> queue.SimpleQueue[tuple[str, str | Exception | None]]:
        """Ask the regions in background threads; return the queue of their answers."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        answers: queue.SimpleQueue[tuple[str, str | Exception | None]] = queue.SimpleQueue()
        for region in regions:
            waiting.put(region)

        def query_regions() -> None:
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
            threading.Thread(target=query_regions, name="kernels", daemon=True).start()
        return answers


def paravirtual_kernel(ec2: EC2Client) -> str | None:
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
    match = _VERSION.search(name)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
