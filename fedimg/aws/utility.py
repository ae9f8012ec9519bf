"""The utility instance: a raw image becomes a volume, and the volume a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedimg import ssh
from fedimg.aws import instances, snapshots, writing
from fedimg.aws.clients import Client
from fedimg.aws.image_size import GIB, ImageSize, ImageUnreachable, ImageUnusable, gib, image_size
from fedimg.aws.security_group import Place
from fedimg.aws.tags import Labels
from fedimg.aws.user_data import user_data
from fedimg.aws.waiting import Waiter
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.images import RawImage

ROLE = "utility"
#: The name that RunInstances wants for the volume; the instance finds it by its id alone.
_DEVICE = "/dev/sdf"
#: Parts of the writing that fail the same way on any instance.
_IMAGES_FAULT = {"checksum", "decompression", "volume", "tools"}


class _WorthAnother(Exception):
    """An attempt failed in a way that a fresh instance may not."""

    def __init__(self, error: EC2UtilityException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Utility:
    """Writes one job's image. `ec2_once` does not try a call again by itself; `heard` is told
    what happens, in words.
    """

    ec2: Client
    ec2_once: Client
    waiter: Waiter
    labels: Labels
    settings: EC2
    place: Place
    heard: Callable[[str], None]

    def write(self, image: RawImage) -> str:
        """Write an image to a volume; the id of its snapshot.

        The snapshot is not complete yet, and the instance runs until `end`. Raises
        EC2UtilityException, with what the instance printed, when the last attempt failed.
        """
        # An instance kept for a look would not be one's own among further attempts.
        attempts = 1 if self.settings.keep_failed_instances else self.settings.limits.attempts
        for attempt in range(attempts - 1):
            try:
                return self._attempt(image, attempt)
            except _WorthAnother as failure:
                self.heard(f"attempt {attempt + 1} failed, starting afresh: {failure.error}")
                self.end()
                self.waiter.pause(self.settings.limits.wait_maximum)
        try:
            return self._attempt(image, attempts - 1)
        except _WorthAnother as failure:
            raise failure.error from failure

    def end(self) -> None:
        """Terminate the job's utility instances and wait until they are gone."""
        instances.end(
            self.ec2,
            self.waiter,
            self.labels,
            ROLE,
            limit=self.settings.limits.instance_gone,
        )

    def _measure(self, image: RawImage) -> ImageSize:
        try:
            size = image_size(image.url, maximum=self.settings.limits.image_gib * GIB)
        except ImageUnreachable as error:
            raise _WorthAnother(EC2UtilityException(str(error))) from error
        except ImageUnusable as error:
            raise EC2UtilityException(str(error)) from error
        if image.size not in (None, size.compressed_size):
            raise EC2UtilityException(
                f"{image.url} has {size.compressed_size} bytes, and Koji says {image.size}: "
                "it is not the file that was built"
            )
        return size

    def _attempt(self, image: RawImage, attempt: int) -> str:
        size = self._measure(image)
        host, client = ssh.new_identity("fedimg-host"), ssh.new_identity("fedimg-client")
        instance_id = self._launch(
            image, size, attempt, user_data(host_key=host, client_key=client), host.public
        )
        self.heard(f"instance {instance_id} starts")
        try:
            instance = instances.running(
                self.ec2,
                self.waiter,
                instance_id,
                self.settings.network,
                limit=self.settings.limits.instance_running,
            )
            self.heard(f"instance {instance_id} runs at {instance.address}")
            with ssh.connect(
                instance.address,
                self.settings.network.ssh_port,
                self.settings.login_user,
                host_key=host,
                client_key=client,
                limit=self.settings.limits.ssh_ready,
                stop=self.waiter.stop,
            ) as session:
                self._stream(session, image, size, instance.volumes[_DEVICE])
        except ssh.SSHError as error:
            raise self._lost(instance_id, str(error), error.output) from error
        except EC2UtilityException:
            raise
        except EC2ServiceException as error:
            raise self._lost(instance_id, error.problem, error.output) from error
        return self.waiter.make(
            lambda: self._snapshot(instance.volumes[_DEVICE]),
            lambda: snapshots.find(self.ec2, self.labels),
            look_first=False,
        )

    def _launch(
        self, image: RawImage, size: ImageSize, attempt: int, started_with: str, token: str
    ) -> str:
        machine = self.settings.machine(image.architecture)
        if not machine.utility_ami:
            raise EC2UtilityException(
                f"no utility AMI for {image.architecture} images is set in fedimg.toml; "
                "see 'fedimg check'"
            )
        blank = {
            "VolumeSize": gib(size.uncompressed_size),
            "VolumeType": "gp3",
            "DeleteOnTermination": True,
        }
        try:
            return instances.launch(
                self.ec2,
                self.waiter,
                self.labels,
                ROLE,
                ami=machine.utility_ami,
                kind=machine.utility_type,
                user_data=started_with,
                # The attempt's own key makes the token: the same call is the same instance,
                # another attempt is another.
                token=self.labels.token(ROLE, token),
                group=self.place.group,
                subnet=instances.subnet_for(self.ec2, self.place, machine.utility_type, attempt),
                network=self.settings.network,
                volumes=[{"DeviceName": _DEVICE, "Ebs": blank}],
            )
        except Exception as error:
            if instances.no_room(error):
                raise _WorthAnother(
                    EC2UtilityException(f"EC2 has no room for a {machine.utility_type}: {error}")
                ) from error
            raise

    def _stream(self, session: ssh.Session, image: RawImage, size: ImageSize, volume: str) -> None:
        limits = self.settings.limits
        total = size.uncompressed_size
        finished = session.run(
            writing.write_command(),
            given=writing.given(
                url=image.url,
                volume=volume,
                checksum=image.checksum,
                compressed_size=size.compressed_size,
                uncompressed_size=total,
                idle=limits.write_idle,
                appear=limits.write_idle,
            ),
            limit=limits.write,
            idle=limits.write_idle,
            heard=lambda line: self._progress(line, total),
        )
        verdict = writing.verdict(finished.output)
        if isinstance(verdict, writing.Written) and finished.status == 0:
            return
        error = EC2UtilityException(
            f"the image was not written: {verdict or f'exit status {finished.status}'}",
            output=f"{finished.output}{finished.errors}",
        )
        if isinstance(verdict, writing.Failure) and verdict.part in _IMAGES_FAULT:
            raise error
        raise _WorthAnother(error)

    def _progress(self, line: str, total: int) -> None:
        if progress := writing.progress(line):
            self.heard(f"{100 * progress.written // total}% of {gib(total)} GiB written")

    def _lost(self, instance: str, problem: str, output: str) -> _WorthAnother:
        console = instances.console(self.ec2, instance)
        return _WorthAnother(
            EC2UtilityException(
                f"utility instance {instance}: {problem}", output=f"{console}\n{output}".strip()
            )
        )

    def _snapshot(self, volume: str) -> str:
        made = self.ec2_once.create_snapshot(
            VolumeId=volume,
            Description=f"fedimg: {self.labels.image}"[:255],
            TagSpecifications=self.labels.specifications(
                ["snapshot"], snapshots.ROLE, self.labels.image
            ),
        )
        return str(made["SnapshotId"])
