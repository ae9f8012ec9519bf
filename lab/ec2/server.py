"""Starts and stops the lab's EC2 on loopback, and hands each request to the service it is for."""

import logging
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

from flask import Flask
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.ec2.models import ec2_backends
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from lab.access_keys import AccessKey
from lab.ec2 import (
    auth_errors,
    disks,
    ebs_direct,
    fault_effects,
    instance_types,
    kms,
    lab_pages,
    query,
    quotas,
    rbin,
    request,
    s3,
    s3_actions,
    signatures,
    ssm,
    sts,
    wire,
)
from lab.ec2.calls import Calls
from lab.ec2.faults import Plan
from lab.ec2.iam import account_calls, callers
from lab.ec2.partitions import commercial, fill_zones, partitions_of
from lab.ec2.regions import KERNEL_REGIONS, kernels
from lab.ec2.request import Answer, Request
from lab.ec2.states import Delays
from lab.ec2.world import AMAZON, Image, Quotas, Snapshot, World, new_id, now
from lab.machines import Machines

log = logging.getLogger(__name__)

# Pages of moto's own, which ask nobody for a signature.
_SIGNER = "lab.signer"
_MOTOS_PAGES = ("/moto-api", "/latest/", "/favicon.ico")


@dataclass(frozen=True)
class Settings:
    """A site's EC2. `regions`, of one partition, None is every region of the commercial one.

    `key` is the account's own, which may do everything; `token` is asked of who wants the pages
    below /lab/.
    """

    state: Path
    key: AccessKey = field(default_factory=AccessKey.new, repr=False)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    port: int = 0
    regions: tuple[str, ...] | None = None
    delays: Delays = field(default_factory=Delays)
    pv_regions: tuple[str, ...] = KERNEL_REGIONS
    quotas: Quotas = field(default_factory=Quotas)
    faults: Plan = field(default_factory=Plan)


