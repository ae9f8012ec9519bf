"""KojiConsumer in real fedmsg-hub processes, on a bus with a real fedmsg-relay.

Follows fedimg/bus/hub.py.
"""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from fedmsg.core import FedMsgContext  # type: ignore[import-untyped]

from fedimg.intake.announcement import BUILD_TOPIC, TASK_TOPIC
from fedimg.jobs.queue import INTAKE, INTAKE_QUEUE
from fedimg.process.systemd import MISCONFIGURED
from lab.bus import Bus
from tests.hub_process import (
    INSTALLED,
    PROBE,
    START_SECONDS,
    HubProcess,
    build_message,
    task_message,
    wait_until,
)
from tests.stopping import stop

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    bus = Bus(tmp_path_factory.mktemp("bus"), installed=[INSTALLED])
    bus.start_relay()
    yield bus
    bus.close()


@dataclass
class Publisher:
    """Publishes through the relay as Koji's plugin does, from one thread."""

    context: FedMsgContext

    def publish(self, topic: str, message: object, times: int = 1) -> None:
        modname, _, rest = topic.partition(".")
        for _ in range(times):
            self.context.publish(topic=rest, msg=message, modname=modname)

    def probe(self) -> None:
        """Publish what a hub that starts is to hear."""
        self.publish(BUILD_TOPIC, build_message(PROBE))


@pytest.fixture(scope="module")
def publisher(bus: Bus) -> Iterator[Publisher]:
    context = FedMsgContext(**bus.publisher())
    yield Publisher(context)
    context.destroy()


