"""Map the topics of fedimg's messages, without prefix and "fedimg.", to their classes."""

from fedimg_messages.messages import CopyV1, PublishV1, TestV1, UploadV1

MESSAGES: dict[str, type[UploadV1 | TestV1 | CopyV1 | PublishV1]] = {
    "image.upload": UploadV1,
    "image.test": TestV1,
    "image.copy": CopyV1,
    "image.publish": PublishV1,
}

__all__ = ["MESSAGES", "CopyV1", "PublishV1", "TestV1", "UploadV1"]
