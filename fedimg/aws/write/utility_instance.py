"""Write an image to a volume on a utility instance, and create a snapshot of the volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fedimg.aws import snapshots
from fedimg.aws.client.fresh_attempts import first_success
from fedimg.aws.client.types import EBSVolume, EC2Client
from fedimg.aws.instance.attempts import Attempts, NoCapacity, Started
from fedimg.aws.write import write_script
from fedimg.aws.write.image_errors import ImageUnreachable, ImageUnusable
from fedimg.aws.write.image_size import ImageSize, measured
from fedimg.aws.write.part_orders import TOOLS, ByTheInstance, PartOrders
from fedimg.aws.write.progress import WriteProgress
from fedimg.aws.write.units import gib
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.images import RawImage
from fedimg.progress import Observer
from fedimg.sources.file_server import Trusted
from fedimg.ssh import client

ROLE = "utility"
#: RunInstances requires a device name; the instance finds the volume by its id.
_DEVICE = "/dev/sdf"
#: Parts of the script that fail the same way on any instance.
_FINAL_PARTS = {"checksum", "decompression", "tools"}


class _Retryable(Exception):
    """An attempt failed in a way that a new instance may not."""

    def __init__(self, error: EC2UtilityException) -> None:
        super().__init__(str(error))
        error.later = True
        self.error = error


@dataclass(frozen=True)
class UtilityWriter:
    """Writes one job's image.

    `ec2_once` does not retry by itself; `on_progress` is called with progress texts. The observer
    is told of the bytes that were written before a snapshot is created. Of the same bytes the
    instance makes a bundle `beside`, if one is wanted.
    """

    attempts: Attempts
    ec2_once: EC2Client
    on_progress: Callable[[str], None]
    observer: Observer
    beside: ByTheInstance | None = None

    def write(self, image: RawImage) -> str:
        """Write an image to a volume; return the id of its snapshot.

        The snapshot is still pending, and the instance still runs. Raises EC2UtilityException, with
        the instance's output, when the last attempt failed.
        """
        settings = self.attempts.settings
        try:
            return first_success(
                partial(self._attempt, image),
                self.attempts.waiter,
                # Another attempt would terminate an instance that is kept for inspection.
                attempts=1 if settings.keep_failed_instances else settings.limits.attempts,
                pause=settings.limits.wait_maximum,
                new="instance",
                may_pass=lambda failure: isinstance(failure, NoCapacity | _Retryable),
                on_progress=self.on_progress,
                discard=self.attempts.end,
            )
        except _Retryable as failure:
            raise failure.error from failure

    def _attempt(self, image: RawImage, number: int) -> str:
        size = self._measure(image)
        orders = self._orders(image, size)
        self._refuse_lacking_tools(image, orders)
        started = self._start(image, size, number)
        self.on_progress(f"instance {started.id} started")
        try:
            with self.attempts.login(started, self.attempts.settings.login_user) as login:
                instance, session = login
                self.on_progress(f"instance {started.id} runs at {instance.address}")
                volume = instance.volumes[_DEVICE]
                self._stream(session, image, size, volume, orders)
        except client.SSHError as error:
            raise self._instance_failure(started, str(error), error.output) from error
        except EC2UtilityException:
            raise
        except EC2ServiceException as error:
            raise self._instance_failure(started, error.problem, error.output) from error
        return self.attempts.waiter.make(
            lambda: self._snapshot(volume),
            lambda: snapshots.find(self.attempts.ec2, self.attempts.labels),
            find_first=False,
        )

    def _measure(self, image: RawImage) -> ImageSize:
        try:
            return measured(
                image, self.attempts.settings, self.attempts.waiter.stop, self.on_progress
            )
        except ImageUnreachable as error:
            raise _Retryable(EC2UtilityException(str(error))) from error
        except ImageUnusable as error:
            raise EC2UtilityException(str(error)) from error

    def _orders(self, image: RawImage, size: ImageSize) -> PartOrders | None:
        if self.beside is None:
            return None
        try:
            return self.beside.begin(image, size.uncompressed_size)
        except ImageUnusable as error:
            raise EC2UtilityException(f"the image was not written: {error}") from error

    def _refuse_lacking_tools(self, image: RawImage, orders: PartOrders | None) -> None:
        """Raise EC2UtilityException if the utility AMI is known to lack a tool that is needed."""
        ami = self.attempts.settings.machine(image.architecture).utility_ami
        known = self.observer.lacking_tools(ami) if ami else ()
        for tool in _needed(image, orders):
            if tool in known:
                use = (
                    f"unpacks {image.format.suffix} images"
                    if tool == image.format.tool
                    else "makes bundles of instance-store AMIs"
                )
                raise EC2UtilityException(
                    f"utility AMI {ami} has no {tool}, which {use}, as an instance of it reported: "
                    "set another AMI in fedimg.toml that has it"
                )

    def _start(self, image: RawImage, size: ImageSize, number: int) -> Started:
        machine = self.attempts.settings.machine(image.architecture)
        if not machine.utility_ami:
            raise EC2UtilityException(
                f"no utility AMI for {image.architecture} images is set in fedimg.toml; "
                "run 'fedimg check'"
            )
        blank = _blank(
            gib(size.uncompressed_size), throughput=self.attempts.settings.volume_throughput
        )
        return self.attempts.start(
            machine.utility_ami,
            machine.utility_type,
            number,
            [{"DeviceName": _DEVICE, "Ebs": blank}],
        )

    def _stream(
        self,
        session: client.Session,
        image: RawImage,
        size: ImageSize,
        volume: str,
        orders: PartOrders | None,
    ) -> None:
        limits = self.attempts.settings.limits
        total = size.uncompressed_size
        write_progress = WriteProgress(total)
        finished = session.run(
            write_script.write_command(),
            stdin=write_script.script_input(
                url=image.url,
                trusted=Trusted.of(self.attempts.settings, image),
                volume=volume,
                checksum=image.checksum,
                form=image.format,
                compressed_size=size.compressed_size,
                uncompressed_size=total,
                idle=limits.write_idle,
                appear=limits.write_idle,
                **({"bundle": orders.values()} if orders else {}),
            ),
            limit=limits.write,
            idle=limits.write_idle,
            on_line=lambda line: self._progress(line, write_progress),
            answer=orders.answer if orders else None,
        )
        verdict = write_script.verdict(finished.output)
        if isinstance(verdict, write_script.Written) and finished.status == 0:
            if self.beside and orders:
                self.beside.end(orders, verdict.disk)
            self.observer.written(verdict.disk)
            return
        error = EC2UtilityException(
            f"the image was not written: {verdict or f'exit status {finished.status}'}",
            output=f"{finished.output}{finished.errors}",
        )
        if isinstance(verdict, write_script.Failure) and verdict.part in _FINAL_PARTS:
            tool = verdict.missing_tool
            if tool in _needed(image, orders):
                machine = self.attempts.settings.machine(image.architecture)
                self.observer.lacks_tool(machine.utility_ami, tool)
            raise error
        raise _Retryable(error)

    def _progress(self, line: str, write_progress: WriteProgress) -> None:
        if progress := write_script.progress(line):
            self.on_progress(write_progress.words(progress.written))

    def _instance_failure(self, started: Started, problem: str, output: str) -> _Retryable:
        text = f"{self.attempts.console(started)}\n{output}".strip()
        return _Retryable(
            EC2UtilityException(f"utility instance {started.id}: {problem}", output=text)
        )

    def _snapshot(self, volume: str) -> str:
        labels = self.attempts.labels
        response = self.ec2_once.create_snapshot(
            VolumeId=volume,
            Description=f"fedimg: {labels.image}"[:255],
            TagSpecifications=labels.specifications(["snapshot"], snapshots.ROLE, labels.image),
        )
        return str(response["SnapshotId"])


def _needed(image: RawImage, orders: PartOrders | None) -> list[str]:
    """Return the tools that this image needs, beside those that every image needs."""
    return [*([image.format.tool] if image.format.tool else []), *(TOOLS if orders else ())]


def _blank(size: int, *, throughput: int) -> EBSVolume:
    """Return the parameters of the volume of `size` GiB to write to, as fast as possible.

    EBS user guide, gp3: at most 0.25 MiB/s for each of the IOPS; 3000 IOPS are included, and more
    are limited to 500 for each GiB.
    """
    iops = max(3000, min(4 * throughput, 500 * size))
    return {
        "VolumeSize": size,
        "VolumeType": "gp3",
        "Iops": iops,
        "Throughput": min(throughput, iops // 4),
        "DeleteOnTermination": True,
    }
