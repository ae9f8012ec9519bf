"""Whatever comes over the bus, or out of a hub: no crash, no job, and no request to anybody else.

tests/corpus/messages has broken messages, one a file; the rest is made of real ones by changing
them anywhere. Signatures are off here: the parsing has to hold by itself.

Follows fedimg/consumers.py, fedimg/intake/announcement.py, fedimg/intake/image_selection.py.
"""

import ast
import json
import logging
import os
import re
import sys
import tempfile
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moksha.hub.zeromq.zeromq import ZMQMessage  # type: ignore[import-untyped]

from fedimg import config
from fedimg.aws.tags import Labels, ami_name
from fedimg.consumers import KojiConsumer
from fedimg.images import FILE_NAME, AMIType, Architecture, RawImage
from fedimg.intake import announcement, image_selection
from fedimg.sources.koji import KojiHub, KojiNotFinished, KojiRefused, KojiUnavailable
from fedimg.store.store import Store
from lab.bus import Bus
from lab.koji import Koji
from tests.hub_process import INSTALLED, PROBE, HubProcess, build_message, wait_until

CORPUS = sorted((Path(__file__).parent / "corpus" / "messages").glob("*.json"))
PREFIX = "org.fedoraproject.dev."
TOPICS = [PREFIX + announcement.TASK_TOPIC, PREFIX + announcement.BUILD_TOPIC]
FUZZED, AT_ONCE = 10_000, 10
#: What tends to break somebody.
NASTY: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 2**31, 2**63, 10**400, 1.0, float("nan"), "", "1"),
    *("CLOSED", "image", "$(reboot)", "`id`", "; rm -rf / #", "../../etc/passwd", "a\x00b"),
    *("http://evil.example/", "file:///etc/passwd", "x86_64; sh", "\ud800", "%s{0}", "' OR 1=1 --"),
    *([], {}, [[]], {"id": 1}, ["image"], "Fedora-Cloud-Base-1-1.x86_64.raw.xz", "\n" * 9),
]
# Made once: Hypothesis examines each strategy that it has not seen.
CHANGES = st.integers(1, 3)
NEW = st.sampled_from(NASTY) | st.integers() | st.text(max_size=20)
TENTH = st.integers(0, 9)
hypothesis_settings = settings(
    max_examples=FUZZED // AT_ONCE,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values within a JSON value."""
    found = [path]
    if isinstance(value, dict):
        inner: Any = value.items()
    else:
        inner = enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another value at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


class Visited:
    """Sees whom this process talks to, by Python's audit events."""

    def __init__(self) -> None:
        self.hosts: set[Any] = set()
        self.looking = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looking and event == "socket.connect":
            self.hosts.add(arguments[1])
        elif self.looking and event in ("socket.getaddrinfo", "socket.gethostbyname"):
            self.hosts.add(arguments[:2])
        elif self.looking and event in ("subprocess.Popen", "os.system", "os.exec"):
            self.hosts.add(event)


# A hook cannot be taken out again.
VISITED = Visited()


@contextmanager
def visiting() -> Iterator[set[Any]]:
    VISITED.hosts = set()
    VISITED.looking = True
    try:
        yield VISITED.hosts
    finally:
        VISITED.looking = False


class InProcess:
    """A moksha hub that is as much of one as a consumer needs; what it hears is handled at once."""

    def __init__(self) -> None:
        self.config = {
            "topic_prefix": "org.fedoraproject",
            "environment": "dev",
            "fedimg.consumers.KojiConsumer.enabled": True,
            "validate_signatures": False,
            "moksha.blocking_mode": True,
        }
        self.callbacks: dict[str, Callable[[Any], Any]] = {}

    def subscribe(self, topic: str, callback: Callable[[Any], Any]) -> None:
        self.callbacks[topic] = callback

    def close(self) -> None:
        pass

    def hear(self, topic: str, body: str) -> None:
        for subscribed, callback in self.callbacks.items():
            # As ZeroMQ subscribes.
            if topic.startswith(subscribed):
                callback(ZMQMessage(topic, body))


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a folder in memory where there is one, as thousands of entries wait for a disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def koji(tmp_path: Path) -> Iterator[Koji]:
    with closing(Koji(tmp_path / "koji")) as koji:
        yield koji


@pytest.fixture
def real(koji: Koji, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Real messages of a scratch task and a build, both by somebody whom nobody trusts."""
    path = tmp_path / "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
    path.write_bytes(b"image")
    what: Any = ("Fedora-Cloud-Base", "28", "1.1", {"x86_64": [path]})
    task = koji.add_task(*what, owner="mallory")
    build = koji.add_build(*what, owner="mallory")
    return [(TOPICS[0], koji.task_message(task.id)), (TOPICS[1], koji.build_message(build.id))]


# Half a minute by itself; on a machine that others share, ten times that was seen.
@pytest.mark.timeout(1200)
def test_ten_thousand_hostile_messages_make_no_job_and_reach_nobody(
    koji: Koji,
    real: list[tuple[str, dict[str, Any]]],
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    toml = memory / "fedimg.toml"
    toml.write_text(
        f'state_directory = "state"\n[koji]\nhub = "{koji.hub_url}"\ntopurl = "{koji.top_url}"\n'
    )
    monkeypatch.setenv("FEDIMG_CONFIG", str(toml))
    hub = InProcess()
    consumer = KojiConsumer(hub)
    known = st.sampled_from(
        [
            (
                message,
                st.sampled_from(places(message)),
                st.sampled_from([*TOPICS, topic + "s", topic]),
            )
            for topic, message in real
        ]
    )
    count = 0

    def hear(topic: str, body: str) -> None:
        nonlocal count
        count += 1
        hub.hear(topic, body)

    @hypothesis_settings
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        for _ in range(AT_ONCE):
            fuzz_one(data)

    def fuzz_one(data: st.DataObject) -> None:
        message, paths, topics = data.draw(known)
        for _ in range(data.draw(CHANGES)):
            path = data.draw(paths)
            new = data.draw(NEW)
            try:
                message = changed(message, path, new)
            except (TypeError, IndexError, KeyError, AttributeError, ValueError):
                # An earlier change took that place away.
                continue
        said = data.draw(topics)
        body = json.dumps({"topic": said, "msg": message, "msg_id": "2026-1", "i": 1})
        hear(said, body if data.draw(TENTH) else body[: len(body) // 2])

    store = Store(memory / "state")
    errors = [logging.ERROR, logging.CRITICAL]
    with visiting() as visited:
        for path in CORPUS:
            for topic in TOPICS:
                hear(topic, path.read_text())
        fuzz()
        assert count >= FUZZED + len(CORPUS)
        assert not visited, "the consumer asks nobody"
    assert consumer._exception_count == 0
    assert [record for record in caplog.records if record.levelno in errors] == []
    entries = [
        row[0]
        for row in store.engine.connect().exec_driver_sql(
            "SELECT workflow_uuid FROM workflow_status"
        )
    ]
    assert entries, "some of them are announcements: of the wrong things"
    assert all(re.fullmatch(r"(task|build):[1-9][0-9]{0,9}", entry) for entry in entries)

    # What the worker does about them.
    chosen = config.load(toml)
    asking = image_selection.Sources(chosen)
    with visiting() as visited:
        for entry in entries:
            assert image_selection.images_to_publish(entry, asking, chosen, threading.Event()) == []
        hosts = {each[0] for each in visited}
    assert hosts == {"127.0.0.1"}
    assert {each[1] for each in visited} == {koji.port}
    assert store.jobs() == []
    consumer.stop()
    store.close()


@pytest.fixture(scope="module")
def hostile_hub() -> Iterator[tuple[config.Koji, Callable[[list[Any]], None]]]:
    """Run a hub that answers each multiCall with what the test gives it."""
    given: list[Any] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = xmlrpc.client.dumps((given.pop(0),), methodresponse=True, allow_none=True)
            # What XML cannot hold, an honest parser refuses: that is shown elsewhere.
            answer = body.encode("utf-8", "replace")
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    yield config.Koji(hub=url, topurl=f"{url}/files", timeout=5), given.extend
    server.shutdown()
    server.server_close()
    thread.join()


ARCHIVE = {
    "filename": "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz",
    "arch": "x86_64",
    "size": 1000,
    "checksum": "ab" * 32,
    "checksum_type": 2,
}
BUILD = {
    "name": "Fedora-Cloud-Base",
    "version": "28",
    "release": "1.1",
    "state": 1,
    "owner_name": "releng",
}
TASK = {"id": 5, "method": "image", "state": 2, "owner": 1, "request": [{"scratch": True}]}
CHILD = {"id": 6, "method": "createImage", "state": 2}
RESULT = {**BUILD, "arch": "x86_64", "files": [ARCHIVE["filename"], "x.log"]}
ANSWERS: list[tuple[str, list[Any]]] = [
    ("build:7", [[[BUILD], [[ARCHIVE, ARCHIVE]]]]),
    ("task:5", [[[TASK], [[CHILD]]], [[{"name": "ausil"}], [RESULT]]]),
]


def test_hostile_hub_names_no_file_but_its_own(
    hostile_hub: tuple[config.Koji, Callable[[list[Any]], None]],
) -> None:
    chosen, answer = hostile_hub
    hub = KojiHub(chosen)
    harmless = re.compile(r"(?:[A-Za-z0-9._+~:/-]|%5E)+")
    found = 0

    @settings(hypothesis_settings, max_examples=500)
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        nonlocal found
        entry, answers = data.draw(st.sampled_from(ANSWERS))
        said: Any = answers
        nasty = [each for each in NASTY if not (isinstance(each, int) and abs(each) > 2**31 - 1)]
        for _ in range(data.draw(st.integers(0, 2))):
            path = data.draw(st.sampled_from(places(answers)[1:]))
            new = data.draw(st.sampled_from(nasty) | st.text(max_size=30))
            try:
                said = changed(said, path, new)
            except (TypeError, IndexError, KeyError, AttributeError, ValueError):
                continue
        answer([*said, *said])
        try:
            images = hub.find(entry).images
        except (KojiRefused, KojiNotFinished, KojiUnavailable):
            images = ()
        for image in images:
            found += 1
            assert image.url.startswith(f"{chosen.topurl}/")
            assert harmless.fullmatch(image.url)
            assert ".." not in image.url.split("/")
            assert FILE_NAME.fullmatch(image.file_name)
            assert image.architecture in Architecture
            labels = Labels.of("site", image)
            values = [tag["Value"] for tag in labels.tags("utility")]
            names = [ami_name(image.name, AMIType.parse("hvm-gp2"), "us-east-1", 0)]
            assert all(re.fullmatch(r"[A-Za-z0-9._+~^ -]+", each) for each in values)
            assert all(re.fullmatch(r"[A-Za-z0-9._ -]+", each) for each in names)

    with visiting() as visited:
        fuzz()
    assert found > 20
    assert {each[0] for each in visited} == {"127.0.0.1"}


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=1000, deadline=None, database=None, derandomize=True)
def test_image_is_a_plain_address_or_none(path: str, build: str, source: str) -> None:
    for url in (f"https://koji.example/{path}.raw.xz", path):
        try:
            image = RawImage(url, Architecture.X86_64, build, source)
        except ValueError:
            continue
        assert image.url.isascii()
        assert not re.search(r"[\s?#@\x00-\x1f]", image.url)
        assert FILE_NAME.fullmatch(image.file_name)
        assert FILE_NAME.fullmatch(image.build)
        assert FILE_NAME.fullmatch(image.source)


def test_fedimg_starts_no_program_but_its_own_python() -> None:
    """Nothing of fedimg's makes a shell's command line, on this machine at least."""
    package = Path(config.__file__).parent
    for path in package.rglob("*.py"):
        forbidden = {"subprocess", "pty", "shlex.split"}
        tree = ast.parse(path.read_text())
        if path == package / "ssh" / "client.py":
            forbidden.remove("subprocess")
            (started,) = (
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess.")
            )
            command = "[sys.executable, '-I', '-m', 'fedimg.ssh.process']"
            assert ast.unparse(started.args[0]) == command
            assert "shell" not in [keyword.arg for keyword in started.keywords]
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert not forbidden & set(names), path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen", "spawnl", "spawnv"), path


@pytest.mark.process
def test_hub_that_hears_broken_messages_hears_the_next_one(tmp_path: Path) -> None:
    bus = Bus(tmp_path / "bus", installed=[INSTALLED])
    (bus.folder / "site.py").write_text("config = {'validate_signatures': False}\n")
    hub = HubProcess(bus, tmp_path)
    context = zmq.Context()
    # The hub hears this as it hears a relay.
    sender = context.socket(zmq.PUB)
    sender.bind(bus.outbound)
    try:
        topic = TOPICS[1].encode()
        probe = json.dumps({"topic": TOPICS[1], "msg": build_message(PROBE)}).encode()
        process = hub.start_listening(lambda: sender.send_multipart([topic, probe]))
        good = json.dumps({"topic": TOPICS[1], "msg": build_message(77)}).encode()
        for broken in [
            *([each.encode(), path.read_bytes()] for path in CORPUS for each in TOPICS),
            [topic],
            [topic, b"{}", b"one part too many"],
            [topic + b"\xff\xfe", good],
            [topic, b"\xff\xfe\x00"],
            [topic, b""],
            [topic + b".more", good],
        ]:
            sender.send_multipart(broken)
        sender.send_multipart([topic, good])
        wait_until(lambda: any(entry == "build:77" for entry, *_ in hub.entries()), 240)
        expected = {"build:77", "build:4242", "build:4244", "task:4243", "task:5"}
        assert {entry for entry, *_ in hub.entries()} <= expected
        assert process.poll() is None
        assert "evil.example" not in hub.log
    finally:
        context.destroy(linger=0)
        if hub.process is not None:
            hub.process.kill()
            hub.process.wait()
