"""Find what would keep this site from publishing, without changing anything (`fedimg check`)."""

from __future__ import annotations

import ipaddress
import os
import shutil
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import requests
from botocore.exceptions import BotoCoreError

from fedimg.aws.client.clients import Clients
from fedimg.aws.findings import merged
from fedimg.aws.preflight import Preflight
from fedimg.cli.check_bus import bindings, broker, bus, rejected_messages
from fedimg.cli.check_running import has_database, running
from fedimg.config import FEDMSG, FEDORA_MESSAGING, Koji, Settings
from fedimg.diagnostics import DiagnosticCheck, Finding, Status, gather
from fedimg.images import Architecture, Virtualization
from fedimg.intake import announcement
from fedimg.intake.backlog import backlog_problems
from fedimg.jobs.holds import Holds
from fedimg.jobs.outages import Outages
from fedimg.process import permissions
from fedimg.sources.http import NoAnswer
from fedimg.sources.xmlrpc import XMLRPCClient
from fedimg.store.store import Store, StoreError
from fedimg.untrusted.failures import reason
from fedimg.untrusted.quoting import one_line

# Two rounds of checks, the second for the regions that the first one listed: under a minute
# together, even if nothing answers.
_ROUND_SECONDS = 25.0
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 15.0
# Queue and outbox take a few MiB; a full disk stops the worker.
_FREE_MIB = 256
#: Values of fedimg.toml.example, and the networks that documentation uses (RFC 5737 and 3849).
_EXAMPLE_AMIS = {"ami-0123456789abcdef0", "ami-0fedcba9876543210"}
_EXAMPLE_NETWORKS = [
    ipaddress.ip_network(text)
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
_NO_CREDENTIALS = ("credentials", Status.PROBLEM)


def run(settings: Settings) -> list[Finding]:
    """Run all checks and return their findings.

    A check that fails or hangs becomes a finding and keeps no other from running.
    """
    # First, as opening the database corrects the modes of its files.
    first: dict[str, DiagnosticCheck] = {
        "configuration": partial(configuration, settings),
        "state directory": partial(database, settings)
        if settings.database
        else partial(state_directory, settings.state_directory),
        "AWS's keys": partial(aws_keys, settings.state_directory),
    }
    findings = _flat(gather(first, _ROUND_SECONDS))
    checks: dict[str, DiagnosticCheck] = {
        "Koji hub": partial(koji_hub, settings.koji),
        "Koji files": partial(koji_files, settings.koji),
        "announcements": partial(announcements, settings),
        "regions, away": partial(unavailable_regions, settings),
        "hold": partial(hold, settings),
        "running": partial(running, settings),
    }
    # A site that publishes to fedora-messaging alone need not have fedmsg's configuration.
    if FEDMSG in settings.bus:
        checks |= {"bus": partial(bus, announcement.topics(settings))}
        checks |= {"bus, refused": partial(rejected_messages, settings)}
    if FEDORA_MESSAGING in settings.bus:
        checks |= {"broker": broker}
        checks |= {"broker, bindings": partial(bindings, announcement.topics(settings))}
    for location in settings.composes.locations:
        checks |= {f"composes, {location}": partial(composes, location)}
    try:
        account = Preflight(Clients(), settings.ec2)
    except BotoCoreError as error:
        # Such as an AWS_PROFILE that ~/.aws/config does not have.
        problem = Finding(
            "credentials",
            Status.PROBLEM,
            str(error),
            "correct the AWS_… variables in /etc/fedimg/aws.env, or ~/.aws/config",
        )
        return [*findings, *_flat(gather(checks, _ROUND_SECONDS)), problem]
    checks |= account.checks(map(Architecture.from_koji, settings.koji.architectures))
    findings += _without_repeated_credential_errors(_flat(gather(checks, _ROUND_SECONDS)))
    return findings + merged(gather(account.region_checks(), _ROUND_SECONDS))


def configuration(settings: Settings) -> list[Finding]:
    """Check settings that have a default but that a site has to choose itself."""
    koji, ec2 = settings.koji, settings.ec2
    findings: list[Finding] = []

    def add(key: str, text: str, hint: str, status: Status = Status.PROBLEM) -> None:
        findings.append(Finding(key, status, text, hint))

    for name in koji.architectures if ec2.write_via == "utility" else ():
        if not ec2.machine(Architecture.from_koji(name)).utility_ami:
            add(
                f"ec2.{name}.utility_ami",
                "not set",
                f"set it to an {name} cloud image in {ec2.origin} with cloud-init, curl, xz, "
                f"zstd and gzip; or "
                f"remove {name} from koji.architectures",
            )
    if "site" not in settings.model_fields_set:
        add(
            "site",
            f'not set: fedimg tags its resources with site "{settings.site}"',
            "set a name that no other fedimg deployment in this AWS account has; "
            "'fedimg cleanup' removes the resources tagged with it",
            Status.WARNING,
        )
    if ec2.network.allowed_source is None:
        add(
            "ec2.network.allowed_source",
            "not set",
            "set it to the CIDR from which the worker connects to its instances, as EC2 sees it",
        )
    findings += placeholders(settings)
    if not koji.build_owners and not koji.scratch_owners:
        add(
            "koji.build_owners",
            "empty, like koji.scratch_owners: no announced image is published",
            "list the owners whose builds fedimg publishes",
            Status.WARNING,
        )
    if not koji.name_patterns:
        add(
            "koji.name_patterns",
            "empty: no announced image is published",
            "list patterns of the image names that fedimg publishes",
            Status.WARNING,
        )
    virtualizations = {ami_type.virtualization for ami_type in ec2.amis.types}
    if Virtualization.HVM not in virtualizations and "aarch64" in koji.architectures:
        add(
            "ec2.amis.types",
            "no hvm type: aarch64 images get no AMIs",
            "add an hvm type, such as hvm-gp2, or remove aarch64 from koji.architectures",
        )
    return findings or [Finding("configuration", Status.OK, f'site "{settings.site}"')]


def placeholders(settings: Settings) -> list[Finding]:
    """Return a problem for each value of the example configuration that belongs to nobody."""
    found: dict[str, str] = {}
    for name in settings.koji.architectures:
        ami = settings.ec2.machine(Architecture.from_koji(name)).utility_ami
        if settings.ec2.write_via == "utility" and ami in _EXAMPLE_AMIS:
            found[f"ec2.{name}.utility_ami"] = ami
    source = settings.ec2.network.allowed_source
    if source is not None:
        network = ipaddress.ip_network(source)
        if any(
            network.version == example.version and network.overlaps(example)
            for example in _EXAMPLE_NETWORKS
        ):
            found["ec2.network.allowed_source"] = source
    hint = "replace the example's value by the site's own"
    return [
        Finding(key, Status.PROBLEM, f"{value} is a placeholder of the example configuration", hint)
        for key, value in found.items()
    ]


def state_directory(directory: Path) -> list[Finding]:
    """Check that the state directory is writable, has free space, and is closed to other users.

    A directory that does not exist is fine if the worker can create it.
    """
    name = "state directory"
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        hint = "correct state_directory, or its owner: hub, worker and commands run as one user"
        return [Finding(name, Status.PROBLEM, f"cannot write to {existing}", hint)]
    free = shutil.disk_usage(existing).free // 2**20
    if free < _FREE_MIB:
        hint = "free some space: the worker exits when the disk is full"
        return [Finding(name, Status.WARNING, f"{existing} has {free} MiB free", hint)]
    hint = "the worker corrects the modes of its own files when it starts; correct the others"
    if findings := [
        Finding(name, Status.PROBLEM if writable else Status.WARNING, text, hint)
        for text, writable in permissions.too_open(directory).items()
    ]:
        return findings
    note = "" if existing == directory else " (the worker will create it)"
    return [Finding(name, Status.OK, f"{directory}{note}")]


def aws_keys(directory: Path) -> list[Finding]:
    """Check that no AWS keys are in the state directory, where the hub could read them."""
    path = directory / ".aws/credentials"
    if not path.exists():
        return []
    text = f"{path} can be read by fedmsg-hub and fedimg-consumer, which run as the worker's user"
    hint = "move the keys to /etc/fedimg/aws.env, which only root can read; see README.md"
    return [Finding("AWS's keys", Status.WARNING, text, hint)]


def database(settings: Settings) -> list[Finding]:
    """Check that the PostgreSQL answers, has all tables, and shares no connection of a client."""
    name = "database"
    try:
        from fedimg.worker.pooler import refuse_shared_connections

        refuse_shared_connections(settings.database)
        with closing(Store(settings.state_directory, settings.database)) as store:
            return [Finding(name, Status.OK, f"{store.address} answers")]
    except StoreError as error:
        return [Finding(name, Status.PROBLEM, str(error))]


def koji_hub(koji: Koji) -> list[Finding]:
    """Check that the hub answers."""
    name, hint = "Koji hub", "check koji.hub and the network to it"
    try:
        XMLRPCClient(koji.hub, min(koji.timeout, _READ_SECONDS)).call("getAPIVersion")
    except NoAnswer as error:
        return [Finding(name, Status.PROBLEM, str(error), hint)]
    except xmlrpc.client.Fault as fault:
        text = f"{koji.hub} answers with the fault: {one_line(fault.faultString)}"
        return [Finding(name, Status.WARNING, text, hint)]
    return [Finding(name, Status.OK, f"{koji.hub} answers")]


def koji_files(koji: Koji) -> list[Finding]:
    """Check that the hub's file server answers; it may forbid its root."""
    name, hint = "Koji files", "check koji.topurl and the network to it"
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
    """Check that Koji and the composes' locations have answered about every announcement."""
    name = "announcements"
    if not has_database(settings):
        return [Finding(name, Status.OK, "none yet")]
    with closing(Store(settings.state_directory, settings.database)) as store:
        problems = backlog_problems(store)
    hint = (
        "the worker asks again and loses no announcement; see the finding 'Koji hub', and tell "
        "Koji's operators"
    )
    return [Finding(name, Status.WARNING, text, hint) for text in problems] or [
        Finding(name, Status.OK, "Koji has answered about every announcement")
    ]


def unavailable_regions(settings: Settings) -> list[Finding]:
    """Report the outages of regions that the workers recorded."""
    name = "regions, away"
    if not has_database(settings):
        return [Finding(name, Status.OK, "no outage is recorded")]
    with closing(Store(settings.state_directory, settings.database)) as store:
        outages = Outages(store, settings.ec2.limits).all()
    hint = (
        "jobs go on without the region and the worker asks it again; enable the region, repair the "
        "network to it, or add it to ec2.exclude_regions"
    )
    return [
        Finding(name, Status.WARNING, str(outage), hint)
        if outage.due is not None
        else Finding(name, Status.OK, f"{outage}; fedimg no longer publishes there")
        for outage in outages
    ] or [Finding(name, Status.OK, "no outage is recorded")]


def hold(settings: Settings) -> list[Finding]:
    """Report that an operator holds the site, if one does."""
    name = "hold"
    if has_database(settings):
        with closing(Store(settings.state_directory, settings.database)) as store:
            if current := Holds(store).current():
                hint = "'fedimg release' ends the hold"
                return [Finding(name, Status.WARNING, str(current), hint)]
    return [Finding(name, Status.OK, "publishing is not held")]


def composes(location: str) -> list[Finding]:
    """Check that the file server at a location of composes answers; it may forbid a listing."""
    name, hint = "composes", "check composes.locations and the network to it"
    try:
        answer = requests.head(
            f"{location}/", timeout=(_CONNECT_SECONDS, _READ_SECONDS), allow_redirects=False
        )
    except requests.RequestException as error:
        return [Finding(name, Status.PROBLEM, f"{location} does not answer: {reason(error)}", hint)]
    if answer.status_code not in (requests.codes.ok, requests.codes.forbidden):
        text = f"{location} answers {answer.status_code} {one_line(answer.reason or '')}"
        return [Finding(name, Status.PROBLEM, text, hint)]
    return [Finding(name, Status.OK, f"{location} answers")]


def _without_repeated_credential_errors(findings: Sequence[Finding]) -> list[Finding]:
    """Drop findings that only repeat the error of the finding "credentials"."""
    errors = {one.text for one in findings if (one.name, one.status) == _NO_CREDENTIALS}
    return [one for one in findings if one.text not in errors or one.name == _NO_CREDENTIALS[0]]


def _flat(findings: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    return [finding for group in findings.values() for finding in group]
