"""Map the topics of fedimg's messages, without prefix and "fedimg.", to their classes."""

from fedimg_messages.messages import (
    CopyV1,
    DeleteV1,
    DeprecateV1,
    FedimgMessage,
    PublishV1,
    RestoreV1,
    ShareV1,
    TestV1,
    UploadV1,
    WithdrawV1,
)

MESSAGES: dict[str, type[FedimgMessage]] = {
    "image.upload": UploadV1,
    "image.test": TestV1,
    "image.copy": CopyV1,
    "image.publish": PublishV1,
    "image.withdraw": WithdrawV1,
    "image.restore": RestoreV1,
    "image.deprecate": DeprecateV1,
    "image.delete": DeleteV1,
    "image.share": ShareV1,
}

__all__ = [
    "MESSAGES",
    "CopyV1",
    "DeleteV1",
    "DeprecateV1",
    "PublishV1",
    "RestoreV1",
    "ShareV1",
    "TestV1",
    "UploadV1",
    "WithdrawV1",
]