class _Handler(MotoRequestHandler):
    """Quiet, keeps connections, and waits for no acknowledgement between an answer's parts."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        pass

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        if isinstance(error, fault_effects.Reset):
            # Without lingering, closing is a TCP reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True


class EC2:
    """A running EC2."""

    def __init__(self, settings: Settings, machines: Machines) -> None:
        settings.state.mkdir(parents=True, exist_ok=True)
        _forget()
        chosen = settings.regions or commercial()
        (self._partition,) = partitions_of(chosen)
        fill_zones(chosen)
        zones = RegionsAndZonesBackend.zones
        instance_types.fill_offerings(
            chosen, {name: [(z.name, z.zone_id) for z in zones[name]] for name in chosen}
        )
        self._machines = machines
        self.key, self.token = settings.key, settings.token
        self._world = World(
            settings.state,
            machines,
            settings.delays,
            chosen,
            settings.quotas,
            settings.faults,
            self._partition,
        )
        for region in chosen:
            if region in settings.pv_regions:
                for kernel in kernels(region):
                    self._world.images[kernel.id] = kernel
        self._calls = Calls()
        self._originals: dict[Path, Path] = {}
        self._closed = False
        self._moto = _Moto(_moto_app)
        # Loaded now rather than in the first caller's time.
        wire.model()
        ec2_backends[query.account_of("")][chosen[0]].describe_vpcs()
        self._server: BaseWSGIServer | None = None
        self._port = settings.port
        self.up()

    @property
    def certificate(self) -> bytes:
        """The certificate of EC2's own key, in PEM, which bundles are encrypted for."""
        pair = self._world.bundle_key
        return pair.certificate()

    @property
    def url(self) -> str:
        """The value for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Answer, after `down` at the address of before."""
        if self._server is not None:
            return
        self._server = make_server(
            "127.0.0.1", self._port, self._serve, threaded=True, request_handler=_Handler
        )
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="ec2", daemon=True, args=(0.02,)
        )
        self._thread.start()

    def down(self) -> None:
        """Refuse connections, in all regions, since they share one address."""
        if self._server is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = None

    def disable(self, region: str) -> None:
        """Disable a region for the account: EC2 neither lists it nor takes a call there."""
        self._world.regions = tuple(each for each in self._world.regions if each != region)

    def enable(self, region: str) -> None:
        """Enable a region for the account: a new one, or one that was disabled."""
        if region not in self._world.regions:
            self._world.regions = (*self._world.regions, region)

    def join(self, account: str, *arns: str) -> None:
        """Let an account be in an organization and in organizational units, and in no others."""
        self._world.memberships[account] = frozenset(arns)

    def sharing_quota(self, entities: int) -> None:
        """Let an image be shared with so many accounts, organizations and units."""
        self._world.quotas = replace(self._world.quotas, image_sharing=entities)

    def quota(self, public_images: int, region: str = "") -> None:
        """Let so many images be public in a region, or in each; those that are stay so."""
        quotas = self._world.quotas
        self._world.quotas = (
            replace(quotas, public_images_in={**quotas.public_images_in, region: public_images})
            if region
            else replace(quotas, public_images=public_images, public_images_in={})
        )

    def __enter__(self) -> "EC2":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering. The machines are not ended here: who made them closes them."""
        if self._closed:
            return
        self._closed = True
        self.down()
        self._world.close()
        _forget()

    def bucket(self, name: str, region: str) -> None:
        """Make a bucket of the account's in a region, which allows ACLs, as bundles need them."""
        s3.make_bucket(query.account_of(""), name, region)

    def user(self, name: str, policy: str) -> AccessKey:
        """Make an IAM user with a policy, as any IAM client might; the user's access key.

        Raises ValueError for a policy that IAM or the lab cannot take.
        """
        return callers.user(query.account_of(""), self._partition, name, policy)

    def default_image(
        self,
        region: str,
        raw: Path,
        *,
        name: str,
        architecture: str = "x86_64",
        virtualization_type: str = "hvm",
        ena: bool = True,
        boot_mode: str | None = None,
        root_device: str = "/dev/sda1",
        volume_type: str = "gp2",
        description: str = "",
    ) -> str:
        """Register a public image of Amazon's from the bytes of `raw`; the id of the AMI.

        Good for what a site boots its utility instances from.
        """
        world = self._world
        id = new_id("snap")
        path = world.snapshot_file(id)
        size = max(1, -(-raw.stat().st_size // disks.GIB))
        original = self._originals.get(raw.resolve())
        if original is None:
            disks.copy(raw, path, size * disks.GIB)
            self._originals[raw.resolve()] = path
        else:
            disks.share(original, path)
        snapshot = Snapshot(id, AMAZON, region, size, path, state="completed", completed=now())
        if boot_mode is None and architecture == "arm64":
            boot_mode = "uefi"
        kernel = None
        if virtualization_type == "paravirtual":
            kernel = next(k.id for k in kernels(region) if k.architecture == architecture)
        image = Image(
            id=new_id("ami"),
            owner=AMAZON,
            region=region,
            name=name,
            architecture=architecture,
            virtualization=virtualization_type,
            root_device=root_device,
            mappings=[
                {
                    "DeviceName": root_device,
                    "Ebs": {
                        "DeleteOnTermination": True,
                        "SnapshotId": id,
                        "VolumeSize": size,
                        "VolumeType": volume_type,
                        "Encrypted": False,
                    },
                }
            ],
            description=description,
            kernel=kernel,
            ena=ena and virtualization_type == "hvm",
            sriov="simple" if virtualization_type == "hvm" else None,
            boot_mode=boot_mode,
            state="available",
            location=f"amazon/{name}",
            public=True,
        )
        with world.lock:
            world.snapshots[id] = snapshot
            world.images[image.id] = image
        return image.id

    def _serve(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if self._closed:
            start_response("503 Service Unavailable", [("Connection", "close")])
            return [b""]
        asked = request.read(environ)
        answer = self._answer(asked)
        if answer is None:
            answer = self._from_moto(asked)
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "x-amzn-RequestId": asked.id,
            **answer.headers,
        }
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, list(headers.items()))
        return [answer.body]

    def _answer(self, asked: Request) -> Answer | None:
        """Return the answer, or None for a service that is moto's alone."""
        world, calls = self._world, self._calls
        if asked.path.startswith("/lab/"):
            return lab_pages.serve(world, calls, asked, self.token)
        if asked.path.startswith(_MOTOS_PAGES):
            return Answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
        try:
            signer = signatures.verify(asked, self._credentials)
        except signatures.NotVerified as refused:
            return auth_errors.answer(asked, refused)
        asked.environ[_SIGNER] = signer
        # By this header moto lets a caller be of any account.
        asked.environ.pop("HTTP_X_MOTO_ACCOUNT_ID", None)
        match signer.service:
            case "ec2":
                return query.serve(world, calls, asked, signer)
            case "ebs":
                return ebs_direct.serve(world, calls, asked, signer)
            case "kms":
                return kms.serve(world, calls, asked, signer)
            case "servicequotas":
                return quotas.serve(world, calls, asked, signer)
            case "rbin":
                return rbin.serve(world, calls, asked, signer)
            case "ssm":
                return ssm.serve(world, calls, asked, signer)
        action = s3_actions.action(asked) if signer.service == "s3" else _action(asked)
        calls.count(signer.service.upper(), action, signer.region)
        refusal = account_calls.refusal(world, asked, signer)
        if refusal:
            return refusal
        if signer.service == "sts":
            account, own = query.account_of(signer.access_key), signer.access_key == self.key.id
            return sts.answer(asked, action, partition=self._partition, account=account, own=own)
        if signer.service == "s3":
            return s3.answer(self._moto, asked, signer, world)
        return None

    def _from_moto(self, asked: Request) -> Answer:
        """Return moto's answer; for what moto does not have, a refusal in words, not its page."""
        said: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            said["status"], said["headers"] = int(status[:3]), dict(headers)

        service = asked.environ[_SIGNER].service
        try:
            body = b"".join(self._moto(asked.environ, start))
        except NotImplementedError:
            return auth_errors.lacking(asked, service, _action(asked))
        kind = said["headers"].pop("Content-Type", "")
        # What S3 does not find is a bucket or an object, and its answer to HEAD has no body.
        unknown = said["status"] == HTTPStatus.NOT_FOUND and service != "s3"
        if unknown and kind.startswith("text/html"):
            return auth_errors.lacking(asked, service, _action(asked))
        return Answer(said["status"], body, kind, said["headers"])

    def _credentials(self, access_key: str) -> signatures.Credentials | None:
        if access_key == self.key.id:
            return signatures.Credentials(self.key.secret)
        return callers.credentials(access_key, self._partition)


class _Moto(DomainDispatcherApplication):
    """Chooses by the signature alone, in a URL too, where moto itself guesses by path and body."""

    def infer_service_region_host(self, environ: dict[str, Any], path: str) -> str | None:
        if "HTTP_AUTHORIZATION" not in environ and _SIGNER in environ:
            signer = environ[_SIGNER]
            return f"{signer.service}.{signer.region}.amazonaws.com"
        host: str | None = super().infer_service_region_host(environ, path)
        return host


def _action(asked: Request) -> str:
    target = asked.header("X-Amz-Target")
    if target:
        return target.split(".")[-1]
    if "x-www-form-urlencoded" in asked.environ.get("CONTENT_TYPE", ""):
        return wire.form_of(asked.query, asked.body).get("Action", asked.method)
    return asked.method


def _moto_app(service: Any) -> Flask:
    app: Flask = create_backend_app(service)
    # What moto cannot do is the caller's error to see, not a page on our standard error.
    app.logger.disabled = True
    return app


def _forget() -> None:
    """Drop moto's data, which is the process's: a new EC2 starts with none of an earlier one's."""
    BackendDict.reset()
    reset_model_data()
