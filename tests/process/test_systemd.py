"""What systemd is told, by real processes; and what its own tools say of the units."""

import contextlib
import logging
import re
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

from fedimg.process import systemd as watchdog
from lab.bus import Bus
from tests.test_consumers import INSTALLED, START_SECONDS, HubProcess

ROOT = Path(__file__).parent.parent.parent
#: By systemd's own scale of 0 to 10.
MOST_EXPOSURE = 2.5


class Systemd:
    """The end of the notification socket that systemd holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def told(self, seconds: float) -> str:
        """The next thing that a service tells; empty when there is none."""
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


def test_systemd_is_told_again_and_again_until_something_is_silent(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()
    hanging: list[str] = []
    waiting = threading.Thread(target=watchdog.wait, args=(told, lambda _seconds: hanging))
    waiting.start()
    try:
        assert [systemd.told(10), systemd.told(10)] == ["WATCHDOG=1"] * 2
        hanging.append("messenger")
        while systemd.told(1.0):
            pass
        hanging.clear()
        assert systemd.told(10) == "WATCHDOG=1"
    finally:
        told.set()
        waiting.join()
    assert "messenger: no sign of life" in caplog.text


def test_thread_that_asks_the_database_no_more_is_silent(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/some.db")
    pulse = watchdog.Watchdog(engine, ["asking", "hanging"])

    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    time.sleep(0.2)
    asking = threading.Thread(target=ask, name="asking")
    asking.start()
    asking.join()
    ask()
    assert pulse.silent(3600) == []
    assert pulse.silent(0.2) == ["hanging"]
    engine.dispose()


@pytest.mark.parametrize("name", ["NOTIFY_SOCKET", "WATCHDOG_USEC"])
def test_without_systemd_nothing_is_told(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    told = threading.Event()
    threading.Timer(0.5, told.set).start()
    watchdog.wait(told, lambda _seconds: [])
    assert systemd.told(0.1) == ""


def test_another_process_is_watched_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog.limit() is None


def test_systemd_that_is_gone_ends_nothing(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.path.unlink()
    with caplog.at_level(logging.WARNING):
        watchdog.notify("READY=1")
    assert "cannot tell systemd READY=1" in caplog.text


def test_hub_and_worker_tell_that_they_are_ready_that_they_work_and_that_they_stop(
    tmp_path: Path,
) -> None:
    bus = Bus(tmp_path / "bus", installed=[INSTALLED])
    sockets = {name: Systemd(tmp_path / name) for name in ("hub", "worker")}

    def environment(name: str) -> dict[str, str]:
        # Loops that have to move within 20 s, on a machine however busy.
        watched = {"NOTIFY_SOCKET": str(sockets[name].path), "WATCHDOG_USEC": "40000000"}
        # Nobody is asked: no job is there.
        return {**watched, **bus.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}

    hub = HubProcess(bus, tmp_path, environment=environment("hub"))
    worker = HubProcess(bus, tmp_path / "other", environment=environment("worker"))
    worker.folder.mkdir()
    command = [str(Path(sys.executable).parent / "fedimg"), "worker"]
    try:
        processes = {"hub": hub.start(), "worker": worker.start(command)}
        for name in sockets:
            assert sockets[name].told(START_SECONDS) == "READY=1", name
        for name in sockets:
            assert sockets[name].told(40) == "WATCHDOG=1", name
        for name, process in processes.items():
            process.send_signal(signal.SIGTERM)
            said = [sockets[name].told(20)]
            while said[-1] == "WATCHDOG=1":
                said.append(sockets[name].told(20))
            assert said[-1] == "STOPPING=1", name
            assert process.wait(20) == 0, name
    finally:
        for each in (hub, worker):
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()
        for each_socket in sockets.values():
            each_socket.close()
        bus.close()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The shipped units as installed, above the hub's unit that docs/operations.md gives."""
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
        # The programs are where a site installs them, which is not here.
        unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    return folder


@pytest.mark.parametrize(
    "unit", ["fedimg-worker.service", "fedimg-consumer.service", "fedmsg-hub.service"]
)
def test_units_are_sound_and_expose_little(units: Path, unit: str) -> None:
    def analyze(*arguments: str) -> str:
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(units / unit)],
            env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert unit not in analyze("verify", "--man=no")
    told = analyze("security", "--offline=true", "--no-pager")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert exposure, told
    assert float(exposure[1]) < MOST_EXPOSURE
    assert "RestrictNamespaces=~user" in told
