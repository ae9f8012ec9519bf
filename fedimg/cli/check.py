"""`fedimg check`: what would keep this site from publishing, found without touching anything."""

from __future__ import annotations

import os
import shutil
import socket
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from botocore.exceptions import BotoCoreError

from fedimg.aws.client.clients import Clients
from fedimg.aws.preflight import Preflight, merged
from fedimg.bus import revocation
from fedimg.config import FEDMSG, FEDORA_MESSAGING, Koji, Settings
from fedimg.diagnostics import Finding, Look, Status, gather
from fedimg.images import Architecture, Virtualization
from fedimg.intake import announcement
from fedimg.intake.backlog import backlog_problems
from fedimg.jobs.outages import Outages
from fedimg.process import permissions
from fedimg.sources.http import NoAnswer
from fedimg.sources.xmlrpc import XMLRPCClient
from fedimg.store.store import Store, StoreError
from fedimg.untrusted.quoting import one_line, reason

# Two rounds of looks, the second one at the regions that the first one found: under a minute in
# all, even when nothing answers.
_ROUND_SECONDS = 25.0
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 15.0
# Queue and outbox take a few MiB; a full disk stops the worker.
_FREE_MIB = 256
_REFUSED_DAYS = 7
#: Before a list of revoked certificates ends, in days, somebody should know.
_STALE_DAYS = 7
_NO_CREDENTIALS = ("credentials", Status.PROBLEM)
# fedimg.consumers.KojiConsumer's own; importing that would start half a hub.
_CONSUMER_KEY = "fedimg.consumers.KojiConsumer.enabled"


def run(settings: Settings) -> list[Finding]:
    """Look at everything; each look stands alone, and none takes long."""
    # Before others open the database: whoever does closes what is open there.
    at_first: dict[str, Look] = {
        "configuration": partial(configuration, settings),
        "state directory": partial(database, settings)
        if settings.database
        else partial(state_directory, settings.state_directory),
        "AWS's keys": partial(keys, settings.state_directory),
    }
    found = _flat(gather(at_first, _ROUND_SECONDS))
    looks: dict[str, Look] = {
        "Koji hub": partial(koji_hub, settings.koji),
        "Koji files": partial(koji_files, settings.koji),
        "announcements": partial(announcements, settings),
        "regions, away": partial(regions_away, settings),
    }
    # Whoever announces on fedora-messaging alone need not have fedmsg.
    if FEDMSG in settings.bus:
        looks |= {"bus": partial(bus, announcement.topics(settings))}
        looks |= {"bus, refused": partial(refused, settings)}
    if FEDORA_MESSAGING in settings.bus:
        looks |= {"broker": broker}
    for location in settings.composes.locations:
        looks |= {f"composes, {location}": partial(composes, location)}
    try:
        account = Preflight(Clients(), settings.ec2)
    except BotoCoreError as error:
        # Such as an AWS_PROFILE that ~/.aws/config does not have.
        problem = Finding(
            "credentials", Status.PROBLEM, str(error), "correct boto3's configuration"
        )
        return [*found, *_flat(gather(looks, _ROUND_SECONDS)), problem]
    looks |= account.looks(map(Architecture.from_koji, settings.koji.architectures))
    found += _said_once(_flat(gather(looks, _ROUND_SECONDS)))
    return found + merged(gather(account.region_looks(), _ROUND_SECONDS))


