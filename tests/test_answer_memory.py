"""The memory that the largest permitted answers of a Koji hub and of a compose's server cost.

Follows fedimg/sources/xmlrpc_answer.py, fedimg/untrusted/json_bounds.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedimg.sources.xmlrpc import ANSWER_LIMIT, BOUNDS
from fedimg.untrusted import json_bounds

pytestmark = pytest.mark.process

#: In MiB, above what the process had before it asked: for one answer, and for the largest number of
#: answers that a worker asks for at once. docs/security.md tells both.
MOST_MIB, MOST_AT_ONCE_MIB = 256, 1024
AT_ONCE = 20

WIDE = "\U0001f600"

#: Asks for one thing and prints by how many MiB its peak of memory has grown. What the process used
#: before counts for nothing: it is reset to what the process has.
ASK = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fedimg import config
from fedimg.sources.composes import Composes
from fedimg.sources.compose_listing import ComposeListing
from fedimg.sources.xmlrpc import XMLRPCClient
from fedimg.sources.http import NoAnswer

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

what, url, times = sys.argv[1:]
ask = {
    "hub": lambda: XMLRPCClient(url, 120).call("getBuild", 1),
    "compose": lambda: Composes(config.Composes(locations=[url], timeout=120)).find(
        "compose:Fedora-43-20261101.n.0"
    ),
    # All of them are older than that, and none is asked for.
    "index": lambda: list(ComposeListing(config.Composes(locations=[url]), url).since(url, 1e10)),
}[what]
Path("/proc/self/clear_refs").write_text("5")
before = peak()

def said(_number):
    try:
        return type(ask()).__name__
    except Exception as error:
        return str(error)

with ThreadPoolExecutor(int(times)) as pool:
    said, *_ = pool.map(said, range(int(times)))
print(json.dumps({"mib": peak() - before, "said": said}))
"""


class Server:
    """Answers one text to every request but that for a compose's STATUS."""

    def __init__(self) -> None:
        self.answer = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"FINISHED" if self.path.endswith("/STATUS") else outer.answer
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_ignored: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def asked(server: Server, what: str, answer: str, times: int = 1) -> tuple[float, str]:
    """Return how many MiB so many answers at once cost a process, and what comes of one."""
    server.answer = answer.encode()
    assert len(server.answer) <= ANSWER_LIMIT
    done = subprocess.run(
        [sys.executable, "-c", ASK, what, server.url, str(times)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"{told['mib']:.0f} MiB", told["said"][-200:])
    return told["mib"], told["said"]


# A hub


def rpc(inner: str) -> str:
    return f"<methodResponse><params><param>{inner}</param></params></methodResponse>"


def filled(begin: str, unit: str, end: str, elements: int, more: int = 0) -> str:
    """Return as many units as are permitted, by their elements and their bytes."""
    room = ANSWER_LIMIT - 500 - more - len((begin + end).encode())
    most = room // len(unit.encode())
    if elements:
        most = min(most, (BOUNDS.elements - 20) // elements)
    return rpc(begin + unit * most + end)


ARRAY = "<value><array><data>", "</data></array></value>"

HUBS: dict[str, Callable[[], str]] = {
    "one text": lambda: filled("<value>", "x", "</value>", 0),
    # Of four bytes a character: Python keeps a text by its widest one.
    "one wide text": lambda: filled(f"<value>{WIDE}", "x", "</value>", 0),
    "wide all over": lambda: filled("<value>", WIDE + "x" * 2000, "</value>", 0),
    "short texts": lambda: filled(ARRAY[0], "<value>ab</value>", ARRAY[1], 1),
    "wide texts": lambda: filled(ARRAY[0], f"<value>{WIDE}{'x' * 14}</value>", ARRAY[1], 1),
    "structs": lambda: filled(
        ARRAY[0],
        "<value><struct><member><name>k</name><value/></member></struct></value>",
        ARRAY[1],
        5,
    ),
    "names": lambda: rpc(
        "<value><struct>"
        + "".join(
            f"<member><name>{n:07}{WIDE}</name><value>{n:05}{WIDE}</value></member>"
            for n in range(BOUNDS.elements // 3 - 20)
        )
        + "</struct></value>"
    ),
    "base64": lambda: filled("<value><base64>", "AAAA", "</base64></value>", 0),
    "tags": lambda: "<m>" + "".join(f"<t{n:x}/>" for n in range(BOUNDS.elements - 9)) + "</m>",
    "one tag": lambda: f"<m><{'a' * (ANSWER_LIMIT - 500)}/></m>",
}


@pytest.mark.parametrize("kind", HUBS)
def test_answer_of_a_hub_costs_bounded_memory(server: Server, kind: str) -> None:
    mib, _ = asked(server, "hub", HUBS[kind]())
    assert mib < MOST_MIB


def test_many_answers_at_once_cost_less_than_as_many_one_by_one(server: Server) -> None:
    mib, _ = asked(server, "hub", HUBS["wide all over"](), AT_ONCE)
    assert mib < MOST_AT_ONCE_MIB


def test_attributes_are_refused_before_they_take_memory(server: Server) -> None:
    many = " ".join(f'a{n:x}=">"' for n in range(ANSWER_LIMIT // 12))
    mib, said = asked(server, "hub", rpc(f"<value {many}/>"))
    assert "attribute" in said
    assert mib < MOST_MIB / 4


# A compose's metadata


def metadata(value: str) -> str:
    """Return a wide text and values, which together are as many bytes as are permitted."""
    return f'[{value},"{WIDE}' + "x" * (ANSWER_LIMIT - 100 - len(value.encode())) + '"]'


def nested(unit: str, levels: int, inner: str, end: str) -> str:
    one = unit * levels + inner + end * levels
    return "[" + ",".join([one] * (json_bounds.MOST_VALUES // (levels + 1) - 20)) + "]"


COMPOSES: dict[str, Callable[[], str]] = {
    "one wide text": lambda: metadata("[]"),
    "wide texts": lambda: metadata(nested("", 0, '"\U0001f600abcdefgh"', "")),
    "numbers": lambda: metadata(nested("", 0, "123456789012", "")),
    "objects": lambda: metadata(nested('{"a":', 40, "1", "}")),
    "lists": lambda: metadata(nested("[", 40, "1", "]")),
}


@pytest.mark.parametrize("kind", COMPOSES)
def test_metadata_of_a_compose_costs_bounded_memory(server: Server, kind: str) -> None:
    mib, said = asked(server, "compose", COMPOSES[kind]())
    assert "not valid metadata of a compose" in said
    assert "more than" not in said
    assert mib < MOST_MIB


def test_index_page_of_composes_costs_bounded_memory(server: Server) -> None:
    page = WIDE + "".join(f'<a href="F{n}-20261101.0">' for n in range(145_000))
    mib, said = asked(server, "index", page)
    assert said == "list"
    assert mib < MOST_MIB / 2
