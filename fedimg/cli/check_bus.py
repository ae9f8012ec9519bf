"""Check the buses: their configuration, who may sign, whether the relay or the broker answers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedimg.bus import revocation
from fedimg.cli.check_running import has_database
from fedimg.config import Settings
from fedimg.diagnostics import Finding, Status
from fedimg.store.store import Store
from fedimg.untrusted.failures import reason

_CONNECT_SECONDS = 5.0
#: Rejected messages of so many days are reported.
_REJECTED_DAYS = 7
#: A revocation list that expires within so many days is a warning.
_EXPIRY_DAYS = 7
# The same as fedimg.consumers.KojiConsumer.config_key; importing that module would load moksha.
_CONSUMER_KEY = "fedimg.consumers.KojiConsumer.enabled"


def broker() -> list[Finding]:
    """Check that fedimg can log in at the AMQP broker, and that fedimg-messages is installed."""
    from fedimg.bus.amqp_login import log_in
    from fedimg.bus.publisher import BusError

    name = "broker"
    try:
        address = log_in(_CONNECT_SECONDS)
    except BusError as error:
        hint = "correct fedora-messaging's configuration, or the network to the broker"
        return [Finding(name, Status.PROBLEM, str(error), hint)]
    return [Finding(name, Status.OK, f"logged in at {address}; the message schemas are installed")]


def bindings(topics: Sequence[str]) -> list[Finding]:
    """Check that fedora-messaging's bindings deliver the `topics` under its topic_prefix."""
    from fedimg.bus.amqp_bindings import unbound
    from fedimg.bus.amqp_publisher import configuration
    from fedimg.bus.publisher import BusError

    name = "broker, bindings"
    try:
        config = configuration()
    except BusError:
        # The finding "broker" says so.
        return []
    prefix = str(config["topic_prefix"] or "").rstrip(".")
    if missing := unbound(topics, prefix, config["bindings"]):
        text = (
            f"no binding of fedora-messaging's configuration delivers {', '.join(missing)}: builds "
            "announced there are found only when the worker catches up"
        )
        hint = "make routing_keys of [[bindings]] fit topic_prefix, then restart fedimg-consumer"
        return [Finding(name, Status.PROBLEM, text, hint)]
    return [Finding(name, Status.OK, f"announcements under {prefix or 'any prefix'} are bound")]


def bus(topics: Sequence[str]) -> list[Finding]:
    """Check that fedmsg-hub accepts signed messages of `topics`, and that the relay answers."""
    from fedimg.bus.fedmsg_publisher import configuration
    from fedimg.bus.publisher import BusError

    try:
        config = configuration()
    except BusError as error:
        return [Finding("bus", Status.PROBLEM, str(error))]
    inbound = config["relay_inbound"]
    return [
        _consumer(config),
        _signatures(config, topics),
        *_revocations(config),
        _relay("bus, to the relay", [inbound] if isinstance(inbound, str) else inbound),
        _relay("bus, from the relay", config["endpoints"]["relay_outbound"]),
    ]


def _consumer(config: dict[str, Any]) -> Finding:
    name = "bus, listening"
    if config.get(_CONSUMER_KEY):
        return Finding(name, Status.OK, "KojiConsumer is enabled")
    text = f"fedmsg's configuration lacks {_CONSUMER_KEY}: fedmsg-hub does not load fedimg"
    return Finding(name, Status.PROBLEM, text, "install fedmsg.d/fedimg.py in /etc/fedmsg.d")


