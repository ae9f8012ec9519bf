"""A fedmsg bus on loopback: its configuration folder, a real fedmsg-relay, sending and listening.

What is said on it, and which consumers run, is not its business: any file put into the folder is
read by whatever is started with `command`.
"""

import contextlib
import copy
import pprint
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fedmsg.core
import fedmsg.encoding
import zmq

from lab.certificates import Authority
from lab.processes import Process

HOST = "127.0.0.1"

# Whose certificates sign what: Koji and Pungi their own topics, fedimg its announcements.
KOJI, FEDIMG, PUNGI = "koji", "fedimg", "pungi"
TOPICS = {
    KOJI: ("buildsys.task.state.change", "buildsys.build.state.change"),
    PUNGI: ("pungi.compose.status.change",),
    FEDIMG: (
        "fedimg.image.upload",
        "fedimg.image.test",
        "fedimg.image.copy",
        "fedimg.image.publish",
        "fedimg.image.withdraw",
        "fedimg.image.restore",
        "fedimg.image.deprecate",
        "fedimg.image.delete",
        "fedimg.image.share",
    ),
}

# A relay imports Twisted and moksha first: 1.5 s on an idle machine, many times that on a busy one.
RELAY_START_SECONDS = 240.0
# A killed relay's ports outlive its process by an instant.
PORTS_SECONDS = 60.0
# How long a message may take through the relay, which hands it on in milliseconds.
DELIVERY_SECONDS = 60.0


class BusError(Exception):
    """The bus did not do what was asked; the text says what, and where its log is."""


@dataclass(frozen=True)
class Ports:
    """The addresses at which the relay takes messages and hands them on."""

    inbound: int
    outbound: int

    @classmethod
    def free(cls) -> "Ports":
        """Two that nothing listens on at this moment."""
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            second.bind((HOST, 0))
            return cls(first.getsockname()[1], second.getsockname()[1])


