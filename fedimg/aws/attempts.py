"""One try at a step that holds an instance: started with keys of its own, and logged into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedimg import ssh
from fedimg.aws import instances, key_pairs
from fedimg.aws.clients import Client
from fedimg.aws.instances import Instance, Launch
from fedimg.aws.refusals import no_room
from fedimg.aws.security_group import Place
from fedimg.aws.sights import Sights
from fedimg.aws.tags import Labels
from fedimg.aws.user_data import user_data
from fedimg.aws.waiting import Waiter
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException


class NoRoom(EC2ServiceException):
    """EC2 could not place the instance, for now or in this zone; another attempt may pass."""


@dataclass(frozen=True)
class Started:
    """An instance on its way, and the two keys that live only as long as the attempt."""

    id: str
    host_key: ssh.Identity
    client_key: ssh.Identity


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
    place: Place
    role: str
    as_users_do: bool = False
    early: str = ""
    sights: Sights = field(default_factory=Sights)

    def start(
        self, ami: str, kind: str, number: int, volumes: Sequence[Mapping[str, Any]] = ()
    ) -> Started:
        """Start the instance of one attempt; each `number` is tried in another subnet.

        Raises NoRoom, and botocore's ClientError when EC2 refuses otherwise.
        """
        host_key, client_key = ssh.new_identity("fedimg-host"), ssh.new_identity("fedimg-client")
        wanted = Launch(
            ami=ami,
            kind=kind,
            user_data=user_data(
                host_key=host_key,
                client_key=None if self.as_users_do else client_key,
                early=self.early,
            ),
            # The attempt's own key makes the token: the same call is the same instance, another
            # attempt is another.
            token=self.labels.token(self.role, host_key.public),
            group=self.place.group,
            subnet=instances.subnet_for(self.ec2, self.place, kind, number),
            volumes=volumes,
            key_pair=self._key_pair(client_key) if self.as_users_do else "",
        )
        try:
            started = instances.launch(
                self.ec2, self.waiter, self.labels, self.role, wanted, self.settings.network
            )
        except Exception as error:
            if no_room(error):
                raise NoRoom(
                    f"EC2 has no room for a {kind} just now: {error}", later=True
                ) from error
            raise
        return Started(started, host_key, client_key)

    def _key_pair(self, key: ssh.Identity) -> str:
        return key_pairs.imported(self.ec2, self.waiter, self.labels, self.role, key)

    @contextmanager
    def login(self, started: Started, user: str) -> Iterator[tuple[Instance, ssh.Session]]:
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
            sights=self.sights,
        )
        with ssh.connect(
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

    def taken(self, started: Started) -> str:
        """Why EC2, or somebody else, ended the instance; empty when none of them did."""
        return instances.taken(self.ec2, started.id)

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
