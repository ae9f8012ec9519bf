"""queue: what many waiting jobs cost: handing one in, listing them, and the worker's patience."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.deployment import PATIENCE
from bench.processes import cpu_seconds, memory_mib
from bench.results import Result
from bench.silent_site import settings_file, silent_site
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from lab.postgresql import PostgreSQL, serving
from lab.processes import Process

_COUNTS = (1_000, 10_000)
#: How long the worker is watched while jobs wait, in seconds.
_WATCHED = 10.0


def run(tiny: bool) -> Result:
    """Let jobs wait behind four that an EC2 which never answers holds up."""
    figures: dict[str, float] = {}
    watched = 0.5 if tiny else _WATCHED
    with serving(PostgreSQL) as server:
        for count in (20,) if tiny else _COUNTS:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                figures |= _with(count, Path(folder), watched)
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                found = _with(count, Path(folder), watched, server.create())
                figures |= {f"postgresql_{name}": value for name, value in found.items()}
    return Result("queue", figures)


def _with(count: int, folder: Path, watched: float, url: str = "") -> dict[str, float]:
    settings_file(folder, url)
    store = Store(folder / "state", url, migrate=True)
    queue = JobQueue(store)
    began = time.monotonic()
    for number in range(count):
        queue.submit(_image(number))
    submitted = time.monotonic() - began
    queue.close()
    store.close()
    with silent_site(folder) as environment:
        program = str(Path(sys.executable).parent / "fedimg")
        log = folder / "logs" / "worker.log"
        with Process([program, "worker"], folder, environment, log) as worker:
            worker.wait_for("started (site", PATIENCE)
            time.sleep(2.0)
            cpu, since = cpu_seconds(worker.pid), time.monotonic()
            time.sleep(watched)
            busy = (cpu_seconds(worker.pid) - cpu) / (time.monotonic() - since)
            memory = memory_mib(worker.pid)
            began = time.monotonic()
            listed = subprocess.run(
                [program, "status", "--json"],
                env={**os.environ, **environment},
                capture_output=True,
                check=True,
            )
            listing = time.monotonic() - began
    if len(json.loads(listed.stdout)) != count:
        raise RuntimeError(f"fedimg status does not list all {count} jobs")
    return {
        f"submitted_a_second_{count}": count / submitted,
        f"list_seconds_{count}": listing,
        f"worker_mib_{count}": memory,
        f"worker_cpu_percent_{count}": 100 * busy,
    }


def _image(number: int) -> RawImage:
    name = f"Fedora-Cloud-Base-43-{number}"
    url = f"http://127.0.0.1:9/{name}.x86_64.raw.xz"
    return RawImage(url, Architecture.X86_64, name, f"build-{number}", 1, f"sha256:{number:064x}")
