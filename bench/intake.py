"""intake: how many messages of the bus a real hub takes in, when one in a thousand is for us."""

import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from bench.deployment import PATIENCE, until
from bench.processes import cpu_seconds, memory_mib
from bench.results import Result
from lab.bus import Bus
from lab.processes import Process

_SHIPPED = Path(__file__).parent.parent / "fedmsg.d" / "fedimg.py"
_PREFIX = "org.fedoraproject.dev"
_TASK = f"{_PREFIX}.buildsys.task.state.change"
_BUILD = f"{_PREFIX}.buildsys.build.state.change"
#: One message in so many announces an image.
_ONE_IN = 1000
#: Bytes of a message that is not ours, as on Fedora's bus: from one to several kilobytes.
_FILLING = 1500


def run(tiny: bool) -> Result:
    """Two busy buses: one of all topics, and one of Koji's states alone, which all are heard."""
    count = 1_000 if tiny else 40_000
    koji = _taken(count, koji=_ONE_IN)
    mixed = koji if tiny else _taken(count, koji=1)
    return Result(
        "intake",
        {
            "messages": count,
            "messages_a_second": mixed["rate"],
            "cpu_microseconds_a_message": mixed["cpu"],
            "koji_messages_a_second": koji["rate"],
            "koji_cpu_microseconds_a_message": koji["cpu"],
            "hub_mib": koji["memory"],
        },
    )


def _taken(count: int, koji: int) -> dict[str, float]:
    """Send messages as fast as the hub takes them; of a thousand, `koji` are of topics it hears."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        (folder / "logs").mkdir()
        (folder / "fedimg.toml").write_text('state_directory = "state"\n')
        with _publisher() as (socket, endpoint):
            bus = Bus(folder, installed=[_SHIPPED])
            # In place of the relay, which is slower than what is measured: the bus itself.
            text = (bus.folder / "lab.py").read_text()
            (bus.folder / "lab.py").write_text(text.replace(bus.outbound, endpoint))
            environment = {**bus.environment, "FEDIMG_CONFIG": str(folder / "fedimg.toml")}
            log = folder / "logs" / "hub.log"
            with Process(bus.command("fedmsg-hub"), folder, environment, log) as hub:
                hub.wait_for("Running the MokshaHub reactor", PATIENCE)
                time.sleep(2.0)
                before, began = cpu_seconds(hub.pid), time.monotonic()
                ours = 0
                for number in range(count):
                    if number % _ONE_IN == _ONE_IN - 1:
                        ours += 1
                        _send(socket, _TASK, _task(number, "image"))
                    elif number % _ONE_IN < koji - 1:
                        _send(socket, _TASK if number % 2 else _BUILD, _task(number, "buildArch"))
                    else:
                        _send(socket, f"{_PREFIX}.copr.chroot.start", _task(number, "none"))
                database = folder / "state" / "fedimg.db"
                until(lambda: True if _entries(database) >= ours else None, hub.check)
                wall = time.monotonic() - began
                return {
                    "rate": count / wall,
                    "cpu": 1e6 * (cpu_seconds(hub.pid) - before) / count,
                    "memory": memory_mib(hub.pid),
                }


def _send(socket: zmq.Socket[bytes], topic: str, message: dict[str, object]) -> None:
    envelope = {
        "topic": topic,
        "msg": message,
        "msg_id": f"2026-{message['id']}",
        "timestamp": 1,
        "i": 1,
        "username": "koji",
    }
    socket.send_multipart([topic.encode(), json.dumps(envelope).encode()])


def _task(number: int, method: str) -> dict[str, object]:
    return {
        "attribute": "state",
        "old": "OPEN",
        "new": "CLOSED",
        "id": number + 1,
        "instance": "primary",
        "owner": "ausil",
        "method": method,
        "srpm": "Fedora-Cloud-Base",
        "info": {"request": ["x" * _FILLING], "children": []},
    }


def _entries(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM workflow_status").fetchone()[0])


@contextlib.contextmanager
def _publisher() -> Iterator[tuple[zmq.Socket[bytes], str]]:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        # Nothing is dropped: what the hub has not taken yet waits here.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield socket, f"tcp://127.0.0.1:{port}"
