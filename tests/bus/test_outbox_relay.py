"""The outbox reaches the bus, through real fedmsg-relay processes that come and go.

Follows fedimg/bus/fedmsg_publisher.py, fedimg/bus/publisher.py, fedimg/bus/publishers.py.
"""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from sqlalchemy import event

from fedimg.bus.fedmsg_publisher import FedmsgPublisher, configuration
from fedimg.bus.outbox_relay import OutboxRelay
from fedimg.bus.publisher import BusError
from fedimg.store.store import Store
from lab.bus import Bus, Ports
from tests.bus.certificates import write_certificate

CONFIRM = 1.0


@pytest.fixture(scope="module")
def relayed(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    bus = Bus(tmp_path_factory.mktemp("bus"))
    bus.start_relay()
    yield bus
    bus.close()


@pytest.fixture
def bus(processes: None, relayed: Bus, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """Return a bus with a running relay, for which this process's fedmsg is configured."""
    relayed.start_relay()
    monkeypatch.setenv("FEDMSG_CONFIG", str(relayed.config_file))
    return relayed


@pytest.fixture
def messenger(store: Store) -> Iterator[OutboxRelay]:
    messenger = OutboxRelay(store, CONFIRM)
    yield messenger
    messenger.stop(5)


def put(store: Store, count: int, topic: str = "image.publish", first: int = 0) -> None:
    for number in range(first, first + count):
        store.announce(f"key-{topic}-{number}", topic, {"number": number, "extra": {"é": None}})


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    """Return the numbers of fedimg's messages in the order of their first appearance."""
    own = [each["msg"]["number"] for each in messages if ".fedimg." in each["topic"]]
    return list(dict.fromkeys(own))


def test_two_hundred_messages_arrive_in_order_within_seconds(bus: Bus, store: Store) -> None:
    # So patient that not even a busy machine makes it send a message twice.
    messenger = OutboxRelay(store, 60)
    put(store, 200)
    with bus.listen() as heard:
        messenger.start()
        # One at a time with a pause between them would take a minute.
        wait_until(lambda: not store.unannounced(1), 240)
        wait_until(lambda: len(heard.messages) >= 200, 240)
        assert numbers(heard.messages) == list(range(200))
        assert len(heard.messages) == 200
    messenger.stop(5)
    message = heard.messages[0]
    assert message["topic"] == "org.fedoraproject.dev.fedimg.image.publish"
    assert message["msg"] == {"number": 0, "extra": {"é": None}}


def test_later_message_is_noticed_soon(bus: Bus, store: Store, messenger: OutboxRelay) -> None:
    messenger.start()
    put(store, 1)
    wait_until(lambda: not store.unannounced(1), 240)
    put(store, 1, first=1)
    wait_until(lambda: not store.unannounced(1), 30)


def test_confirmations_of_a_second_are_recorded_together(bus: Bus, store: Store) -> None:
    messenger = OutboxRelay(store, 60)
    put(store, 200)
    recorded: list[set[int]] = []
    delivered = store.delivered

    def note(ids: Iterable[int], *arguments: Any) -> None:
        recorded.append(set(ids))
        delivered(recorded[-1], *arguments)

    store.delivered = note  # type: ignore[method-assign]
    messenger.start()
    began = time.monotonic()
    wait_until(lambda: not store.unannounced(1), 240)
    # The first is the one that tells whether the bus answers, and the last is of what was left.
    assert len([ids for ids in recorded if ids]) <= time.monotonic() - began + 3
    messenger.stop(5)


def test_relay_that_rests_reads_nothing_while_no_message_is_pending(bus: Bus, store: Store) -> None:
    pending = threading.Event()
    asked = threading.Semaphore(0)

    def is_pending() -> bool:
        asked.release()
        return pending.is_set()

    messenger = OutboxRelay(store, CONFIRM, pending=is_pending)
    messenger.start()
    assert asked.acquire(timeout=240)
    reads: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        reads.append(statement)

    for _ in range(5):
        assert asked.acquire(timeout=240)
    assert reads == []
    # Another process announces, of which this one's counter knows nothing.
    put(Store(store.directory), 1)
    for _ in range(5):
        assert asked.acquire(timeout=240)
    assert reads == []
    pending.set()
    wait_until(lambda: not store.unannounced(1), 240)
    messenger.stop(5)


@pytest.mark.process
def test_messages_wait_for_a_relay_that_is_down(
    bus: Bus,
    store: Store,
    messenger: OutboxRelay,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = []

    def send(self: FedmsgPublisher, *args: Any) -> str:
        sent.append(time.monotonic())
        return original(self, *args)

    original = FedmsgPublisher.send
    monkeypatch.setattr(FedmsgPublisher, "send", send)
    bus.stop_relay()
    put(store, 20)
    messenger.start()
    wait_until(lambda: len(sent) >= 4, 240)
    # Neither a busy loop nor a word a try.
    assert sent[3] - sent[0] > 2 * CONFIRM
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    assert "check that fedmsg-relay runs" in caplog.text
    assert len(store.unannounced()) == 20
    with bus.listen() as heard:
        bus.start_relay()
        wait_until(lambda: not store.unannounced(1), 240)
        # Each hears the relay on a connection of its own.
        wait_until(lambda: set(numbers(heard.messages)) == set(range(20)), 240)
    assert "fedmsg confirms messages again" in caplog.text


@pytest.mark.process
def test_killed_relay_loses_nothing(bus: Bus, store: Store, messenger: OutboxRelay) -> None:
    messenger.start()
    put(store, 1)
    wait_until(lambda: not store.unannounced(1), 240)
    bus.kill_relay()
    put(store, 30, first=1)
    time.sleep(CONFIRM / 2)
    with bus.listen() as heard:
        bus.start_relay()
        wait_until(lambda: not store.unannounced(1), 240)
        wait_until(lambda: set(numbers(heard.messages)) == set(range(1, 31)), 240)


@pytest.mark.process
def test_killed_worker_loses_nothing(bus: Bus, store: Store, messenger: OutboxRelay) -> None:
    bus.stop_relay()
    put(store, 5)
    program = (
        "import pathlib, sys, time\n"
        "from fedimg.bus.outbox_relay import OutboxRelay\n"
        "from fedimg.store.store import Store\n"
        f"OutboxRelay(Store(pathlib.Path(sys.argv[1])), {CONFIRM}).start()\n"
        "print('runs', flush=True)\n"
        "time.sleep(60)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(store.directory)], stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"runs\n"
    time.sleep(2.5 * CONFIRM)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert len(store.unannounced()) == 5
    bus.start_relay()
    with bus.listen() as heard:
        messenger.start()
        wait_until(lambda: not store.unannounced(1), 240)
        wait_until(lambda: set(numbers(heard.messages)) == set(range(5)), 240)


def test_message_that_cannot_pass_does_not_hold_up_the_others(
    bus: Bus, store: Store, messenger: OutboxRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmsg.core import FedMsgContext  # type: ignore[import-untyped]

    original = FedMsgContext.publish

    def publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["msg"]["number"] == -1:
            raise ValueError("no such key")
        if kwargs["msg"]["number"] == -2:
            return kwargs["pre_fire_hook"]({"msg_id": "never"})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FedMsgContext, "publish", publish)
    store.announce("unsendable", "image.upload", {"number": -1})
    store.announce("lost", "image.upload", {"number": -2})
    store.announce("large", "image.upload", {"number": -3, "data": "x" * 3_000_000})
    put(store, 50)
    messenger.start()
    wait_until(lambda: len(store.unannounced()) == 2, 240)
    assert [row.key for row in store.unannounced()] == ["unsendable", "lost"]


def test_stop_sends_what_is_left(bus: Bus, store: Store, messenger: OutboxRelay) -> None:
    messenger.start()
    put(store, 100)
    messenger.stop(10)
    assert not store.unannounced(1)


def test_stop_does_not_wait_for_a_silent_bus(
    bus: Bus, store: Store, messenger: OutboxRelay
) -> None:
    bus.stop_relay()
    put(store, 3)
    messenger.start()
    time.sleep(2.5 * CONFIRM)
    began = time.monotonic()
    messenger.stop(120)
    assert time.monotonic() - began < 60
    assert len(store.unannounced()) == 3


def test_only_the_same_message_counts_as_its_confirmation(
    store: Store, messenger: OutboxRelay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = Ports.free()
    bus = Bus(tmp_path / "bus", ports)
    monkeypatch.setenv("FEDMSG_CONFIG", str(bus.config_file))
    put(store, 1)
    with Parrot(bus) as parrot:
        messenger.start()
        # The message, but with another body; with another topic; without its id; no message.
        wait_until(lambda: parrot.repeated >= 1, 240)
        time.sleep(0.5)
        assert len(store.unannounced()) == 1
        parrot.honest = True
        wait_until(lambda: not store.unannounced(1), 240)


class Parrot:
    """A relay that repeats what it hears wrongly, until it is `honest`."""

    def __init__(self, bus: Bus) -> None:
        self.honest = False
        self.repeated = 0
        self._context = zmq.Context()
        self._inbound = self._context.socket(zmq.SUB)
        self._inbound.setsockopt(zmq.SUBSCRIBE, b"")
        self._inbound.bind(bus.inbound)
        self._outbound = self._context.socket(zmq.PUB)
        self._outbound.bind(bus.outbound)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> "Parrot":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _repeat(self) -> None:
        while not self._ended.is_set():
            if not self._inbound.poll(100):
                continue
            topic, body = self._inbound.recv_multipart()
            message = json.loads(body)
            wrong = [
                json.dumps(message | {"msg": message["msg"] | {"number": 99}}).encode(),
                json.dumps(message | {"topic": message["topic"] + "s"}).encode(),
                json.dumps(message | {"msg_id": "2026-0"}).encode(),
                json.dumps({"msg_id": message["msg_id"]}).encode(),
                b"[" * 100_000,
                b'{"msg_id": [], "topic": 5, "msg": null}',
                b"\xff\xfe",
                b"",
            ]
            for each in [body] if self.honest else wrong:
                self._outbound.send_multipart([topic, each])
            self.repeated += 1


def test_messages_are_signed_where_fedmsg_signs(
    bus: Bus, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = socket.gethostname().split(".", 1)[0]
    write_certificate(tmp_path, "fedimg")
    signing = {
        "sign_messages": True,
        "ssldir": str(tmp_path),
        "certnames": {f"shell.{host}": "fedimg"},
    }
    config = tmp_path / "signing.py"
    config.write_text(
        f"import runpy\nconfig = runpy.run_path({str(bus.config_file)!r})['config'] | {signing!r}\n"
    )
    monkeypatch.setenv("FEDMSG_CONFIG", str(config))
    put(store, 2)
    messenger = OutboxRelay(store, CONFIRM)
    with bus.listen() as heard:
        messenger.start()
        wait_until(lambda: not store.unannounced(1), 240)
        messenger.stop(5)
        assert {"signature", "certificate", "crypto"} <= set(heard.messages[0])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("config = {'endpoints': {'relay_outbound': ['tcp://127.0.0.1:9']}}", "relay_inbound"),
        ("config = {'endpoints': {}, 'relay_inbound': ['tcp://127.0.0.1:9']}", "relay_outbound"),
        ("config = {}", "endpoints"),
        ("1/0", "division by zero"),
    ],
)
def test_unusable_fedmsg_configuration_is_reported_at_the_start(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    path = tmp_path / "fedmsg.py"
    path.write_text(text)
    monkeypatch.setenv("FEDMSG_CONFIG", str(path))
    with pytest.raises(BusError, match=complaint):
        OutboxRelay(store, CONFIRM).start()


def test_configuration_is_read_from_folders_too(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMSG_CONFIG", str(bus.folder))
    assert configuration()["endpoints"] == {"relay_outbound": [bus.outbound]}
    monkeypatch.delenv("FEDMSG_CONFIG")
    monkeypatch.chdir(bus.state)
    assert configuration()["endpoints"] == {"relay_outbound": [bus.outbound]}
