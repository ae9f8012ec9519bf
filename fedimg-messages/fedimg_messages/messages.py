"""fedimg's messages as their readers see them: checked fields, and what to tell a person."""

from typing import Any, ClassVar

from fedora_messaging.message import ERROR, Message

from fedimg_messages import schemas

_ICON = "https://apps.fedoraproject.org/img/icons/fedimg.png"
_CONSOLE = "https://console.aws.amazon.com/ec2/home"


class FedimgMessage(Message):
    """What all of them have in common.

    Nobody in particular acts, and an image is neither an RPM package nor a container: who and what
    is affected is left empty.
    """

    def __init__(self, body: dict[str, Any] | None = None, **given: Any) -> None:
        if given.get("severity") is None and (body or {}).get("status") == "failed":
            given["severity"] = ERROR
        super().__init__(body=body, **given)

    @property
    def app_name(self) -> str:
        """Who sends it."""
        return "fedimg"

    @property
    def app_icon(self) -> str:
        """The sender's picture."""
        return _ICON

    @property
    def image_name(self) -> str:
        """The image's file name without .raw.xz."""
        return str(self.body["image_name"])

    @property
    def region(self) -> str:
        """The region of EC2 that it is about."""
        return str(self.body["destination"]).removeprefix("EC2 (").removesuffix(")")

    @property
    def ami(self) -> str | None:
        """The AMI that it is about, if it is about one."""
        found = self.body["extra"].get("id")
        return None if found is None else str(found)

    @property
    def status(self) -> str | None:
        """`started`, `completed` or `failed`; None where it can only be one."""
        return self.body.get("status")

    @property
    def compose(self) -> str:
        """The compose's id, or the Koji build's name-version-release."""
        return str(self.body.get("compose") or self.body.get("compose_id"))

    @property
    def url(self) -> str | None:
        """The AMI in EC2's own pages, or else the image."""
        if self.ami is None:
            return self.body.get("image_url")
        return f"{_CONSOLE}?region={self.region}#ImageDetails:imageId={self.ami}"

    def __str__(self) -> str:
        """The whole of it, for a mail, say."""
        lines = [self.summary, f"Image: {self.image_name}", f"Compose: {self.compose}"]
        for name, key in (("File", "image_url"), ("Architecture", "architecture")):
            if key in self.body:
                lines.append(f"{name}: {self.body[key]}")
        extra = self.body["extra"]
        if self.ami is not None:
            lines.append(
                f"AMI: {self.ami} ({extra.get('virt_type')}, {extra.get('vol_type')}) "
                f"in {self.region}"
            )
        for check in extra.get("checks", ()):
            lines.append(f"Check {check['name']}: {'passed' if check['passed'] else 'failed'}")
        if "data" in extra:
            lines += ["", extra["data"]]
        return "\n".join(lines)


class UploadV1(FedimgMessage):
    """Work on an image begins, one of its AMIs is registered in the origin, or the job fails."""

    topic = "fedimg.image.upload"
    body_schema: ClassVar[dict[str, Any]] = schemas.UPLOAD

    @property
    def summary(self) -> str:
        """One line."""
        if self.status == "started":
            return f"fedimg begins to upload {self.image_name} to {self.body['destination']}"
        if self.ami is not None:
            return f"fedimg registered {self.ami} of {self.image_name} in {self.region}"
        return f"fedimg failed to publish {self.image_name}"


class TestV1(FedimgMessage):
    """An instance is booted from an AMI, to be checked, or how that went."""

    #: No test of ours, whatever its name makes pytest believe.
    __test__ = False
    topic = "fedimg.image.test"
    body_schema: ClassVar[dict[str, Any]] = schemas.TEST

    @property
    def summary(self) -> str:
        """One line."""
        how = {"started": "is being tested", "completed": "passed its test"}
        did = how.get(str(self.status), "failed its test")
        return f"{self.ami} of {self.image_name} {did} in {self.region}"


class CopyV1(FedimgMessage):
    """An AMI has become available in another region; it is not public yet."""

    topic = "fedimg.image.copy"
    body_schema: ClassVar[dict[str, Any]] = schemas.COPY

    @property
    def summary(self) -> str:
        """One line."""
        return f"fedimg copied {self.image_name} to {self.region} as {self.ami}"


class PublishV1(FedimgMessage):
    """An AMI has become public in a region, and its snapshot too."""

    topic = "fedimg.image.publish"
    body_schema: ClassVar[dict[str, Any]] = schemas.PUBLISH

    @property
    def summary(self) -> str:
        """One line."""
        return f"fedimg published {self.image_name} in {self.region} as {self.ami}"