@dataclass
class Heard:
    """The messages that a listener has heard so far, oldest first, as whole fedmsg envelopes."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, topic: str, seconds: float, count: int = 1) -> list[dict[str, Any]]:
        """Wait for `count` messages whose topic ends with `topic`, and return them.

        Raises TimeoutError that lists the topics that were heard instead.
        """

        def found() -> list[dict[str, Any]]:
            return [one for one in self.messages if one["topic"].endswith(topic)]

        with self.news:
            if self.news.wait_for(lambda: len(found()) >= count, seconds):
                return found()
            topics = [one["topic"] for one in self.messages]
        raise TimeoutError(f"waited {seconds} s for {count} of {topic}; heard {topics}")


class Bus:
    """One relay and the configuration that finds it, under `state`.

    `folder` (`state`/fedmsg.d) is an ordinary configuration folder, read by fedmsg's commands when
    they run in `state`. They then also read /etc/fedmsg.d, and so would join whatever bus the
    machine is part of: `config_file` holds the same settings and is all that is read when a command
    is given it with --config-filename, or a library in FEDMSG_CONFIG.
    """

    def __init__(
        self, state: Path, ports: Ports | None = None, installed: Sequence[Path] = ()
    ) -> None:
        self.state = state.absolute()
        self.folder = self.state / "fedmsg.d"
        # Not fedmsg.py: moksha's hub imports from the folder that it runs in.
        self.config_file = self.state / "fedmsg-config.py"
        self.relay_log = self.state / "logs" / "fedmsg-relay.log"
        self.ports = ports or Ports.free()
        self.authority = Authority(self.state / "pki")
        for name in TOPICS:
            self.authority.issue(name)
        self._relay: Process | None = None
        self._write_configuration(installed)

    @property
    def inbound(self) -> str:
        return f"tcp://{HOST}:{self.ports.inbound}"

    @property
    def outbound(self) -> str:
        return f"tcp://{HOST}:{self.ports.outbound}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which a process's fedmsg `conf` is this bus's alone."""
        return {"FEDMSG_CONFIG": str(self.config_file)}

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of a fedmsg program, such as `fedmsg-hub`, on this bus."""
        program = Path(sys.executable).parent / name
        return [str(program), "--config-filename", str(self.config_file), *arguments]

    def config(self) -> dict[str, Any]:
        """All settings of the folder's files, as a fedmsg process sees them."""
        read: dict[str, Any] = {}
        exec(compile(self.config_file.read_text(), self.config_file, "exec"), read)
        config: dict[str, Any] = read["config"]
        return config

    def publisher(self, name: str = KOJI) -> dict[str, Any]:
        """Return the settings of a fedmsg context that publishes through the relay and signs as
        `name`.
        """
        named = {"active": True, "name": "relay_inbound", "cert_prefix": name}
        return copy.deepcopy(self.config()) | named

    def start_relay(self) -> None:
        """Start the relay and return when it takes messages.

        Raises BusError when its ports are taken or it takes too long, ProcessError when it ends.
        """
        if self._relay is not None and self._relay.running:
            return
        deadline = time.monotonic() + PORTS_SECONDS
        while any(_listening(port) for port in (self.ports.inbound, self.ports.outbound)):
            if time.monotonic() > deadline:
                raise BusError(f"something else listens on {self.inbound} or {self.outbound}")
            time.sleep(0.05)
        self.relay_log.parent.mkdir(parents=True, exist_ok=True)
        self._relay = Process(
            self.command("fedmsg-relay"), self.state, self.environment, self.relay_log
        )
        deadline = time.monotonic() + RELAY_START_SECONDS
        while not all(_listening(port) for port in (self.ports.inbound, self.ports.outbound)):
            self._relay.check()
            if time.monotonic() > deadline:
                tail = self._relay.tail()
                self.stop_relay()
                raise BusError(f"fedmsg-relay took over {RELAY_START_SECONDS} s; {tail}")
            time.sleep(0.05)

    def kill_relay(self) -> None:
        """End the relay as a power cut does, with whatever it had not handed on."""
        if self._relay is not None:
            self._relay.kill()
        self.stop_relay()

    def stop_relay(self) -> None:
        """End the relay; its ports are free afterwards."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.stop()

    def publish(
        self,
        topic: str,
        message: dict[str, Any],
        modname: str = "buildsys",
        times: int = 1,
        name: str = KOJI,
    ) -> list[str]:
        """Send a message through the relay, signed as `name`, and return the msg_ids.

        Takes over a second: fedmsg sleeps that long before a publisher's first message. Raises
        BusError when the relay does not hand a message on; the plugin itself would not notice.
        """
        sent: list[str] = []
        with self.listen() as heard:
            # A context of its own, so that the fedmsg of whoever calls is left alone.
            context = fedmsg.core.FedMsgContext(**self.publisher(name))
            try:
                for _ in range(times):
                    context.publish(
                        topic=topic,
                        msg=message,
                        modname=modname,
                        pre_fire_hook=lambda envelope: sent.append(envelope["msg_id"]),
                    )
            finally:
                context.destroy()

            def arrived() -> bool:
                return set(sent) <= {one["msg_id"] for one in heard.messages}

            with heard.news:
                if not heard.news.wait_for(arrived, DELIVERY_SECONDS):
                    raise BusError(
                        f"{modname}.{topic} did not come back from the relay; see {self.relay_log}"
                    )
        return sent

    @contextlib.contextmanager
    def listen(self) -> Iterator[Heard]:
        """Hear every message of the bus, from the moment the block begins, relay up or not."""
        heard, ended = Heard(), threading.Event()
        context = zmq.Context()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.setsockopt(zmq.LINGER, 0)
        # Sooner than any publisher of the lab: what it confirms by its own ears, we hear too.
        subscriber.setsockopt(zmq.RECONNECT_IVL, 10)
        subscriber.setsockopt(zmq.RECONNECT_IVL_MAX, 20)
        subscriber.connect(self.outbound)

        def hear() -> None:
            while not ended.is_set():
                if not subscriber.poll(100):
                    continue
                _, body = subscriber.recv_multipart()
                with heard.news:
                    heard.messages.append(fedmsg.encoding.loads(body.decode()))
                    heard.news.notify_all()

        thread = threading.Thread(target=hear, name="bus listener", daemon=True)
        thread.start()
        try:
            # Subscriptions travel to the publisher; ZeroMQ offers no way to see them arrive.
            time.sleep(0.3)
            yield heard
        finally:
            ended.set()
            thread.join()
            subscriber.close()
            context.term()

    def close(self) -> None:
        self.stop_relay()

    def _write_configuration(self, installed: Sequence[Path]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix, environment = "org.fedoraproject", "dev"
        host = socket.gethostname().split(".", 1)[0]
        config = {
            "topic_prefix": prefix,
            "environment": environment,
            # Publishing by name would bind all addresses; every publisher goes through the relay.
            "endpoints": {"relay_outbound": [self.outbound]},
            "relay_inbound": self.inbound,
            "active": True,
            "name": "relay_inbound",
            "sign_messages": True,
            "validate_signatures": True,
            "crypto_backend": "x509",
            "crypto_validate_backends": ["x509"],
            "ssldir": str(self.authority.folder),
            "ca_cert_location": str(self.authority.certificate),
            "crl_location": str(self.authority.crl),
            # fedmsg's name for whoever gives itself none is "shell".
            "certnames": {f"shell.{host}": FEDIMG} | {f"{name}.{host}": name for name in TOPICS},
            "routing_policy": {
                f"{prefix}.{environment}.{topic}": [name]
                for name, topics in TOPICS.items()
                for topic in topics
            },
            # With less, a new publisher's first message is lost: it is sent before it is connected.
            "post_init_sleep": 1.0,
            "zmq_linger": 2000,
            "zmq_reconnect_ivl": 100,
            "zmq_reconnect_ivl_max": 200,
            "high_water_mark": 0,
            "io_threads": 1,
            "zmq_enabled": True,
            "zmq_strict": False,
        }
        (self.folder / "lab.py").write_text(
            f"# The lab's bus, written anew at each start.\nconfig = {pprint.pformat(config)}\n"
        )
        for path in installed:
            (self.folder / path.name).write_bytes(path.read_bytes())
        # Not by runpy: that changes sys.argv, by which a file may tell which program reads it.
        self.config_file.write_text(
            f"""\
# Everything in {self.folder}, and nothing of /etc/fedmsg.d or the home directory.
import pathlib

config = {{}}
for path in sorted(pathlib.Path({str(self.folder)!r}).glob("*.py")):
    read = {{}}
    exec(compile(path.read_text(), path, "exec"), read)
    for key, value in read["config"].items():
        # As fedmsg merges its files.
        before = config.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        config[key] = before | value if both else value
"""
        )


def _listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
