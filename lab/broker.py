"""A real RabbitMQ on loopback, and the files by which fedora-messaging's programs find it.

Debian's package is started as a program of ours: no service, no port that others know, and an epmd
of its own, which ends with it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pika

from lab.certificates import Authority
from lab.processes import Process, ProcessError

HOST = "127.0.0.1"
# The script itself: the one in PATH becomes the user rabbitmq, and goes to /var/lib.
SCRIPTS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/lib/rabbitmq/sbin/rabbitmq-server")
# Five seconds on an idle machine.
START_SECONDS = 120.0
EXCHANGE = "amq.topic"
PREFIX = "org.fedoraproject.dev"


class NoBroker(Exception):
    """RabbitMQ is not installed here."""


@dataclass(frozen=True)
class Ports:
    """Of AMQP, of AMQP over TLS, of Erlang's own protocol between nodes, and of its name server."""

    amqp: int
    amqps: int
    distribution: int
    epmd: int

    @classmethod
    def free(cls) -> "Ports":
        """Four that nothing listens on at this moment."""
        with ExitStack() as held:
            found = []
            for _ in range(4):
                probe = held.enter_context(socket.socket())
                probe.bind((HOST, 0))
                found.append(int(probe.getsockname()[1]))
            return cls(*found)


class Broker:
    """One RabbitMQ, whose messages and logs lie in `state` and survive its end.

    Args:
        authority: who certifies it, and the users that come over TLS: their certificates' common
            names are who they are. None: nobody comes over TLS.
        users: those names.
    """

    def __init__(
        self, state: Path, authority: Authority | None = None, users: Sequence[str] = ()
    ) -> None:
        self.state = state.absolute()
        self.ports = Ports.free()
        self.log = self.state / "broker.log"
        self._processes: list[Process] = []
        script = next((each for each in SCRIPTS if Path(each).exists()), None)
        epmd = shutil.which("epmd")
        if script is None or epmd is None:
            raise NoBroker("install rabbitmq-server")
        self._script, self._epmd = script, epmd
        self.state.mkdir(parents=True, exist_ok=True)
        self._authority = authority
        lines = ["log.console = true", "log.file = false"]
        plugins = ""
        if authority is not None:
            lines += self._tls(authority, users)
            plugins = "rabbitmq_auth_mechanism_ssl"
        (self.state / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
        (self.state / "enabled_plugins").write_text(f"[{plugins}].\n")

    @property
    def url(self) -> str:
        return (
            f"amqp://guest:guest@{HOST}:{self.ports.amqp}/%2F?connection_attempts=3&retry_delay=1"
        )

    @property
    def tls_url(self) -> str:
        """For whoever has a certificate."""
        query = "connection_attempts=3&retry_delay=1"
        return f"amqps://{HOST}:{self.ports.amqps}/%2F?{query}"

    def start(self) -> None:
        """Start it, and return when it takes connections. Raises ProcessError when it does not."""
        environment = self._environment()
        command = [self._epmd, "-port", str(self.ports.epmd), "-address", HOST]
        self._processes.append(Process(command, self.state, environment, self.log))
        _wait_for(self.ports.epmd, self._processes[0])
        server = Process([self._script], self.state, environment, self.log)
        self._processes.append(server)
        _wait_for(self.ports.amqp, server)

    def kill(self) -> None:
        """End it as a power cut does; what it has confirmed is there after the next start."""
        for process in reversed(self._processes):
            # The script has started others.
            os.killpg(process.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it, and its epmd."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            process.stop()

    close = stop

    def connection(self) -> pika.BlockingConnection:
        """Open a connection for what the lab itself does."""
        return pika.BlockingConnection(pika.URLParameters(self.url))

    def put(
        self,
        topic: str,
        body: Any,
        *,
        schema: str = "base.message",
        prefix: str = PREFIX,
        headers: Mapping[str, Any] | None = None,
        encoding: str = "utf-8",
        exchange: str = EXCHANGE,
    ) -> None:
        """Publish a message as fedora-messaging words it; bytes go as they are."""
        given = {"fedora_messaging_schema": schema, "fedora_messaging_severity": 20}
        with self.connection() as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish(
                exchange,
                f"{prefix}.{topic}",
                body if isinstance(body, bytes) else json.dumps(body).encode(),
                pika.BasicProperties(
                    content_type="application/json",
                    content_encoding=encoding,
                    delivery_mode=2,
                    message_id=str(uuid.uuid4()),
                    headers=given if headers is None else dict(headers),
                ),
            )

    def limit_topics(self, pattern: str) -> None:
        """Allow guest only the routing keys that match; ".*" allows all. Takes a few seconds."""
        script = str(Path(self._script).with_name("rabbitmqctl"))
        command = [script, "set_topic_permissions", "guest", EXCHANGE, pattern, ".*"]
        subprocess.run(
            command, env=os.environ | self._environment(), check=True, capture_output=True
        )

    def waiting(self, queue: str) -> int:
        """Return how many messages of a queue have not been handed out."""
        with self.connection() as connection:
            declared = connection.channel().queue_declare(queue, passive=True)
            return int(declared.method.message_count)

    def configuration(
        self, name: str, topics: Sequence[str], callback: str = "", user: str = ""
    ) -> Path:
        """Write a configuration of fedora-messaging with a durable queue `name`; its path.

        It connects over TLS with the certificate of `user`, where one is named.
        """
        path = self.state / f"{name}.toml"
        keys = json.dumps([f"{PREFIX}.{topic}" for topic in topics])
        tls = ""
        if user and self._authority is not None:
            folder = self._authority.folder
            tls = f"""
[tls]
ca_cert = "{self._authority.certificate}"
certfile = "{folder / user}.crt"
keyfile = "{folder / user}.key"
"""
        path.write_text(
            f"""\
amqp_url = "{self.tls_url if user else self.url}"
topic_prefix = "{PREFIX}"
callback = "{callback}"
{tls}
[queues.{name}]
durable = true
auto_delete = false
exclusive = false
arguments = {{}}

[[bindings]]
queue = "{name}"
exchange = "{EXCHANGE}"
routing_keys = {keys}

[log_config]
version = 1
disable_existing_loggers = false
[log_config.formatters.simple]
format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
[log_config.handlers.console]
class = "logging.StreamHandler"
formatter = "simple"
stream = "ext://sys.stdout"
[log_config.root]
level = "INFO"
handlers = ["console"]
"""
        )
        return path

    def _tls(self, authority: Authority, users: Sequence[str]) -> list[str]:
        """Its settings for TLS: who has no certificate of the authority's does not get in."""
        authority.issue_tls("broker", IPv4Address(HOST), "localhost")
        rights = {"vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        known = [{"name": "guest", "password": "guest", "tags": "administrator"}]
        known += [{"name": user, "password_hash": "", "tags": ""} for user in users]
        definitions = self.state / "definitions.json"
        permissions = [{"user": user["name"], **rights} for user in known]
        everything = {"vhosts": [{"name": "/"}], "users": known, "permissions": permissions}
        definitions.write_text(json.dumps(everything))
        return [
            f"listeners.ssl.1 = {HOST}:{self.ports.amqps}",
            f"ssl_options.cacertfile = {authority.certificate}",
            f"ssl_options.certfile = {authority.folder}/broker.crt",
            f"ssl_options.keyfile = {authority.folder}/broker.key",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
            "ssl_cert_login_from = common_name",
            "auth_mechanisms.1 = EXTERNAL",
            "auth_mechanisms.2 = PLAIN",
            f"load_definitions = {definitions}",
        ]

    def _environment(self) -> dict[str, str]:
        here = str(self.state)
        return {
            "HOME": here,
            "RABBITMQ_NODENAME": f"fedimg{self.ports.amqp}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.ports.amqp),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": here,
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{here}/pid",
            # The script then becomes the server, which so surely ends when we do.
            "RUNNING_UNDER_SYSTEMD": "1",
        }


def consumer(callback: str) -> list[str]:
    """Return the command line of fedora-messaging's consumer with a callback."""
    program = Path(sys.executable).parent / "fedora-messaging"
    return [str(program), "consume", f"--callback={callback}"]


def _wait_for(port: int, process: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            process.check()
        if time.monotonic() > deadline:
            raise ProcessError(f"{process.name} took over {START_SECONDS} s; {process.tail()}")
        time.sleep(0.1)
