"""Name the type that mypy sees for an AWS client."""

from typing import Any

#: boto3 creates a client's methods at run time, so they have no static type.
Client = Any
