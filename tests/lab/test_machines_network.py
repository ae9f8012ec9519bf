"""The namespace in which QEMU runs has a resolver, a way to the machine's SSH, and no way out.

Follows lab/machines/scripts/network.sh, lab/machines/relays.py.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.machines import qemu
from lab.machines.relays import NoRelay, Relays
from lab.machines.resolver import Resolver, ResolverService
from tests.lab.machines_fixtures import processes_naming

pytestmark = pytest.mark.process

NAME = "ip-127-20-30-40.ec2.internal"
SSH = "127.0.0.22"

# In QEMU's place: asks the host's own resolver, as QEMU's network does, tells what it found, and
# answers at the address to which the machine's SSH is forwarded.
INSIDE = f"""
import json, socket, sys
import dns.message, dns.query
question = dns.message.make_query({NAME!r}, "A")
server = open("/etc/resolv.conf").read().split()[1]
found = [
    [str(item) for rrset in ask(question, server, timeout=60).answer for item in rrset]
    for ask in (dns.query.udp, dns.query.tcp)
]
ways = []
for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=60).close()
        ways.append(address)
    except OSError:
        pass
listening = socket.create_server(({SSH!r}, 22))
print(json.dumps([found, ways]), flush=True)
peer = listening.accept()[0]
peer.sendall(b"SSH-2.0-lab")
peer.recv(1)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # A socket's path may have 107 characters, and a test's own folder lies deep.
    with tempfile.TemporaryDirectory(prefix="lab-network-") as name:
        yield Path(name)


def test_resolver_and_ssh_are_reached_and_nothing_else_is(folder: Path) -> None:
    resolver = Resolver(NAME, qemu.GUEST_ADDRESS, qemu.NETWORK, qemu.METADATA_ADDRESS)

    async def run(port: int) -> tuple[object, bytes]:
        service = ResolverService(resolver, folder / "names", folder / "names-stream")
        await service.start()
        process = await asyncio.create_subprocess_exec(
            *qemu.alone(folder),
            *[sys.executable, "-c", INSIDE, str(port)],
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        said = json.loads(await process.stdout.readline())
        reader, writer = await asyncio.open_unix_connection(folder / "ssh")
        banner = await reader.read(100)
        writer.close()
        # Its end is that of every relay: one may still be closing its connection.
        assert await process.stdout.read() == b""
        await process.wait()
        await service.stop()
        return said, banner

    with socket.create_server(("127.0.0.1", 0)) as host:
        said, banner = asyncio.run(run(host.getsockname()[1]))
    assert said == [[[qemu.GUEST_ADDRESS]] * 2, []]
    assert banner == b"SSH-2.0-lab"
    assert processes_naming(str(folder)) == []


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the host")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_ports_of_the_host_are_reached_through_their_sockets(folder: Path) -> None:
    async def ask(port: int) -> bytes:
        relays = Relays(folder, [port])
        await relays.start()
        try:
            reader, writer = await asyncio.open_unix_connection(relays.to(port))
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return await reader.read()
        finally:
            await relays.stop()

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert asyncio.run(ask(server.server_port)).endswith(b"from the host")
        server.shutdown()
    assert processes_naming(str(folder)) == []


def test_relay_that_cannot_listen_says_why(folder: Path) -> None:
    deep = folder / ("long-" * 30)
    deep.mkdir()

    async def start() -> None:
        relays = Relays(deep, [80])
        try:
            await relays.start()
        finally:
            await relays.stop()

    with pytest.raises(NoRelay, match=r"to port 80 of this host, ended before it listened .* E "):
        asyncio.run(start())


def test_machine_whose_lab_is_gone_before_it_starts_leaves_nothing(folder: Path) -> None:
    unshare = qemu.alone(folder)
    # As it was told: by a process that is not its parent.
    unshare[unshare.index(str(os.getpid()))] = "1"
    done = subprocess.run([*unshare, "echo", "here"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
    assert processes_naming(str(folder)) == []
