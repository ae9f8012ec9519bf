"""Receive the notifications of real processes, and check the units with systemd-analyze."""

import contextlib
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.process import systemd as systemd_module
from lab.bus import Bus
from tests.hub_process import INSTALLED, START_SECONDS, HubProcess

ROOT = Path(__file__).parent.parent.parent
#: On systemd's scale of 0 to 10.
MOST_EXPOSURE = 2.5


class Systemd:
    """The receiving end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def receive(self, seconds: float) -> str:
        """Return the next notification; empty if none arrives within `seconds`."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            return self._socket.recv(4096).decode()
        return ""

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    yield systemd
    systemd.close()


def test_watchdog_is_notified_unless_a_thread_hangs(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = threading.Event()
    hanging: list[str] = []
    waiting = threading.Thread(
        target=systemd_module.wait, args=(stopping, lambda _seconds: hanging)
    )
    waiting.start()
    try:
        assert [systemd.receive(10), systemd.receive(10)] == ["WATCHDOG=1"] * 2
        hanging.append("outbox relay")
        while systemd.receive(1.0):
            pass
        hanging.clear()
        assert systemd.receive(10) == "WATCHDOG=1"
    finally:
        stopping.set()
        waiting.join()
    assert "no activity for 0.2 s in: outbox relay" in caplog.text


def test_thread_that_stops_using_the_database_is_reported(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/some.db")
    threads = systemd_module.Watchdog(engine, ["polling", "hanging"])

    def poll() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    time.sleep(0.2)
    polling = threading.Thread(target=poll, name="polling")
    polling.start()
    polling.join()
    poll()
    assert threads.silent(3600) == []
    assert threads.silent(0.2) == ["hanging"]
    engine.dispose()


@pytest.mark.parametrize("name", ["NOTIFY_SOCKET", "WATCHDOG_USEC"])
def test_without_systemd_nothing_is_sent(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    systemd_module.wait(stopping, lambda _seconds: [])
    assert systemd.receive(0.1) == ""


def test_watchdog_of_another_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd_module.limit() is None


def test_missing_notification_socket_is_only_a_warning(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.path.unlink()
    with caplog.at_level(logging.WARNING):
        systemd_module.notify("READY=1")
    assert "cannot notify systemd of READY=1" in caplog.text


@pytest.mark.process
def test_hub_and_worker_notify_that_they_are_ready_work_and_stop(
    tmp_path: Path,
) -> None:
    bus = Bus(tmp_path / "bus", installed=[INSTALLED])
    sockets = {name: Systemd(tmp_path / name) for name in ("hub", "worker")}

    def environment(name: str) -> dict[str, str]:
        # Each loop has to use the database within 20 s, also on a busy machine.
        watched = {"NOTIFY_SOCKET": str(sockets[name].path), "WATCHDOG_USEC": "40000000"}
        # No server listens there, and no job needs EC2.
        return {**watched, **bus.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}

    hub = HubProcess(bus, tmp_path, environment=environment("hub"))
    worker = HubProcess(bus, tmp_path / "other", environment=environment("worker"))
    worker.folder.mkdir()
    command = [str(Path(sys.executable).parent / "fedimg"), "worker"]
    try:
        processes = {"hub": hub.start(), "worker": worker.start(command)}
        for name in sockets:
            assert sockets[name].receive(START_SECONDS) == "READY=1", name
        for name in sockets:
            assert sockets[name].receive(40) == "WATCHDOG=1", name
        for name, process in processes.items():
            process.send_signal(signal.SIGTERM)
            notification = sockets[name].receive(20)
            while notification == "WATCHDOG=1":
                notification = sockets[name].receive(20)
            assert notification == "STOPPING=1", name
            assert process.wait(240) == 0, name
    finally:
        for each in (hub, worker):
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()
        for each_socket in sockets.values():
            each_socket.close()
        bus.close()


@pytest.fixture
def units(processes: None, tmp_path: Path) -> Path:
    """Install the shipped units, and the hub's unit of docs/operations.md, in a folder."""
    folder = tmp_path / "units"
    subprocess.run(["cp", "-r", ROOT / "systemd", folder], check=True)
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(
        r"^    \[Unit\]\n    Description=fedmsg-hub\n(?:    .*\n|\n(?=    ))*", text, re.M
    )
    assert found
    lines = found[0].splitlines()
    (folder / "fedmsg-hub.service").write_text("\n".join(line[4:] for line in lines) + "\n")
    for unit in folder.glob("*.service"):
        # The programs are not installed on this machine.
        unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    return folder


@pytest.mark.process
@pytest.mark.parametrize(
    "unit",
    [
        "fedimg-worker.service",
        "fedimg-consumer.service",
        "fedimg-web.service",
        "fedmsg-hub.service",
    ],
)
def test_units_are_valid_and_hardened(units: Path, unit: str) -> None:
    def analyze(*arguments: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(units / unit)],
            env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert unit not in analyze("verify", "--man=no")
    report = analyze("security", "--offline=true", "--no-pager")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure, report
    assert float(exposure[1]) < MOST_EXPOSURE
    assert "RestrictNamespaces=~user" in report


@pytest.mark.process
@pytest.mark.parametrize(
    "unit", ["fedimg-check.service", "fedimg-check.timer", "fedimg-failure@fedimg-check.service"]
)
def test_example_units_of_a_check_by_a_timer_are_valid(tmp_path: Path, unit: str) -> None:
    units = tmp_path / "units"
    subprocess.run(["cp", "-r", ROOT / "docs/units", units], check=True)
    check = units / "fedimg-check.service"
    check.write_text(check.read_text().replace("/usr/bin/fedimg", "/bin/true"))
    template = units / "fedimg-failure@.service"
    shutil.copy(template, units / "fedimg-failure@fedimg-check.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(units / unit)],
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "fedimg-" not in done.stderr
    assert "OnFailure=fedimg-failure@%n.service" in check.read_text()