def _signatures(config: dict[str, Any], topics: Sequence[str]) -> Finding:
    """Check that only signed messages are accepted, and name the certificates that may sign."""
    name = "bus, signatures"
    if not config.get("validate_signatures"):
        text = "validate_signatures is off: anybody who can reach the bus can announce builds"
        hint = "find the file in /etc/fedmsg.d, later than fedimg.py, that turns it off"
        return Finding(name, Status.WARNING, text, hint)
    for key in ("ca_cert_location", "crl_location"):
        path = config.get(key) or ""
        if not path.startswith("https://") and not os.access(path, os.R_OK):
            text = f"cannot read {path}, the value of {key}" if path else f"{key} is not set"
            hint = f"put the bus's file there, or set {key} in /etc/fedmsg.d; see docs/security.md"
            return Finding(name, Status.PROBLEM, text, hint)
    policy = config.get("routing_policy") or {}
    prefix = f"{config['topic_prefix']}.{config['environment']}."
    full_topics = [prefix + topic for topic in topics]
    if unnamed := [topic for topic in full_topics if not policy.get(topic)]:
        text = f"routing_policy has no certificate for {', '.join(unnamed)}: fedimg rejects them"
        hint = "name Koji's certificates in /etc/fedmsg.d; see docs/security.md"
        return Finding(name, Status.PROBLEM, text, hint)
    signers = sorted({signer for topic in full_topics for signer in policy[topic]})
    return Finding(name, Status.OK, f"only messages signed by {', '.join(signers)} are accepted")


def _revocations(config: dict[str, Any]) -> list[Finding]:
    """Check that the certificate revocation lists are valid; return nothing if unreadable."""
    paths = [str(config.get(key) or "") for key in ("ca_cert_location", "crl_location")]
    if not config.get("validate_signatures") or not all(os.access(p, os.R_OK) for p in paths):
        return []
    name, hint = (
        "bus, revocations",
        "fetch a fresh list from the bus's authority; see docs/security.md",
    )
    authority, text = (Path(path).read_text(errors="replace") for path in paths)
    try:
        lists = revocation.lists(text, authority)
    except revocation.NoList as error:
        fault = f"all messages are rejected: {paths[1]}: {error}"
        return [Finding(name, Status.PROBLEM, fault, hint)]
    return [_expiry(name, each, hint) for each in lists]


def _expiry(name: str, crl: revocation.RevocationList, hint: str) -> Finding:
    left = revocation.left(crl)
    if left is None or crl.next_update is None:
        return Finding(name, Status.OK, f"the list of {crl.issuer} never expires")
    when = f"{crl.next_update:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        text = f"all messages are rejected: the list of {crl.issuer} expired at {when}"
        return Finding(name, Status.PROBLEM, text, hint)
    text = f"the list of {crl.issuer} expires at {when}"
    if left < _EXPIRY_DAYS * 86400:
        return Finding(name, Status.WARNING, f"{text}; then all messages are rejected", hint)
    return Finding(name, Status.OK, text)


def rejected_messages(settings: Settings) -> list[Finding]:
    """Report how many messages were rejected for their signatures lately."""
    name = "bus, refused"
    if not has_database(settings):
        return [Finding(name, Status.OK, "no hub has run here yet")]
    with closing(Store(settings.state_directory, settings.database)) as store:
        rows = store.rejected(time.time() - _REJECTED_DAYS * 86400)
    if not rows:
        text = f"no message was rejected in the last {_REJECTED_DAYS} days"
        return [Finding(name, Status.OK, text)]
    counts = ", ".join(f"{row.count} {row.fault}" for row in rows)
    last = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(row.last for row in rows)))
    text = f"messages rejected in the last {_REJECTED_DAYS} days: {counts}; the last at {last}"
    hint = (
        "fedmsg-hub's log names each message: either Koji has a new certificate, which you have to "
        "name in /etc/fedmsg.d, or somebody forges messages"
    )
    return [Finding(name, Status.WARNING, text, hint)]


def _relay(name: str, endpoints: Sequence[str]) -> Finding:
    hint = "start fedmsg-relay, or correct its addresses in /etc/fedmsg.d"
    for endpoint in endpoints:
        try:
            parts = urlsplit(endpoint)
            # A relay that listens on all addresses (*) runs on this machine.
            host = "127.0.0.1" if parts.hostname in (None, "*") else parts.hostname
            socket.create_connection((host, parts.port or 0), _CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            text = f"{endpoint} does not answer: {reason(error)}"
            return Finding(name, Status.PROBLEM, text, hint)
    return Finding(name, Status.OK, f"{', '.join(endpoints)} answers")
