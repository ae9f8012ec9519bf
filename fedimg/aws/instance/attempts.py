"""Run the attempts at a step that needs an instance: launch with new keys, and log in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fedimg.aws.client.batched_polling import BatchedPolling
from fedimg.aws.client.error_codes import Meaning
from fedimg.aws.client.errors import code, meaning_of, no_capacity
from fedimg.aws.client.types import BlockDeviceMapping, EC2Client
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance import instances, key_pairs
from fedimg.aws.instance.instances import Instance, Launch
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.instance.user_data import user_data
from fedimg.aws.tags import Labels
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException
from fedimg.ssh import client

#: EC2's code for a subnet without free addresses; the other subnets of its zone may have some.
_FULL_SUBNET = "InsufficientFreeAddressesInSubnet"


class NoCapacity(EC2ServiceException):
    """EC2 cannot start the instance in any subnet for now; another attempt may pass."""


@dataclass(frozen=True)
class Started:
    """An instance that was launched, and the two keys that are used for this attempt only."""

    id: str
    host_key: client.Identity
    client_key: client.Identity


@dataclass(frozen=True)
class Attempts:
    """The attempts at one step of a job, whose instances carry `role`.

    With `as_users_do` the worker logs in by an EC2 key pair, and the instance runs `early` as root
    when it boots; otherwise the key comes with the user data.
    """

    ec2: EC2Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    network: JobNetwork
    role: str
    as_users_do: bool = False
    early: str = ""
    polling: BatchedPolling = field(default_factory=BatchedPolling)

    def start(
        self,
        ami: str,
        instance_type: str,
        number: int,
        volumes: Sequence[BlockDeviceMapping] = (),
        *,
        instance_store: bool = False,
    ) -> Started:
        """Launch the instance of one attempt, in the first subnet with capacity.

        Each `number` begins with another subnet. `volumes` are block device mappings, and
        `instance_store` says that the AMI has no root volume. Raises
        NoCapacity, EC2ServiceException where no zone offers the instance type, and botocore's
        ClientError when EC2 refuses otherwise.
        """
        host_key, client_key = (
            client.new_identity("fedimg-host"),
            client.new_identity("fedimg-client"),
        )
        request = Launch(
            ami=ami,
            instance_type=instance_type,
            user_data=user_data(
                host_key=host_key,
                client_key=None if self.as_users_do else client_key,
                early=self.early,
            ),
            token="",
            group=self.network.group,
            subnet="",
            volumes=volumes,
            instance_store=instance_store,
            key_pair=self._key_pair(client_key) if self.as_users_do else "",
        )
        # The token depends on the attempt's own key: a repeated call is the same instance, and
        # another attempt or subnet is another one.
        started = self._launch_in_first_with_capacity(
            instance_type,
            instances.subnets_for(self.ec2, self.network, instance_type, number),
            lambda subnet: replace(
                request,
                subnet=subnet,
                token=self.labels.token(self.role, f"{host_key.public} {subnet}"),
            ),
        )
        return Started(started, host_key, client_key)

    def _launch_in_first_with_capacity(
        self, instance_type: str, subnets: Sequence[str], request_for: Callable[[str], Launch]
    ) -> str:
        """Launch the instance in the first subnet with capacity; return its id.

        When a zone has no capacity, its other subnets are skipped.
        """
        zones = self.network.subnets
        full: set[str] = set()
        refused: list[str] = []
        last = Exception("the VPC has no subnet")
        for subnet in subnets:
            if zones[subnet] in full:
                continue
            launch = request_for(subnet)
            try:
                return instances.launch(
                    self.ec2, self.waiter, self.labels, self.role, launch, self.settings.network
                )
            except Exception as error:
                if meaning_of(error) is Meaning.LATER:
                    raise NoCapacity(
                        f"EC2 cannot start a {instance_type} instance at the moment: {error}",
                        later=True,
                    ) from error
                if not no_capacity(error):
                    raise
                last = error
            refused.append(subnet)
            if code(last) != _FULL_SUBNET:
                full.add(zones[subnet])
        if meaning_of(last) is Meaning.ELSEWHERE_OR_NEVER:
            raise EC2ServiceException(
                f"EC2 does not offer {instance_type} in {', '.join(refused)}; choose another "
                f"instance type or other subnets in fedimg.toml: {last}"
            ) from last
        raise NoCapacity(
            f"EC2 has no capacity for a {instance_type} instance in {', '.join(refused)} at the "
            f"moment: {last}",
            later=True,
        ) from last

    def _key_pair(self, key: client.Identity) -> str:
        return key_pairs.imported(self.ec2, self.waiter, self.labels, self.role, key)

    @contextmanager
    def login(
        self, started: Started, user: str, *, within: float = math.inf, tries: float = math.inf
    ) -> Iterator[tuple[Instance, client.Session]]:
        """Yield the instance once it runs, and a session on it.

        Raises EC2ServiceException when it does not run in time, SSHError when `user` cannot log in
        in time, or `within` so many seconds, or after `tries` seconds of failed tries.
        """
        limits = self.settings.limits
        instance = instances.running(
            self.ec2,
            self.waiter,
            started.id,
            self.settings.network,
            limit=min(limits.instance_running, within),
            polling=self.polling,
        )
        with client.connect(
            instance.address,
            self.settings.network.ssh_port,
            user,
            host_key=started.host_key,
            client_key=started.client_key,
            limit=min(limits.ssh_ready, within, tries),
            stop=self.waiter.stop,
        ) as session:
            yield instance, session

    def reboot(self, started: Started) -> None:
        """Have EC2 reboot the instance."""
        self.waiter.settled(lambda: self.ec2.reboot_instances(InstanceIds=[started.id]))

    def terminated_reason(self, started: Started) -> str:
        """Return why EC2, or a person, terminated the instance; empty when neither did."""
        return instances.terminated_reason(self.ec2, started.id)

    def console(self, started: Started) -> str:
        """Return the instance's console output, as far as EC2 has it."""
        return instances.console(self.ec2, started.id)

    def status(self, started: Started) -> str:
        """Return EC2's status check of the instance; empty when EC2 does not report it."""
        return instances.status(self.ec2, started.id)

    def dismiss(self) -> None:
        """Request termination of the step's instances; the job's clean-up waits for its end."""
        instances.dismiss(self.ec2, self.labels, self.role)
        self._remove_key_pairs()

    def end(self) -> None:
        """Terminate the step's instances and wait until they are gone."""
        instances.end(
            self.ec2,
            self.waiter,
            self.labels,
            self.role,
            limit=self.settings.limits.instance_gone,
        )
        self._remove_key_pairs()

    def _remove_key_pairs(self) -> None:
        if self.as_users_do:
            key_pairs.remove(self.ec2, self.labels, self.role)
