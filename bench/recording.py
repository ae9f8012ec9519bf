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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

#: Requests at a time when they are made again; more did not make the lab's EC2 any faster.
AT_ONCE = 40
_ROUNDS = 3
_OF_ITS_TIME = ("authorization", "content-length", "x-amz-date")
# What AWS says to a caller that it does not know.
_UNKNOWN_CALLER = re.compile(
    rb"was not able to validate the provided access credentials|RequestExpired|"
    rb"SignatureDoesNotMatch|InvalidClientTokenId|InvalidSignatureException|"
    rb"UnrecognizedClientException|"
    rb"MissingAuthenticationToken"
)


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
    """Return the calls that were written down so far."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [Call(**json.loads(line)) for line in lines]


def counted(calls: Sequence[Call]) -> dict[str, int]:
    """Return how often each of EC2's actions was called, the most frequent first."""
    return dict(Counter(call.action for call in calls).most_common())


def replayed(calls: Sequence[Call], environment: Mapping[str, str]) -> float:
    """Seconds that the same calls take when nothing is waited for but their answers.

    They are signed anew before, with the keys of `environment`, as a signature is good for minutes
    and for one body. What they would change has changed already, so an answer may be a refusal:
    that makes the time shorter, never longer. Names of AMIs are made new, so that AMIs are
    registered. Raises RuntimeError when EC2 does not know the caller: it does nothing then.
    """
    pool = urllib3.PoolManager(maxsize=AT_ONCE, block=True)
    keys = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])

    def send(call: Call) -> None:
        body = base64.b64decode(call.body)
        answer = pool.request(call.method, call.url, body=body, headers=call.headers, retries=False)
        if answer.status in (400, 401, 403) and (refused := _UNKNOWN_CALLER.search(answer.data)):
            raise RuntimeError(
                f"{call.method} {call.url} was not taken when it was made again: "
                f"{refused[0].decode()}"
            )

    def once(number: int) -> float:
        signed = [_signed(call, number, keys) for call in calls]
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(send, signed))
        return time.monotonic() - began

    return statistics.median(once(number) for number in range(_ROUNDS))


def _signed(call: Call, number: int, keys: Credentials) -> Call:
    """Return a call as it is made for the time `number`."""
    body = base64.b64decode(call.body)
    if call.action == "RegisterImage":
        body = re.sub(rb"((?:^|&)Name=)", rb"\g<1>again-%d-" % number, body)
    # Of the lengths and kinds of connection, urllib3 says its own.
    headers = {k: v for k, v in call.headers.items() if k.lower() not in _OF_ITS_TIME}
    region, service = call.headers["Authorization"].split("/")[2:4]
    request = AWSRequest(call.method, call.url, headers, body)
    SigV4Auth(keys, service, region).add_auth(request)
    signed = {str(name): str(value) for name, value in request.headers.items()}
    return replace(call, headers=signed, body=base64.b64encode(body).decode())


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
