"""The outbox reaches a real RabbitMQ, which hands some messages back.

Follows fedimg/bus/outbox_relay.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedimg.bus.messages import COPY, PUBLISH
from fedimg.store.parked import Parked
from fedimg.store.store import Store
from lab.broker import EXCHANGE, PREFIX, Broker, NoBroker

AMI: dict[str, Any] = {"id": "ami-0123456789abcdef0", "virt_type": "hvm", "vol_type": "gp3"}
BODY = {
    "image_name": "Fedora-Cloud-Base-43-1.x86_64",
    "destination": "us-east-1",
    "service": "EC2",
    "architecture": "x86_64",
}
PUBLISHED = BODY | {"image_url": "https://koji.test/a.raw.xz", "compose": "b", "extra": AMI}
COPIED = BODY | {
    "compose_id": "b",
    "extra": AMI | {"source_image_id": "ami-0123456789abcdef1"},
}
PROGRAM = (
    "import pathlib, sys, time\n"
    "from fedimg.bus.outbox_relay import OutboxRelay\n"
    "from fedimg.store.store import Store\n"
    "bus = 'fedora-messaging'\n"
    "OutboxRelay(Store(pathlib.Path(sys.argv[1])), 1, bus, [bus]).start()\n"
    "time.sleep(300)\n"
)


@pytest.mark.process
def test_message_that_is_always_handed_back_is_parked_and_the_others_go_on(tmp_path: Path) -> None:
    try:
        broker = Broker(tmp_path / "broker")
    except NoBroker as error:
        pytest.skip(f"not run: {error}")
    broker.start()
    with closing(broker), closing(Store(tmp_path)) as store:
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        with broker.connection() as connection:
            channel = connection.channel()
            channel.queue_declare("full", durable=True, arguments=full)
            channel.queue_bind("full", EXCHANGE, f"{PREFIX}.fedimg.{COPY}")
        conf = broker.configuration("relay", [])
        # Of two copies the queue takes one.
        for number in range(2):
            store.announce(f"copy {number}", COPY, COPIED)
        relay = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(store.directory)],
            env=os.environ | {"FEDORA_MESSAGING_CONF": str(conf)},
        )
        try:
            parked = Parked(store)
            deadline = time.monotonic() + 120
            number = 0
            while not parked.count():
                assert time.monotonic() < deadline
                number += 1
                store.announce(f"publish {number}", PUBLISH, PUBLISHED)
                time.sleep(0.5)
            while store.waiting_messages():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (message,) = parked.all()
            assert message.topic == COPY
            assert "handed it back" in message.reason
        finally:
            relay.kill()
            relay.wait()
