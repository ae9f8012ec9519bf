"""Systemd hears of a reactor that runs and works, and nothing of one that hangs."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from fedimg.bus.reactor_watchdog import keep_alive


class Reactor(Clock):
    """A reactor whose time a test makes pass."""

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self.callLater(0, call)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        received.bind(str(tmp_path / "notify"))
        received.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        monkeypatch.setenv("WATCHDOG_USEC", "40000000")
        yield received


def heard(systemd: socket.socket) -> list[str]:
    texts = []
    while True:
        try:
            texts.append(systemd.recv(100).decode())
        except BlockingIOError:
            return texts


def test_reactor_that_runs_and_works_is_told(systemd: socket.socket) -> None:
    alive = True
    reactor = Reactor()
    keep_alive(reactor, lambda: alive)
    assert heard(systemd) == []
    reactor.advance(0)
    assert heard(systemd) == ["READY=1", "WATCHDOG=1"]
    reactor.advance(10)
    assert heard(systemd) == ["WATCHDOG=1"]
    alive = False
    reactor.advance(10)
    assert heard(systemd) == []
    alive = True
    reactor.advance(10)
    assert heard(systemd) == ["WATCHDOG=1"]


def test_without_a_limit_the_start_alone_is_told(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    reactor = Reactor()
    keep_alive(reactor, lambda: True)
    reactor.advance(0)
    reactor.advance(3600)
    assert heard(systemd) == ["READY=1"]