def configuration(settings: Settings) -> list[Finding]:
    """Values that the file may leave out, and a site may not."""
    koji, ec2 = settings.koji, settings.ec2
    found: list[Finding] = []

    def wrong(key: str, text: str, hint: str, status: Status = Status.PROBLEM) -> None:
        found.append(Finding(key, status, text, hint))

    for name in koji.architectures if ec2.write_via == "utility" else ():
        if not ec2.machine(Architecture.from_koji(name)).utility_ami:
            wrong(
                f"ec2.{name}.utility_ami",
                "not set",
                f"name an {name} cloud image in {ec2.origin}, with cloud-init, curl and xz; or "
                f"take {name} out of koji.architectures",
            )
    if "site" not in settings.model_fields_set:
        wrong(
            "site",
            f"not set: resources are tagged {settings.site!r}",
            "name this site: in one AWS account, each removes the leavings of its own name only",
            Status.WARNING,
        )
    if ec2.network.allowed_source is None:
        wrong(
            "ec2.network.allowed_source",
            "not set",
            "name the addresses, as EC2 sees them, that the worker reaches its instances from",
        )
    if not koji.build_owners and not koji.scratch_owners:
        wrong(
            "koji.build_owners",
            "empty, like koji.scratch_owners: no image on the bus is taken",
            "name the owners whose builds are to be published",
            Status.WARNING,
        )
    if not koji.name_patterns:
        wrong(
            "koji.name_patterns",
            "empty: no image on the bus is taken",
            "name the images that are to be published",
            Status.WARNING,
        )
    kinds = {kind.virtualization for kind in ec2.amis.types}
    if Virtualization.HVM not in kinds and "aarch64" in koji.architectures:
        wrong(
            "ec2.amis.types",
            "no hvm type: nothing can be made of aarch64 images",
            "add one, such as hvm-gp2, or take aarch64 out of koji.architectures",
        )
    return found or [Finding("configuration", Status.OK, f"site {settings.site!r}")]


def state_directory(directory: Path) -> list[Finding]:
    """Whether queue and outbox have a place; it is made when the worker starts."""
    name = "state directory"
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        hint = "correct state_directory, or its owner: hub, worker and commands run as one user"
        return [Finding(name, Status.PROBLEM, f"{there} cannot be written to", hint)]
    free = shutil.disk_usage(there).free // 2**20
    if free < _FREE_MIB:
        hint = "make room: the worker ends when the disk is full"
        return [Finding(name, Status.WARNING, f"{there} has {free} MiB left", hint)]
    hint = "the worker closes what is its own when it starts; the rest is for you to close"
    if opened := [
        Finding(name, Status.PROBLEM if writable else Status.WARNING, text, hint)
        for text, writable in permissions.too_open(directory).items()
    ]:
        return opened
    made = "" if there == directory else ", which the worker will make"
    return [Finding(name, Status.OK, f"{directory}{made}")]


def keys(directory: Path) -> list[Finding]:
    """Whether AWS's keys lie where the hub could read them: it shares the state directory."""
    place = directory / ".aws/credentials"
    if not place.exists():
        return []
    text = f"{place} can be read by fedmsg-hub and fedimg-consumer, which run as the worker's user"
    hint = "move the keys to /etc/fedimg/aws.env, which root alone may read; see README.md"
    return [Finding("AWS's keys", Status.WARNING, text, hint)]


def database(settings: Settings) -> list[Finding]:
    """Whether the PostgreSQL answers, gives each client its own connection, and is prepared."""
    name = "database"
    try:
        from fedimg.worker.pooler import refuse_shared_connections

        refuse_shared_connections(settings.database)
        with closing(Store(settings.state_directory, settings.database)) as store:
            return [Finding(name, Status.OK, f"{store.place} answers")]
    except StoreError as error:
        return [Finding(name, Status.PROBLEM, str(error))]


def _has_database(settings: Settings) -> bool:
    # Opening a file makes what is missing, owned by whoever looks.
    return bool(settings.database) or (settings.state_directory / permissions.DATABASE).exists()


def koji_hub(koji: Koji) -> list[Finding]:
    """Whether the hub answers."""
    name, hint = "Koji hub", "check koji.hub, and the way there"
    try:
        XMLRPCClient(koji.hub, min(koji.timeout, _READ_SECONDS)).call("getAPIVersion")
    except NoAnswer as error:
        return [Finding(name, Status.PROBLEM, str(error), hint)]
    except xmlrpc.client.Fault as fault:
        text = f"{koji.hub} answers, though with {one_line(fault.faultString)}"
        return [Finding(name, Status.WARNING, text, hint)]
    return [Finding(name, Status.OK, f"{koji.hub} answers")]


