"""Logins and commands over SSH, against real and misbehaving servers.

Follows fedimg/ssh/bounded_socket.py, fedimg/ssh/further.py, fedimg/ssh/output.py,
fedimg/ssh/process.py, fedimg/ssh/protocol.py, fedimg/ssh/session.py.
"""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from fedimg.exceptions import OUTPUT_TAIL, Cancelled
from fedimg.ssh import client, output
from lab.machines.link import Link

pytestmark = pytest.mark.process

HOST = client.new_identity("host")
CLIENT = client.new_identity("client")
STRANGER = client.new_identity("stranger")


class Server:
    """A real SSH server on loopback whose commands are run by a real shell."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.port = 0
        self.logins = 0
        self.authorized = [CLIENT.public]
        self._listener: Any

    def start(self, *, host_key: str = HOST.private_text, port: int = 0) -> "Server":
        self._do(self._listen(host_key, port))
        return self

    def stop(self) -> None:
        """Listen no more."""
        self._do(self._close())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(240)

    async def _listen(self, host_key: str, port: int) -> None:
        outer = self

        class Login(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self.conn = conn

            def begin_auth(self, username: str) -> bool:
                outer.logins += 1
                keys = asyncssh.import_authorized_keys("\n".join(outer.authorized) + "\n")
                self.conn.set_authorized_keys(keys)
                return True

        self._listener = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=Login,
            server_host_keys=[asyncssh.import_private_key(host_key)],
            process_factory=_serve,
            encoding=None,
            reuse_address=True,
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()


async def _serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    if process.command == "drop":
        process.stdout.write(b"half a line")
        await process.stdout.drain()
        process.channel.get_connection().abort()
        return
    if process.command == "flood":
        # As a server that does not care for how much its client wants to have.
        process.channel._orig_chan._send_window = 1 << 40  # type: ignore[attr-defined]
        with suppress(OSError, asyncssh.Error):
            for _ in range(31):
                process.stdout.write((b"x" * 63 + b"\n") * (1 << 14))
                await asyncio.sleep(0.02)
        await asyncio.sleep(60)
        return
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "",
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    feeding = asyncio.create_task(_carry(process.stdin, child.stdin))
    try:
        await asyncio.gather(
            _carry(child.stdout, process.stdout), _carry(child.stderr, process.stderr)
        )
        status = await child.wait()
    finally:
        feeding.cancel()
        if child.returncode is None:
            # With all that it started: a pipe that stays open would never end.
            os.killpg(child.pid, signal.SIGKILL)
            # A pipe that is not read to its end is waited for.
            await child.communicate()
    if status < 0:
        process.exit_with_signal("KILL")
    else:
        process.exit(status)


async def _carry(source: Any, target: Any) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        if isinstance(target, asyncio.StreamWriter):
            target.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    asyncio.run_coroutine_threadsafe(_end_all(), loop).result(240)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _end_all() -> None:
    """End what clients have left running, and wait until it has."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def server(loop: asyncio.AbstractEventLoop) -> Iterator[Server]:
    server = Server(loop)
    yield server.start()
    server.stop()


@pytest.fixture
def session(server: Server) -> Iterator[client.Session]:
    with connect(server.port) as session:
        yield session


def connect(port: int, *, limit: float = 10, **other: Any) -> client.Session:
    usual = {"host_key": HOST, "client_key": CLIENT, "stop": threading.Event()}
    return client.connect("127.0.0.1", port, "fedora", limit=limit, **{**usual, **other})


class Cable:
    """A port before a server's: what goes through it can freeze, or arrive `late` seconds late."""

    def __init__(self, server: Server, late: float = 0.0) -> None:
        self._server, self._late = server, late
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        self._links: list[Link] = []
        self._carrying = asyncio.run_coroutine_threadsafe(self._carry(), server.loop)

    async def _carry(self) -> None:
        with self._listening:
            async with asyncio.TaskGroup() as links:
                while True:
                    near, _ = await self._server.loop.sock_accept(self._listening)
                    await asyncio.sleep(self._late)
                    far = socket.create_connection(("127.0.0.1", self._server.port))
                    self._links.append(Link(near, far))
                    links.create_task(self._links[-1].carry())

    def freeze(self) -> None:
        for link in self._links:
            link.freeze()

    def close(self) -> None:
        self._carrying.cancel()


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    with closing(Cable(server)) as cable:
        yield cable


