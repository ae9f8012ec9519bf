"""The AMQP publisher's messages and errors, as far as no broker is needed to see them.

Follows fedimg/bus/amqp_login.py.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fedimg.bus import amqp_publisher
from fedimg.bus.amqp_login import log_in
from fedimg.bus.publisher import BusError, MessageRefused

BODY: dict[str, Any] = {"image_name": "y", "extra": {"id": "ami-0123456789abcdef0"}}


def test_repeated_message_has_the_same_id_and_others_do_not() -> None:
    first = amqp_publisher.message("image.publish", BODY, "job/publish/us-east-1").id
    reordered = dict(reversed(BODY.items()))
    assert amqp_publisher.message("image.publish", reordered, "job/publish/us-east-1").id == first
    others = {
        amqp_publisher.message("image.copy", BODY, "job/publish/us-east-1").id,
        amqp_publisher.message("image.publish", BODY, "job/publish/us-east-2").id,
        amqp_publisher.message(
            "image.publish", {**BODY, "image_name": "z"}, "job/publish/us-east-1"
        ).id,
    }
    assert len(others) == 3
    assert first not in others


@pytest.mark.parametrize(
    "url", ["amqp://fedimg:geheim@127.0.0.1:{port}/%2F", "amqp://fedimg:geheim@127.0.0.1:port/%2F"]
)
def test_error_about_an_unreachable_broker_holds_no_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "fedora-messaging.toml"
    conf.write_text(f'amqp_url = "{url.format(port=unused())}"\n')
    monkeypatch.setenv("FEDORA_MESSAGING_CONF", str(conf))
    with pytest.raises(BusError) as raised:
        log_in(1)
    said = str(raised.value)
    assert "amqp_url" in said or "cannot connect to the AMQP broker 127.0.0.1:" in said
    assert "geheim" not in said


def test_silent_broker_counts_as_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        conf = tmp_path / "fedora-messaging.toml"
        conf.write_text(f'amqp_url = "amqp://127.0.0.1:{silent.getsockname()[1]}"\n')
        monkeypatch.setenv("FEDORA_MESSAGING_CONF", str(conf))
        with pytest.raises(BusError, match=r"cannot connect to the AMQP broker 127\.0\.0\.1:"):
            log_in(1)


def test_table_that_lacks_a_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "fedora-messaging.toml"
    conf.write_text('amqp_url = "amqps://127.0.0.1:1"\n[tls]\nca_cert = "/etc/ca.pem"\n')
    monkeypatch.setenv("FEDORA_MESSAGING_CONF", str(conf))
    with pytest.raises(BusError, match=r"\[tls\] .* has no certfile, keyfile"):
        log_in(1)


def test_message_against_its_schema_is_not_reported_as_the_brokers_fault() -> None:
    with pytest.raises(MessageRefused, match="does not fit the schema"):
        amqp_publisher.AMQPPublisher(1).send("image.publish", BODY, "key")


def unused() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
