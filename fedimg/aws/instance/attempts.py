"""One try at a step that holds an instance: started with keys of its own, and logged into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.error_codes import Meaning
from fedimg.aws.client.errors import code, meaning_of, no_capacity
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance import instances, key_pairs
from fedimg.aws.instance.instances import Instance, Launch
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.instance.user_data import user_data
from fedimg.aws.tags import Labels
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException
from fedimg.ssh import client

#: EC2's code for a full subnet; the others of its zone may have room.
_FULL_SUBNET = "InsufficientFreeAddressesInSubnet"


class NoCapacity(EC2ServiceException):
    """EC2 starts the instance in none of the subnets, for now; another attempt may pass."""


@dataclass(frozen=True)
class Started:
    """An instance on its way, and the two keys that live only as long as the attempt."""

    id: str
    host_key: client.Identity
    client_key: client.Identity


@dataclass(frozen=True)
class Attempts:
    """What the attempts at one step of a job share; their instances carry `role`.

    Those `as_users_do` let the worker in by a key pair of EC2's, and run `early` as root when they
    boot; the others are let in by their user data.
    """

    ec2: Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    place: JobNetwork
    role: str
    as_users_do: bool = False
    early: str = ""
    polling: BatchedPolling = field(default_factory=BatchedPolling)

    def start(
        self, ami: str, kind: str, number: int, volumes: Sequence[Mapping[str, Any]] = ()
    ) -> Started:
        """Start the instance of one attempt, in the first subnet that has room for it; each
        `number` begins with another one.

        Raises NoCapacity, EC2ServiceException where no zone offers what it needs, and botocore's
        ClientError when EC2 refuses otherwise.
        """
        host_key, client_key = (
            client.new_identity("fedimg-host"),
            client.new_identity("fedimg-client"),
        )
        wanted = Launch(
            ami=ami,
            kind=kind,
            user_data=user_data(
                host_key=host_key,
                client_key=None if self.as_users_do else client_key,
                early=self.early,
            ),
            token="",
            group=self.place.group,
            subnet="",
            volumes=volumes,
            key_pair=self._key_pair(client_key) if self.as_users_do else "",
        )
        # The attempt's own key makes the token: the same call is the same instance, another
        # attempt, or another subnet, is another.
        started = self._in_one_of(
            instances.subnets_for(self.ec2, self.place, kind, number),
            lambda subnet: replace(
                wanted,
                subnet=subnet,
                token=self.labels.token(self.role, f"{host_key.public} {subnet}"),
            ),
        )
        return Started(started, host_key, client_key)

    def _in_one_of(self, subnets: Sequence[str], wanted: Callable[[str], Launch]) -> str:
        """Start what is wanted in the first subnet with room; the instance's id.

        Where a zone has no room, its other subnets are not tried.
        """
        zones = self.place.subnets
        full: set[str] = set()
        refused: list[str] = []
        last = Exception("there is no subnet")
        for subnet in subnets:
            if zones[subnet] in full:
                continue
            launch = wanted(subnet)
            try:
                return instances.launch(
                    self.ec2, self.waiter, self.labels, self.role, launch, self.settings.network
                )
            except Exception as error:
                if meaning_of(error) is Meaning.LATER:
                    raise NoCapacity(
                        f"EC2 starts no {launch.kind} just now: {error}", later=True
                    ) from error
                if not no_capacity(error):
                    raise
                last = error
            refused.append(subnet)
            if code(last) != _FULL_SUBNET:
                full.add(zones[subnet])
        if meaning_of(last) is Meaning.ELSEWHERE_OR_NEVER:
            raise EC2ServiceException(
                f"EC2 starts no such instance in {', '.join(refused)}; choose another instance "
                f"type or other subnets in fedimg.toml: {last}"
            ) from last
        raise NoCapacity(
            f"EC2 has no room for the instance in {', '.join(refused)} just now: {last}", later=True
        ) from last

    def _key_pair(self, key: client.Identity) -> str:
        return key_pairs.imported(self.ec2, self.waiter, self.labels, self.role, key)

    @contextmanager
    def login(self, started: Started, user: str) -> Iterator[tuple[Instance, client.Session]]:
        """The instance once it runs, and a session on it.

        Raises EC2ServiceException when it does not come to run, SSHError when it does not let
        `user` in, each within its limit.
        """
        limits = self.settings.limits
        instance = instances.running(
            self.ec2,
            self.waiter,
            started.id,
            self.settings.network,
            limit=limits.instance_running,
            polling=self.polling,
        )
        with client.connect(
            instance.address,
            self.settings.network.ssh_port,
            user,
            host_key=started.host_key,
            client_key=started.client_key,
            limit=limits.ssh_ready,
            stop=self.waiter.stop,
        ) as session:
            yield instance, session

    def reboot(self, started: Started) -> None:
        """Have EC2 reboot the instance."""
        self.waiter.settled(lambda: self.ec2.reboot_instances(InstanceIds=[started.id]))

    def terminated_reason(self, started: Started) -> str:
        """Why EC2, or somebody else, ended the instance; empty when none of them did."""
        return instances.terminated_reason(self.ec2, started.id)

    def console(self, started: Started) -> str:
        """What the instance's console shows, as far as EC2 has it."""
        return instances.console(self.ec2, started.id)

    def status(self, started: Started) -> str:
        """EC2's own check of the instance, as far as it tells."""
        return instances.status(self.ec2, started.id)

    def dismiss(self) -> None:
        """Ask for the end of the step's instances; the job's clean-up waits for it."""
        instances.dismiss(self.ec2, self.labels, self.role)
        self._forget_keys()

    def end(self) -> None:
        """Terminate the step's instances and wait until they are gone."""
        instances.end(
            self.ec2,
            self.waiter,
            self.labels,
            self.role,
            limit=self.settings.limits.instance_gone,
        )
        self._forget_keys()

    def _forget_keys(self) -> None:
        if self.as_users_do:
            key_pairs.remove(self.ec2, self.labels, self.role)
