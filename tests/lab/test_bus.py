"""The lab's bus: real fedmsg processes, a message through the relay, seen by a subscriber."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.bus import Bus, BusError

pytestmark = pytest.mark.process

TOPIC = "org.fedoraproject.dev.buildsys.task.state.change"


@pytest.fixture(scope="module")
def bus(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    bus = Bus(tmp_path_factory.mktemp("bus"))
    bus.start_relay()
    yield bus
    bus.close()


def _listening() -> dict[int, str]:
    """Port → address, of everything on this machine that listens on TCP."""
    table = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
    ends = [line.split()[3].rsplit(":", 1) for line in table.splitlines()]
    return {int(port): address for address, port in ends}


def test_message_goes_through_the_relay(bus: Bus) -> None:
    with bus.listen() as heard:
        (sent,) = bus.publish("task.state.change", {"id": 7, "owner": None})
        (message,) = heard.wait_for("buildsys.task.state.change", seconds=10)

    assert message["msg_id"] == sent
    assert message["topic"] == TOPIC
    assert message["msg"] == {"id": 7, "owner": None}


def test_tail_started_with_the_bus_command_sees_messages(bus: Bus, tmp_path: Path) -> None:
    log = tmp_path / "tail.log"
    with log.open("wb") as out:
        tail = subprocess.Popen(
            bus.command("fedmsg-tail", "--really-pretty"),
            cwd=bus.state,
            env=os.environ | bus.environment,
            stdout=out,
            stderr=out,
        )
    try:
        deadline = time.monotonic() + 240
        while "buildsys.tail.test" not in re.sub(r"\x1b\[\d*(;\d+)*m", "", log.read_text()):
            assert time.monotonic() < deadline, log.read_text()
            bus.publish("tail.test", {})
    finally:
        tail.terminate()
        tail.wait(240)


def test_only_loopback_is_bound(bus: Bus) -> None:
    bound = _listening()

    assert bound[bus.ports.inbound] == "127.0.0.1"
    assert bound[bus.ports.outbound] == "127.0.0.1"


def test_configuration_holds_installed_files_and_nothing_else(tmp_path: Path) -> None:
    extra = tmp_path / "consumer.py"
    extra.write_text("config = {'some.consumer.enabled': True}\n")

    bus = Bus(tmp_path / "site", installed=[extra])

    assert (bus.folder / "consumer.py").read_text() == extra.read_text()
    assert bus.config()["some.consumer.enabled"] is True
    printed = subprocess.run(
        bus.command("fedmsg-config"), cwd="/", capture_output=True, text=True, check=True
    ).stdout
    assert "some.consumer.enabled" in printed
    assert bus.outbound in printed


def test_publisher_is_told_when_the_relay_is_down_and_a_new_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.bus.DELIVERY_SECONDS", 0.5)
    bus = Bus(tmp_path)
    bus.start_relay()
    with bus.listen() as heard:
        bus.stop_relay()
        assert not {bus.ports.inbound, bus.ports.outbound} & set(_listening())
        with pytest.raises(BusError, match="did not come back"):
            bus.publish("lost", {})
        monkeypatch.undo()
        bus.start_relay()
        try:
            bus.publish("found", {})
            heard.wait_for("found", seconds=10)
        finally:
            bus.close()


def test_relay_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from lab.bus import Bus
bus = Bus(pathlib.Path(sys.argv[1]))
bus.start_relay()
print(bus.ports.inbound, flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )

    assert ended.returncode == -9, ended.stderr
    deadline = time.monotonic() + 240
    while int(ended.stdout) in _listening():
        assert time.monotonic() < deadline
        time.sleep(0.05)
