"""`python -m tests.record_consoles [KIND …]`: boot broken images, and keep what their consoles say.

Each image is the lab's own, broken in one of the ways of lab/broken.py, and boots on a virtual
machine, one after the other: a minute or two each. A recording is a JSON object in
tests/corpus/consoles: the console's lines, how far a login of fedimg's came, and what EC2's status
check would have said of the network card. tests/aws/boot/test_recorded_consoles.py reads them.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
from pathlib import Path

from fedimg.aws.boot.diagnosis import Evidence
from fedimg.aws.instance.user_data import user_data
from fedimg.ssh import client
from lab import image as images
from lab.broken import BREAKS
from lab.disk import MIB
from lab.ec2 import disks
from lab.image import Image
from lab.machines import Disk, Launch, acceleration
from lab.machines.virtual_machines import VirtualMachines

CONSOLES = Path(__file__).parent / "corpus" / "consoles"

_SSH_PORT = 22600
_ROOT_MIB = 1024
#: What a console says at the end of a boot, good or bad.
_END = re.compile(
    r"login: *$|end Kernel panic|can't access tty"
    # A wait without an end, as the last line: a starved boot counts seconds, too, and goes on.
    r"|running \(.*no limit\)(?:\s|\x1bM|\x1b\[K)*\Z",
    re.MULTILINE,
)
#: A console has come to its end when it has said nothing new for so many seconds: behind such
#: words, and without them, where a busy machine may leave a boot alone for a while.
_QUIET_SECONDS, _LONG_QUIET_SECONDS = 20.0, 150.0
#: systemd waits for a network without an end, and counts the seconds.
_MOST_SECONDS = 600.0
_COUNTED = re.compile(r"^.*running \(.*\n", re.MULTILINE)


def read(kind: str) -> Evidence:
    """Return what was recorded of a kind of broken image."""
    recorded = json.loads((CONSOLES / f"{kind}.json").read_text())
    return Evidence(
        "".join(recorded["console"]), recorded["status"], client.Reached(recorded["reached"])
    )


def record(kind: str, image: Image, folder: Path) -> Evidence:
    """Boot the image broken in one of the ways of BREAKS until its console has nothing to add."""
    machines = VirtualMachines(
        folder / "machines",
        acceleration=acceleration.find(image.kernel, images.cache()).name,
        ssh_port=_SSH_PORT,
    )
    try:
        launch, host_key, client_key = _launch(kind, image, folder)
        machines.start(launch)
        address = machines.address(launch.instance_id)
        console, reached = "", client.Reached.NOTHING
        began = changed = time.monotonic()
        while (now := time.monotonic()) - began < _MOST_SECONDS:
            quiet = _QUIET_SECONDS if _END.search(console) else _LONG_QUIET_SECONDS
            if now - changed > quiet:
                break
            try:
                client.connect(
                    address,
                    _SSH_PORT,
                    "fedora",
                    host_key=host_key,
                    client_key=client_key,
                    limit=5,
                    stop=threading.Event(),
                ).close()
                reached = client.Reached.LOGIN
            except client.SSHError as error:
                reached = error.reached
            # Another host key is told at once.
            time.sleep(1)
            seen = machines.console(launch.instance_id)
            if _COUNTED.sub("", seen) != _COUNTED.sub("", console):
                changed = time.monotonic()
            console = seen
        status = "ok" if machines.reachable(launch.instance_id) else "impaired"
        return Evidence(console, status, reached)
    finally:
        machines.close()


def _launch(
    kind: str, image: Image, folder: Path
) -> tuple[Launch, client.Identity, client.Identity]:
    root = folder / "root"
    disks.copy(image.raw, root, _ROOT_MIB * MIB)
    BREAKS[kind].do(root)
    host_key, client_key = client.new_identity("host"), client.new_identity("client")
    launch = Launch(
        instance_id=f"i-{sorted(BREAKS).index(kind):017x}",
        instance_type="t3.micro",
        region="us-east-1",
        architecture="x86_64",
        virtualization_type="hvm",
        boot_mode="legacy-bios",
        disks=[Disk("vol-00000000000000001", root, "/dev/sda1", root=True)],
        user_data=user_data(host_key=host_key, client_key=client_key).encode(),
        key_name=None,
        public_key=None,
        admits=lambda source, port: True,
    )
    return launch, host_key, client_key


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.record_consoles")
    parser.add_argument("kinds", nargs="*", default=sorted(BREAKS), metavar="KIND")
    image = images.image(print)
    CONSOLES.mkdir(parents=True, exist_ok=True)
    for kind in parser.parse_args().kinds:
        with tempfile.TemporaryDirectory() as folder:
            seen = record(kind, image, Path(folder))
        recorded = {
            "reached": seen.reached.value,
            "status": seen.status,
            "console": seen.console.splitlines(keepends=True),
        }
        path = CONSOLES / f"{kind}.json"
        path.write_text(json.dumps(recorded, indent=1) + "\n")
        print(
            f"{path}: {len(recorded['console'])} lines, {seen.reached}, {seen.status}", flush=True
        )


if __name__ == "__main__":
    main()
