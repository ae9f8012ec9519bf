"""Name what a request asks of S3 as its API does, for counts of calls and for plans of faults."""

from urllib.parse import parse_qsl, unquote

from lab.ec2.request import Request

_OBJECT = {
    ("DELETE", ""): "DeleteObject",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", ""): "GetObject",
    ("GET", "acl"): "GetObjectAcl",
    ("GET", "uploadId"): "ListParts",
    ("HEAD", ""): "HeadObject",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("PUT", ""): "PutObject",
    ("PUT", "acl"): "PutObjectAcl",
    ("PUT", "tagging"): "PutObjectTagging",
    ("PUT", "uploadId"): "UploadPart",
}
_BUCKET = {
    ("DELETE", ""): "DeleteBucket",
    ("GET", ""): "ListObjects",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "ownershipControls"): "GetBucketOwnershipControls",
    ("GET", "uploads"): "ListMultipartUploads",
    ("HEAD", ""): "HeadBucket",
    ("POST", "delete"): "DeleteObjects",
    ("PUT", ""): "CreateBucket",
    ("PUT", "ownershipControls"): "PutBucketOwnershipControls",
}
_NAMING = {name for _, name in (*_OBJECT, *_BUCKET) if name}


def action(request: Request) -> str:
    """Return the name of an action, such as PutObject; the method where no name is known here."""
    bucket, _, key = unquote(request.path).strip("/").partition("/")
    if not bucket:
        return "ListBuckets" if request.method == "GET" else request.method
    given = [name for name, _ in parse_qsl(request.query, keep_blank_values=True)]
    named = next((name for name in given if name in _NAMING), "")
    if not key:
        return _BUCKET.get((request.method, named), request.method)
    found = _OBJECT.get((request.method, named), request.method)
    copies = request.header("X-Amz-Copy-Source") is not None
    return (
        {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(found, found)
        if copies
        else found
    )
