"""Run `fedimg web` as a process.

Follows fedimg/web/server.py, fedimg/cli/web_command.py.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from fedimg.config import ConfigError, Settings, Web
from fedimg.config.web import split_address
from fedimg.store.store import Store
from fedimg.web import server
from fedimg.web.server import run_web

FEDIMG = Path(sys.executable).parent / "fedimg"
START_SECONDS = 240.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(config: Path, address: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `fedimg web` until it answers; its standard error is in `web.log` beside `config`."""
    with (config.parent / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [FEDIMG, "--config", config, "web"], env={**os.environ, **environment}, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(requests.ConnectionError):
                requests.get(f"http://{address}/healthz", timeout=60)
                break
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_default_addresses_are_loopback() -> None:
    for address in (Web().operations, Web().catalogue):
        assert ipaddress.ip_address(split_address(address)[0]).is_loopback


@pytest.mark.process
def test_process_loads_no_client_and_stops_in_order(tmp_path: Path) -> None:
    config = tmp_path / "fedimg.toml"
    address = f"127.0.0.1:{free_port()}"
    config.write_text(f'state_directory = "state"\n[web]\noperations = "{address}"\n')
    with closing(Store(tmp_path / "state")) as store:
        store.beat("hub")
    # Python then prints each module that it loads on standard error.
    with serving(config, address, PYTHONPROFILEIMPORTTIME="1") as process:
        metrics = requests.get(f"http://{address}/metrics", timeout=60)
        assert "fedimg_database_readable 1.0" in metrics.text
        ready = requests.get(f"http://{address}/readyz", timeout=60)
        assert ready.status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
    log = (tmp_path / "web.log").read_text()
    loaded = {line.rpartition("|")[2].strip() for line in log.splitlines() if "|" in line}
    assert {"fedimg.web.server", "prometheus_client"} <= loaded
    for name in ("boto3", "botocore", "dbos", "paramiko", "fedmsg", "moksha", "fedimg.aws"):
        assert name not in loaded
    assert f"serving operations at http://{address}/" in log


@pytest.mark.process
def test_catalogue_and_operators_pages_have_an_address_each(tmp_path: Path) -> None:
    config = tmp_path / "fedimg.toml"
    operations, catalogue = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / "latest.json").write_text("{}")
    config.write_text(
        'state_directory = "state"\n[catalogue]\ndirectory = "catalogue"\n'
        f'[web]\noperations = "{operations}"\ncatalogue = "{catalogue}"\n'
    )
    with serving(config, operations):
        for address, path, status in (
            (catalogue, "latest.json", 200),
            (catalogue, "jobs", 404),
            (operations, "latest.json", 404),
            # There is no database yet.
            (operations, "jobs", 503),
        ):
            answer = requests.get(f"http://{address}/{path}", timeout=60)
            assert answer.status_code == status, (address, path)


@pytest.mark.process
def test_systemd_is_told_when_the_process_is_ready_and_stops(tmp_path: Path) -> None:
    config = tmp_path / "fedimg.toml"
    address = f"127.0.0.1:{free_port()}"
    config.write_text(f'state_directory = "state"\n[web]\noperations = "{address}"\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(START_SECONDS)
        watched = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "40000000"}
        with serving(config, address, **watched) as process:
            assert systemd.recv(100) == b"READY=1"
            assert systemd.recv(100) == b"WATCHDOG=1"
            assert systemd.recv(100) == b"WATCHDOG=1"
            process.send_signal(signal.SIGINT)
            told = systemd.recv(100)
            while told == b"WATCHDOG=1":
                told = systemd.recv(100)
            assert told == b"STOPPING=1"
            assert process.wait(240) == 0


def test_watchdog_is_not_fed_while_a_loop_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loop:
        hangs = False

        def silent(self, _seconds: float) -> bool:
            return self.hangs

    loop = Loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        monkeypatch.setenv("WATCHDOG_USEC", "4")
        watchdog = server.Watchdog([loop])
        watchdog.feed()
        assert systemd.recv(100) == b"WATCHDOG=1"
        loop.hangs = True
        time.sleep(0.01)
        watchdog.feed()
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def test_address_that_is_taken_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        settings = Settings(web=Web(operations=address))
        with pytest.raises(ConfigError, match=f"cannot listen at web.operations = {address}: "):
            run_web(settings)


def test_nothing_to_serve_is_told_in_words() -> None:
    with pytest.raises(ConfigError, match="nothing to serve"):
        run_web(Settings(web=Web(operations="")))


@pytest.mark.parametrize("address", ["8081", "localhost", "127.0.0.1:99999", "::1:80", "a b:1"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not an address such as"):
        Web(operations=address)


@pytest.mark.parametrize("host", ["[::1]", "host:", "a/b", "", "*"])
def test_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        Web(hosts=[host])
