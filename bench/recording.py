"""A fedimg whose calls to EC2 are written down, and the same calls made again without fedimg.

`python -m bench.recording FILE ARGUMENTS…` is `fedimg ARGUMENTS…` with each HTTP request that
botocore sends as a line of JSON in FILE.
"""

import base64
import json
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import urllib3

#: Requests at a time when they are made again; more did not make the lab's EC2 any faster.
AT_ONCE = 40
_ROUNDS = 3


@dataclass(frozen=True)
class Call:
    """One request. Times are on the monotonic clock, which all processes of a machine share."""

    began: float
    ended: float
    method: str
    url: str
    headers: dict[str, str]
    body: str  # base64

    @property
    def action(self) -> str:
        """EC2's name for it; empty for a service that has its own way to say it."""
        found = re.search(rb"(?:^|&)Action=(\w+)", base64.b64decode(self.body))
        return found[1].decode() if found else ""


def read(file: Path) -> list[Call]:
    """The calls that were written down so far."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Call(**json.loads(line)) for line in lines]


def counted(calls: Sequence[Call]) -> dict[str, int]:
    """How often each of EC2's actions was called, the most frequent first."""
    return dict(Counter(call.action for call in calls).most_common())


def replayed(calls: Sequence[Call]) -> float:
    """Seconds that the same calls take when nothing is waited for but their answers.

    What they would change has changed already, so an answer may be a refusal: that makes the
    time shorter, never longer. Names of AMIs are made new, so that AMIs are registered.
    """
    pool = urllib3.PoolManager(maxsize=AT_ONCE, block=True)

    def once(number: int) -> float:
        def send(call: Call) -> None:
            # Of the lengths and kinds of connection, urllib3 says its own.
            headers = {k: v for k, v in call.headers.items() if k.lower() != "content-length"}
            body = base64.b64decode(call.body)
            if call.action == "RegisterImage":
                body = re.sub(rb"((?:^|&)Name=)", rb"\g<1>again-%d-" % number, body)
            pool.request(call.method, call.url, body=body, headers=headers, retries=False)

        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(send, calls))
        return time.monotonic() - began

    return statistics.median(once(number) for number in range(_ROUNDS))


def _record(file: Path) -> None:
    from botocore.httpsession import URLLib3Session

    send = URLLib3Session.send
    lock = threading.Lock()

    def recorded(self: Any, request: Any) -> Any:
        began = time.monotonic()
        try:
            return send(self, request)
        finally:
            body = request.body or b""
            body = body if isinstance(body, bytes) else str(body).encode()
            headers = {
                name: value.decode() if isinstance(value, bytes) else str(value)
                for name, value in request.headers.items()
            }
            call = Call(
                began,
                time.monotonic(),
                request.method,
                request.url,
                headers,
                base64.b64encode(body).decode(),
            )
            with lock, file.open("a") as log:
                log.write(json.dumps(asdict(call)) + "\n")

    URLLib3Session.send = recorded  # type: ignore[method-assign]


def main() -> None:
    """Be fedimg, and write down what it asks EC2."""
    from fedimg.cli import commands

    _record(Path(sys.argv[1]))
    sys.argv = ["fedimg", *sys.argv[2:]]
    commands.main()


if __name__ == "__main__":
    main()
