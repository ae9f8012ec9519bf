"""write: an image's way onto a volume or into a snapshot, beside what decompression alone takes."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.deployment import PATIENCE, site
from bench.file_system import MIB, packed
from bench.results import Result
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.types import EBSVolume
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance import network
from fedimg.aws.instance.attempts import Attempts
from fedimg.aws.tags import Labels
from fedimg.aws.write import utility_instance, write_script
from fedimg.aws.write.image_size import OWN_HOST_ONLY, image_size
from fedimg.aws.write.units import gib
from fedimg.config import load
from fedimg.formats import XZ
from lab import running
from lab.processes import Process

BUDGET = {
    "utility_over_limit": 1.1,
    "many_blocks_utility_over_limit": 1.1,
    "direct_peak_mib": 256.0,
}
#: Of what has a budget, and of the rest.
_ROUNDS = 5
_FEWER_ROUNDS = 3
_IN_MEMORY = Path("/dev/shm")
#: What there is of an image at once: served, unpacked for the limit, on a volume, and some room.
_COPIES = 4
#: How the figures of a file of one block begin, and those of one of many.
_KINDS = {"one": "", "many": "many_blocks_"}
_DEVICE = "/dev/sdf"


def run(tiny: bool) -> Result:
    """Each way and its limit in turns, so that what else the machine does meets both.

    The limit's dd waits for no disk, so that volumes are in memory where there is room for them:
    an instance's volume may be as fast, and this machine's disk is not fedimg's. What a write to
    that takes is told as well.
    """
    size = 32 if tiny else 1024
    files = packed(size)
    rounds, fewer = (1, 1) if tiny else (_ROUNDS, _FEWER_ROUNDS)
    memory = _memory(_COPIES * size * MIB)
    figures: dict[str, float] = {"image_mib": size, "in_memory": float(memory is not None)}
    with _volumes(memory) as (folder, told):
        urls = {kind: _served(told, kind, file) for kind, file in files.items()}
        with _Instance(told, size) as instance:
            for kind, prefix in _KINDS.items():
                figures |= _utility(instance, files[kind], urls[kind], folder, prefix, rounds)
        figures |= _direct(folder, files, urls, size, fewer)
    if memory:
        with _volumes(None) as (folder, told), _Instance(told, size) as instance:
            url = _served(told, "one", files["one"])
            figures |= _utility(instance, files["one"], url, folder, "disk_", fewer)
    return Result("write", figures, BUDGET)


def _memory(needed: int) -> Path | None:
    """Return a folder in memory, if that many bytes fit there; otherwise None."""
    if not _IN_MEMORY.is_dir() or shutil.disk_usage(_IN_MEMORY).free < needed:
        return None
    return _IN_MEMORY


@contextmanager
def _volumes(within: Path | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a site whose volumes are in a folder; yield its folder and its description."""
    with (
        site(regions=1, within=within) as (folder, told),
        # The benchmarks behind this one have sites of their own.
        patch.dict(os.environ, told["environment"]),
    ):
        yield folder, told


def _utility(
    instance: "_Instance", file: Path, url: str, folder: Path, prefix: str, rounds: int
) -> dict[str, float]:
    limit, took = [], []
    for _ in range(rounds):
        limit.append(_unpack_and_write(file, folder))
        took.append(instance.write(url))
    return {
        f"{prefix}limit_seconds": statistics.median(limit),
        f"{prefix}utility_seconds": statistics.median(took),
        f"{prefix}utility_over_limit": _ratio(took, limit),
        f"{prefix}utility_mib_a_second": instance.size_mib / statistics.median(took),
    }


def _ratio(took: Sequence[float], limit: Sequence[float]) -> float:
    """Each round's own, since a machine is slow for both."""
    return statistics.median(each / least for each, least in zip(took, limit, strict=True))


def _served(told: Mapping[str, Any], kind: str, file: Path) -> str:
    added = running.call(
        told,
        "koji.add_build",
        name="Fedora-Cloud-Base",
        version="43",
        release=kind,
        owner="releng",
        method="image",
        files={"x86_64": [str(file)]},
    )
    return str(added["urls"][0])