@contextmanager
def takes(least: float, most: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began <= most


# --- Logging in


def test_an_identity_keeps_its_private_half_out_of_sight() -> None:
    assert HOST.public.startswith("ssh-ed25519 AAAA")
    assert HOST.public.endswith(" host")
    assert (
        asyncssh.import_private_key(HOST.private_text).export_public_key().split()[:2]
        == HOST.public.encode().split()[:2]
    )
    assert "PRIVATE" not in repr(HOST)
    assert HOST.private_text != client.new_identity("host").private_text


def test_a_wrong_host_key_ends_at_once_and_sees_no_login(server: Server) -> None:
    with takes(0, 20), pytest.raises(client.HostKeyMismatch, match="another host key"):
        connect(server.port, host_key=STRANGER)
    assert server.logins == 0


def test_server_with_other_key_types_only_is_refused(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ecdsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key().decode()
    server = Server(loop).start(host_key=ecdsa)
    with takes(0, 20), pytest.raises(client.HostKeyMismatch, match="no ssh-ed25519 host key"):
        connect(server.port)
    server.stop()


def test_refused_key_is_retried_until_the_limit_and_reported(server: Server) -> None:
    server.authorized = []
    with takes(1.5, 20), pytest.raises(client.SSHError, match='rejected the key of user "fedora"'):
        connect(server.port, limit=3)
    assert server.logins >= 2


def test_key_that_cloud_init_installs_late_is_accepted(server: Server) -> None:
    server.authorized = []
    threading.Timer(1.5, lambda: server.authorized.append(CLIENT.public)).start()
    connect(server.port).close()


def test_closed_port_is_retried_until_the_limit(server: Server) -> None:
    server.stop()
    with pytest.raises(client.SSHError, match=r"fedora@127\.0\.0\.1 port .*Connection refused"):
        connect(server.port, limit=1.5)


def test_server_that_starts_late_is_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    server = Server(loop)
    threading.Timer(1.5, lambda: server.start(port=port)).start()
    connect(port).close()
    server.stop()


def test_port_that_accepts_and_stays_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with takes(1.5, 20), pytest.raises(client.SSHError, match="no SSH server answered"):
            connect(port, limit=2)


def test_port_of_another_protocol_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            while True:
                try:
                    peer = other.accept()[0]
                except OSError:
                    return
                peer.sendall(b"220 mail.example.org ESMTP\r\n" * 200)
                peer.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(
            client.SSHError, match="said .220 mail.example.org ESMTP. in place of an SSH banner"
        ):
            connect(other.getsockname()[1], limit=1.5)


def test_banner_that_comes_late_is_waited_for(server: Server) -> None:
    with closing(Cable(server, late=2)) as cable, takes(2, 20), connect(cable.port) as session:
        assert session.run("echo here", limit=5, idle=5).output == "here"


def test_login_is_cancelled_while_the_machine_boots() -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, takes(0.4, 20), pytest.raises(Cancelled):
        connect(silent.getsockname()[1], limit=30, stop=stop)


def test_failed_tries_print_nothing(
    server: Server, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(client.SSHError):
        connect(silent.getsockname()[1], limit=0.5)
    with pytest.raises(client.SSHError):
        connect(server.port, host_key=STRANGER)
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []
    assert capfd.readouterr() == ("", "")


# --- Running commands


def test_input_output_errors_and_status(session: client.Session) -> None:
    heard: list[str] = []
    done = session.run(
        "cat; echo oops >&2; printf end; exit 7",
        stdin=b"one\ntwo\n",
        limit=9,
        idle=9,
        on_line=heard.append,
    )
    assert done == client.Finished(7, "one\ntwo\nend", "oops")
    assert heard == ["one", "two", "end"]
    assert session.run("echo again", limit=9, idle=9).output == "again"


def test_answers_are_further_input_of_a_command(session: client.Session) -> None:
    asked: list[str] = []

    def answer(line: str) -> bytes:
        asked.append(line)
        return f"{line}!\n".encode() if line.startswith("ask") else b""

    script = (
        "read first; echo $first; for i in 1 2 3; do echo ask $i; read said; echo got $said; done"
    )
    heard: list[str] = []
    done = session.run(
        script, stdin=b"one\n", limit=20, idle=9, on_line=heard.append, answer=answer
    )
    got = ["one", "ask 1", "got ask 1!", "ask 2", "got ask 2!", "ask 3", "got ask 3!"]
    assert (done.status, heard, asked) == (0, got, got)
    # What nobody reads, and an end before the answers, are no errors; the session goes on.
    lines = session.run("seq 100", limit=20, idle=9, answer=lambda line: bytes(1000))
    assert lines.status == 0
    assert session.run("cat", stdin=b"again", limit=9, idle=9).output == "again"


def test_lines_are_passed_on_as_they_come(session: client.Session) -> None:
    times: list[float] = []
    session.run(
        "for i in 1 2 3; do echo $i; sleep 0.5; done",
        limit=9,
        idle=9,
        on_line=lambda line: times.append(time.monotonic()),
    )
    assert times[2] - times[0] > 0.8


def test_large_input_and_output_are_transferred(session: client.Session) -> None:
    given = b"0123456789abcde\n" * 300_000
    done = session.run("tee /dev/stderr | wc -c", stdin=given, limit=30, idle=10)
    assert (done.status, done.output) == (0, str(len(given)))


def test_input_that_the_command_does_not_read_is_no_error(session: client.Session) -> None:
    done = session.run("exit 4", stdin=bytes(10_000_000), limit=9, idle=9)
    assert done.status == 4


def test_huge_output_keeps_its_tail(session: client.Session) -> None:
    lines = 0

    def count(line: str) -> None:
        nonlocal lines
        lines += 1

    done = session.run("seq 300000; seq 300000 >&2", limit=60, idle=9, on_line=count)
    assert lines == 300_000
    for tail in (done.output, done.errors):
        assert tail.endswith("299999\n300000")
        assert OUTPUT_TAIL - 10 < len(tail) <= OUTPUT_TAIL


def test_output_without_line_ends_is_bounded(session: client.Session) -> None:
    heard: list[str] = []
    done = session.run(
        "head -c 1000000 /dev/zero | tr '\\0' x", limit=20, idle=9, on_line=heard.append
    )
    assert max(map(len, heard)) == output.LONGEST_LINE
    assert sum(map(len, heard)) == 1_000_000
    assert len(done.output) <= OUTPUT_TAIL


def test_hostile_output_is_made_harmless(session: client.Session) -> None:
    hostile = (
        r"\033[31mred\033[0m \033]0;title\007 bell\007 nul\000 \233 \377\376 \342\200\256 "
        r"caf\303\251\ttab\r50%%\r\nlast\033["
    )
    done = session.run(f"printf '{hostile}'", limit=9, idle=9)
    assert done.output == "red  bell nul � ��  café\ttab\n50%\nlast"


def test_a_quiet_command_ends_at_the_idle_limit(session: client.Session) -> None:
    with takes(0.9, 20), pytest.raises(client.SSHError, match="no output for 1 s") as caught:
        session.run("echo before; echo why >&2; exec sleep 60", limit=60, idle=1)
    assert caught.value.output == "before\nwhy"


def test_any_output_restarts_the_idle_limit(session: client.Session) -> None:
    command = "for i in 1 2 3 4 5; do sleep 0.4; printf .; done; sleep 0.4; echo >&2"
    assert session.run(command, limit=9, idle=1.2).output == "....."


def test_a_long_command_ends_at_its_limit(session: client.Session) -> None:
    with takes(0.9, 20), pytest.raises(client.SSHError, match="timed out after 1 s"):
        session.run("while sleep 0.1; do echo; done", limit=1, idle=60)


def test_connection_that_freezes_midway_ends_at_the_idle_limit(cable: Cable) -> None:
    with connect(cable.port) as session:
        threading.Timer(0.5, cable.freeze).start()
        with takes(1, 20), pytest.raises(client.SSHError, match="frozen"):
            session.run("while sleep 0.1; do echo; done", limit=60, idle=1)


def test_connection_that_froze_before_the_command_ends_at_the_limit(cable: Cable) -> None:
    with connect(cable.port) as session:
        cable.freeze()
        with takes(0.9, 20), pytest.raises(client.SSHError, match="frozen"):
            session.run("true", limit=60, idle=1)


def test_connection_that_breaks_midway_is_reported(session: client.Session) -> None:
    with takes(0, 20), pytest.raises(client.SSHError, match="connection broke") as caught:
        session.run("drop", limit=60, idle=60)
    assert caught.value.output == "half a line"


def test_command_killed_by_a_signal_is_reported(session: client.Session) -> None:
    with pytest.raises(client.SSHError, match="a signal killed") as caught:
        session.run("echo before; kill -9 $$", limit=9, idle=9)
    assert caught.value.output == "before"


def test_running_command_is_cancelled(server: Server) -> None:
    stop = threading.Event()
    with connect(server.port, stop=stop) as session:
        threading.Timer(0.5, stop.set).start()
        with takes(0.4, 20), pytest.raises(Cancelled):
            session.run("exec sleep 60", limit=60, idle=60)


def test_a_listener_that_fails_is_not_swallowed(session: client.Session) -> None:
    def heard(line: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        session.run("echo; sleep 60", limit=9, idle=9, on_line=heard)


def test_a_session_can_be_closed_twice_and_runs_nothing_after(session: client.Session) -> None:
    session.close()
    session.close()
    with pytest.raises(client.SSHError):
        session.run("true", limit=5, idle=5)


def test_no_thread_and_no_process_is_left(server: Server) -> None:
    before = threading.active_count()
    with connect(server.port) as session:
        session.run("true", limit=5, idle=5)
    time.sleep(0.5)
    assert threading.active_count() <= before
    assert talking() == []


# --- The process that talks


def talking(parent: int | None = None) -> list[int]:
    """Return the SSH processes of this process, or of another one."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parts = (entry / "stat").read_text().rpartition(")")[2].split()
            ours = int(parts[1]) == (parent or os.getpid())
            if ours and b"fedimg.ssh.process" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def alone() -> int:
    (found,) = talking()
    return found


class Memory:
    """Sees the most memory, in MiB, that any SSH process of this process takes."""

    def __init__(self) -> None:
        self.most = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            for found in talking():
                with suppress(OSError, IndexError):
                    status = Path(f"/proc/{found}/status").read_text()
                    self.most = max(self.most, int(status.split("VmHWM:")[1].split()[0]) / 1024)


@pytest.mark.parametrize(("given", "mib"), [({}, 256), ({"memory": 100 << 20}, 100)])
def test_login_process_has_limits_and_none_of_the_workers_secrets(
    server: Server, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], mib: int
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    with connect(server.port, **given):
        place = Path(f"/proc/{alone()}")
        assert (place / "environ").read_bytes() == b""
        assert b"PRIVATE" not in (place / "cmdline").read_bytes()
        assert os.readlink(place / "cwd") == "/"
        limits = (place / "limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    assert re.search(rf"Max data size +{mib << 20} +{mib << 20} ", limits)


def test_endless_banner_ends_at_once_and_takes_no_memory() -> None:
    with socket.create_server(("127.0.0.1", 0)) as endless:

        def pour() -> None:
            with suppress(OSError):
                peer = endless.accept()[0]
                while True:
                    peer.sendall(b"x" * 4096)

        threading.Thread(target=pour, daemon=True).start()
        words = "sent more than 256 KiB before the login"
        with (
            takes(0, 20),
            Memory() as memory,
            pytest.raises(client.SSHError, match=words) as caught,
        ):
            connect(endless.getsockname()[1], limit=60)
    assert caught.value.reached is client.Reached.PORT
    assert not caught.value.broke
    assert 0 < memory.most < 60


def test_endless_output_ends_in_time_and_takes_no_memory(session: client.Session) -> None:
    with (
        takes(0.9, 20),
        Memory() as memory,
        pytest.raises(client.SSHError, match="timed out after"),
    ):
        session.run("yes", limit=1, idle=60)
    assert 0 < memory.most < 60


def test_output_beyond_the_limit_is_reported(session: client.Session) -> None:
    words = "the machine sent more than 32768 KiB"
    with Memory() as memory, pytest.raises(client.SSHError, match=words) as caught:
        session.run("head -c 50000000 /dev/zero | tr '\\0' x", limit=120, idle=60)
    assert not caught.value.broke
    assert 0 < memory.most < 60


def test_machine_that_fills_the_memory_fails_for_good(server: Server) -> None:
    filled = threading.Event()

    def heard(line: str) -> None:
        # Nobody reads any more, and the server goes on.
        filled.wait(240)

    session = connect(server.port, memory=40 << 20)
    process = alone()
    threading.Thread(target=lambda: (settle(process), filled.set())).start()
    with session, Memory() as memory, pytest.raises(client.SSHError, match="more memory") as caught:
        session.run("flood", limit=120, idle=60, on_line=heard)
    assert not caught.value.broke
    assert 0 < memory.most < 80


def settle(process: int) -> None:
    """Wait until a process has grown and has given up a thread: paramiko's has died."""
    status = Path(f"/proc/{process}/status")
    before = threads = int(status.read_text().split("Threads:")[1].split()[0])
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with suppress(OSError, IndexError):
            now = int(status.read_text().split("Threads:")[1].split()[0])
            threads = max(threads, now)
            if threads > before and now < threads:
                return
        time.sleep(0.05)


@pytest.mark.parametrize("byte", ["\\n", '"', "\\\\", "\\377", "\\t"])
def test_lines_of_any_bytes_fit_into_messages(session: client.Session, byte: str) -> None:
    heard: list[str] = []
    command = f"head -c 200000 /dev/zero | tr '\\0' '{byte}'"
    done = session.run(command, limit=60, idle=30, on_line=heard.append)
    assert done.status == 0
    assert sum(map(len, heard)) + (len(heard) if byte == "\\n" else 0) == 200_000


def test_process_that_hangs_is_ended_at_its_deadline(session: client.Session) -> None:
    os.kill(alone(), signal.SIGSTOP)
    with (
        takes(0, 40),
        pytest.raises(client.SSHError, match="did not end in time and was killed") as caught,
    ):
        session.run("true", limit=0.5, idle=5)
    assert not caught.value.broke
    assert talking() == []


def test_login_is_cancelled_while_its_process_hangs(server: Server) -> None:
    stop = threading.Event()
    with connect(server.port, stop=stop) as session:
        os.kill(alone(), signal.SIGSTOP)
        threading.Timer(0.5, stop.set).start()
        with takes(0.4, 5), pytest.raises(Cancelled):
            session.run("true", limit=60, idle=60)
    assert talking() == []


def test_process_that_the_system_kills_is_not_the_machines_fault(session: client.Session) -> None:
    threading.Timer(0.5, lambda: os.kill(alone(), signal.SIGKILL)).start()
    with pytest.raises(client.SSHError, match=r"ended \(signal 9\)") as caught:
        session.run("exec sleep 60", limit=60, idle=60)
    assert caught.value.broke


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("echo hello", "sent an invalid message"),
        ("""echo '{"kind": "ready", "kind": "finished"}'""", "sent an invalid message"),
        ("""echo '{"kind": "logged in"}'""", "out of turn"),
        ("exec yes | tr -d '\\n'", "a message of over 1048576 bytes"),
        ("exit 3", r"did not start \(exit status 3\)"),
    ],
)
def test_answers_of_the_login_process_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, words: str
) -> None:
    other = tmp_path / "python"
    other.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{says}\nsleep 20\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    with takes(0, 15), pytest.raises(client.SSHError, match=words):
        connect(1)


def test_login_process_ends_with_its_worker(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, threading, time\n"
        "from fedimg.ssh import client\n"
        "port, host, private, public = sys.argv[1:]\n"
        "client.connect('127.0.0.1', int(port), 'fedora', host_key=client.Identity('', host),\n"
        "    client_key=client.Identity(private, public), limit=20, stop=threading.Event())\n"
        "print('in', flush=True)\n"
        "time.sleep(600)\n"
    )
    given = [str(server.port), HOST.public, CLIENT.private_text, CLIENT.public]
    worker = subprocess.Popen([sys.executable, script, *given], stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdout
        assert worker.stdout.readline() == "in\n"
        (left,) = talking(worker.pid)
        worker.kill()
    deadline = time.monotonic() + 240
    while Path(f"/proc/{left}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