def koji_files(koji: Koji) -> list[Finding]:
    """Whether the hub's files are served; the root itself may well be forbidden."""
    name, hint = "Koji files", "check koji.topurl, and the way there"
    try:
        answer = requests.head(koji.topurl, timeout=(_CONNECT_SECONDS, _READ_SECONDS))
    except requests.RequestException as error:
        text = f"{koji.topurl} does not answer: {reason(error)}"
        return [Finding(name, Status.PROBLEM, text, hint)]
    if answer.status_code >= requests.codes.server_error:
        text = f"{koji.topurl} answers {answer.status_code} {one_line(answer.reason or '')}"
        return [Finding(name, Status.PROBLEM, text, hint)]
    return [Finding(name, Status.OK, f"{koji.topurl} answers")]


def announcements(settings: Settings) -> list[Finding]:
    """Whether what was announced, or missed, could be asked for in Koji."""
    name = "announcements"
    if not _has_database(settings):
        return [Finding(name, Status.OK, "none yet")]
    with closing(Store(settings.state_directory, settings.database)) as store:
        told = backlog_problems(store)
    hint = "nothing is lost, and Koji is asked again; see 'Koji hub', and tell Koji's operators"
    return [Finding(name, Status.WARNING, text, hint) for text in told] or [
        Finding(name, Status.OK, "Koji has answered about each")
    ]


def regions_away(settings: Settings) -> list[Finding]:
    """Look which regions the workers know to be away."""
    name = "regions, away"
    if not _has_database(settings):
        return [Finding(name, Status.OK, "none known")]
    with closing(Store(settings.state_directory, settings.database)) as store:
        away = Outages(store, settings.ec2.limits).all()
    hint = (
        "jobs go on without it, and the worker asks it again; enable the region, mend the way "
        "there, or name it in ec2.exclude_regions"
    )
    return [
        Finding(name, Status.WARNING, str(each), hint)
        if each.due is not None
        else Finding(name, Status.OK, f"{each}; it is let be, as nothing is published there")
        for each in away
    ] or [Finding(name, Status.OK, "none known")]


def composes(location: str) -> list[Finding]:
    """Whether composes are served there; a list of them may well be forbidden."""
    name, hint = "composes", "check composes.locations, and the way there"
    try:
        answer = requests.head(
            f"{location}/", timeout=(_CONNECT_SECONDS, _READ_SECONDS), allow_redirects=False
        )
    except requests.RequestException as error:
        return [Finding(name, Status.PROBLEM, f"{location} does not answer: {error}", hint)]
    if answer.status_code not in (requests.codes.ok, requests.codes.forbidden):
        text = f"{location} answers {answer.status_code} {one_line(answer.reason or '')}"
        return [Finding(name, Status.PROBLEM, text, hint)]
    return [Finding(name, Status.OK, f"{location} answers")]


def broker() -> list[Finding]:
    """Whether fedora-messaging's configuration opens a broker, and the schemas are here."""
    from fedimg.bus.amqp_login import log_in
    from fedimg.bus.publisher import BusError

    name = "broker"
    try:
        where = log_in(_CONNECT_SECONDS)
    except BusError as error:
        hint = "correct fedora-messaging's configuration, or the way there"
        return [Finding(name, Status.PROBLEM, str(error), hint)]
    return [Finding(name, Status.OK, f"{where} lets us in, and the schemas are installed")]


def bus(topics: Sequence[str]) -> list[Finding]:
    """Whether fedmsg listens for `topics`, and reaches its relay on both of its sides."""
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
    hint = "install fedmsg.d/fedimg.py in /etc/fedmsg.d"
    return Finding(name, Status.PROBLEM, f"fedmsg's configuration lacks {_CONSUMER_KEY}", hint)


