"""A connection through the gateway finds what it would find at the machine itself."""

import asyncio
import contextlib
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.machines import addresses
from lab.machines.gateway import Gateway

PORT = 22700
PATIENCE = 240


class Machine:
    """Stands in for QEMU's forwarded port: takes each connection, and does `answer` with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self.answer: Callable[[socket.socket], None] = lambda peer: None
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = self._listening.accept()[0]
                self._kept.append(peer)
                self.answer(peer)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for peer in self._kept:
            peer.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    # A socket's path may have 107 characters, and a test's own folder lies deep.
    with tempfile.TemporaryDirectory(prefix="lab-gateway-") as folder:
        machine = Machine(Path(folder) / "ssh")
        yield machine
        machine.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def held() -> Iterator[tuple[str, socket.socket]]:
    address, holder = addresses.reserve("gateway", PORT)
    with holder:
        yield address, holder


def found(address: str) -> str:
    """Return the server's first words to a client, or how the connection failed."""
    try:
        with socket.create_connection((address, PORT), timeout=1) as client:
            client.settimeout(PATIENCE)
            return client.recv(100).decode() or "the end"
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refusal"


def until_found(address: str, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while (now := found(address)) != what:
        assert time.monotonic() < deadline, now


def test_gateway_is_silent_then_refuses_then_connects_and_so_after_a_reboot(
    machine: Machine, loop: asyncio.AbstractEventLoop, held: tuple[str, socket.socket]
) -> None:
    address, holder = held

    async def start() -> Gateway:
        gateway = Gateway(holder, machine.path, lambda source, port: True)
        gateway.start()
        return gateway

    for _ in range(2):
        machine.answer = lambda peer: None
        gateway = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)
        until_found(address, "silence")
        assert not gateway.heard
        machine.answer = socket.socket.close
        until_found(address, "refusal")
        assert gateway.heard
        # More than once asked, and refused, before the server comes.
        time.sleep(1)
        machine.answer = lambda peer: peer.sendall(b"SSH-2.0-lab")
        until_found(address, "SSH-2.0-lab")
        asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result(PATIENCE)
        assert found(address) == "refusal"


def test_broken_connection_leaves_no_reader_to_the_next_user_of_its_number(
    machine: Machine, loop: asyncio.AbstractEventLoop, held: tuple[str, socket.socket]
) -> None:
    address, holder = held
    machine.answer = lambda peer: peer.sendall(b"SSH-2.0-lab")

    async def start() -> Gateway:
        gateway = Gateway(holder, machine.path, lambda source, port: True)
        gateway.start()
        return gateway

    def reset() -> None:
        with socket.create_connection((address, PORT), timeout=PATIENCE) as client:
            assert client.recv(100)
            # No end of the connection, which both sides would see, but a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def hear() -> bytes:
        """Return the bytes that come over new sockets, which reuse the numbers of the closed."""
        pairs = [socket.socketpair() for _ in range(20)]
        heard = b""
        for ours, theirs in pairs:
            reader, writer = await asyncio.open_connection(sock=ours)
            with theirs:
                theirs.sendall(b"x")
                heard += await asyncio.wait_for(reader.read(1), 1)
            writer.close()
        return heard

    gateway = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)
    until_found(address, "SSH-2.0-lab")
    for _ in range(5):
        reset()
    time.sleep(0.5)
    assert asyncio.run_coroutine_threadsafe(hear(), loop).result(PATIENCE) == b"x" * 20
    asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result(PATIENCE)
