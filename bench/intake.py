"""intake: how many messages of the bus a real hub takes in, when one in a thousand is for us."""

import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fedmsg.crypto
import zmq

from bench.deployment import PATIENCE, until
from bench.processes import cpu_seconds, memory_mib
from bench.results import Result
from lab.bus import KOJI, Bus
from lab.processes import Process

_SHIPPED = Path(__file__).parent.parent / "fedmsg.d" / "fedimg.py"
_PREFIX = "org.fedoraproject.dev"
_TASK = f"{_PREFIX}.buildsys.task.state.change"
_BUILD = f"{_PREFIX}.buildsys.build.state.change"
_OTHER = f"{_PREFIX}.copr.chroot.start"
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
            ours = [_signed(bus, _TASK, number + 1, "image") for number in range(count // _ONE_IN)]
            # Signing takes longer than all the rest, and no hub notices that it heard one before.
            theirs = [_signed(bus, topic, 1, "buildArch") for topic in (_TASK, _BUILD)]
            others = _signed(bus, _OTHER, 1, "none")
            environment = {**bus.environment, "FEDIMG_CONFIG": str(folder / "fedimg.toml")}
            log = folder / "logs" / "hub.log"
            with Process(bus.command("fedmsg-hub"), folder, environment, log) as hub:
                hub.wait_for("Running the MokshaHub reactor", PATIENCE)
                # ZeroMQ offers no way to see a subscription arrive.
                time.sleep(2.0)
                before, began = cpu_seconds(hub.pid), time.monotonic()
                for number in range(count):
                    place = number % _ONE_IN
                    if place == _ONE_IN - 1:
                        socket.send_multipart(ours[number // _ONE_IN])
                    else:
                        socket.send_multipart(theirs[number % 2] if place < koji - 1 else others)
                database = folder / "state" / "fedimg.db"
                until(lambda: True if _entries(database) >= len(ours) else None, hub.check)
                wall = time.monotonic() - began
                return {
                    "rate": count / wall,
                    "cpu": 1e6 * (cpu_seconds(hub.pid) - before) / count,
                    "memory": memory_mib(hub.pid),
                }


def _signed(bus: Bus, topic: str, number: int, method: str) -> list[bytes]:
    """Return a message as the bus carries it, signed by Koji."""
    envelope = {
        "topic": topic,
        "msg": _task(number, method),
        "msg_id": f"2026-{number}",
        "timestamp": 1,
        "i": 1,
        "username": "koji",
    }
    settings = bus.publisher() | {"certname": KOJI}
    signed = fedmsg.crypto.sign(envelope, **settings)
    return [topic.encode(), json.dumps(signed).encode()]


def _task(number: int, method: str) -> dict[str, object]:
    return {
        "attribute": "state",
        "old": "OPEN",
        "new": "CLOSED",
        "id": number,
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