@pytest.fixture
def hub(bus: Bus, tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(bus, tmp_path)
    yield hub
    if hub.process is not None and hub.process.poll() is None:
        hub.process.kill()
        hub.process.wait()


def nested(depth: int) -> list[object]:
    inner: list[object] = []
    for _ in range(depth):
        inner = [inner]
    return inner


HOSTILE = [
    *(task_message(each) for each in (True, -1, 0, 2**31, 10**30, "5", None, [5], {"id": 5})),
    task_message(5) | {"method": ["image"]},
    task_message(5) | {"instance": "other"},
    build_message(7) | {"task": "image"},
    build_message({"$": 1}),
    {"new": nested(500)},
    nested(500),
    "text",
    7,
    {"x": "y" * 1_000_000},
]


def test_message_sent_three_times_is_one_entry_and_sigterm_ends_the_hub(
    publisher: Publisher, hub: HubProcess
) -> None:
    process = hub.start_listening(publisher.probe)
    for message in HOSTILE:
        publisher.publish(TASK_TOPIC, message)
    publisher.publish(BUILD_TOPIC, HOSTILE[-5])
    publisher.publish(TASK_TOPIC + "s", task_message(8))
    publisher.publish("fedimg.task.state.change", task_message(9))
    publisher.publish(TASK_TOPIC, task_message(10291407), times=3)
    publisher.publish(BUILD_TOPIC, build_message(77), times=3)
    wait_until(lambda: len(hub.entries()) >= 2, 240)
    assert hub.entries() == [
        ("build:77", INTAKE, INTAKE_QUEUE),
        ("task:10291407", INTAKE, INTAKE_QUEUE),
    ]
    status, slept = stop(process)
    assert status == 0
    assert slept < 1.0
    assert "Traceback" not in hub.log
    assert "yyyyyy" not in hub.log


def test_sigint_ends_an_idle_hub(hub: HubProcess) -> None:
    status, slept = stop(hub.start_running(), signal.SIGINT)
    assert status == 0
    assert slept < 1.0


def test_announcement_is_kept_while_the_database_fails(
    publisher: Publisher, hub: HubProcess
) -> None:
    process = hub.start_listening(publisher.probe)
    hub.execute(
        "CREATE TRIGGER trouble BEFORE INSERT ON workflow_status "
        "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    publisher.publish(TASK_TOPIC, task_message(1))
    publisher.publish(TASK_TOPIC, task_message(2))
    wait_until(lambda: "cannot store task:1" in hub.log, 240)
    assert hub.entries() == []
    hub.execute("DROP TRIGGER trouble")
    wait_until(lambda: len(hub.entries()) == 2, 240)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 0


def test_hub_logs_one_line_an_event_whatever_a_message_holds(
    publisher: Publisher, hub: HubProcess
) -> None:
    process = hub.start_listening(publisher.probe)
    began = len(hub.log)
    hub.execute(
        "CREATE TRIGGER trouble BEFORE INSERT ON workflow_status "
        "BEGIN SELECT RAISE(ABORT, 'no room\n<3>forged: all is well\npassword=hunter2'); END"
    )
    publisher.publish(TASK_TOPIC, task_message(1))
    wait_until(lambda: "cannot store task:1" in hub.log, 240)
    # What a line of the log has in front by the bus's own configuration, fedmsg's.
    lines = hub.log[began:].splitlines()
    assert [line for line in lines if not line.startswith("[")] == []
    told = next(line for line in lines if "cannot store task:1 in" in line)
    assert "no room | <3>forged: all is well" in told
    assert "hunter2" not in hub.log
    process.send_signal(signal.SIGTERM)
    process.wait(240)


def test_stopping_hub_names_the_entries_that_it_could_not_store(
    publisher: Publisher, hub: HubProcess
) -> None:
    process = hub.start_listening(publisher.probe)
    publisher.publish(TASK_TOPIC, task_message(99))
    wait_until(hub.entries, 240)
    with closing(sqlite3.connect(hub.database)) as connection, hub.bus.listen() as heard:
        connection.execute("BEGIN EXCLUSIVE")
        publisher.publish(TASK_TOPIC, task_message(1))
        publisher.publish(BUILD_TOPIC, build_message(2))
        heard.wait_for(BUILD_TOPIC, 240)
        # What we have heard from the relay, the hub hears at the same time; it says nothing of what
        # waits behind the first.
        time.sleep(1.0)
        status, slept = stop(process)
        assert status == 1
        assert slept < 1.2
    assert "stopped before these announcements could be stored: task:1, build:2;" in hub.log


@pytest.mark.parametrize(
    ("toml", "complaint", "status"),
    [
        ('state_directori = "x"\n', "did you mean state_directory?", MISCONFIGURED),
        ('state_directory = "fedimg.toml"\n', "cannot use the database", 1),
    ],
)
def test_hub_with_unusable_settings_ends_with_a_clear_error(
    hub: HubProcess, toml: str, complaint: str, status: int
) -> None:
    hub.toml = toml
    assert hub.start().wait(START_SECONDS) == status
    assert complaint in hub.log
    assert "Traceback" not in hub.log


def test_hub_without_our_entry_point_ends_with_an_error(hub: HubProcess, tmp_path: Path) -> None:
    # What setuptools 75.8.0 and older do to it.
    stub = "import pkg_resources\npkg_resources.iter_entry_points = lambda *_: iter(())\n"
    (tmp_path / "sitecustomize.py").write_text(stub)
    hub.environment = {"PYTHONPATH": str(tmp_path)}
    assert hub.start().wait(START_SECONDS) == 1
    assert "did not load KojiConsumer" in hub.log


def test_hub_that_cannot_import_us_ends_with_an_error(hub: HubProcess, tmp_path: Path) -> None:
    (tmp_path / "dbos.py").write_text("raise ImportError('broken on purpose')\n")
    hub.environment = {"PYTHONPATH": str(tmp_path)}
    assert hub.start().wait(START_SECONDS) == 1
    assert "broken on purpose" in hub.log
    assert "did not load KojiConsumer" in hub.log


@pytest.mark.parametrize("installed", [False, True])
def test_hub_in_which_we_are_not_enabled_ends_with_an_error(
    tmp_path: Path, installed: bool
) -> None:
    bus = Bus(tmp_path)
    if installed:
        disabled = INSTALLED.read_text().replace('enabled": True', 'enabled": False')
        (bus.folder / INSTALLED.name).write_text(disabled)
    hub = HubProcess(bus, tmp_path)
    assert hub.start().wait(START_SECONDS) == MISCONFIGURED
    assert "fedimg.consumers.KojiConsumer.enabled" in hub.log


def test_other_fedmsg_programs_read_the_configuration_without_fedimg(bus: Bus) -> None:
    shown = subprocess.run(bus.command("fedmsg-config"), capture_output=True, text=True, check=True)
    assert '"fedimg.consumers.KojiConsumer.enabled": true' in shown.stdout