def _unpack_and_write(file: Path, folder: Path) -> float:
    target = folder / "unpacked"
    target.unlink(missing_ok=True)
    began = time.monotonic()
    subprocess.run(
        ["bash", "-c", 'set -o pipefail; xz -dc "$0" | dd of="$1" bs=4M status=none', file, target],
        check=True,
    )
    seconds = time.monotonic() - began
    target.unlink()
    return seconds


class _Instance:
    """A utility instance with a blank volume, to which an image is written again and again."""

    def __init__(self, told: Mapping[str, Any], size_mib: int) -> None:
        self.size_mib = size_mib
        settings = load(Path(told["fedimg_config"])).ec2
        self._clients = Clients()
        ec2 = self._clients.ec2(settings.origin)
        waiter = Waiter(settings.limits, threading.Event())
        labels = Labels("bench", "write", "image")
        place = network.prepare(ec2, waiter, labels, settings.network)
        self._attempts = Attempts(ec2, waiter, labels, settings, place, utility_instance.ROLE)
        blank: EBSVolume = {"VolumeSize": gib(size_mib * MIB), "DeleteOnTermination": True}
        self._started = self._attempts.start(
            settings.x86_64.utility_ami,
            settings.x86_64.utility_type,
            0,
            [{"DeviceName": _DEVICE, "Ebs": blank}],
        )
        self._login = self._attempts.login(self._started, settings.login_user)

    def __enter__(self) -> "_Instance":
        instance, self._session = self._login.__enter__()
        self._volume = instance.volumes[_DEVICE]
        return self

    def __exit__(self, *error: Any) -> None:
        self._login.__exit__(*error)
        self._attempts.end()

    def write(self, url: str) -> float:
        """Seconds that the script takes, from the command to its last word."""
        size = image_size(url, maximum=2**40)
        given = write_script.script_input(
            url=url,
            trusted=OWN_HOST_ONLY,
            volume=self._volume,
            checksum=None,
            form=XZ,
            compressed_size=size.compressed_size,
            uncompressed_size=size.uncompressed_size,
            idle=PATIENCE,
            appear=PATIENCE,
        )
        began = time.monotonic()
        finished = self._session.run(
            write_script.write_command(), stdin=given, limit=PATIENCE, idle=PATIENCE
        )
        seconds = time.monotonic() - began
        if not isinstance(write_script.verdict(finished.output), write_script.Written):
            raise RuntimeError(f"the image was not written: {finished}")
        return seconds


def _direct(
    folder: Path, files: Mapping[str, Path], urls: Mapping[str, str], size: int, rounds: int
) -> dict[str, float]:
    log = folder / "sink.log"
    figures: dict[str, float] = {}
    peaks = []
    with Process([sys.executable, "-m", "bench.sink"], Path.cwd(), {}, log) as sink:
        sink.wait_for("http://", PATIENCE)
        address = log.read_text().strip()
        for kind, prefix in _KINDS.items():
            limit, took = [], []
            for _ in range(rounds):
                began = time.monotonic()
                subprocess.run(["xz", "-dc", files[kind]], check=True, stdout=subprocess.DEVNULL)
                limit.append(time.monotonic() - began)
                done = subprocess.run(
                    [sys.executable, "-m", "bench.direct_process", urls[kind]],
                    env={**os.environ, "AWS_ENDPOINT_URL": address},
                    check=True,
                    stdout=subprocess.PIPE,
                )
                told = json.loads(done.stdout)
                took.append(told["seconds"])
                peaks.append(told["peak_mib"])
            figures[f"{prefix}decompression_seconds"] = statistics.median(limit)
            figures[f"{prefix}direct_seconds"] = statistics.median(took)
            figures[f"{prefix}direct_over_limit"] = _ratio(took, limit)
        with urllib.request.urlopen(f"{address}/sent") as answer:
            sent = int(answer.read())
    figures["direct_peak_mib"] = max(peaks)
    figures["direct_sent_over_data"] = sent / len(peaks) / (size * MIB)
    return figures
