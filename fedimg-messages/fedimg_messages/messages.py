"""Define the classes of fedimg's messages, with their schemas and texts for people."""

from typing import Any, ClassVar

from fedora_messaging.message import ERROR, Message

from fedimg_messages import schemas

_ICON = "https://apps.fedoraproject.org/img/icons/fedimg.png"
_CONSOLE = "https://console.aws.amazon.com/ec2/home"


class FedimgMessage(Message):
    """The common base of all messages of fedimg's.

    The properties for users, packages and containers stay empty, because no particular person acts,
    and an image is neither an RPM package nor a container.
    """

    def __init__(self, body: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if kwargs.get("severity") is None and (body or {}).get("status") == "failed":
            kwargs["severity"] = ERROR
        super().__init__(body=body, **kwargs)

    @property
    def app_name(self) -> str:
        """Return the name of the sending application."""
        return "fedimg"

    @property
    def app_icon(self) -> str:
        """Return the URL of the sending application's icon."""
        return _ICON

    @property
    def image_name(self) -> str:
        """Return the image's file name without .raw.xz."""
        return str(self.body["image_name"])

    @property
    def region(self) -> str:
        """Return the EC2 region."""
        return str(self.body["destination"]).removeprefix("EC2 (").removesuffix(")")

    @property
    def ami(self) -> str | None:
        """Return the AMI's id; None if the message is not about an AMI."""
        ami = self.body["extra"].get("id")
        return None if ami is None else str(ami)

    @property
    def status(self) -> str | None:
        """Return `started`, `completed` or `failed`; None for messages without a status."""
        return self.body.get("status")

    @property
    def compose(self) -> str:
        """Return the compose's id, or the Koji build's name-version-release."""
        return str(self.body.get("compose") or self.body.get("compose_id"))

    @property
    def url(self) -> str | None:
        """Return the URL of the AMI in the EC2 console, or of the image if there is no AMI."""
        if self.ami is None:
            return self.body.get("image_url")
        return f"{_CONSOLE}?region={self.region}#ImageDetails:imageId={self.ami}"

    def __str__(self) -> str:
        """Return the message as text of several lines, for example for an e-mail."""
        lines = [self.summary, f"Image: {self.image_name}", f"Compose: {self.compose}"]
        for name, key in (("File", "image_url"), ("Architecture", "architecture")):
            if key in self.body:
                lines.append(f"{name}: {self.body[key]}")
        extra = self.body["extra"]
        if self.ami is not None:
            kind = f"{extra.get('virt_type')}, {extra.get('vol_type')}"
            if extra.get("encrypted"):
                kind += ", encrypted"
            lines.append(f"AMI: {self.ami} ({kind}) in {self.region}")
        for check in extra.get("checks", ()):
            lines.append(f"Check {check['name']}: {'passed' if check['passed'] else 'failed'}")
        if "data" in extra:
            lines += ["", extra["data"]]
        return "\n".join(lines)


class UploadV1(FedimgMessage):
    """Work on an image begins, an AMI is registered in the origin region, or the job fails."""

    topic = "fedimg.image.upload"
    body_schema: ClassVar[dict[str, Any]] = schemas.UPLOAD

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        if self.status == "started":
            return f"fedimg started to upload {self.image_name} to {self.body['destination']}"
        if self.ami is not None:
            return f"fedimg registered {self.ami} of {self.image_name} in {self.region}"
        return f"fedimg failed to publish {self.image_name}"


class TestV1(FedimgMessage):
    """The boot check of an AMI starts, passes or fails."""

    #: Not a test for pytest, which collects classes named Test….
    __test__ = False
    topic = "fedimg.image.test"
    body_schema: ClassVar[dict[str, Any]] = schemas.TEST

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        texts = {"started": "is being tested", "completed": "passed its test"}
        text = texts.get(str(self.status), "failed its test")
        return f"{self.ami} of {self.image_name} {text} in {self.region}"


class CopyV1(FedimgMessage):
    """An AMI is available in another region; it is not public yet."""

    topic = "fedimg.image.copy"
    body_schema: ClassVar[dict[str, Any]] = schemas.COPY

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        return f"fedimg copied {self.image_name} to {self.region} as {self.ami}"


class PublishV1(FedimgMessage):
    """An AMI and its snapshot are public in a region."""

    topic = "fedimg.image.publish"
    body_schema: ClassVar[dict[str, Any]] = schemas.PUBLISH

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        return f"fedimg published {self.image_name} in {self.region} as {self.ami}"


class WithdrawV1(FedimgMessage):
    """An AMI is no longer available to others in a region."""

    topic = "fedimg.image.withdraw"
    body_schema: ClassVar[dict[str, Any]] = schemas.WITHDRAW

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        extra = self.body["extra"]
        instead = f"; use {extra['replacement']}" if extra["replacement"] else ""
        return (
            f"fedimg withdrew {self.ami} of {self.image_name} in {self.region}: "
            f"{extra['reason']}{instead}"
        )


class RestoreV1(FedimgMessage):
    """A withdrawn AMI is available again in a region."""

    topic = "fedimg.image.restore"
    body_schema: ClassVar[dict[str, Any]] = schemas.RESTORE

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        return f"fedimg restored {self.ami} of {self.image_name} in {self.region}"


class DeprecateV1(FedimgMessage):
    """EC2 has a time of deprecation for an AMI in a region."""

    topic = "fedimg.image.deprecate"
    body_schema: ClassVar[dict[str, Any]] = schemas.DEPRECATE

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        at = self.body["extra"]["deprecate_at"]
        return f"{self.ami} of {self.image_name} in {self.region} is deprecated from {at} on"


class DeleteV1(FedimgMessage):
    """An AMI is gone from a region by the retention rules."""

    topic = "fedimg.image.delete"
    body_schema: ClassVar[dict[str, Any]] = schemas.DELETE

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        return f"fedimg removed {self.ami} of {self.image_name} from {self.region}"


class ShareV1(FedimgMessage):
    """A private AMI is shared with its audience in a region, or with another one than before."""

    topic = "fedimg.image.share"
    body_schema: ClassVar[dict[str, Any]] = schemas.SHARE

    @property
    def summary(self) -> str:
        """Return a summary of one line."""
        extra = self.body["extra"]
        return (
            f"fedimg shared {self.ami} of {self.image_name} in {self.region}: accounts "
            f"{extra['accounts']}, organizations {extra['organizations']}, organizational units "
            f"{extra['organizational_units']}"
        )
