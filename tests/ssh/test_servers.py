"""Logins at real servers: OpenSSH 9.2 and 10.0, and dropbear.

The key is there from the start, comes late, or never comes; OpenSSH 10.0 shuts out who is refused
too often.

Follows fedimg/ssh/connection.py, fedimg/ssh/keys.py, fedimg/ssh/login.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fedimg.ssh import client
from tests.ssh.servers import SSHServer, dropbear, openssh

HOST = client.new_identity("host")
CLIENT = client.new_identity("client")
STRANGER = client.new_identity("stranger")
#: Longer than OpenSSH 10.0 lets somebody in who tries each second: 15 s of penalties have gathered
#: after the fourth refusal.
LATE = 12.0


@pytest.fixture(params=["OpenSSH 9.2", "OpenSSH 10.0", "dropbear"])
def server(request: pytest.FixtureRequest, processes: None) -> Iterator[SSHServer]:
    if request.param == "dropbear":
        running = dropbear(HOST)
    else:
        suite = "bookworm" if request.param == "OpenSSH 9.2" else "trixie"
        running = openssh(suite, HOST)
    with running as started:
        yield started


def connect(server: SSHServer, limit: float, user: str = "") -> client.Session:
    return client.connect(
        "127.0.0.1",
        server.port,
        user or server.user,
        host_key=HOST,
        client_key=CLIENT,
        limit=limit,
        stop=threading.Event(),
    )


def test_installed_key_is_accepted_at_once(server: SSHServer) -> None:
    server.authorize(CLIENT)
    began = time.monotonic()
    connect(server, 120).close()
    assert time.monotonic() - began < 60


def test_key_that_is_installed_late_is_accepted_soon_after(server: SSHServer) -> None:
    server.authorize(STRANGER)
    came: list[float] = []

    def come() -> None:
        server.authorize(CLIENT)
        came.append(time.monotonic())

    timer = threading.Timer(LATE, come)
    timer.start()
    try:
        connect(server, LATE + 30).close()
    finally:
        timer.cancel()
    # Between two connections there are two seconds, and one between two tries.
    assert came
    assert time.monotonic() - came[0] < 8
    assert "Not allowed" not in server.log.read_text()


def test_key_that_is_never_installed_is_reported_as_a_rejected_login(server: SSHServer) -> None:
    server.authorize(STRANGER)
    with pytest.raises(client.SSHError) as raised:
        connect(server, LATE)
    said = str(raised.value)
    assert raised.value.reached is client.Reached.SERVER
    assert f'rejected the key of user "{server.user}"' in said
    assert "it offers public keys, and refused this ssh-ed25519 key" in said
    assert "None" not in said
    assert "SSH-2.0-" in said


def test_unknown_user_is_reported_as_a_rejected_login(server: SSHServer) -> None:
    # As a wrong `test_user` is: four refusals of who tries each second, and the penalty.
    with pytest.raises(client.SSHError) as raised:
        connect(server, 6, user="nosuchuser")
    assert raised.value.reached is client.Reached.SERVER
    assert 'rejected the key of user "nosuchuser"' in str(raised.value)