def _signatures(config: dict[str, Any], topics: Sequence[str]) -> Finding:
    """Whether messages are taken signed alone, and from whom."""
    name = "bus, signatures"
    if not config.get("validate_signatures"):
        text = "validate_signatures is off: whoever reaches the bus can announce builds"
        hint = "look for the file in /etc/fedmsg.d, behind fedimg.py, that turns it off"
        return Finding(name, Status.WARNING, text, hint)
    for key in ("ca_cert_location", "crl_location"):
        place = config.get(key) or ""
        if not place.startswith("https://") and not os.access(place, os.R_OK):
            hint = f"put the bus's file there, or set {key} in /etc/fedmsg.d; see docs/security.md"
            return Finding(name, Status.PROBLEM, f"{key}: cannot read {place!r}", hint)
    policy = config.get("routing_policy") or {}
    prefix = f"{config['topic_prefix']}.{config['environment']}."
    heard = [prefix + each for each in topics]
    if unnamed := [topic for topic in heard if not policy.get(topic)]:
        text = f"routing_policy names nobody who may send {', '.join(unnamed)}: none is heard"
        hint = "name Koji's certificates in /etc/fedmsg.d; see docs/security.md"
        return Finding(name, Status.PROBLEM, text, hint)
    signers = sorted({signer for topic in heard for signer in policy[topic]})
    return Finding(name, Status.OK, f"builds are heard from {', '.join(signers)} alone")


def _revocations(config: dict[str, Any]) -> list[Finding]:
    """Until when the lists of revoked certificates are good; nothing where none can be read."""
    places = [str(config.get(key) or "") for key in ("ca_cert_location", "crl_location")]
    if not config.get("validate_signatures") or not all(os.access(p, os.R_OK) for p in places):
        return []
    name, hint = (
        "bus, revocations",
        "fetch a fresh list from the bus's authority; see docs/security.md",
    )
    authority, text = (Path(place).read_text(errors="replace") for place in places)
    try:
        found = revocation.lists(text, authority)
    except revocation.NoList as error:
        return [Finding(name, Status.PROBLEM, f"nothing is heard: {places[1]}: {error}", hint)]
    return [_freshness(name, each, hint) for each in found]


def _freshness(name: str, found: revocation.RevocationList, hint: str) -> Finding:
    left = revocation.left(found)
    if left is None or found.next_update is None:
        return Finding(name, Status.OK, f"the list of {found.issuer} does not say when it ends")
    when = f"{found.next_update:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        text = f"nothing is heard: the list of {found.issuer} had its next update at {when}"
        return Finding(name, Status.PROBLEM, text, hint)
    text = f"the list of {found.issuer} has its next update at {when}"
    if left < _STALE_DAYS * 86400:
        return Finding(name, Status.WARNING, f"{text}; after that nothing is heard", hint)
    return Finding(name, Status.OK, text)


def refused(settings: Settings) -> list[Finding]:
    """Whether messages came lately that nobody who may send them had signed."""
    name = "bus, refused"
    if not _has_database(settings):
        return [Finding(name, Status.OK, "no hub has run here yet")]
    store = Store(settings.state_directory, settings.database)
    try:
        rows = store.refused(time.time() - _REFUSED_DAYS * 86400)
    finally:
        store.close()
    if not rows:
        return [Finding(name, Status.OK, f"no message in {_REFUSED_DAYS} days")]
    counted = ", ".join(f"{row.count} {row.fault}" for row in rows)
    last = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(row.last for row in rows)))
    text = f"in {_REFUSED_DAYS} days: {counted}; the last at {last}"
    hint = "fedmsg-hub's log names each: a certificate of Koji's that is new, or a forger?"
    return [Finding(name, Status.WARNING, text, hint)]


def _relay(name: str, endpoints: Sequence[str]) -> Finding:
    hint = "start fedmsg-relay, or correct its addresses in /etc/fedmsg.d"
    for endpoint in endpoints:
        try:
            parts = urlsplit(endpoint)
            # What a relay binds to everywhere is reached here.
            host = "127.0.0.1" if parts.hostname in (None, "*") else parts.hostname
            socket.create_connection((host, parts.port or 0), _CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            return Finding(name, Status.PROBLEM, f"{endpoint} does not answer: {error}", hint)
    return Finding(name, Status.OK, f"{', '.join(endpoints)} answers")


def _said_once(found: Sequence[Finding]) -> list[Finding]:
    """Less the looks at the account that failed for want of credentials: that is said by itself."""
    why = {each.text for each in found if (each.name, each.status) == _NO_CREDENTIALS}
    return [each for each in found if each.text not in why or each.name == _NO_CREDENTIALS[0]]


def _flat(found: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    return [finding for findings in found.values() for finding in findings]
