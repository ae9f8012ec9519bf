"""One image written by the EBS direct API, in a process whose memory is its alone.

`python -m bench.direct_process URL`; prints JSON with seconds and peak memory in MiB.
"""

import json
import os
import sys
import threading
import time

from bench.processes import memory_mib
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.aws.write import ebs_direct
from fedimg.config import EC2
from fedimg.images import Architecture, RawImage


def main() -> None:
    """Write it where AWS's environment variables lead."""
    settings = EC2(write_via="direct")
    clients, region = Clients(), settings.origin
    image = RawImage.at(sys.argv[1], Architecture.X86_64, None)
    writer = ebs_direct.DirectWriter(
        clients.ec2(region),
        ebs_direct.client(clients, region, jobs=1),
        Waiter(settings.limits, threading.Event()),
        Labels.of("bench", image),
        settings,
        lambda words: None,
        lambda disk: None,
    )
    began = time.monotonic()
    writer.write(image)
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "peak_mib": memory_mib(os.getpid(), "VmHWM")}))


if __name__ == "__main__":
    main()
